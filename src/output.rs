//! Files that appear whole or not at all (spec, clause 8.3).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::messages::messages;

/// A file being written as `NAME.partial`, under a lock, beside the name it will have.
///
/// [`Output::commit`] makes it durable and gives it its name; dropped before that, it is removed.
#[derive(Debug)]
pub struct Output {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    overwrite: bool,
    /// Whether the unfinished file stays when this is dropped.
    keep: bool,
}

messages! {
/// Why an output cannot be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutputError {
    /// There is a file of that name.
    #[error("{} exists: choose another name or allow it to be overwritten", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("another process is writing {}: wait for it or choose another name", partial.display())]
    Locked {
        /// The unfinished file.
        partial: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
}

impl std::error::Error for OutputError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Output {
    /// Creates `PATH.partial` and locks it. An existing `path` is refused unless `overwrite`; a `PATH.partial`
    /// that nobody holds any more is started anew.
    ///
    /// # Errors
    /// Any [`OutputError`].
    pub fn create(path: impl Into<PathBuf>, overwrite: bool) -> Result<Self, OutputError> {
        let output = Self::resume(path, overwrite)?;
        let failed = |source| OutputError::Io { path: output.partial.clone(), source };
        output.file.set_len(0).map_err(failed)?;
        Ok(output)
    }

    /// [`Output::create`] that keeps what a `PATH.partial` holds that nobody holds any more.
    ///
    /// # Errors
    /// Any [`OutputError`].
    pub fn resume(path: impl Into<PathBuf>, overwrite: bool) -> Result<Self, OutputError> {
        let path = path.into();
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(OutputError::Exists { path });
        }
        let partial = partial_path(&path);
        let failed = |source| OutputError::Io { path: partial.clone(), source };
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false) // not before it is ours
                .open(&partial)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(OutputError::Locked { partial }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Between opening and locking, the writer before us may have finished: this would be its output.
            if is_named(&file, &partial) {
                return Ok(Self { file, partial, path, overwrite, keep: false });
            }
        }
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where the unfinished file is.
    pub fn partial_path(&self) -> &Path {
        &self.partial
    }

    /// Where the finished file is going to be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the unfinished file stays when this is dropped, for [`Output::resume`]; at first it does not.
    pub fn keep_unfinished(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`OutputError::Exists`] when a file of that name came to be in the meantime, [`OutputError::Io`].
    pub fn commit(self) -> Result<(), OutputError> {
        Self::commit_all(&mut [self])
    }

    /// Makes all of the files durable before any gets its name.
    ///
    /// # Errors
    /// As [`Output::commit`]. A fault while names are given leaves some files with their names, some without.
    pub fn commit_all(outputs: &mut [Self]) -> Result<(), OutputError> {
        for output in &mut *outputs {
            output.file.sync_all().map_err(|source| output.failed(source))?;
        }
        for output in &mut *outputs {
            if !output.overwrite && output.path.symlink_metadata().is_ok() {
                return Err(OutputError::Exists { path: output.path.clone() });
            }
        }
        for output in &mut *outputs {
            output.rename()?;
            // There is no unfinished file any more.
            output.keep = true;
        }
        outputs
            .iter()
            .try_for_each(|output| sync_folder(&output.path).map_err(|source| output.failed(source)))
    }

    fn rename(&self) -> Result<(), OutputError> {
        let failed = |source| self.failed(source);
        if self.overwrite {
            return fs::rename(&self.partial, &self.path).map_err(failed);
        }
        // A hard link fails where the name is taken; renaming would replace what is there.
        match fs::hard_link(&self.partial, &self.path) {
            Ok(()) => fs::remove_file(&self.partial).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(OutputError::Exists { path: self.path.clone() })
            }
            Err(_) => fs::rename(&self.partial, &self.path).map_err(failed),
        }
    }

    fn failed(&self, source: io::Error) -> OutputError {
        OutputError::Io { path: self.path.clone(), source }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing to be done about a failure here; an unfinished file does not open as a container.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// `PATH.partial`
fn partial_path(path: &Path) -> PathBuf {
    let mut partial = OsString::from(path);
    partial.push(".partial");
    partial.into()
}

/// Whether the open file still has that name, as far as the system can tell.
fn is_named(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (open, named) = (file.metadata().map(identity), fs::metadata(path).map(identity));
        open.is_ok_and(|open| named.is_ok_and(|named| open == named))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// Makes a rename durable where folders can be synchronised.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ccq");
        let output = Output::create(&path, false).unwrap();
        output.file().write_all(b"first").unwrap();
        assert!(!path.exists());
        assert!(matches!(Output::create(&path, false), Err(OutputError::Locked { .. })));
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        assert!(matches!(Output::create(&path, false), Err(OutputError::Exists { .. })));
        drop(Output::create(&path, true).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        let output = Output::create(&path, true).unwrap();
        output.file().write_all(b"second").unwrap();
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }

    #[test]
    fn refuses_a_name_that_was_taken_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ccq");
        let output = Output::create(&path, false).unwrap();
        fs::write(&path, b"somebody else's").unwrap();
        assert!(matches!(output.commit(), Err(OutputError::Exists { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    }

    #[test]
    fn what_is_kept_can_be_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ccq");
        let mut output = Output::create(&path, false).unwrap();
        output.file().write_all(b"half").unwrap();
        output.keep_unfinished(true);
        drop(output);
        let output = Output::resume(&path, false).unwrap();
        assert!(matches!(Output::resume(&path, false), Err(OutputError::Locked { .. })));
        assert_eq!(fs::read(output.partial_path()).unwrap(), b"half");
        drop(output);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn no_file_of_several_gets_its_name_where_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let mut outputs = paths.each_ref().map(|path| Output::create(path, false).unwrap());
        fs::write(&paths[1], b"somebody else's").unwrap();
        assert!(matches!(Output::commit_all(&mut outputs), Err(OutputError::Exists { .. })));
        assert!(!paths[0].exists());
        fs::remove_file(&paths[1]).unwrap();
        Output::commit_all(&mut outputs).unwrap();
        drop(outputs);
        assert!(paths.iter().all(|path| path.exists()));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    /// A handle on the unfinished file that has meanwhile become another writer's output is not ours to cut.
    #[cfg(unix)]
    #[test]
    fn a_finished_output_is_not_taken_for_an_unfinished_one() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, path) = (folder.path().join("out.ccq.partial"), folder.path().join("out.ccq"));
        let file = File::create(&partial).unwrap();
        assert!(is_named(&file, &partial));
        fs::rename(&partial, &path).unwrap();
        assert!(!is_named(&file, &partial));
        drop(File::create(&partial).unwrap());
        assert!(!is_named(&file, &partial));
    }

    #[test]
    fn names_the_folder_that_is_missing() {
        let error = Output::create("no/such/folder/out.ccq", false).unwrap_err();
        assert!(error.to_string().contains("no/such/folder/out.ccq.partial"), "{error}");
    }
}
