//! The way back of matrices that the source has the other way round.
//!
//! A file takes them input feature by input feature, which is column by column of what the container has. Each
//! matrix goes in blocks of columns: to make one, all rows are read (and decoded) in tiles, and their part of the
//! block is turned. So memory stays small, at the price of decoding a matrix of several blocks several times.

use std::io::{self, Write};

use ccq::Tensor;
use ccq_import::columns_to_rows;
use rayon::prelude::*;

use super::{Planned, overflow, write_failed};
use crate::args::Common;
use crate::error::Error;
use crate::output::check_interrupt;
use crate::rounding::Target;

/// Elements of a block of columns.
const BLOCK: usize = 1 << 24;
/// Rows decoded at a time.
const TILE: usize = 64;

/// The dimensions as the source has them.
pub fn stored_shape(shape: &[u64]) -> Vec<u64> {
    let mut shape = shape.to_vec();
    if let [.., rows, columns] = shape.as_mut_slice() {
        std::mem::swap(rows, columns);
    }
    shape
}

/// Writes a tensor the way its source has it.
///
/// # Errors
/// `Write`, `Overflow`, `Interrupted`.
pub fn write(
    sink: &mut impl Write,
    planned: &Planned<'_>,
    common: &Common,
    advance: impl Fn(u64),
) -> Result<(), Error> {
    let Planned { tensor, target, dtype, .. } = planned;
    let index = |dimension: u64| usize::try_from(dimension).unwrap_or(usize::MAX);
    let [leading @ .., height, width] = tensor.info().shape() else { return Ok(()) };
    let (height, width) = (index(*height), index(*width));
    let matrices = leading.iter().copied().map(index).product::<usize>();
    let size = target.map_or(index(dtype.bits() / 8), Target::size);
    if tensor.info().elements() == 0 {
        return Ok(());
    }
    let rows = Rows { tensor: *tensor, target: *target, width, size };
    let columns = BLOCK.checked_div(height).unwrap_or(1).clamp(1, width.max(1));
    // Bytes of a column; the whole tensor's are known to fit.
    let stride = height.saturating_mul(size);
    let mut block = Vec::new();
    let mut tile = Vec::new();
    for matrix in 0..matrices {
        block.resize(columns.saturating_mul(stride), 0);
        for first in (0..width).step_by(columns) {
            let columns = first..width.min(first.saturating_add(columns));
            block.truncate(columns.len().saturating_mul(stride));
            for row in (0..height).step_by(TILE) {
                check_interrupt()?;
                let count = TILE.min(height.saturating_sub(row));
                let start = matrix.saturating_mul(height).saturating_add(row);
                rows.read(start, count, &mut tile, common)?;
                let place = block.get_mut(row.saturating_mul(size)..).unwrap_or_default();
                columns_to_rows(&tile, width, size, columns.clone(), place, stride);
            }
            sink.write_all(&block).map_err(|error: io::Error| write_failed(common)(error))?;
            advance(block.len() as u64);
        }
    }
    Ok(())
}

/// The rows of a tensor as bytes of the dtype to be written.
struct Rows<'a> {
    tensor: Tensor<'a>,
    target: Option<Target>,
    width: usize,
    size: usize,
}

impl Rows<'_> {
    /// Reads so many rows into `out`, replacing what it held.
    fn read(&self, first: usize, count: usize, out: &mut Vec<u8>, common: &Common) -> Result<(), Error> {
        let row_bytes = self.width.saturating_mul(self.size);
        let len = count.saturating_mul(row_bytes);
        let Some((target, matrix)) = self.target.zip(self.tensor.matrix()) else {
            let raw = self.tensor.raw().unwrap_or_default();
            out.clear();
            let start = first.saturating_mul(row_bytes);
            out.extend_from_slice(raw.get(start..start.saturating_add(len)).unwrap_or_default());
            return Ok(());
        };
        out.resize(len, 0);
        let failed = out.par_chunks_exact_mut(row_bytes).enumerate().map_init(
            || vec![0f32; self.width],
            |values, (row, out)| {
                let row = first.saturating_add(row);
                // The row is the matrix's and `values` has its length.
                let _ = matrix.decode_rows_into(row..row.saturating_add(1), values);
                let column = target.round(values, out).err()?;
                Some((row, column, values.get(column).copied()?))
            },
        );
        match failed.find_first(Option::is_some).flatten() {
            None => Ok(()),
            Some(weight) => Err(overflow(common, &self.tensor, target, weight)),
        }
    }
}
