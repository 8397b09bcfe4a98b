//! Encoding and code record <-> [`Encoding`] (spec, clauses 4.5 to 4.7), and the planes that follow from it.

use super::dtype::{Dtype, element_count};
use super::error::{At, EncodingFault, Error, Feature, ShapeFault};
use super::layout::{CodeRecord, ENCODING_CODED, ENCODING_RAW, PlaneKind, TensorRecord};
use crate::code::{Cluster, Code, CodeError, LocalScale, Segment};

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The source bytes, unchanged.
    Raw,
    /// Codes of this description.
    Coded(Code),
}

impl core::fmt::Display for Encoding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Raw => f.write_str("raw"),
            Self::Coded(code) => code.fmt(f),
        }
    }
}

/// One plane that a tensor must have: kind, bytes, and the row stride of a code plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlaneShape {
    pub kind: PlaneKind,
    pub len: u64,
    pub row_stride: u64,
}

/// Rows and weights a row of a coded tensor: all dimensions but the last are rows.
pub(super) fn rows_and_features(shape: &[u64]) -> Result<(u64, u64), ShapeFault> {
    let (&in_features, leading) = shape.split_last().ok_or(ShapeFault::Scalar)?;
    if shape.contains(&0) {
        return Err(ShapeFault::ZeroDimension);
    }
    Ok((leading.iter().fold(1, |rows: u64, &dimension| rows.saturating_mul(dimension)), in_features))
}

impl Encoding {
    /// The planes of a tensor, in file order.
    ///
    /// # Errors
    /// `Overflow` and `BadShape` for shapes that cannot be stored this way.
    pub(super) fn planes(
        &self,
        shape: &[u64],
        dtype: Dtype,
        at: At<'_>,
    ) -> Result<impl Iterator<Item = PlaneShape> + Clone + use<>, Error> {
        let overflow = |what| Error::Overflow { what, at: at.into() };
        let bad_shape = |fault| Error::BadShape { at: at.into(), fault };
        let elements = element_count(shape).ok_or_else(|| overflow("the product of the dimensions"))?;
        let plane = |kind, len, row_stride| PlaneShape { kind, len, row_stride };
        let none = plane(PlaneKind::Raw, 0, 0);
        let planes = match self {
            Self::Raw => {
                elements.checked_mul(dtype.bits()).ok_or_else(|| overflow("the length in bits"))?;
                let len = dtype.tensor_bytes(shape).ok_or_else(|| bad_shape(ShapeFault::PartialByte))?;
                [(true, plane(PlaneKind::Raw, len, 0)), (false, none), (false, none), (false, none)]
            }
            Self::Coded(code) => {
                let (rows, in_features) = rows_and_features(shape).map_err(bad_shape)?;
                let sizes =
                    code.plane_sizes(rows, in_features).map_err(|_| overflow("the length of a plane"))?;
                let local = matches!(code.local_scale(), LocalScale::Nibble | LocalScale::Signed8);
                [
                    (true, plane(PlaneKind::Code, sizes.code, sizes.row_stride)),
                    (local, plane(PlaneKind::LocalScale, sizes.local_scale, 0)),
                    (true, plane(PlaneKind::SuperScale, sizes.super_scale, 0)),
                    (code.cluster().is_some(), plane(PlaneKind::Cluster, sizes.cluster, 0)),
                ]
            }
        };
        Ok(planes.into_iter().filter_map(|(present, plane)| present.then_some(plane)))
    }

    /// The encoding fields of a tensor record.
    #[cfg(feature = "std")]
    pub(super) fn to_record(self) -> (u16, CodeRecord) {
        match self {
            Self::Raw => (ENCODING_RAW, zerocopy::FromZeros::new_zeroed()),
            Self::Coded(code) => (ENCODING_CODED, code_record(&code)),
        }
    }

    /// Reads the encoding fields of a tensor record.
    pub(super) fn from_record(record: &TensorRecord, at: At<'_>) -> Result<Self, Error> {
        match record.encoding.get() {
            ENCODING_RAW => {
                let is_zero = zerocopy::IntoBytes::as_bytes(&record.code).iter().all(|&byte| byte == 0);
                if is_zero { Ok(Self::Raw) } else { Err(Error::Reserved { at: at.into() }) }
            }
            ENCODING_CODED => parse_code(&record.code, at).map(Self::Coded),
            found => {
                let (feature, found) = (Feature::Encoding, found.into());
                Err(Error::UnsupportedFeature { feature, at: at.into(), found })
            }
        }
    }
}

fn parse_code(record: &CodeRecord, at: At<'_>) -> Result<Code, Error> {
    let bad = |fault| Error::BadEncoding { at: at.into(), fault };
    if record.reserved != [0; 5] {
        return Err(Error::Reserved { at: at.into() });
    }
    let segments = record.segments.map(|[state_bits, states, shift]| Segment { state_bits, states, shift });
    let count = usize::from(record.segment_count);
    let (used, unused) = segments
        .split_at_checked(count)
        .ok_or_else(|| bad(EncodingFault::Code(CodeError::SegmentCount(record.segment_count))))?;
    if unused.iter().any(|segment| *segment != Segment::default()) {
        return Err(bad(EncodingFault::Code(CodeError::SegmentCount(record.segment_count))));
    }
    let local_scale = match (record.scale_placement, record.scale_bits) {
        (0, 0) => LocalScale::None,
        (1, bits) => LocalScale::Embedded { bits },
        (2, 4) => LocalScale::Nibble,
        (3, 8) => LocalScale::Signed8,
        (0..=3, found) => return Err(bad(EncodingFault::Field { field: "scale_bits", found })),
        (found, _) => return Err(bad(EncodingFault::Field { field: "scale_placement", found })),
    };
    let cluster = match record.cluster {
        0 => None,
        1 => Some(Cluster::Q8),
        2 => Some(Cluster::F32),
        found => return Err(bad(EncodingFault::Field { field: "cluster", found })),
    };
    Code::new(used, record.word_bits, record.group_size.get(), local_scale, cluster).map_err(|error| {
        match error {
            CodeError::GroupSize(size) => {
                Error::BadShape { at: at.into(), fault: ShapeFault::GroupSize(size) }
            }
            error => bad(EncodingFault::Code(error)),
        }
    })
}

#[cfg(feature = "std")]
#[allow(clippy::cast_possible_truncation)] // a code's fields fit their records: at most 4, 16 and 128
fn code_record(code: &Code) -> CodeRecord {
    let mut segments = [[0; 3]; crate::code::MAX_SEGMENTS];
    for (stored, segment) in segments.iter_mut().zip(code.segments()) {
        *stored = [segment.state_bits, segment.states, segment.shift];
    }
    let (scale_placement, scale_bits) = match code.local_scale() {
        LocalScale::None => (0, 0),
        LocalScale::Embedded { bits } => (1, bits),
        LocalScale::Nibble => (2, 4),
        LocalScale::Signed8 => (3, 8),
    };
    CodeRecord {
        segments,
        segment_count: code.segments().len() as u8,
        word_bits: code.word_bits() as u8,
        scale_placement,
        scale_bits,
        group_size: (code.group_size().unwrap_or(0) as u16).into(),
        cluster: match code.cluster() {
            None => 0,
            Some(Cluster::Q8) => 1,
            Some(Cluster::F32) => 2,
        },
        reserved: [0; 5],
    }
}
