//! The payload, written as it comes, and the header at the very end.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use std::io::{self, Seek, SeekFrom, Write};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::{Layout, seal};
use crate::format::index::Plane;
use crate::format::layout::{CHUNK, Header, SectionKind, chunk_count};
use crate::messages::messages;

/// Streams the planes of a laid-out container into a sink, memory bounded by what the caller holds.
///
/// The sink is empty at first, or holds an unfinished file of the same layout.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    front: Vec<u8>,
    file_len: u64,
    /// Tensors, then blobs, each with its planes, last one first.
    due: Vec<(String, Vec<Plane>)>,
    /// The planes of the one due next, once a part of it is there.
    begun: Vec<Begun>,
    /// Where the sink stands, and the end of the last plane begun.
    position: u64,
    end: u64,
    /// Where the checksum section starts in the front.
    checksums_at: usize,
    checksums: Vec<u32>,
}

/// A plane of which a part is there.
#[derive(Debug)]
struct Begun {
    plane: Plane,
    len: u64,
    /// Of the chunk that `len` stands in.
    checksum: crc32fast::Hasher,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts behind the front, which is left to be written by [`Writer::finish`].
    ///
    /// # Errors
    /// What seeking gives.
    pub fn new(mut sink: W, layout: Layout) -> Result<Self, WriteError> {
        let Layout { front, index } = layout;
        let mut due: Vec<_> = index
            .tensors()
            .map(|tensor| (tensor.name().into(), tensor.planes().to_vec()))
            .chain(index.blobs().map(|blob| (blob.name.into(), Vec::from([*blob.plane]))))
            .collect();
        due.reverse();
        let section = index.sections().iter().find(|section| section.kind == Some(SectionKind::Checksums));
        let checksums_at = section.and_then(|section| usize::try_from(section.offset).ok());
        let position = front.len() as u64;
        sink.seek(SeekFrom::Start(position))?;
        let checksums_at = checksums_at.unwrap_or(front.len());
        let chunks =
            index.planes().iter().fold(0, |sum: u64, plane| sum.saturating_add(chunk_count(plane.len)));
        // The layout holds as many zeros.
        let checksums = vec![0; usize::try_from(chunks).unwrap_or(0)];
        let (file_len, begun) = (index.file_len(), Vec::new());
        Ok(Self { sink, front, file_len, due, begun, position, end: position, checksums_at, checksums })
    }

    /// The tensor or blob due next, tensors in ascending order of their names, then blobs likewise.
    pub fn next_name(&self) -> Option<&str> {
        self.due.last().map(|(name, _)| name.as_str())
    }

    /// Writes the planes of the tensor due next, or the one plane of the blob.
    ///
    /// # Errors
    /// `Order` and `PlaneLength` before anything is written, `Io` after.
    pub fn write(&mut self, name: &str, planes: &[&[u8]]) -> Result<(), WriteError> {
        let due = self.check_name(name)?;
        let found = |at: usize| planes.get(at).map_or(0, |plane| plane.len() as u64);
        if let Some((at, plane)) = due.iter().enumerate().find(|(at, plane)| found(*at) != plane.len) {
            return Err(plane_length(name, plane, found(at)));
        }
        self.write_part(name, planes)
    }

    /// Writes the next bytes of every plane of the tensor due next, or of the blob, some of which may be none:
    /// such as those of its next rows. With the last byte of all planes the turn is the next one's.
    ///
    /// # Errors
    /// `Order` and `PlaneLength` before anything is written, `Io` after.
    pub fn write_part(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), WriteError> {
        self.add_part(name, parts, true)
    }

    /// [`Writer::write_part`] for bytes that the sink holds already, from a writer that stopped early.
    ///
    /// # Errors
    /// `Order` and `PlaneLength`.
    pub fn skip_part(&mut self, name: &str, parts: &[&[u8]]) -> Result<(), WriteError> {
        self.add_part(name, parts, false)
    }

    /// Where the next byte of each plane of the one due next belongs, from the start of the file.
    pub fn next_offsets(&self) -> impl Iterator<Item = u64> {
        let due = self.due.last().map(|(_, planes)| planes.as_slice()).unwrap_or_default();
        due.iter().enumerate().map(|(at, plane)| {
            let len = self.begun.get(at).map_or(0, |begun| begun.len);
            plane.offset.saturating_add(len)
        })
    }

    /// The sink, such as to make durable what has been written.
    pub fn sink(&self) -> &W {
        &self.sink
    }

