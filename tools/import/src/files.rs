//! Files: the memory map, and small files read whole.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::Error;

/// Blobs and index files are read whole up to this many bytes.
pub(crate) const MAX_WHOLE_FILE: u64 = 256 << 20;

/// Maps a regular file for reading.
///
/// The map outlives the file's name: renaming or removing the file does no harm. Writing to it from outside
/// shows through, and cutting it short makes reads beyond the new end a bus error.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path) -> Result<Mmap, Error> {
    let file = open(path)?;
    // SAFETY: the map is read-only, and this package reads it as bytes that it never assumes to be unchanged:
    // offsets come from a header that was copied out and checked, and every access is bounds-checked against
    // the length at the time of mapping. That no other process cuts the file short or writes to it meanwhile
    // is for whoever runs the tool to guarantee; the documentation of the crate and of `Model::open` says so.
    unsafe { Mmap::map(&file) }.map_err(io_error(path))
}

/// Asks the system to read a part of a map soon.
pub(crate) fn prefetch(map: &Mmap, range: Range<usize>) {
    // It only makes things faster; where the system refuses, they are not.
    #[cfg(unix)]
    drop(map.advise_range(memmap2::Advice::WillNeed, range.start, range.len()));
    #[cfg(not(unix))]
    drop((map, range));
}

/// Lets go of the memory that pages of a map take; reading them again takes them from the file.
#[allow(unsafe_code)]
pub(crate) fn release(map: &Mmap) {
    // Nothing is lost where the system refuses, or has no such call.
    #[cfg(unix)]
    // SAFETY: `map` made this map, shared and read-only, so a page that is dropped comes back with the bytes of
    // the file, and slices of the map stay valid.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    #[cfg(not(unix))]
    let _ = map;
}

/// Reads a file of at most [`MAX_WHOLE_FILE`] bytes.
pub(crate) fn read_whole(path: &Path, what: &'static str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    let too_large = |found| Error::TooLarge { file: path.into(), what, limit: MAX_WHOLE_FILE, found };
    let len = file.metadata().map_err(io_error(path))?.len();
    if len > MAX_WHOLE_FILE {
        return Err(too_large(len));
    }
    file.take(MAX_WHOLE_FILE.saturating_add(1)).read_to_end(&mut bytes).map_err(io_error(path))?;
    match bytes.len() as u64 {
        len if len > MAX_WHOLE_FILE => Err(too_large(len)),
        _ => Ok(bytes),
    }
}

/// Reads a part of a file, at most [`MAX_WHOLE_FILE`] bytes.
pub(crate) fn read_range(path: &Path, range: Range<u64>, what: &'static str) -> Result<Vec<u8>, Error> {
    let found = range.end.saturating_sub(range.start);
    if found > MAX_WHOLE_FILE {
        return Err(Error::TooLarge { file: path.into(), what, limit: MAX_WHOLE_FILE, found });
    }
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(range.start)).map_err(io_error(path))?;
    let mut bytes = vec![0; usize::try_from(found).unwrap_or_default()];
    file.read_exact(&mut bytes).map_err(io_error(path))?;
    Ok(bytes)
}

/// An [`Error::Io`] about `path`.
pub(crate) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { file: path.into(), source }
}

/// Opens a regular file; others are refused before `open`, which would wait for the writer of a pipe.
fn open(path: &Path) -> Result<File, Error> {
    if !fs::metadata(path).map_err(io_error(path))?.is_file() {
        return Err(Error::UnknownInput { file: path.into() });
    }
    File::open(path).map_err(io_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(map(folder.path()), Err(Error::UnknownInput { .. })));
        let missing = folder.path().join("missing");
        assert!(matches!(map(&missing), Err(Error::Io { file, .. }) if file == missing));
    }

    #[test]
    fn a_huge_file_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge");
        File::create(&path).unwrap().set_len(MAX_WHOLE_FILE + 1).unwrap();
        assert!(matches!(read_whole(&path, "text"), Err(Error::TooLarge { what: "text", .. })));
    }
}
