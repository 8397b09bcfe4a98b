//! Writing a container (spec, chapter 8).
//!
//! All sizes follow from names, shapes and encodings, so [`Layout`] fixes every offset before the first byte of
//! payload exists. [`Writer`] then streams planes in file order, whole or by runs of rows, holding none of them, and
//! writes the header last: a file whose writer died does not begin with the magic.

mod stream;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::cursor::usize_range;
use super::dtype::Dtype;
use super::encoding::Encoding;
use super::error::{At, Error, Place};
use super::index::{Index, Shard, header_crc};
use super::layout::{
    BlobRecord, Header, MAGIC, PlaneKind, PlaneRecord, SECTION_ALIGN, SectionKind, SectionRecord,
    TensorRecord, VERSION, chunk_count, plane_start,
};
use super::limits::Limits;
use super::metadata::{Value, write_section};

pub use stream::{Fnv128, WriteError, Writer};

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

    /// The front, with zeros for the checksums of the payload.
    pub fn front(&self) -> &[u8] {
        &self.front
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

#[cfg(test)]
mod tests;
