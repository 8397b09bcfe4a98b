//! The payload's checks, which cost as much as reading it: checksums, padding, finite parameters (spec, clauses
//! 5.2 to 5.9).

use super::cursor::{check_zeros, usize_range};
use super::encoding::Encoding;
use super::error::{Error, Place};
use super::index::{Index, Plane, TensorInfo, check_crc};
use super::layout::{CHUNK, PlaneKind};
use crate::code::{Cluster, LocalScale};

/// One checksummed piece of a plane: at most 2^26 bytes. Chunks can be verified in any order, in parallel.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Tensor or blob it belongs to.
    pub name: &'a str,
    /// Kind of the plane.
    pub plane: PlaneKind,
    /// Which chunk of the plane, from 0.
    pub index: u64,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
    expected: u32,
}

impl Chunk<'_> {
    /// Compares the bytes with their checksum.
    ///
    /// # Errors
    /// `PayloadChecksum`.
    pub fn verify(&self) -> Result<(), Error> {
        let found = crc32fast::hash(self.bytes);
        if found == self.expected {
            return Ok(());
        }
        let at = Place::named(self.offset, self.name);
        let (plane, chunk, expected) = (self.plane.name(), self.index, self.expected);
        Err(Error::PayloadChecksum { at, plane, chunk, expected, found })
    }
}

/// The chunks of all planes, in file order. `file` is the whole file.
pub fn chunks<'a>(index: &'a Index, file: &'a [u8]) -> impl Iterator<Item = Chunk<'a>> {
    owned_planes(index).flat_map(move |(name, plane)| {
        (0u64..).zip(index.checksums(plane)).map(move |(chunk, &expected)| {
            let start = plane.offset.saturating_add(chunk.saturating_mul(CHUNK));
            let end = start.saturating_add(CHUNK).min(plane.end());
            let bytes = usize_range(start, end).and_then(|range| file.get(range)).unwrap_or_default();
            Chunk { name, plane: plane.kind, index: chunk, offset: start, bytes, expected }
        })
    })
}

/// A part of the checks that are not about a plane's checksum: what stands between planes, or the values of one
/// tensor. Parts can be checked in any order, in parallel.
#[derive(Clone, Copy, Debug)]
pub struct ValueCheck<'a> {
    index: &'a Index,
    /// The tensor, `None` for what belongs to none.
    tensor: Option<TensorInfo<'a>>,
    file: &'a [u8],
}

impl ValueCheck<'_> {
    /// Checks this part.
    ///
    /// # Errors
    /// Its first `Padding`, `NonFinite` or, of a section that `open` skips, `Checksum`.
    pub fn verify(&self) -> Result<(), Error> {
        match &self.tensor {
            None => check_padding(self.index, self.file),
            Some(tensor) => check_planes(tensor, self.file),
        }
    }
}

/// Every [`ValueCheck`] of a file: what stands between planes, then the tensors in order. `file` is the whole file.
pub fn value_checks<'a>(index: &'a Index, file: &'a [u8]) -> impl Iterator<Item = ValueCheck<'a>> {
    let tensors = core::iter::once(None).chain(index.tensors().map(Some));
    tensors.map(move |tensor| ValueCheck { index, tensor, file })
}

/// Checks the sections that `open` skips, and the zeros between sections and between planes.
///
/// # Errors
/// `Checksum`; `Padding`, naming the plane after it.
fn check_padding(index: &Index, file: &[u8]) -> Result<(), Error> {
    let slice = |start, end| usize_range(start, end).and_then(|range| file.get(range)).unwrap_or_default();
    let mut position = index.sections().first().map_or(0, |section| section.offset);
    for section in index.sections() {
        let (start, end) = (section.offset, section.offset.saturating_add(section.len));
        check_zeros(slice(position, start), "padding before a section", position, "")?;
        if section.kind.is_none() {
            check_crc("ignorable section", start, section.crc, crc32fast::hash(slice(start, end)))?;
        }
        position = end;
    }
    let mut position = None;
    for (name, plane) in owned_planes(index) {
        let start = position.unwrap_or(plane.offset);
        check_zeros(slice(start, plane.offset), "padding before a plane", start, name)?;
        position = Some(plane.end());
    }
    Ok(())
}

