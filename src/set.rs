//! Models in several files (spec, clause 3.7).

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::string::String;
use std::vec::Vec;

use crate::container::{Container, Tensor};
use crate::format::{Error, Metadata, ShardFault};
use crate::open::OpenOptions;

/// What the name of a container ends in.
const EXTENSION: &str = ".ccq";

/// A model in one file or in several, opened together: each tensor and each blob is in one of them.
///
/// ```
/// # fn main() -> Result<(), ccq::SetError> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/ccq-2.06.ccq");
/// let model = ccq::Set::open(path)?; // any file of the set
/// for tensor in model.tensors() {
///     println!("{}", tensor.info().name());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Set {
    /// In the order of their index.
    files: Vec<(PathBuf, Container<'static>)>,
    /// The file of every tensor, in ascending order of the names; of every blob likewise.
    tensors: Vec<usize>,
    blobs: Vec<usize>,
}

/// Why a set is refused, and which file of it is to blame.
#[derive(Debug)]
pub struct SetError {
    /// The file, also one that is missing.
    pub file: PathBuf,
    /// What is wrong.
    pub source: Error,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.source)
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Set {
    /// Maps the file, and where it is one of several the others beside it, as [`Container::open`] does.
    ///
    /// # Errors
    /// Those of [`Container::open`], and every `Shard` error: a file that is missing, of another set, or there
    /// twice; a tensor or a blob in two files; a name from which those of the others do not follow.
    #[cfg(feature = "mmap")]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SetError> {
        Self::open_with(path, OpenOptions::map())
    }

    /// [`Set::open`] that reads the files into memory, as [`Container::read`] does.
    ///
    /// # Errors
    /// As [`Set::open`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, SetError> {
        Self::open_with(path, OpenOptions::memory())
    }

    /// [`Set::open`] with every file opened as the options say.
    ///
    /// # Errors
    /// As [`Set::open`].
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, SetError> {
        let path = path.as_ref();
        let failed = |file: &Path, source| SetError { file: file.into(), source };
        let first = options.open(path).map_err(|source| failed(path, source))?;
        let shard = first.index().shard();
        let (index, count) = (shard.index, shard.count);
        let mut files = Vec::from([(path.to_path_buf(), first)]);
        if count > 1 {
            let name = || Error::Shard { fault: ShardFault::Name { index, count } };
            let stem = stem(path, count).ok_or_else(|| failed(path, name()))?;
            // No allocation by what the header claims: the first file that is missing ends the search.
            for other in (0..count).filter(|other| *other != index) {
                let file = shard_path(&stem, other, count);
                let container = match options.open(&file) {
                    Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Err(failed(&file, missing(other, count)));
                    }
                    opened => opened.map_err(|source| failed(&file, source))?,
                };
                // Of another set: there is no use in opening the rest.
                let found = container.index().shard();
                let first = files.first().map(|(_, first)| first.index().shard());
                if first.is_some_and(|first| (found.set_id, found.count) != (first.set_id, first.count)) {
                    let fault = ShardFault::OtherSet { first: path.display().to_string() };
                    return Err(failed(&file, Error::Shard { fault }));
                }
                files.push((file, container));
            }
        }
        Self::new(files)
    }

    /// Joins opened files, in any order.
    ///
    /// # Errors
    /// As [`Set::open`], about the set as a whole.
    pub fn new(files: Vec<(PathBuf, Container<'static>)>) -> Result<Self, SetError> {
        let files = in_order(files)?;
        let tensors =
            merged("tensor", &files, |container| container.tensors().map(|tensor| tensor.info().name()))?;
        let blobs = merged("blob", &files, |container| container.blobs().map(|blob| blob.0))?;
        Ok(Self { files, tensors, blobs })
    }

    /// Paths and containers, in the order of their index.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&Path, &Container<'static>)> {
        self.files.iter().map(|(path, container)| (path.as_path(), container))
    }

    /// Tensors of all files in ascending order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        let mut files: Vec<_> = self.files().map(|(_, container)| container.tensors()).collect();
        self.tensors.iter().filter_map(move |&file| files.get_mut(file)?.next())
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.files.iter().find_map(|(_, container)| container.tensor(name))
    }

    /// Names and bytes of the model's own files, in ascending order of their names.
    pub fn blobs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut files: Vec<_> = self.files().map(|(_, container)| container.blobs()).collect();
        self.blobs.iter().filter_map(move |&file| files.get_mut(file)?.next())
    }

    /// The bytes of the blob of that name.
    pub fn blob(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find_map(|(_, container)| container.blob(name))
    }

    /// Typed key-values: those of the first file.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.files.first().map(|(_, container)| container.index().metadata())
    }

    /// Weights and other elements over all tensors.
    pub fn parameters(&self) -> u64 {
        self.files().fold(0, |sum, (_, container)| sum.saturating_add(container.index().parameters()))
    }

    /// Length of all files together.
    pub fn file_len(&self) -> u64 {
        self.files().fold(0, |sum, (_, container)| sum.saturating_add(container.index().file_len()))
    }

    /// Reads the whole payload, as [`Container::verify`] does.
    ///
    /// # Errors
    /// Those of [`Container::verify`].
    pub fn verify(&self) -> Result<(), SetError> {
        self.files().try_for_each(|(path, container)| {
            container.verify().map_err(|source| SetError { file: path.into(), source })
        })
    }
}

