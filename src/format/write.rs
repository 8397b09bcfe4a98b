//! Writing a container (spec, chapter 8).
//!
//! All sizes follow from names, shapes and encodings, so [`Layout`] fixes every offset before the first byte of
//! payload exists. [`Writer`] then streams planes in file order, holding none of them, and writes the header
//! last: a file whose writer died does not begin with the magic.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use std::io::{self, Seek, SeekFrom, Write};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::cursor::usize_range;
use super::dtype::Dtype;
use super::encoding::Encoding;
use super::error::{At, Error, Place};
use super::index::{Index, Plane, Shard, header_crc};
use super::layout::{
    BlobRecord, CHUNK, Header, MAGIC, PlaneKind, PlaneRecord, SECTION_ALIGN, SectionKind, SectionRecord,
    TensorRecord, VERSION, chunk_count, plane_start,
};
use super::limits::Limits;
use super::metadata::{Value, write_section};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Dimensions, [..., out_features, in_features].
    pub shape: Vec<u64>,
    /// Element type of the source.
    pub dtype: Dtype,
    /// How its values are stored.
    pub encoding: Encoding,
}

/// What a container is going to hold, in any order.
#[derive(Clone, Debug, Default)]
pub struct Contents<'a> {
    /// Tensors.
    pub tensors: Vec<TensorSpec>,
    /// Names of blobs and their lengths in bytes.
    pub blobs: BTreeMap<String, u64>,
    /// Typed key-values.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// The file's place in its set, `None` if it stands alone.
    pub shard: Option<Shard>,
}

/// The front of a file to be written, and with it the place of every plane.
#[derive(Clone, Debug)]
pub struct Layout {
    front: Vec<u8>,
    index: Index,
}

impl Layout {
    /// Sorts the contents and lays them out. The result has been through the reader's own checks.
    ///
    /// # Errors
    /// Whatever a reader would say to such a file: bad or repeated names, shapes that an encoding cannot have,
    /// sizes beyond 64 bits or beyond [`Limits::DEFAULT`].
    pub fn new(contents: Contents<'_>) -> Result<Self, Error> {
        let Contents { mut tensors, blobs, metadata, shard } = contents;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let metadata: Vec<_> = metadata.into_iter().collect();
        let mut builder = FrontBuilder::default();
        let mut planes = Vec::new();
        for tensor in &tensors {
            let at = At { offset: 0, name: &tensor.name };
            let due = tensor.encoding.planes(&tensor.shape, tensor.dtype, at)?;
            builder.add_tensor(tensor, planes.len() as u64, due.clone().count());
            planes.extend(due.map(|plane| (plane.kind, plane.len, plane.row_stride)));
        }
        for (name, &len) in &blobs {
            builder.add_blob(name, planes.len() as u64);
            planes.push((PlaneKind::Blob, len, 0));
        }
        let (front, file_len) = builder
            .finish(&planes, &write_section(&metadata)?, shard.unwrap_or(Shard::ALONE))
            .ok_or(Error::Overflow { what: "the length of the file", at: Place::byte(32) })?;
        let index = Index::parse(&front, file_len, &Limits::DEFAULT)?;
        Ok(Self { front, index })
    }

    /// Where everything will be.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

/// The front of a file in the making.
#[derive(Default)]
struct FrontBuilder {
    tensors: Vec<TensorRecord>,
    blobs: Vec<BlobRecord>,
    dims: Vec<U64>,
    strings: Vec<u8>,
}

impl FrontBuilder {
    fn add_tensor(&mut self, tensor: &TensorSpec, first_plane: u64, plane_count: usize) {
        let (encoding, code) = tensor.encoding.to_record();
        let (name_offset, name_len) = self.add_name(&tensor.name);
        self.tensors.push(TensorRecord {
            name_offset,
            name_len,
            rank: saturate(tensor.shape.len()),
            first_dim: U64::new(self.dims.len() as u64),
            first_plane: U64::new(first_plane),
            plane_count: saturate(plane_count),
            dtype: U16::new(tensor.dtype.id()),
            encoding: U16::new(encoding),
            code,
        });
        self.dims.extend(tensor.shape.iter().map(|&dimension| U64::new(dimension)));
    }

    fn add_blob(&mut self, name: &str, plane: u64) {
        let (name_offset, name_len) = self.add_name(name);
        self.blobs.push(BlobRecord { name_offset, name_len, reserved: U32::new(0), plane: U64::new(plane) });
    }

