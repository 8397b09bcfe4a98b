//! The front of a file, parsed: header, sections, tensors, planes, blobs and metadata (spec, chapters 3 and 4).
//!
//! Parsing checks everything that costs O(index). What it returns owns its memory, in proportion to the index,
//! and its accessors cannot fail.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::cursor::{Front, Placement, take_records};
use super::dtype::Dtype;
use super::encoding::{Encoding, rows_and_features};
use super::error::{At, Error, Feature, LayoutFault, MagicHint, Place, ShardFault};
use super::layout::{
    BlobRecord, Header, MAGIC, PlaneKind, PlaneRecord, SECTION_ALIGN, SECTION_IGNORABLE, SectionKind,
    SectionRecord, TensorRecord, VERSION, chunk_count,
};
use super::limits::Limits;
use super::metadata::Metadata;
use super::records::{Parser, Records};

const HEADER_LEN: u64 = size_of::<Header>() as u64;
const SECTION_LEN: u64 = size_of::<SectionRecord>() as u64;

/// A container's index: everything about it but the payload.
#[derive(Clone, Debug)]
pub struct Index {
    version: (u16, u16),
    shard: Shard,
    sections: Vec<Section>,
    names: Box<str>,
    dims: Vec<u64>,
    tensors: Vec<TensorEntry>,
    blobs: Vec<Range<usize>>,
    planes: Vec<Plane>,
    checksums: Vec<u32>,
    metadata: Metadata,
}

/// A file's place in its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: u32,
    /// Files in the set, 1 for a file that stands alone.
    pub count: u32,
    /// The same in every file of the set, zero in a file that stands alone.
    pub set_id: [u8; 16],
}

impl Shard {
    /// A file that stands alone.
    pub const ALONE: Self = Self { index: 0, count: 1, set_id: [0; 16] };
}

/// A section as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its kind, or `None` for an ignorable one that this reader does not know.
    pub kind: Option<SectionKind>,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// CRC of the bytes, zero for the payload.
    pub crc: u32,
}

/// A plane as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// What it holds.
    pub kind: PlaneKind,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes from row to row of a code plane, otherwise zero.
    pub row_stride: u64,
    /// Index of its first checksum.
    pub(super) first_chunk: usize,
}

impl Plane {
    /// The byte after the last, from the start of the file.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// A tensor as the index keeps it: ranges of its names, dimensions and planes.
#[derive(Clone, Debug)]
pub(super) struct TensorEntry {
    pub name: Range<usize>,
    pub dims: Range<usize>,
    pub planes: Range<usize>,
    pub dtype: Dtype,
    pub encoding: Encoding,
}

/// What the index says of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo<'a> {
    index: &'a Index,
    entry: &'a TensorEntry,
}

/// What the index says of a blob.
#[derive(Clone, Copy, Debug)]
pub struct BlobInfo<'a> {
    /// Its name: a relative path that stays below the folder it is put in.
    pub name: &'a str,
    /// Where its bytes are.
    pub plane: &'a Plane,
}

impl Index {
    /// Bytes from the start of the file that [`Index::parse`] needs, told from the first ones: 4096 are enough
    /// for any file that [`Limits::DEFAULT`] admits.
    ///
    /// # Errors
    /// Those of [`Index::parse`] that concern the header and the section records.
    pub fn front_len(first_bytes: &[u8], file_len: u64, limits: &Limits) -> Result<u64, Error> {
        let front = Front { bytes: first_bytes, file_len };
        let header = check_header(front, limits)?;
        let sections = check_sections(front, header)?;
        Ok(payload(&sections)?.offset)
    }