    /// Writes the front, the header at the very end, and returns the sink.
    ///
    /// # Errors
    /// `Unfinished` when something is missing, `Io`.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.seal()?;
        self.write_front()
    }

    /// Finishes the files of a set and gives them its id, which is derived from all of their fronts: names, shapes,
    /// encodings, metadata and the checksums of the payload.
    ///
    /// # Errors
    /// As [`Writer::finish`]. No header is written before all other bytes of all files are.
    pub fn finish_set(mut writers: Vec<Self>) -> Result<Vec<W>, WriteError> {
        let mut hash = Fnv128::new();
        for writer in &mut writers {
            writer.seal()?;
            hash.update(&writer.front);
        }
        for writer in &mut writers {
            if let Ok((header, _)) = Header::read_from_prefix(&writer.front)
                && header.shard_count.get() > 1
            {
                let named = Header { set_id: hash.bytes(), ..header };
                let _ = named.write_to_prefix(&mut writer.front);
                seal(&mut writer.front);
            }
        }
        writers.into_iter().map(Self::write_front).collect()
    }

    /// Checks that a name is the one due, and returns its planes.
    fn check_name(&self, name: &str) -> Result<&[Plane], WriteError> {
        match self.due.last() {
            Some((expected, planes)) if expected == name => Ok(planes),
            other => {
                let expected = other.map(|(name, _)| name.clone()).unwrap_or_default();
                Err(WriteError::Order { expected, found: name.into() })
            }
        }
    }

    fn add_part(&mut self, name: &str, parts: &[&[u8]], write: bool) -> Result<(), WriteError> {
        let due = self.check_name(name)?;
        if self.begun.is_empty() {
            let begin = |plane: &Plane| Begun { plane: *plane, len: 0, checksum: crc32fast::Hasher::new() };
            let begun: Vec<_> = due.iter().map(begin).collect();
            for Begun { plane, .. } in &begun {
                self.pad(plane.offset)?;
                self.end = plane.end();
            }
            self.begun = begun;
        }
        for (begun, part) in self.begun.iter().zip(parts) {
            let found = begun.len.saturating_add(part.len() as u64);
            if found > begun.plane.len {
                return Err(plane_length(name, &begun.plane, found));
            }
        }
        for (begun, part) in self.begun.iter_mut().zip(parts) {
            let start = begun.plane.offset.saturating_add(begun.len);
            begun.add(part, &mut self.checksums);
            if write && !part.is_empty() {
                if self.position != start {
                    self.sink.seek(SeekFrom::Start(start))?;
                }
                self.sink.write_all(part)?;
                self.position = start.saturating_add(part.len() as u64);
            }
        }
        if self.begun.iter().all(|begun| begun.len == begun.plane.len) {
            self.begun.clear();
            self.due.pop();
        }
        Ok(())
    }

    /// Writes the zeros between the last plane begun and what comes next.
    fn pad(&mut self, next: u64) -> Result<(), WriteError> {
        if next > self.end {
            if self.position != self.end {
                self.sink.seek(SeekFrom::Start(self.end))?;
            }
            io::copy(&mut io::Read::take(io::repeat(0), next.saturating_sub(self.end)), &mut self.sink)?;
            self.position = next;
        }
        Ok(())
    }

    /// Completes the front.
    fn seal(&mut self) -> Result<(), WriteError> {
        if let Some((missing, _)) = self.due.pop() {
            return Err(WriteError::Unfinished { missing });
        }
        let stored: Vec<U32> = self.checksums.iter().map(|&checksum| U32::new(checksum)).collect();
        let section = self.front.get_mut(self.checksums_at..).unwrap_or_default();
        for (byte, &checksum) in section.iter_mut().zip(stored.as_bytes()) {
            *byte = checksum;
        }
        seal(&mut self.front);
        Ok(())
    }

    fn write_front(mut self) -> Result<W, WriteError> {
        self.pad(self.file_len)?;
        let (header, rest) = self.front.split_at(size_of::<Header>().min(self.front.len()));
        self.sink.seek(SeekFrom::Start(header.len() as u64))?;
        self.sink.write_all(rest)?;
        self.sink.flush()?;
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(header)?;
        self.sink.flush()?;
        Ok(self.sink)
    }
}

impl Begun {
    /// Adds bytes to the checksums of the chunks they are in.
    fn add(&mut self, mut bytes: &[u8], checksums: &mut [u32]) {
        while !bytes.is_empty() {
            let within = self.len.checked_rem(CHUNK).unwrap_or(0);
            let room = usize::try_from(CHUNK.saturating_sub(within)).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.checksum.update(now);
            let chunk = usize::try_from(self.len.checked_div(CHUNK).unwrap_or(0)).unwrap_or(usize::MAX);
            self.len = self.len.saturating_add(now.len() as u64);
            if now.len() == room || self.len == self.plane.len {
                let checksum = core::mem::take(&mut self.checksum).finalize();
                if let Some(stored) = checksums.get_mut(self.plane.first_chunk.saturating_add(chunk)) {
                    *stored = checksum;
                }
            }
            bytes = rest;
        }
    }
}

messages! {
/// Why a container could not be written.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteError {
    /// A tensor or blob came out of order.
    #[error("`{found}` was written where `{expected}` was due")]
    Order {
        /// The one due, empty when everything is written.
        expected: String,
        /// The one given.
        found: String,
    },
    /// A plane has not the length that the layout gave it.
    #[error("`{name}`: {plane} plane of {found} bytes, expected {expected}")]
    PlaneLength {
        /// Tensor or blob.
        name: String,
        /// Which plane.
        plane: &'static str,
        /// Bytes due.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The file was finished before everything was written.
    #[error("the file was finished before `{missing}` was written")]
    Unfinished {
        /// First tensor or blob that is missing.
        missing: String,
    },
    /// The system failed to write.
    #[error("{error}")]
    Io(io::Error) as error,
}
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => error.source(), // the message is the error's own
            _ => None,
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn plane_length(name: &str, plane: &Plane, found: u64) -> WriteError {
    WriteError::PlaneLength { name: name.into(), plane: plane.kind.name(), expected: plane.len, found }
}

/// FNV-1a of 128 bits, for ids that need no secrecy.
#[derive(Clone, Copy, Debug)]
pub struct Fnv128(u128);

impl Fnv128 {
    /// Of no bytes.
    pub const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul((1 << 88) + 0x13B);
        }
    }

    /// The hash, its highest byte first.
    pub const fn bytes(&self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl Default for Fnv128 {
    fn default() -> Self {
        Self::new()
    }
}
