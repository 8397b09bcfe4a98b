//! The records of the index section, each checked against the one before it (spec, chapters 4 and 5).
//!
//! Names, dimensions, planes and checksums are consumed strictly in order: every offset in a record must equal
//! the running position, so that nothing can overlap, repeat or be left out.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::little_endian::U64;

use super::cursor::{Placement, end_of, take_records, usize_range};
use super::dtype::Dtype;
use super::encoding::{Encoding, PlaneShape};
use super::error::{At, EncodingFault, Error, Feature, LayoutFault, NameFault, Place, ShapeFault};
use super::index::{Plane, Section, TensorEntry, check_limit, length_error};
use super::layout::{
    BlobRecord, Header, LARGE_PLANE, PLANE_ALIGN, PlaneKind, PlaneRecord, SECTION_ALIGN, TensorRecord,
    chunk_count,
};
use super::limits::Limits;
use super::name::{check_blob_name, check_name};

/// The arrays of the index section (spec, clause 4.1).
pub(super) struct Records<'a> {
    tensors: &'a [TensorRecord],
    planes: &'a [PlaneRecord],
    blobs: &'a [BlobRecord],
    pub dims: &'a [U64],
}

impl<'a> Records<'a> {
    /// Splits a section of exactly the length that the header's counts call for.
    pub fn split(bytes: &mut &'a [u8], header: &Header) -> Option<Self> {
        Some(Self {
            tensors: take_records(bytes, header.tensor_count.get())?,
            planes: take_records(bytes, header.plane_count.get())?,
            blobs: take_records(bytes, header.blob_count.get())?,
            dims: take_records(bytes, header.dim_count.get())?,
        })
    }
}

/// What the index section and the strings hold, once they are known to fit each other.
pub(super) struct Parsed {
    pub names: Box<str>,
    pub tensors: Vec<TensorEntry>,
    pub blobs: Vec<Range<usize>>,
    pub planes: Vec<Plane>,
}

/// The sections that the records refer to.
pub(super) struct Parser<'a> {
    pub limits: &'a Limits,
    pub records: &'a Records<'a>,
    /// The dimensions of `records`.
    pub dims: &'a [u64],
    pub index_offset: u64,
    pub strings: &'a [u8],
    pub strings_offset: u64,
    pub payload: Section,
    pub checksums: Section,
}

/// How far names, dimensions, planes and checksums have been consumed.
struct Progress {
    name: u64,
    dim: usize,
    plane: usize,
    payload: u64,
    chunk: u64,
}