    /// Parses and checks the front of a file of `file_len` bytes; bytes after the front are not looked at.
    ///
    /// # Errors
    /// Every error of the specification's phase `open` (clause 9.2).
    pub fn parse(front: &[u8], file_len: u64, limits: &Limits) -> Result<Self, Error> {
        let front = Front { bytes: front, file_len };
        let header = check_header(front, limits)?;
        let sections = check_sections(front, header)?;
        check_front_padding(front, header, &sections)?;
        let section = |kind| known_section(&sections, kind);
        let bytes = |kind| -> Result<&[u8], Error> {
            let Section { offset, len, crc, .. } = section(kind)?;
            let bytes = front.range(SectionKind::name(kind), offset, offset.saturating_add(len))?;
            check_crc(kind.name(), offset, crc, crc32fast::hash(bytes))?;
            Ok(bytes)
        };
        check_counts(header, &section(SectionKind::Index)?, file_len, limits)?;
        let metadata_section = section(SectionKind::Metadata)?;
        let metadata_at = At::byte(metadata_section.offset);
        check_limit("bytes of metadata", metadata_at, metadata_section.len, limits.metadata_len)?;

        let mut index_bytes = bytes(SectionKind::Index)?;
        let records = Records::split(&mut index_bytes, header).ok_or_else(|| {
            let index = section(SectionKind::Index).unwrap_or(metadata_section);
            length_error("index", Place::byte(index.offset), index.len, 0)
        })?;
        let dims: Vec<u64> = records.dims.iter().map(|dimension| dimension.get()).collect();
        let parsed = Parser {
            limits,
            records: &records,
            dims: &dims,
            index_offset: section(SectionKind::Index)?.offset,
            strings: bytes(SectionKind::Strings)?,
            strings_offset: section(SectionKind::Strings)?.offset,
            payload: payload(&sections)?,
            checksums: section(SectionKind::Checksums)?,
        }
        .parse()?;
        let checksums = bytes(SectionKind::Checksums)?;
        let metadata = Metadata::parse(bytes(SectionKind::Metadata)?, metadata_section.offset, limits)?;
        Ok(Self {
            version: (header.major.get(), header.minor.get()),
            shard: check_shard(header)?,
            names: parsed.names,
            dims,
            tensors: parsed.tensors,
            blobs: parsed.blobs,
            planes: parsed.planes,
            checksums: <[U32]>::ref_from_bytes(checksums)
                .unwrap_or_default()
                .iter()
                .map(|checksum| checksum.get())
                .collect(),
            metadata,
            sections,
        })
    }

    /// The format's version, major and minor.
    pub fn version(&self) -> (u16, u16) {
        self.version
    }

    /// The file's place in its set.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// Length of the whole file.
    pub fn file_len(&self) -> u64 {
        self.sections.last().map_or(0, |section| section.offset.saturating_add(section.len))
    }

    /// The sections in file order, ignorable ones included.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Typed key-values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors in ascending order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(|entry| TensorInfo { index: self, entry })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        let at = self.tensors.binary_search_by(|entry| self.name(&entry.name).cmp(name)).ok()?;
        self.tensors.get(at).map(|entry| TensorInfo { index: self, entry })
    }

    /// Blobs in ascending order of their names.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = BlobInfo<'_>> {
        let first = self.planes.len().saturating_sub(self.blobs.len());
        let planes = self.planes.get(first..).unwrap_or_default();
        self.blobs.iter().zip(planes).map(|(name, plane)| BlobInfo { name: self.name(name), plane })
    }

    /// Every plane in file order: those of the tensors, then those of the blobs.
    pub fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// Weights and other elements over all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors().fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }

    /// The checksums of a plane, one for each chunk of 2^26 bytes.
    pub(super) fn checksums(&self, plane: &Plane) -> &[u32] {
        let count = usize::try_from(chunk_count(plane.len)).unwrap_or(0);
        self.checksums.get(plane.first_chunk..).and_then(|rest| rest.get(..count)).unwrap_or_default()
    }

    fn name(&self, range: &Range<usize>) -> &str {
        self.names.get(range.clone()).unwrap_or_default()
    }
}

impl<'a> TensorInfo<'a> {
    /// The tensor's name.
    pub fn name(&self) -> &'a str {
        self.index.name(&self.entry.name)
    }

    /// Dimensions, [..., out_features, in_features].
    pub fn shape(&self) -> &'a [u64] {
        self.index.dims.get(self.entry.dims.clone()).unwrap_or_default()
    }

    /// Element type of the source; of the stored bytes where the encoding is raw.
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// How the values are stored.
    pub fn encoding(&self) -> Encoding {
        self.entry.encoding
    }

    /// The planes, in ascending order of their kinds.
    pub fn planes(&self) -> &'a [Plane] {
        self.index.planes.get(self.entry.planes.clone()).unwrap_or_default()
    }

    /// The plane of a kind, if the tensor has one.
    pub fn plane(&self, kind: PlaneKind) -> Option<&'a Plane> {
        self.planes().iter().find(|plane| plane.kind == kind)
    }

    /// Product of the dimensions.
    pub fn elements(&self) -> u64 {
        super::element_count(self.shape()).unwrap_or(0)
    }

    /// Output channels of a coded tensor (all dimensions but the last) and weights a row; `None` if raw.
    pub fn rows_and_features(&self) -> Option<(u64, u64)> {
        match self.entry.encoding {
            Encoding::Raw => None,
            Encoding::Coded(_) => rows_and_features(self.shape()).ok(),
        }
    }

    /// Bytes stored for the tensor, row padding included.
    pub fn stored_bytes(&self) -> u64 {
        self.planes().iter().fold(0, |sum, plane| sum.saturating_add(plane.len))
    }

    /// Bits per weight: 8 times the stored bytes over the elements; `None` for an empty tensor.
    pub fn bpw(&self) -> Option<f64> {
        let elements = self.elements();
        (elements > 0).then(|| self.stored_bytes() as f64 * 8.0 / elements as f64)
    }
}

