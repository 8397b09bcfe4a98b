//! FP8 weights with scales: `weight = fl32(fp8 * scale)`.
//!
//! A weight `X` in F8_E4M3 or F8_E5M2 has its scales in `X_scale_inv` (DeepSeek-V3, which multiplies by it in
//! spite of the name) or `X_scale` (compressed-tensors, ModelOpt). Their shape says what a scale is for:
//!
//! | shape of the scales | a scale for |
//! |---|---|
//! | one element | the whole tensor |
//! | `[out]`, `[out, 1]`, `[1, in]` | a row; a column as the file has it |
//! | `[ceil(out / a), ceil(in / b)]` | a block of `a` x `b` weights, ragged at the edges |
//! | `[E]`, or `[E, ...]` and `[1, ...]` with one of the above | the same in each matrix of a stack |
//!
//! The block is `quantization_config.weight_block_size` of config.json; without it 128 x 128, or else the power of
//! two from 16 to 1024 that the shapes allow.

use std::ops::Range;

use ccq::format::Dtype;

use crate::tensor::Piece;

/// What the name of a weight's scales ends with, after the weight's own name; the first is DeepSeek's, which can
/// be nothing else.
pub(crate) const SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];
/// The block where nothing says otherwise.
const DEFAULT_BLOCK: u64 = 128;
/// Other blocks that shapes may show.
const BLOCKS: [u64; 7] = [16, 32, 64, 128, 256, 512, 1024];

/// Why FP8 weights cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fp8Error {
    /// Weights have two tensors of scales.
    #[error(
        "tensor {tensor:?} has scales in {first:?} and in {second:?}, expected one of them; remove the other"
    )]
    TwoScales {
        /// The weights.
        tensor: String,
        /// One tensor of scales.
        first: String,
        /// The other.
        second: String,
    },
    /// The scales are no numbers that are read.
    #[error("scales {tensor:?} are {found}, expected F32, F16, BF16 or F8_E8M0")]
    Dtype {
        /// The scales.
        tensor: String,
        /// Their dtype.
        found: Dtype,
    },
    /// The scales are neither one, nor one a row, nor one a block.
    #[error(
        "scales {scales:?} of shape {found:?} do not fit tensor {tensor:?} of shape {shape:?}: expected one, one a row, or one for each block of {}; fetch weights and scales of the same revision",
        block.map_or("128 x 128".into(), |[rows, columns]| format!("{rows} x {columns}, as config.json says"))
    )]
    Shape {
        /// The weights.
        tensor: String,
        /// Their shape.
        shape: Vec<u64>,
        /// The scales.
        scales: String,
        /// Their shape.
        found: Vec<u64>,
        /// The block that config.json names.
        block: Option<[u64; 2]>,
    },
    /// There are scales, but not the FP8 weights that they are for.
    #[error(
        "scales {tensor:?} belong to {weights:?}, which is no FP8 tensor of this model; open the whole model, with all of its shards"
    )]
    Leftover {
        /// The scales.
        tensor: String,
        /// What they should be for.
        weights: String,
    },
    /// A scale is NaN or infinite.
    #[error(
        "scales {tensor:?}: {found} at position {position}, expected a finite number; the file is damaged"
    )]
    Value {
        /// The scales.
        tensor: String,
        /// The position among the scales.
        position: u64,
        /// NaN or an infinity.
        found: f32,
    },
}

/// FP8 weights and where their scales are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub weights: Piece,
    pub format: Dtype,
    pub scales: Piece,
    pub scales_name: String,
    pub scale_dtype: Dtype,
    pub grid: Grid,
}

/// Which scale a weight has: weights of a stack of matrices against a stack of grids of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Weights of a matrix's row, and its rows.
    columns: u64,
    rows: u64,
    /// Weights under one scale, along a column and along a row.
    block: [u64; 2],
    /// Scales from one row of blocks to the next, and from one matrix to the next (0: shared).
    row_stride: u64,
    matrix_stride: u64,
}

/// Whether weights of that type may have scales.
pub(crate) fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8E4M3 | Dtype::F8E5M2)
}