/// Checks a tensor's planes: zeros at the ends of rows and in unused bits, finite scales and parameters.
///
/// # Errors
/// `Padding` and `NonFinite`.
fn check_planes(tensor: &TensorInfo<'_>, file: &[u8]) -> Result<(), Error> {
    let (Encoding::Coded(code), Some((rows, in_features))) = (tensor.encoding(), tensor.rows_and_features())
    else {
        return Ok(());
    };
    let in_features = usize::try_from(in_features).unwrap_or(usize::MAX);
    let groups = code.groups(in_features);
    let words_per_group = code.words_per_group(in_features);
    let word_bytes = code.word_bytes();
    let used = groups.saturating_mul(words_per_group).saturating_mul(word_bytes);
    let spare = if matches!(code.local_scale(), LocalScale::Embedded { .. }) { 0 } else { code.spare_bits() };
    let spare_mask = 1u8.checked_shl(spare).unwrap_or(0).wrapping_sub(1);
    let group_bytes = words_per_group.saturating_mul(word_bytes);
    for plane in tensor.planes() {
        let bytes = usize_range(plane.offset, plane.end()).and_then(|range| file.get(range));
        let bytes = bytes.unwrap_or_default();
        let width = usize::try_from(plane.len.checked_div(rows).unwrap_or(0)).unwrap_or(0);
        let row_start = |row: usize| plane.offset.saturating_add(row.saturating_mul(width) as u64);
        for (row, bytes) in bytes.chunks_exact(width.max(1)).enumerate() {
            let non_zero = |what, within: usize| {
                let offset = row_start(row).saturating_add(within as u64);
                Err(Error::Padding { what, at: Place::named(offset, tensor.name()) })
            };
            match plane.kind {
                PlaneKind::Code => {
                    let padding = bytes.get(used..).unwrap_or_default();
                    let start = row_start(row).saturating_add(used as u64);
                    check_zeros(padding, "padding of a row", start, tensor.name())?;
                    // The spare bits are fewer than four, so they lie in the low byte of a group's last word.
                    let stored = bytes.get(..used).unwrap_or_default();
                    for (group, words) in stored.chunks_exact(group_bytes.max(1)).enumerate() {
                        let low = group_bytes.saturating_sub(word_bytes);
                        if words.get(low).is_some_and(|byte| byte & spare_mask != 0) {
                            let within = group.saturating_mul(group_bytes).saturating_add(low);
                            return non_zero("spare bits of a group", within);
                        }
                    }
                }
                PlaneKind::LocalScale
                    if code.local_scale() == LocalScale::Nibble
                        && groups % 2 == 1
                        && bytes.last().is_some_and(|byte| byte & 0xF != 0) =>
                {
                    return non_zero("last nibble of a row", width.saturating_sub(1));
                }
                PlaneKind::SuperScale => check_finite(tensor, plane, row, row_start(row), bytes)?,
                PlaneKind::Cluster if code.cluster() == Some(Cluster::F32) => {
                    check_finite(tensor, plane, row, row_start(row), bytes)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Checks the f32 of one row.
fn check_finite(
    tensor: &TensorInfo<'_>,
    plane: &Plane,
    row: usize,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    let (values, _) = bytes.as_chunks::<4>();
    for (i, value) in values.iter().enumerate() {
        let value = f32::from_le_bytes(*value);
        if !value.is_finite() {
            let at = Place::named(offset.saturating_add((i as u64).saturating_mul(4)), tensor.name());
            return Err(Error::NonFinite { at, plane: plane.kind.name(), row: row as u64, value });
        }
    }
    Ok(())
}

/// Planes with the tensor or blob they belong to, in file order.
fn owned_planes(index: &Index) -> impl Iterator<Item = (&str, &Plane)> {
    let tensors =
        index.tensors().flat_map(|tensor| tensor.planes().iter().map(move |plane| (tensor.name(), plane)));
    tensors.chain(index.blobs().map(|blob| (blob.name, blob.plane)))
}
