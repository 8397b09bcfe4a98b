//! Packed codes <-> f32. Knows slices and a [`Code`], no files.
//!
//! [`Matrix`] is a quantized matrix whose planes were checked against its dimensions once; decoding and multiplying
//! it cannot fail after that. [`RowMut`] is one row of the same planes to write into. [`portable`] defines every
//! decoded value; named codes have faster ways to the same bits on x86-64 with AVX2 or AVX-512, chosen at run time.

mod activations;
mod cluster;
mod element;
mod pack;
pub mod portable;
mod product;
mod scale;
mod simd;

use core::fmt;
use core::ops::Range;

pub use activations::Activations;
pub use cluster::ClusterParams;
pub use element::Element;
pub use pack::{RowMut, read_word};
pub use scale::local_scale;
#[doc(hidden)]
pub use simd::Isa;
use simd::kernel;
use simd::plan::Plan;

use crate::code::{Code, PlaneSizes};

/// The planes of a matrix (spec, chapter 5); one that the code does not have is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planes<'a> {
    /// Packed words, [`PlaneSizes::row_stride`] bytes a row.
    pub code: &'a [u8],
    /// Local scales outside the words, dense.
    pub local_scale: &'a [u8],
    /// An f32 a row.
    pub super_scale: &'a [u8],
    /// Cluster parameters, a pair a row.
    pub cluster: &'a [u8],
}

/// Why planes or buffers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SizeError {
    /// A plane's length is not what the dimensions call for.
    Plane {
        /// Which plane.
        plane: &'static str,
        /// Bytes due.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The matrix does not fit this machine's address space.
    TooLarge,
    /// The rows asked for are not rows of the matrix.
    Rows {
        /// First row asked for.
        start: usize,
        /// Row after the last one asked for.
        end: usize,
        /// Rows there are.
        rows: usize,
    },
    /// The output buffer does not hold exactly the rows asked for.
    Output {
        /// Values due.
        expected: usize,
        /// Values it has room for.
        found: usize,
    },
    /// The vectors to multiply with are not of the matrix's width.
    Input {
        /// Values of a vector, as many as a row has weights.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plane { plane, expected, found } => {
                write!(f, "{plane} plane of {found} bytes, expected {expected}")
            }
            Self::TooLarge => f.write_str("the matrix is too large for this machine"),
            Self::Rows { start, end, rows } => write!(f, "rows {start}..{end} of a matrix of {rows} rows"),
            Self::Output { expected, found } => {
                write!(f, "output buffer of {found} values, expected {expected}")
            }
            Self::Input { expected, found } => {
                write!(f, "input of {found} values, expected vectors of {expected}")
            }
        }
    }
}

impl core::error::Error for SizeError {}

/// A quantized matrix of `rows` x `in_features` weights over borrowed planes of the right sizes.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    code: Code,
    rows: usize,
    in_features: usize,
    row_stride: usize,
    planes: Planes<'a>,
    plan: Option<&'static Plan>,
    isa: Isa,
}

/// Outputs of so many bytes are decoded past the caches: they would not stay there.
const PAST_CACHES: usize = 4 << 20;

impl<'a> Matrix<'a> {
    /// Joins planes to their dimensions.
    ///
    /// # Errors
    /// [`SizeError::Plane`] when a plane has not the length that [`Code::plane_sizes`] gives,
    /// [`SizeError::TooLarge`] when the decoded matrix cannot be addressed.
    pub fn new(code: Code, rows: usize, in_features: usize, planes: Planes<'a>) -> Result<Self, SizeError> {
        let sizes = plane_sizes(&code, rows, in_features)?;
        for (plane, bytes, expected) in [
            ("code", planes.code, sizes.code),
            ("local-scale", planes.local_scale, sizes.local_scale),
            ("super-scale", planes.super_scale, sizes.super_scale),
            ("cluster", planes.cluster, sizes.cluster),
        ] {
            let found = bytes.len() as u64;
            if found != expected {
                return Err(SizeError::Plane { plane, expected, found });
            }
        }
        let row_stride = usize::try_from(sizes.row_stride).map_err(|_| SizeError::TooLarge)?;
        let (plan, isa) = (Plan::find(&code), Isa::detect());
        Ok(Self { code, rows, in_features, row_stride, planes, plan, isa })
    }

