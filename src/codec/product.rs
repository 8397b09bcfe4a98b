//! Products with a quantized matrix, without decoding it to memory.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use alloc::borrow::Cow;
use alloc::vec;
use core::ops::Range;

use super::simd::kernel;
use super::simd::plan::BLOCK;
use super::{Activations, Matrix, SizeError};

impl Matrix<'_> {
    /// `y = W x` in f32, for one vector x or several one after the other: `y[row * vectors + m]` is the product of a
    /// row with vector m.
    ///
    /// Weights are decoded in registers. Each product is within `2^-20` of the sum of its terms' magnitudes, for rows
    /// of up to 2^16 weights; in which order the terms are summed depends on the processor.
    ///
    /// # Errors
    /// [`SizeError::Input`] where x is not one or more whole vectors, [`SizeError::Output`].
    pub fn matvec(&self, x: &[f32], y: &mut [f32]) -> Result<(), SizeError> {
        self.matvec_rows(0..self.rows, x, y)
    }

    /// [`Matrix::matvec`] for a range of rows, so that threads can share a matrix.
    ///
    /// # Errors
    /// [`SizeError::Rows`], [`SizeError::Input`] and [`SizeError::Output`]; nothing is written then.
    pub fn matvec_rows(&self, rows: Range<usize>, x: &[f32], y: &mut [f32]) -> Result<(), SizeError> {
        let vectors = x.len().checked_div(self.in_features).unwrap_or(0);
        if vectors == 0 || !x.len().is_multiple_of(self.in_features) {
            return Err(SizeError::Input { expected: self.in_features, found: x.len() });
        }
        self.check(&rows, vectors, y.len())?;
        let x = by_block(x, self.in_features);
        kernel::multiply(self.isa, self, rows, x.as_chunks().0, y, vectors);
        Ok(())
    }

    /// `y = W x` for vectors that were rounded to bytes, several times as fast as [`Matrix::matvec`]: `y[row * vectors
    /// + m]` is the product of a row with vector m. [`Activations`] says how far off it is.
    ///
    /// Products of integers are exact; each product is within `2^-18` of the sum of its terms' magnitudes, the zero
    /// point's included, of that with the rounded vector.
    ///
    /// # Errors
    /// [`SizeError::Input`] where x has vectors of another length, [`SizeError::Output`].
    pub fn matvec_int8(&self, x: &Activations, y: &mut [f32]) -> Result<(), SizeError> {
        self.matvec_int8_rows(0..self.rows, x, y)
    }

    /// [`Matrix::matvec_int8`] for a range of rows, so that threads can share a matrix.
    ///
    /// # Errors
    /// [`SizeError::Rows`], [`SizeError::Input`] and [`SizeError::Output`]; nothing is written then.
    pub fn matvec_int8_rows(
        &self,
        rows: Range<usize>,
        x: &Activations,
        y: &mut [f32],
    ) -> Result<(), SizeError> {
        if x.in_features() != self.in_features {
            return Err(SizeError::Input { expected: self.in_features, found: x.in_features() });
        }
        self.check(&rows, x.vectors(), y.len())?;
        kernel::multiply_int8(self.isa, self, rows, x, y);
        Ok(())
    }
}

/// Vectors filled with zeros to whole blocks: block by block, of one vector after the other.
fn by_block(x: &[f32], in_features: usize) -> Cow<'_, [f32]> {
    if x.len() == in_features && in_features.is_multiple_of(BLOCK) {
        return Cow::Borrowed(x);
    }
    let vectors = x.len().checked_div(in_features).unwrap_or(0);
    let mut blocks = vec![[0.0; BLOCK]; in_features.div_ceil(BLOCK).saturating_mul(vectors)];
    for (m, x) in x.chunks_exact(in_features).enumerate() {
        for (block, x) in blocks.iter_mut().skip(m).step_by(vectors).zip(x.chunks(BLOCK)) {
            block.iter_mut().zip(x).for_each(|(to, from)| *to = *from);
        }
    }
    Cow::Owned(blocks.into_flattened())
}