/// Whether scales of that type are read.
pub(crate) fn is_scale(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E8M0)
}

impl Grid {
    /// How the scales of that shape lie over weights of that shape; `None` if they do not.
    pub(crate) fn new(weights: &[u64], scales: &[u64], configured: Option<[u64; 2]>) -> Option<Self> {
        let (leading, rows, columns) = match *weights {
            [] => return None,
            [columns] => (&[][..], 1, columns),
            [ref leading @ .., rows, columns] => (leading, rows, columns),
        };
        let whole = [rows.max(1), columns.max(1)];
        let grid =
            |block, row_stride, matrix_stride| Self { columns, rows, block, row_stride, matrix_stride };
        if scales.iter().all(|&dimension| dimension == 1) {
            return Some(grid(whole, 0, 0));
        }
        if weights.split_last().is_some_and(|(_, channels)| channels == scales) {
            return Some(grid([1, whole[1]], 1, rows));
        }
        if leading == scales {
            return Some(grid(whole, 0, 1));
        }
        let [outer @ .., down, across] = scales else { return None };
        let shared = outer.iter().all(|&dimension| dimension == 1);
        if !(outer == leading || shared && outer.len() <= leading.len()) {
            return None;
        }
        let block = match configured {
            _ if [*down, *across] == [1, 1] => whole,
            _ if [*down, *across] == [rows, 1] => [1, whole[1]],
            _ if [*down, *across] == [1, columns] => [whole[0], 1],
            Some(block) => block,
            None => [inferred(rows, *down)?, inferred(columns, *across)?],
        };
        let blocks = |len: u64, block: u64| (block > 0).then(|| len.div_ceil(block.max(1)));
        if [blocks(rows, block[0])?, blocks(columns, block[1])?] != [*down, *across] {
            return None;
        }
        let per_matrix = down.checked_mul(*across)?;
        Some(grid(block, *across, if outer == leading { per_matrix } else { 0 }))
    }

