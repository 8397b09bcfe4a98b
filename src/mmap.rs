//! Memory maps (feature `mmap`).
//!
//! Mapping is unsafe because the file stays in everybody's hands. If another process changes it, the slices we
//! hand out change under the reader's feet: bytes only, which every value of is valid here, but Rust's rules for
//! shared references are broken all the same. If another process truncates it, touching the lost pages raises
//! SIGBUS, which cannot be caught. Containers are written to a temporary name and renamed, never in place, so
//! neither happens to a file written by this crate; where a stranger can write to the file while it is open,
//! use [`Container::read`](crate::Container::read), which copies it into memory first.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a file read-only.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the caller of `Container::open` guarantees, as its documentation demands, that nobody modifies or
    // truncates the file while it is mapped.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(file)
    }
}