    fn add_name(&mut self, name: &str) -> (U64, U32) {
        let offset = U64::new(self.strings.len() as u64);
        self.strings.extend_from_slice(name.as_bytes());
        (offset, saturate(name.len()))
    }

    /// The sealed front (checksums of the payload still zero) and the length of the file.
    fn finish(
        self,
        planes: &[(PlaneKind, u64, u64)],
        metadata: &[u8],
        shard: Shard,
    ) -> Option<(Vec<u8>, u64)> {
        let chunks = planes.iter().try_fold(0u64, |sum, plane| sum.checked_add(chunk_count(plane.1)))?;
        let lens = [
            [
                size_of_val(self.tensors.as_slice()),
                size_of::<PlaneRecord>().checked_mul(planes.len())?,
                size_of_val(self.blobs.as_slice()),
                size_of_val(self.dims.as_slice()),
            ]
            .into_iter()
            .try_fold(0u64, |sum, len| sum.checked_add(len as u64))?,
            self.strings.len() as u64,
            metadata.len() as u64,
            chunks.checked_mul(size_of::<u32>() as u64)?,
        ];
        let section_count = SectionKind::ALL.len();
        let header_len =
            size_of::<SectionRecord>().checked_mul(section_count)?.checked_add(size_of::<Header>())?;
        let mut sections = Vec::with_capacity(section_count);
        let mut position = header_len as u64;
        for (kind, len) in SectionKind::ALL.into_iter().zip(lens.into_iter().chain([0])) {
            let offset = position.checked_next_multiple_of(SECTION_ALIGN)?;
            sections.push(SectionRecord {
                kind: U32::new(kind as u32),
                flags: U32::new(0),
                offset: U64::new(offset),
                len: U64::new(len),
                crc: U32::new(0),
                reserved: U32::new(0),
            });
            position = offset.checked_add(len)?;
        }
        let payload = sections.last_mut()?;
        let mut plane_records = Vec::with_capacity(planes.len());
        let mut chunk = 0u64;
        for &(kind, len, row_stride) in planes {
            let offset = plane_start(position, len)?;
            plane_records.push(PlaneRecord {
                kind: U32::new(kind as u32),
                reserved: U32::new(0),
                offset: U64::new(offset),
                len: U64::new(len),
                row_stride: U64::new(row_stride),
                first_chunk: U64::new(chunk),
            });
            chunk = chunk.checked_add(chunk_count(len))?;
            position = offset.checked_add(len)?;
        }
        payload.len = U64::new(position.checked_sub(payload.offset.get())?);

        let header = Header {
            magic: MAGIC,
            major: U16::new(VERSION.0),
            minor: U16::new(VERSION.1),
            header_len: saturate(header_len),
            incompat: U64::new(0),
            compat: U64::new(0),
            file_len: U64::new(position),
            tensor_count: U64::new(self.tensors.len() as u64),
            plane_count: U64::new(planes.len() as u64),
            blob_count: U64::new(self.blobs.len() as u64),
            dim_count: U64::new(self.dims.len() as u64),
            shard_index: U32::new(shard.index),
            shard_count: U32::new(shard.count),
            set_id: shard.set_id,
            section_count: saturate(section_count),
            header_crc: U32::new(0),
            reserved: [0; 24],
        };
        let [index, strings, metadata_at, checksums, payload] = &sections[..] else { return None };
        let mut front = Vec::new();
        front.extend_from_slice(header.as_bytes());
        front.extend_from_slice(sections.as_bytes());
        pad_to(&mut front, index.offset.get())?;
        for records in
            [self.tensors.as_bytes(), plane_records.as_bytes(), self.blobs.as_bytes(), self.dims.as_bytes()]
        {
            front.extend_from_slice(records);
        }
        pad_to(&mut front, strings.offset.get())?;
        front.extend_from_slice(&self.strings);
        pad_to(&mut front, metadata_at.offset.get())?;
        front.extend_from_slice(metadata);
        pad_to(&mut front, checksums.offset.get())?;
        pad_to(&mut front, payload.offset.get())?;
        seal(&mut front);
        Some((front, position))
    }
}

/// Zeros up to an offset.
fn pad_to(front: &mut Vec<u8>, offset: u64) -> Option<()> {
    front.resize(usize::try_from(offset).ok()?, 0);
    Some(())
}

/// A count as u32; what does not fit fails the reader's checks.
fn saturate(count: usize) -> U32 {
    U32::new(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Computes the checksums of the sections in the front of a file, then the header's own, and stores them.
///
/// Whatever lies outside `front`, the payload and its section above all, keeps the checksum it has.
pub fn seal(front: &mut [u8]) {
    let Ok((header, _)) = Header::read_from_prefix(front) else { return };
    let count = usize::try_from(header.section_count.get()).unwrap_or(usize::MAX);
    let records_end = count.saturating_mul(size_of::<SectionRecord>()).saturating_add(size_of::<Header>());
    for start in (size_of::<Header>()..records_end.min(front.len())).step_by(size_of::<SectionRecord>()) {
        let Some(Ok((mut record, _))) = front.get(start..).map(SectionRecord::read_from_prefix) else {
            break;
        };
        if record.kind.get() == SectionKind::Payload as u32 {
            continue;
        }
        let (offset, len) = (record.offset.get(), record.len.get());
        let Some(bytes) = usize_range(offset, offset.saturating_add(len)).and_then(|range| front.get(range))
        else {
            continue;
        };
        record.crc = U32::new(crc32fast::hash(bytes));
        if let Some(stored) = front.get_mut(start..) {
            let _ = record.write_to_prefix(stored);
        }
    }
    let header_len = usize::try_from(header.header_len.get()).unwrap_or(usize::MAX).min(front.len());
    let crc = header_crc(&header, front.get(..header_len).unwrap_or_default());
    let sealed = Header { header_crc: U32::new(crc), ..header };
    let _ = sealed.write_to_prefix(front);
}

/// Why a container could not be written.
#[derive(Debug, thiserror::Error)]
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
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Streams the planes of a laid-out container into a sink, memory bounded by what the caller holds.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    front: Vec<u8>,
    /// Tensors, then blobs, each with its planes, last one first.
    due: Vec<(String, Vec<Plane>)>,
    position: u64,
    /// Where the checksum section starts in the front.
    checksums_at: usize,
    checksums: Vec<u32>,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts at the sink's first byte, leaving the front to be written by [`Writer::finish`].
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
        Ok(Self { sink, front, due, position, checksums_at, checksums: Vec::new() })
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
        match self.due.last() {
            Some((expected, due)) if expected == name => {
                let missing = due.get(planes.len()..).unwrap_or_default().iter().map(|plane| (plane, 0));
                let given = due.iter().zip(planes.iter().map(|bytes| bytes.len() as u64));
                for (plane, found) in given.chain(missing) {
                    if plane.len != found {
                        let (name, plane, expected) = (name.into(), plane.kind.name(), plane.len);
                        return Err(WriteError::PlaneLength { name, plane, expected, found });
                    }
                }
            }
            other => {
                let expected = other.map(|(name, _)| name.clone()).unwrap_or_default();
                return Err(WriteError::Order { expected, found: name.into() });
            }
        }
        let (_, due) = self.due.pop().unwrap_or_default();
        for (plane, bytes) in due.iter().zip(planes) {
            let padding = plane.offset.saturating_sub(self.position);
            io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.sink)?;
            for chunk in bytes.chunks(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
                self.checksums.push(crc32fast::hash(chunk));
                self.sink.write_all(chunk)?;
            }
            self.position = plane.end();
        }
        Ok(())
    }

    /// Writes the front, the header at the very end, and returns the sink.
    ///
    /// # Errors
    /// `Unfinished` when something is missing, `Io`.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if let Some((missing, _)) = self.due.pop() {
            return Err(WriteError::Unfinished { missing });
        }
        self.store_checksums();
        seal(&mut self.front);
        let (header, rest) = self.front.split_at(size_of::<Header>().min(self.front.len()));
        self.sink.seek(SeekFrom::Start(header.len() as u64))?;
        self.sink.write_all(rest)?;
        self.sink.flush()?;
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(header)?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn store_checksums(&mut self) {
        let stored: Vec<U32> = self.checksums.iter().map(|&checksum| U32::new(checksum)).collect();
        let section = self.front.get_mut(self.checksums_at..).unwrap_or_default();
        for (byte, &checksum) in section.iter_mut().zip(stored.as_bytes()) {
            *byte = checksum;
        }
    }
}

#[cfg(test)]
mod tests;