    /// Calls `run` with each run of elements of the range, counted from its start, that share a scale.
    pub(crate) fn runs<E>(
        &self,
        elements: Range<u64>,
        mut run: impl FnMut(Range<u64>, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = elements.start;
        while at < elements.end {
            let (scale, end) = self.scale_of(at);
            let end = end.min(elements.end);
            run(at.saturating_sub(elements.start)..end.saturating_sub(elements.start), scale)?;
            at = end;
        }
        Ok(())
    }

    /// The position of an element's scale, and the first element after it in its row that has another one.
    pub(crate) fn scale_of(&self, element: u64) -> (u64, u64) {
        let row = element.checked_div(self.columns).unwrap_or(0);
        let column = element.checked_rem(self.columns).unwrap_or(0);
        let matrix = row.checked_div(self.rows).unwrap_or(0);
        let [down, across] = self.block;
        let (down, across) = (down.max(1), across.max(1));
        let block_row = row.checked_rem(self.rows).unwrap_or(0).checked_div(down).unwrap_or(0);
        let block_column = column.checked_div(across).unwrap_or(0);
        let column_end = block_column.saturating_add(1).saturating_mul(across).min(self.columns);
        // The scales were found to be as many as the shape of the weights takes.
        let scale = matrix
            .saturating_mul(self.matrix_stride)
            .saturating_add(block_row.saturating_mul(self.row_stride))
            .saturating_add(block_column);
        (scale, element.saturating_add(column_end.saturating_sub(column).max(1)))
    }
}

/// The block of which so many cover so many weights.
fn inferred(weights: u64, blocks: u64) -> Option<u64> {
    let fits = |block: &u64| weights.div_ceil((*block).max(1)) == blocks;
    Some(DEFAULT_BLOCK).filter(fits).or_else(|| BLOCKS.into_iter().find(fits))
}

/// The value of every byte.
pub(crate) fn table(format: Dtype) -> [f32; 256] {
    let mut table = [0.0; 256];
    for (value, byte) in table.iter_mut().zip(0..=u8::MAX) {
        *value = if format == Dtype::F8E5M2 { e5m2(byte) } else { e4m3(byte) };
    }
    table
}

/// The upper byte of a binary16.
fn e5m2(byte: u8) -> f32 {
    half::f16::from_bits(u16::from(byte) << 8).to_f32()
}

/// Four bits of exponent with a bias of 7, three of mantissa; no infinity, and NaN only where all are ones.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (byte >> 3 & 0xF, f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (0xF, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent).saturating_sub(7)),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// A power of two; all ones is NaN.
pub(crate) fn e8m0(byte: u8) -> f32 {
    match byte {
        0xFF => f32::NAN,
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(byte) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_values_of_their_format() {
        let e4m3 = table(Dtype::F8E4M3);
        for (byte, value) in
            [(0x01, 2f32.powi(-9)), (0x07, 7.0 * 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0)]
        {
            assert_eq!((e4m3[byte], e4m3[byte | 0x80]), (value, -value), "{byte:#x}");
        }
        assert_eq!((e4m3[0x7E], e4m3[0x80].to_bits()), (448.0, (-0f32).to_bits()));
        assert_eq!(e4m3.iter().filter(|value| !value.is_finite()).count(), 2);
        let e5m2 = table(Dtype::F8E5M2);
        assert_eq!(
            (e5m2[1], e5m2[0x3C], e5m2[0x7B], e5m2[0x7C]),
            (2f32.powi(-16), 1.0, 57344.0, f32::INFINITY)
        );
        assert_eq!((e8m0(127), e8m0(0), e8m0(254)), (1.0, 2f32.powi(-127), 2f32.powi(127)));
    }

    /// The scale of every element, by brute force.
    fn scales_of(grid: &Grid, elements: u64) -> Vec<u64> {
        let mut found = Vec::new();
        grid.runs(0..elements, |run, scale| {
            found.extend(run.map(|_| scale));
            Ok::<_, ()>(())
        })
        .unwrap();
        found
    }

    #[test]
    fn shapes_say_which_scale_is_whose() {
        let grid = |weights: &[u64], scales: &[u64]| Grid::new(weights, scales, None);
        let of = |weights: &[u64], scales: &[u64]| {
            scales_of(&grid(weights, scales).unwrap(), weights.iter().product())
        };
        for scalar in [&[][..], &[1], &[1, 1]] {
            assert_eq!(of(&[2, 3], scalar), [0; 6]);
        }
        for channels in [&[2][..], &[2, 1]] {
            assert_eq!(of(&[2, 3], channels), [0, 0, 0, 1, 1, 1]);
        }
        assert_eq!(of(&[2, 3], &[1, 3]), [0, 1, 2, 0, 1, 2]);
        assert_eq!(of(&[2, 2, 2], &[2]), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(of(&[2, 2, 2], &[2, 1, 1]), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(of(&[2, 2, 2], &[2, 2]), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(of(&[2, 2, 2], &[2, 1, 2]), [0, 1, 0, 1, 2, 3, 2, 3]);
        assert_eq!(of(&[2, 2, 2], &[1, 2, 1]), [0, 0, 1, 1, 0, 0, 1, 1]);

        let ragged = of(&[130, 260], &[2, 3]);
        for (at, &scale) in ragged.iter().enumerate() {
            assert_eq!(scale, (at / 260 / 128 * 3 + at % 260 / 128) as u64, "{at}");
        }
        assert_eq!(of(&[64, 64], &[2, 2])[32 * 64 + 31], 2);
        let configured = Grid::new(&[64, 64], &[2, 4], Some([32, 16])).unwrap();
        assert_eq!(scales_of(&configured, 64 * 64)[32 * 64 + 16], 5);
        for (weights, scales, block) in [
            (&[64, 64][..], &[2, 2][..], Some([64, 64])),
            (&[64, 64], &[0, 2], Some([0, 32])),
            (&[64, 64], &[3, 2], None),
            (&[64, 64], &[64, 2, 1], None),
            (&[2, 64, 64], &[3, 2, 2], None),
            (&[64], &[3], None),
            (&[], &[2], None),
        ] {
            assert_eq!(Grid::new(weights, scales, block), None, "{weights:?} {scales:?}");
        }
    }
}