impl Parser<'_> {
    pub fn parse(&self) -> Result<Parsed, Error> {
        let mut progress = Progress { name: 0, dim: 0, plane: 0, payload: self.payload.offset, chunk: 0 };
        let mut planes = Vec::with_capacity(self.records.planes.len());
        let mut tensors = Vec::with_capacity(self.records.tensors.len());
        let mut previous: &[u8] = &[];
        for (i, record) in self.records.tensors.iter().enumerate() {
            let offset = record_offset(self.index_offset, 0, size_of::<TensorRecord>(), i);
            let (name, bytes) =
                self.name(&mut progress, offset, &record.name_offset, record.name_len.get())?;
            let text = check_name(bytes, offset, self.limits)?;
            check_ascending(previous, bytes, offset)?;
            previous = bytes;
            let at = At { offset, name: text };
            tensors.push(self.tensor(&mut progress, &mut planes, record, name, at)?);
        }
        let mut blobs = Vec::with_capacity(self.records.blobs.len());
        previous = &[];
        let before = size_of_val(self.records.tensors).saturating_add(size_of_val(self.records.planes));
        for (i, record) in self.records.blobs.iter().enumerate() {
            let offset = record_offset(self.index_offset, before, size_of::<BlobRecord>(), i);
            if record.reserved.get() != 0 {
                return Err(Error::Reserved { at: Place::byte(offset) });
            }
            let (name, bytes) =
                self.name(&mut progress, offset, &record.name_offset, record.name_len.get())?;
            let text = check_blob_name(bytes, offset, self.limits)?;
            check_ascending(previous, bytes, offset)?;
            previous = bytes;
            let at = At { offset, name: text };
            check_running("plane of a blob", at, progress.plane as u64, record.plane.get())?;
            let plane = self.plane(&mut progress, at, PlaneKind::Blob)?;
            check_stride(&plane, 0, at)?;
            planes.push(plane);
            blobs.push(name);
        }
        self.check_totals(&progress)?;
        let names = core::str::from_utf8(self.strings).map_err(|_| Error::BadName {
            at: Place::byte(self.strings_offset),
            fault: NameFault::NotUtf8,
        })?;
        Ok(Parsed { names: names.into(), tensors, blobs, planes })
    }

    /// The next name of the strings section.
    fn name(
        &self,
        progress: &mut Progress,
        offset: u64,
        name_offset: &U64,
        name_len: u32,
    ) -> Result<(Range<usize>, &[u8]), Error> {
        let at = At::byte(offset);
        let (start, len) = (name_offset.get(), u64::from(name_len));
        let end = end_of("name", start, len, at)?;
        let range = usize_range(start, end);
        let Some((range, bytes)) = range.and_then(|range| Some((range.clone(), self.strings.get(range)?)))
        else {
            let high = self.strings.len() as u64;
            return Err(Error::OutOfBounds { what: "name", at: at.into(), start, end, low: 0, high });
        };
        check_running("name", at, progress.name, start)?;
        progress.name = end;
        Ok((range, bytes))
    }

    fn tensor(
        &self,
        progress: &mut Progress,
        planes: &mut Vec<Plane>,
        record: &TensorRecord,
        name: Range<usize>,
        at: At<'_>,
    ) -> Result<TensorEntry, Error> {
        let (dims, shape) = self.shape(progress, record, at)?;
        let found = record.dtype.get();
        let dtype = Dtype::from_id(found).ok_or_else(|| {
            let (feature, found) = (Feature::Dtype, found.into());
            Error::UnsupportedFeature { feature, at: at.into(), found }
        })?;
        let encoding = Encoding::from_record(record, at)?;
        let due = encoding.planes(shape, dtype, at)?;
        let (expected, found) = (due.clone().count() as u64, u64::from(record.plane_count.get()));
        if expected != found {
            let fault = EncodingFault::Planes { expected, found };
            return Err(Error::BadEncoding { at: at.into(), fault });
        }
        check_running("first plane of a tensor", at, progress.plane as u64, record.first_plane.get())?;
        let first_plane = progress.plane;
        for shape in due {
            let plane = self.plane(progress, at, shape.kind)?;
            check_plane(&plane, shape, at)?;
            planes.push(plane);
        }
        Ok(TensorEntry { name, dims, planes: first_plane..progress.plane, dtype, encoding })
    }

    /// The next dimensions.
    fn shape(
        &self,
        progress: &mut Progress,
        record: &TensorRecord,
        at: At<'_>,
    ) -> Result<(Range<usize>, &[u64]), Error> {
        let (first, rank) = (record.first_dim.get(), u64::from(record.rank.get()));
        check_limit("dimensions of a tensor", at, rank, self.limits.rank)?;
        let end = end_of("dimensions", first, rank, at)?;
        let range = usize_range(first, end);
        let Some((range, dims)) = range.and_then(|range| Some((range.clone(), self.dims.get(range)?))) else {
            let (what, high) = ("dimensions", self.dims.len() as u64);
            return Err(Error::OutOfBounds { what, at: at.into(), start: first, end, low: 0, high });
        };
        check_running("dimensions", at, progress.dim as u64, first)?;
        progress.dim = range.end;
        Ok((range, dims))
    }

    /// The next plane, which must be of that kind and stand right after the one before it.
    fn plane(&self, progress: &mut Progress, owner: At<'_>, kind: PlaneKind) -> Result<Plane, Error> {
        let before = size_of_val(self.records.tensors);
        let offset = record_offset(self.index_offset, before, size_of::<PlaneRecord>(), progress.plane);
        let at = At { offset, name: owner.name };
        let record = self.records.planes.get(progress.plane).ok_or_else(|| {
            let (expected, found) = (progress.plane as u64, self.records.planes.len() as u64);
            let fault = EncodingFault::Planes { expected: expected.saturating_add(1), found };
            Error::BadEncoding { at: at.into(), fault }
        })?;
        if record.reserved.get() != 0 {
            return Err(Error::Reserved { at: at.into() });
        }
        let (expected, found) = (kind as u32, record.kind.get());
        if !(PlaneKind::Code as u32..=PlaneKind::Blob as u32).contains(&found) {
            let (feature, found) = (Feature::Plane, found.into());
            return Err(Error::UnsupportedFeature { feature, at: at.into(), found });
        }
        if expected != found {
            return Err(Error::BadEncoding {
                at: at.into(),
                fault: EncodingFault::PlaneKind { expected, found },
            });
        }
        let (offset, len) = (record.offset.get(), record.len.get());
        let payload_end = self.payload.offset.saturating_add(self.payload.len);
        progress.payload = Placement {
            what: "plane",
            at,
            offset,
            len,
            position: progress.payload,
            align: if len >= LARGE_PLANE { SECTION_ALIGN } else { PLANE_ALIGN },
            bounds: self.payload.offset..payload_end,
        }
        .check()?;
        check_running("first checksum of a plane", at, progress.chunk, record.first_chunk.get())?;
        let first_chunk = usize::try_from(progress.chunk).unwrap_or(usize::MAX);
        progress.chunk = progress.chunk.saturating_add(chunk_count(len));
        progress.plane = progress.plane.saturating_add(1);
        Ok(Plane { kind, offset, len, row_stride: record.row_stride.get(), first_chunk })
    }

    /// Nothing is left over: names, dimensions, planes, checksums, payload.
    fn check_totals(&self, progress: &Progress) -> Result<(), Error> {
        let payload_end = self.payload.offset.saturating_add(self.payload.len);
        let checksums = progress.chunk.saturating_mul(size_of::<u32>() as u64);
        for (what, offset, expected, found) in [
            ("strings", self.strings_offset, progress.name, self.strings.len() as u64),
            ("dimensions", self.index_offset, progress.dim as u64, self.dims.len() as u64),
            ("planes", self.index_offset, progress.plane as u64, self.records.planes.len() as u64),
            ("checksums", self.checksums.offset, checksums, self.checksums.len),
            ("payload", self.payload.offset, progress.payload, payload_end),
        ] {
            if expected != found {
                return Err(length_error(what, Place::byte(offset), expected, found));
            }
        }
        Ok(())
    }
}

