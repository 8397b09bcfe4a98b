//! What makes two runs the same job: inputs, options, plan.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ccq::format::Fnv128;

use crate::error::Error;
use crate::journal::Identity;

/// Places of a file that are looked at, besides its beginning, and how much of each.
const SAMPLES: u64 = 32;
const SAMPLE: u64 = 4096;
/// Keys that say when a file was written: on another machine the same file has another time.
const TIME: &str = "time of ";

/// The input files as they were when the job began.
#[derive(Debug)]
pub struct Inputs {
    files: Vec<(PathBuf, u64)>,
}

impl Inputs {
    /// Notes how long the files are.
    ///
    /// # Errors
    /// `Input` for a file that is not there any more.
    pub fn new(files: &[PathBuf]) -> Result<Self, Error> {
        let file = |file: &PathBuf| {
            let len = file.metadata().map_err(|source| Error::Input { file: file.clone(), source })?.len();
            Ok((file.clone(), len))
        };
        Ok(Self { files: files.iter().map(file).collect::<Result<_, Error>>()? })
    }

    /// Their length together.
    pub fn len(&self) -> u64 {
        self.files.iter().map(|file| file.1).sum()
    }

    /// Checks that a file is as long as it was, before more of its map is touched: the system kills a process
    /// that reads from a map beyond the end of its file. Between this check and the reading a little time is left.
    ///
    /// # Errors
    /// `InputChanged`, `Input`.
    pub fn check(&self, file: &Path) -> Result<(), Error> {
        let Some((file, expected)) = self.files.iter().find(|known| known.0 == file) else { return Ok(()) };
        let found = file.metadata().map_err(|source| Error::Input { file: file.clone(), source })?.len();
        if found == *expected {
            return Ok(());
        }
        Err(Error::InputChanged { file: file.clone(), expected: *expected, found })
    }

    /// Adds what tells these files from others: length, time, and a hash of samples of the contents. `what` they
    /// are tells files of one name apart.
    ///
    /// # Errors
    /// `Input`.
    pub fn identify(&self, what: &str, identity: &mut Identity) -> Result<(), Error> {
        for (file, len) in &self.files {
            let failed = |source| Error::Input { file: file.clone(), source };
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let (hash, time) = sample(file, *len).map_err(failed)?;
            identity.insert(format!("{what} {name:?}"), format!("{len} bytes, contents {hash}"));
            identity.insert(format!("{TIME}{what} {name:?}"), time);
        }
        Ok(())
    }
}

/// Hashes a part of a file, at regular distances, and tells when it was modified.
fn sample(file: &Path, len: u64) -> io::Result<(String, String)> {
    let mut file = File::open(file)?;
    let mut hash = Fnv128::new();
    let mut bytes = Vec::new();
    let step = (len / SAMPLES).max(SAMPLE);
    for start in (0..len).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        bytes.clear();
        file.seek(SeekFrom::Start(start))?;
        (&mut file).take(SAMPLE).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    let time = file.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((hex(&hash), format!("{}.{:09}", time.as_secs(), time.subsec_nanos())))
}

/// The first thing in which two jobs differ: its name, what it was, what it is.
pub fn difference(was: &Identity, is: &Identity) -> Option<(String, String, String)> {
    let keys = was.keys().chain(is.keys()).filter(|key| was.get(*key) != is.get(*key));
    // What a person chose says more than what follows from it.
    let key = keys.min_by_key(|key| (!key.starts_with("--"), key.starts_with("plan"), *key))?;
    let of = |identity: &Identity| identity.get(key).cloned().unwrap_or_else(|| "not there".into());
    Some((key.clone(), of(was), of(is)))
}

/// A hash of all that is the same on every machine.
pub fn hash(identity: &Identity) -> String {
    let mut hash = Fnv128::new();
    for (key, value) in identity.iter().filter(|(key, _)| !key.starts_with(TIME)) {
        for text in [key, value] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    hex(&hash)
}

/// 32 digits.
pub fn hex(hash: &Fnv128) -> String {
    format!("{:032x}", u128::from_be_bytes(hash.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, &str)]) -> Identity {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_named_first() {
        let was = identity(&[("--quality", "best"), ("input \"a\"", "1"), ("plan", "x")]);
        let is = identity(&[("--quality", "fast"), ("input \"a\"", "2"), ("plan", "y")]);
        let named = |a, b, c| Some((String::from(a), String::from(b), String::from(c)));
        assert_eq!(difference(&was, &is), named("--quality", "best", "fast"));
        assert_eq!(difference(&was, &was), None);
        let is = identity(&[("--quality", "best"), ("input \"a\"", "2"), ("plan", "y")]);
        assert_eq!(difference(&was, &is), named("input \"a\"", "1", "2"));
        let is = identity(&[("--quality", "best"), ("input \"a\"", "1")]);
        assert_eq!(difference(&was, &is), named("plan", "x", "not there"));
    }

    #[test]
    fn times_do_not_leave_the_machine() {
        let a = identity(&[("--quality", "best"), ("time of \"a\"", "1")]);
        let b = identity(&[("--quality", "best"), ("time of \"a\"", "2")]);
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&identity(&[("--quality", "fast")])));
    }

    #[test]
    fn files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, vec![1; 100_000]).unwrap();
        let inputs = Inputs::new(std::slice::from_ref(&file)).unwrap();
        let (mut first, mut second) = (Identity::new(), Identity::new());
        inputs.identify("input", &mut first).unwrap();
        std::fs::write(&file, [vec![1; 99_999], vec![2]].concat()).unwrap();
        inputs.check(&file).unwrap();
        inputs.identify("input", &mut second).unwrap();
        assert!(difference(&first, &second).is_some());
        std::fs::write(&file, "short").unwrap();
        assert!(matches!(inputs.check(&file), Err(Error::InputChanged { expected: 100_000, found: 5, .. })));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(inputs.check(&file), Err(Error::Input { .. })));
    }
}