    /// The same matrix, worked on in another instruction set, to compare them.
    #[doc(hidden)]
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The code description.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// Output channels, stacked experts flattened.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Weights of a row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The planes as they are stored.
    pub fn planes(&self) -> Planes<'a> {
        self.planes
    }

    /// The planes of one row, or `None` past the last row.
    pub fn row(&self, row: usize) -> Option<Planes<'a>> {
        if row >= self.rows {
            return None;
        }
        let part = |plane: &'a [u8]| {
            let width = plane.len().checked_div(self.rows)?;
            let start = row.checked_mul(width)?;
            plane.get(start..start.checked_add(width)?)
        };
        Some(Planes {
            code: part(self.planes.code)?,
            local_scale: part(self.planes.local_scale)?,
            super_scale: part(self.planes.super_scale)?,
            cluster: part(self.planes.cluster)?,
        })
    }

    /// Decodes a range of rows into `out`, row-major, `in_features` values a row.
    ///
    /// # Errors
    /// [`SizeError::Rows`] and [`SizeError::Output`]; nothing is written then.
    pub fn decode_rows_into(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), SizeError> {
        self.decode_rows_as(rows, out)
    }

    /// Decodes a range of rows to f32, f16 or bf16, row-major, `in_features` values a row.
    ///
    /// Four MiB and more in one call are written past the caches where the processor can.
    ///
    /// # Errors
    /// [`SizeError::Rows`] and [`SizeError::Output`]; nothing is written then.
    pub fn decode_rows_as<T: Element>(&self, rows: Range<usize>, out: &mut [T]) -> Result<(), SizeError> {
        self.check(&rows, self.in_features, out.len())?;
        let past_caches = size_of_val(out) >= PAST_CACHES;
        kernel::decode(self.isa, self, rows, out, past_caches);
        Ok(())
    }

    /// Whether the rows are the matrix's and the output holds so many values of each.
    fn check(&self, rows: &Range<usize>, values: usize, found: usize) -> Result<(), SizeError> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(SizeError::Rows { start: rows.start, end: rows.end, rows: self.rows });
        }
        let expected = rows.end.saturating_sub(rows.start).saturating_mul(values);
        if found == expected { Ok(()) } else { Err(SizeError::Output { expected, found }) }
    }

    /// Bytes from one row of the code plane to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }
}