/// The header, once nothing more can be wrong with it alone.
fn check_header<'a>(front: Front<'a>, limits: &Limits) -> Result<&'a Header, Error> {
    if let Some(found) = front.bytes.first_chunk::<8>()
        && *found != MAGIC
    {
        return Err(Error::BadMagic { found: *found, hint: magic_hint(*found) });
    }
    let header: &Header = front.record("header", 0)?;
    let (major, minor) = (header.major.get(), header.minor.get());
    if major != VERSION.0 {
        return Err(Error::UnsupportedVersion { major, minor });
    }
    let sections = u64::from(header.section_count.get());
    let at = At::byte(offset_of!(Header, section_count) as u64);
    check_limit("section records", at, sections, limits.sections)?;
    let header_len = u64::from(header.header_len.get());
    let expected = sections.saturating_mul(SECTION_LEN).saturating_add(HEADER_LEN);
    if header_len != expected {
        return Err(length_error("header", Place::byte(12), expected, header_len));
    }
    let bytes = front.range("header", 0, header_len)?;
    check_crc("header", 0, header.header_crc.get(), header_crc(header, bytes))?;
    let found = header.incompat.get();
    if found != 0 {
        return Err(Error::UnsupportedFeature { feature: Feature::Incompat, at: Place::byte(16), found });
    }
    if header.reserved != [0; 24] {
        return Err(Error::Reserved { at: Place::byte(104) });
    }
    let (expected, found) = (header.file_len.get(), front.file_len);
    if found < expected {
        return Err(Error::Truncated { what: "the file", expected, found });
    }
    if found > expected {
        let (what, at, fault) = ("file", Place::byte(expected), LayoutFault::TrailingBytes);
        return Err(Error::Layout { what, at, fault, expected, found });
    }
    check_shard(header)?;
    Ok(header)
}

/// CRC of the header and its section records, its own field taken as zero.
pub(super) fn header_crc(header: &Header, bytes: &[u8]) -> u32 {
    let mut zeroed = *header;
    zeroed.header_crc = U32::new(0);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(zeroed.as_bytes());
    hasher.update(bytes.get(size_of::<Header>()..).unwrap_or_default());
    hasher.finalize()
}

/// What a wrong magic usually means.
fn magic_hint(found: [u8; 8]) -> MagicHint {
    let swapped = |width: usize| {
        let mut bytes = MAGIC;
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        bytes
    };
    let without_high_bit = MAGIC.map(|byte| byte & 0x7F);
    let newlines = [
        [0x89, b'C', b'C', b'Q', 0x0A, 0x1A, 0x0A],
        [0x89, b'C', b'C', b'Q', 0x0D, 0x1A, 0x0D],
        [0x89, b'C', b'C', b'Q', 0x0D, 0x0D, 0x0A],
    ];
    if found == [0; 8] {
        MagicHint::Unfinished
    } else if [2, 4, 8].into_iter().any(|width| found == swapped(width)) {
        MagicHint::ByteSwapped
    } else if found == without_high_bit || newlines.iter().any(|start| found.starts_with(start)) {
        MagicHint::TextMode
    } else {
        MagicHint::NotThisFormat
    }
}

fn check_shard(header: &Header) -> Result<Shard, Error> {
    let (index, count) = (header.shard_index.get(), header.shard_count.get());
    if index >= count {
        return Err(Error::Shard { fault: ShardFault::Index { index, count } });
    }
    if count == 1 && header.set_id != [0; 16] {
        return Err(Error::Shard { fault: ShardFault::SetId });
    }
    Ok(Shard { index, count, set_id: header.set_id })
}