/// The path of a shard, `index` from 0: `x-00001-of-0000N.ccq` for a set that would be `x.ccq` in one file. A single
/// file keeps its name.
pub fn shard_path(path: &Path, index: u32, count: u32) -> PathBuf {
    if count == 1 {
        return path.to_path_buf();
    }
    let name = path.file_name().unwrap_or_default();
    let stem = Path::new(name).extension().and_then(|_| Path::new(name).file_stem()).unwrap_or(name);
    let mut name = stem.to_os_string();
    name.push(suffix(index, count));
    name.push(EXTENSION);
    path.with_file_name(name)
}

/// `-00001-of-0000N`
fn suffix(index: u32, count: u32) -> String {
    std::format!("-{:05}-of-{count:05}", index.saturating_add(1))
}

/// What a set would be called in one file, from the name of one of several.
fn stem(path: &Path, count: u32) -> Option<PathBuf> {
    let name = path.file_name().and_then(OsStr::to_str)?;
    // Any place in the set will do: a file may have been given another's name, which is said later.
    let stem = name.strip_suffix(EXTENSION)?.strip_suffix(&std::format!("-of-{count:05}"))?;
    let (stem, number) = stem.rsplit_once('-')?;
    let is_number = number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| path.with_file_name(std::format!("{stem}{EXTENSION}")))
}

fn missing(index: u32, count: u32) -> Error {
    Error::Shard { fault: ShardFault::Missing { index, count } }
}

type Files = Vec<(PathBuf, Container<'static>)>;

/// The files of one whole set, in order.
fn in_order(mut files: Files) -> Result<Files, SetError> {
    let refused = |file: &Path, fault| Err(SetError { file: file.into(), source: Error::Shard { fault } });
    files.sort_by_key(|(_, container)| container.index().shard().index);
    let Some((first_path, first)) = files.first() else { return Ok(files) };
    let set = first.index().shard();
    for (path, container) in &files {
        let shard = container.index().shard();
        if (shard.set_id, shard.count) != (set.set_id, set.count) {
            return refused(path, ShardFault::OtherSet { first: first_path.display().to_string() });
        }
    }
    for pair in files.windows(2) {
        if let [(other, a), (path, b)] = pair
            && a.index().shard().index == b.index().shard().index
        {
            let (index, other) = (a.index().shard().index, other.display().to_string());
            return refused(path, ShardFault::Twice { index, other });
        }
    }
    for index in 0..set.count {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if files.get(at).is_none_or(|(_, container)| container.index().shard().index != index) {
            let path = stem(first_path, set.count).unwrap_or_else(|| first_path.clone());
            let path = shard_path(&path, index, set.count);
            return refused(&path, ShardFault::Missing { index, count: set.count });
        }
    }
    Ok(files)
}

/// The file of each name, in ascending order of the names; none may be there twice. A file has its own in order, so
/// this is enough to walk them all.
fn merged<'a, Names: Iterator<Item = &'a str>>(
    what: &'static str,
    files: &'a Files,
    names: impl Fn(&'a Container<'static>) -> Names,
) -> Result<Vec<usize>, SetError> {
    let in_file = |(file, (_, container)): (usize, &'a (PathBuf, Container<'static>))| {
        names(container).map(move |name| (name, file))
    };
    let mut named: Vec<(&str, usize)> = files.iter().enumerate().flat_map(in_file).collect();
    named.sort_unstable();
    for pair in named.windows(2) {
        if let [(a, first), (b, second)] = *pair
            && a == b
        {
            let path = |file: usize| files.get(file).map(|file| file.0.clone()).unwrap_or_default();
            let fault =
                ShardFault::Repeated { what, name: a.into(), other: path(first).display().to_string() };
            return Err(SetError { file: path(second), source: Error::Shard { fault } });
        }
    }
    Ok(named.into_iter().map(|(_, file)| file).collect())
}

#[cfg(test)]
mod tests;
