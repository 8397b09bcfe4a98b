//! How the bytes of a file come into memory: mapped, with advice for the system, or read.

#[cfg(feature = "std")]
use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
    vec::Vec,
};

#[cfg(feature = "std")]
use crate::{
    Container,
    format::{Error, Index, Limits, layout},
};

/// The bytes of a container and who holds them.
pub(crate) enum Bytes<'a> {
    /// The caller.
    Borrowed(&'a [u8]),
    /// This container, in memory of its own.
    #[cfg(feature = "std")]
    Owned(Vec<u8>),
    /// This container, in a map of the file or of anonymous memory.
    #[cfg(feature = "mmap")]
    Mapped(memmap2::Mmap),
}

impl Bytes<'_> {
    pub(crate) fn get(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            #[cfg(feature = "std")]
            Self::Owned(bytes) => bytes,
            #[cfg(feature = "mmap")]
            Self::Mapped(map) => map,
        }
    }

    /// Asks the system to load these bytes of the file, without waiting for them.
    #[cfg_attr(not(feature = "mmap"), allow(unused_variables))]
    pub(crate) fn prefetch(&self, start: u64, end: u64) {
        #[cfg(feature = "mmap")]
        if let Self::Mapped(map) = self {
            crate::mmap::prefetch(map, start, end);
        }
    }
}

/// Who holds how many bytes, not the bytes.
impl core::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let holder = match self {
            Self::Borrowed(_) => "borrowed",
            #[cfg(feature = "std")]
            Self::Owned(_) => "owned",
            #[cfg(feature = "mmap")]
            Self::Mapped(_) => "mapped",
        };
        write!(f, "{} bytes, {holder}", self.get().len())
    }
}

/// The order in which a mapped payload is going to be used: what the system should read ahead.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Whatever the system does on its own.
    #[default]
    Normal,
    /// From front to back, once: read far ahead. For copying the whole model to a device.
    Sequential,
    /// Here and there: read nothing ahead. For experts and embeddings, of which few rows are used.
    Random,
}

#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
enum Load {
    #[cfg(feature = "mmap")]
    Map,
    Memory,
}

/// How to open a file.
///
/// ```
/// # fn main() -> Result<(), ccq::Error> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/ccq-2.06.ccq");
/// use ccq::{Access, OpenOptions};
///
/// # #[cfg(feature = "mmap")]
/// let mapped = OpenOptions::map().access(Access::Random).huge_pages(true).open(path)?;
/// let read = OpenOptions::memory().open(path)?; // from a network disk
/// # Ok(()) }
/// ```
///
/// | | [`OpenOptions::map`] | [`OpenOptions::memory`] |
/// |---|---|---|
/// | opening reads | the index | the whole file |
/// | a tensor is read | when it is first touched | when the file is opened |
/// | memory is | the system's cache, shared by all processes | this process's own |
/// | a failing disk | kills the process when it touches the page | is an error of `open` |
///
/// Advice and huge pages are hints: a system that does not have them opens the file all the same.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    limits: Limits,
    load: Load,
    access: Access,
    huge_pages: bool,
}

#[cfg(feature = "std")]
impl OpenOptions {
    /// Maps the file. It must not be modified or truncated while it is open, see [`Container::open`].
    #[cfg(feature = "mmap")]
    pub const fn map() -> Self {
        Self::new(Load::Map)
    }

    /// Reads the whole file into memory: for network disks, and for files that others may change.
    pub const fn memory() -> Self {
        Self::new(Load::Memory)
    }

    const fn new(load: Load) -> Self {
        Self { limits: Limits::DEFAULT, load, access: Access::Normal, huge_pages: false }
    }

    /// What the reader is willing to open.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The order in which a mapped payload is going to be used. The index is read from front to back anyway.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Asks for huge pages, so that decoding misses the address cache less often. Linux has them for memory, and for
    /// maps of files on some file systems.
    #[must_use]
    pub const fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Opens a file.
    ///
    /// # Errors
    /// `Io`, and those of [`Container::from_bytes`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Container<'static>, Error> {
        let file = File::open(path)?;
        match self.load {
            #[cfg(feature = "mmap")]
            Load::Map => {
                let container = Container::new(Bytes::Mapped(crate::mmap::map(&file)?), &self.limits)?;
                if let Bytes::Mapped(map) = container.bytes() {
                    crate::mmap::advise(map, payload_offset(&container), self.access, self.huge_pages);
                }
                Ok(container)
            }
            Load::Memory => Container::new(self.read(file)?, &self.limits),
        }
    }

    /// Reads a whole file, but refuses what is no container after its first bytes.
    fn read(&self, mut file: File) -> Result<Bytes<'static>, Error> {
        let metadata = file.metadata()?;
        if metadata.is_file() {
            let records = self.limits.sections.saturating_mul(size_of::<layout::SectionRecord>() as u64);
            let mut first = Vec::new();
            file.by_ref().take(records.saturating_add(4096)).read_to_end(&mut first)?;
            Index::front_len(&first, metadata.len(), &self.limits)?;
            file.rewind()?;
            #[cfg(feature = "mmap")]
            if self.huge_pages {
                let mut map = crate::mmap::huge(metadata.len())?;
                file.read_exact(&mut map)?;
                return Ok(Bytes::Mapped(map.make_read_only()?));
            }
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Bytes::Owned(bytes))
    }
}

#[cfg(feature = "mmap")]
fn payload_offset(container: &Container<'_>) -> u64 {
    container.index().planes().first().map_or(0, |plane| plane.offset)
}