/// Offset of the i-th record of an array that starts `before` bytes into the index section.
fn record_offset(index_offset: u64, before: usize, size: usize, i: usize) -> u64 {
    let within = i.saturating_mul(size).saturating_add(before);
    index_offset.saturating_add(within as u64)
}

/// Names stand in strictly ascending order.
fn check_ascending(previous: &[u8], name: &[u8], offset: u64) -> Result<(), Error> {
    if previous < name {
        return Ok(());
    }
    let at = Place::named(offset, core::str::from_utf8(name).unwrap_or_default());
    if previous == name {
        return Err(Error::BadName { at, fault: NameFault::Duplicate });
    }
    Err(Error::Layout { what: "name", at, fault: LayoutFault::Unsorted, expected: 0, found: 0 })
}

/// A position in a record equals what the records before it add up to.
fn check_running(what: &'static str, at: At<'_>, expected: u64, found: u64) -> Result<(), Error> {
    let fault = if found < expected { LayoutFault::Overlap } else { LayoutFault::Hole };
    if found == expected {
        return Ok(());
    }
    Err(Error::Layout { what, at: at.into(), fault, expected, found })
}

/// A plane has the length and the stride that its tensor calls for.
fn check_plane(plane: &Plane, due: PlaneShape, at: At<'_>) -> Result<(), Error> {
    let (expected, found) = (due.len, plane.len);
    if expected != found {
        return Err(match due.kind {
            PlaneKind::Code | PlaneKind::Raw => {
                Error::BadShape { at: at.into(), fault: ShapeFault::PlaneLength { expected, found } }
            }
            kind => {
                let fault = EncodingFault::PlaneSize { plane: kind.name(), expected, found };
                Error::BadEncoding { at: at.into(), fault }
            }
        });
    }
    check_stride(plane, due.row_stride, at)
}

fn check_stride(plane: &Plane, expected: u64, at: At<'_>) -> Result<(), Error> {
    let found = plane.row_stride;
    if found == expected {
        return Ok(());
    }
    Err(Error::BadEncoding { at: at.into(), fault: EncodingFault::RowStride { expected, found } })
}
