//! Memory maps (feature `mmap`).
//!
//! Mapping is unsafe because the file stays in everybody's hands. If another process changes it, the slices we
//! hand out change under the reader's feet: bytes only, which every value of is valid here, but Rust's rules for
//! shared references are broken all the same. If another process truncates it, touching the lost pages raises
//! SIGBUS, which cannot be caught. Containers are written to a temporary name and renamed, never in place, so
//! neither happens to a file written by this crate: a map keeps the file that it was made of, whatever the name
//! stands for by then. Where a stranger can write to the file while it is open, use
//! [`OpenOptions::memory`](crate::OpenOptions::memory), which copies it into memory first.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapMut};

use crate::Access;

/// Maps a file read-only.
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the caller of `OpenOptions::open` guarantees, as its documentation demands, that nobody modifies or
    // truncates the file while it is mapped.
    #[allow(unsafe_code)]
    unsafe {
        Mmap::map(file)
    }
}

/// Memory for `len` bytes, in huge pages where the system has them.
pub(crate) fn huge(len: u64) -> io::Result<MmapMut> {
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let map = MmapMut::map_anon(len)?;
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage); // a hint: small pages hold the same bytes
    Ok(map)
}

/// Tells the system how the map from byte `start` on is going to be used. These are hints: where they are refused,
/// the same bytes are read.
#[cfg_attr(not(unix), allow(unused_variables))]
pub(crate) fn advise(map: &Mmap, start: u64, access: Access, huge_pages: bool) {
    #[cfg(unix)]
    {
        let advise = |advice| {
            let start = usize::try_from(start).unwrap_or(usize::MAX).min(map.len());
            let _ = map.advise_range(advice, start, map.len() - start);
        };
        match access {
            Access::Normal => {}
            Access::Sequential => advise(memmap2::Advice::Sequential),
            Access::Random => advise(memmap2::Advice::Random),
        }
        #[cfg(target_os = "linux")]
        if huge_pages {
            advise(memmap2::Advice::HugePage);
        }
    }
}

/// Asks the system to load the bytes `start..end`; a hint, too.
#[cfg_attr(not(unix), allow(unused_variables))]
pub(crate) fn prefetch(map: &Mmap, start: u64, end: u64) {
    #[cfg(unix)]
    if let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end))
        && start < end
        && end <= map.len()
    {
        let _ = map.advise_range(memmap2::Advice::WillNeed, start, end - start);
    }
}