/// The sections, each exactly where it must be.
fn check_sections(front: Front<'_>, header: &Header) -> Result<Vec<Section>, Error> {
    let header_len = u64::from(header.header_len.get());
    let mut bytes = front.range("section records", HEADER_LEN, header_len)?;
    let records: &[SectionRecord] =
        take_records(&mut bytes, header.section_count.get().into()).unwrap_or_default();
    let mut due = SectionKind::ALL.into_iter().peekable();
    let mut sections = Vec::with_capacity(records.len());
    let mut position = header_len;
    for (i, record) in records.iter().enumerate() {
        let record_offset = (i as u64).saturating_mul(SECTION_LEN).saturating_add(HEADER_LEN);
        let at = At::byte(record_offset);
        let (kind, flags) = (record.kind.get(), record.flags.get());
        if record.reserved.get() != 0 || flags & !SECTION_IGNORABLE != 0 {
            return Err(Error::Reserved { at: at.into() });
        }
        let known = SectionKind::ALL.into_iter().find(|known| *known as u32 == kind);
        match known {
            None if flags & SECTION_IGNORABLE == 0 => {
                let (feature, found) = (Feature::Section, kind.into());
                return Err(Error::UnsupportedFeature { feature, at: at.into(), found });
            }
            None => {}
            Some(_) if flags != 0 => return Err(Error::Reserved { at: at.into() }),
            Some(kind) if due.next_if_eq(&kind).is_some() => {}
            Some(_) => {
                let expected = due.peek().map_or(0, |kind| *kind as u32).into();
                let (what, fault) = ("section", LayoutFault::Unsorted);
                return Err(Error::Layout { what, at: at.into(), fault, expected, found: kind.into() });
            }
        }
        let (offset, len, crc) = (record.offset.get(), record.len.get(), record.crc.get());
        position = Placement {
            what: "section",
            at,
            offset,
            len,
            position,
            align: SECTION_ALIGN,
            bounds: header_len..front.file_len,
        }
        .check()?;
        if known == Some(SectionKind::Payload) && crc != 0 {
            return Err(Error::Reserved { at: at.into() });
        }
        sections.push(Section { kind: known, offset, len, crc });
    }
    if let Some(missing) = due.next() {
        let (what, at, fault) = ("section", Place::byte(header_len), LayoutFault::Unsorted);
        return Err(Error::Layout { what, at, fault, expected: (missing as u32).into(), found: 0 });
    }
    if position != front.file_len {
        let (what, at, fault) = ("file", Place::byte(position), LayoutFault::TrailingBytes);
        return Err(Error::Layout { what, at, fault, expected: position, found: front.file_len });
    }
    Ok(sections)
}

/// Zero bytes between the header and the payload, wherever no section is.
fn check_front_padding(front: Front<'_>, header: &Header, sections: &[Section]) -> Result<(), Error> {
    let mut position = u64::from(header.header_len.get());
    for section in sections {
        front.zeros("padding before a section", position, section.offset)?;
        if section.kind == Some(SectionKind::Payload) {
            break;
        }
        position = section.offset.saturating_add(section.len);
    }
    Ok(())
}

fn known_section(sections: &[Section], kind: SectionKind) -> Result<Section, Error> {
    sections.iter().find(|section| section.kind == Some(kind)).copied().ok_or(Error::Truncated {
        what: kind.name(),
        expected: 0,
        found: 0,
    })
}

fn payload(sections: &[Section]) -> Result<Section, Error> {
    known_section(sections, SectionKind::Payload)
}

/// Counts within the limits and the file, and an index section of exactly their length.
fn check_counts(header: &Header, index: &Section, file_len: u64, limits: &Limits) -> Result<(), Error> {
    let counts = [
        (
            "tensors",
            header.tensor_count,
            offset_of!(Header, tensor_count),
            limits.tensors,
            size_of::<TensorRecord>(),
        ),
        ("blobs", header.blob_count, offset_of!(Header, blob_count), limits.blobs, size_of::<BlobRecord>()),
        ("planes", header.plane_count, offset_of!(Header, plane_count), u64::MAX, size_of::<PlaneRecord>()),
        ("dimensions", header.dim_count, offset_of!(Header, dim_count), u64::MAX, size_of::<U64>()),
    ];
    let mut expected = 0u64;
    for (what, count, offset, limit, size) in counts {
        let (at, size) = (At::byte(offset as u64), size as u64);
        check_limit(what, at, count.get(), limit.min(file_len.checked_div(size).unwrap_or(0)))?;
        expected = expected.saturating_add(count.get().saturating_mul(size));
    }
    if index.len != expected {
        return Err(length_error("index", Place::byte(index.offset), expected, index.len));
    }
    Ok(())
}

pub(super) fn check_limit(what: &'static str, at: At<'_>, found: u64, limit: u64) -> Result<(), Error> {
    if found > limit { Err(Error::LimitExceeded { what, at: at.into(), limit, found }) } else { Ok(()) }
}

/// Compares the checksum of the header or of the section at `offset`.
pub(super) fn check_crc(section: &'static str, offset: u64, expected: u32, found: u32) -> Result<(), Error> {
    let at = Place::byte(offset);
    if found == expected { Ok(()) } else { Err(Error::Checksum { section, at, expected, found }) }
}

pub(super) fn length_error(what: &'static str, at: Place, expected: u64, found: u64) -> Error {
    Error::Layout { what, at, fault: LayoutFault::Length, expected, found }
}