/// Plane sizes of a matrix whose decoded f32 form this machine can address.
pub(crate) fn plane_sizes(code: &Code, rows: usize, in_features: usize) -> Result<PlaneSizes, SizeError> {
    rows.checked_mul(in_features)
        .and_then(|weights| weights.checked_mul(size_of::<f32>()))
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or(SizeError::TooLarge)?;
    code.plane_sizes(rows as u64, in_features as u64).map_err(|_| SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Cluster, Family, LocalScale};
    use alloc::vec;
    use alloc::vec::Vec;

    /// A seeded generator good enough to fill planes with.
    fn random(state: &mut u32) -> u32 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *state >> 8
    }

    /// Packs a random row and decodes it again, against bits picked from the words one by one.
    fn round_trip(code: Code, in_features: usize, seed: &mut u32) {
        let sizes = code.plane_sizes(1, in_features as u64).unwrap();
        let words_per_group = code.words_per_group(in_features);
        let groups = code.groups(in_features);
        let word_mask = if code.word_bytes() == 1 { 0xFF } else { 0xFFFF };
        let mut words: Vec<u16> =
            (0..groups * words_per_group).map(|_| (random(seed) & word_mask) as u16).collect();
        let mut local_scales: Vec<i32> =
            (0..groups).map(|_| (random(seed) % (code.max_local_scale() as u32 + 1)) as i32).collect();
        match code.local_scale() {
            LocalScale::None => local_scales.clear(),
            LocalScale::Embedded { bits } => {
                for group in 0..groups {
                    words[(group + 1) * words_per_group - 1] &= !((1u32 << bits) - 1) as u16;
                }
            }
            LocalScale::Nibble => {}
            LocalScale::Signed8 => local_scales.iter_mut().for_each(|scale| *scale = -*scale),
        }
        let super_scale = -0.37f32;
        let cluster = code.cluster().map(|kind| match kind {
            Cluster::Q8 => ClusterParams::Q8 { a: 30_721, zp: 1234 },
            Cluster::F32 => ClusterParams::F32 { scale: 120.003, zp: 1234.25 },
        });
        let plane = |bytes: u64| vec![0xA5u8; bytes as usize];
        let mut planes = [sizes.code, sizes.local_scale, sizes.super_scale, sizes.cluster].map(plane);
        let [code_plane, local_plane, super_plane, cluster_plane] = &mut planes;
        RowMut {
            code: code_plane,
            local_scale: local_plane,
            super_scale: super_plane,
            cluster: cluster_plane,
        }
        .pack(&code, words_per_group, &words, &local_scales, super_scale, cluster);

        let [code_plane, local_scale, super_plane, cluster_plane] = &planes;
        let matrix = Matrix::new(
            code,
            1,
            in_features,
            Planes { code: code_plane, local_scale, super_scale: super_plane, cluster: cluster_plane },
        )
        .unwrap();
        let mut decoded = vec![f32::NAN; in_features];
        matrix.decode_rows_into(0..1, &mut decoded).unwrap();

        let group_size = code.group_size().unwrap_or(in_features);
        for (i, &found) in decoded.iter().enumerate() {
            let (group, position) = (i / group_size, i % group_size);
            let word = words[group * words_per_group + position / code.states_per_word()];
            let bits = cluster.map_or(word, |params| params.code(word as u8));
            let state = code.states()[position % code.states_per_word()];
            let integer = (i32::from(bits) >> state.shift & state.mask as i32) - state.zero_point;
            let scale = local_scales.get(group).map_or(super_scale, |&local| local as f32 * super_scale);
            let expected = integer as f32 * scale;
            assert_eq!(found.to_bits(), expected.to_bits(), "{code} weight {i} of {in_features}");
        }
    }

    #[test]
    fn packed_rows_decode_to_their_states() {
        let mut seed = 1;
        for family in Family::ALL {
            for group in crate::code::GROUP_SIZES {
                let Ok(code) = family.code(group.into()) else { continue };
                for in_features in [1, 3, 4, 7, 31, 32, 63, 64, 65, 100, 127, 128, 129, 384, 1000] {
                    round_trip(code, in_features, &mut seed);
                    if family == Family::Ccq206 {
                        let imported =
                            Code::new(code.segments(), 8, group, code.local_scale(), Some(Cluster::F32));
                        round_trip(imported.unwrap(), in_features, &mut seed);
                    }
                }
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let code = Family::Wint4.code(0).unwrap();
        let planes = Planes { code: &[0; 16], super_scale: &[0; 4], ..Planes::default() };
        let matrix = Matrix::new(code, 1, 8, planes).unwrap();
        assert_eq!(
            matrix.decode_rows_into(0..2, &mut []),
            Err(SizeError::Rows { start: 0, end: 2, rows: 1 })
        );
        assert_eq!(
            matrix.decode_rows_into(0..1, &mut [0.0; 7]),
            Err(SizeError::Output { expected: 8, found: 7 })
        );
        let short = Planes { code: &[0; 15], ..planes };
        let error = Matrix::new(code, 1, 8, short).unwrap_err();
        assert_eq!(error, SizeError::Plane { plane: "code", expected: 16, found: 15 });
        assert_eq!(Matrix::new(code, usize::MAX, 8, planes).unwrap_err(), SizeError::TooLarge);
    }
}
