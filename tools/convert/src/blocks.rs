//! The work cut into blocks: runs of rows that are read, quantized and written together.
//!
//! Where a block ends depends on the tensor's shape and dtype alone, so that the sums of errors, which are added
//! block by block, do not depend on the memory or the threads of a job. A block never crosses two matrices of a
//! stack: experts may have importances of their own.

use std::ops::Range;

use ccq::format::{Dtype, Encoding, TensorInfo};

use crate::search::Shape;
use crate::split::FilePlan;

/// Weights of a block, at least a row.
const WEIGHTS: u64 = 1 << 20;
/// Bytes of a block that is copied.
const BYTES: u64 = 4 << 20;

/// A block, its number among all blocks of the job, and what it takes.
#[derive(Clone, Debug)]
pub struct Block {
    /// From 0.
    pub number: u64,
    /// Which file it goes to.
    pub file: usize,
    /// What it is a part of.
    pub item: Item,
    /// Which elements of the tensor; none of a blob.
    pub elements: Range<u64>,
    /// Bytes it adds to each plane.
    pub lens: Vec<u64>,
    /// Whether the tensor or blob ends with it.
    pub last: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A tensor of the plan.
    Tensor(usize),
    /// A blob of the plan.
    Blob(usize),
}

impl Block {
    /// Bytes that go to the file.
    pub fn stored(&self) -> u64 {
        self.lens.iter().sum()
    }

    /// Elements in it.
    pub fn weights(&self) -> u64 {
        self.elements.end.saturating_sub(self.elements.start)
    }
}

/// All blocks in the order in which they are written.
pub fn blocks(files: &[FilePlan]) -> impl Iterator<Item = Block> + Send {
    let numbered = |(number, block): (u64, Block)| Block { number, ..block };
    (0..).zip(files.iter().enumerate().flat_map(|(file, plan)| of_file(file, plan))).map(numbered)
}

fn of_file(file: usize, plan: &FilePlan) -> impl Iterator<Item = Block> + Send + '_ {
    let index = plan.layout.index();
    let tensors = plan.tensors.clone().zip(index.tensors());
    let blobs = index.blobs().enumerate().map(move |(at, blob)| Block {
        number: 0,
        file,
        item: Item::Blob(at),
        elements: 0..0,
        lens: vec![blob.plane.len],
        last: true,
    });
    tensors.flat_map(move |(item, info)| of_tensor(file, item, info)).chain(blobs)
}

fn of_tensor(file: usize, item: usize, info: TensorInfo<'_>) -> impl Iterator<Item = Block> + Send + '_ {
    let elements = info.elements();
    cut(info.shape(), info.dtype(), info.encoding()).map(move |range| Block {
        number: 0,
        file,
        item: Item::Tensor(item),
        lens: info.planes().iter().map(|plane| share(plane.len, &range, elements)).collect(),
        last: range.end == elements,
        elements: range,
    })
}

/// The bytes of a plane that belong to some of its tensor's elements: whole rows, or whole bytes of a raw one.
fn share(len: u64, range: &Range<u64>, elements: u64) -> u64 {
    let bytes = u128::from(len).saturating_mul(u128::from(range.end.saturating_sub(range.start)));
    let part = bytes.checked_div(elements.into()).unwrap_or(0);
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// The ranges of a tensor's elements that are blocks; a tensor without elements is one all the same.
fn cut(shape: &[u64], dtype: Dtype, encoding: Encoding) -> impl Iterator<Item = Range<u64>> + Send + use<> {
    let Shape { experts, rows, in_features } = Shape::of(shape);
    let (matrices, matrix, step) = match encoding {
        Encoding::Coded(_) => {
            let step = WEIGHTS.checked_div(in_features).unwrap_or(1).max(1);
            (experts, rows.saturating_mul(in_features), step.saturating_mul(in_features))
        }
        // Whole bytes, whatever the width of an element.
        Encoding::Raw => {
            let step = BYTES.checked_div(dtype.bits()).unwrap_or(1).saturating_mul(8);
            (1, ccq::format::element_count(shape).unwrap_or(0), step)
        }
    };
    let step = step.max(1);
    (0..matrices.max(1)).flat_map(move |at| {
        let start = at.saturating_mul(matrix);
        (0..matrix.div_ceil(step).max(1)).map(move |block| {
            let first = block.saturating_mul(step);
            let at = |element: u64| start.saturating_add(element.min(matrix));
            at(first)..at(first.saturating_add(step))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq::code::Family;

    fn ranges(shape: &[u64], dtype: Dtype, coded: bool) -> Vec<(u64, u64)> {
        let code = Family::Ccq206.default_code().unwrap();
        let ranges = cut(shape, dtype, if coded { Encoding::Coded(code) } else { Encoding::Raw });
        ranges.map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn blocks_are_whole_rows_of_one_matrix() {
        assert_eq!(ranges(&[3, 5], Dtype::F32, true), [(0, 15)]);
        assert_eq!(ranges(&[300, 4096], Dtype::F16, true), [(0, 256 * 4096), (256 * 4096, 300 * 4096)]);
        assert_eq!(ranges(&[2, 1 << 21], Dtype::F16, true), [(0, 1 << 21), (1 << 21, 1 << 22)]);
        assert_eq!(ranges(&[2, 2, 3, 5], Dtype::F16, true), [(0, 15), (15, 30), (30, 45), (45, 60)]);
        assert_eq!(ranges(&[7], Dtype::F16, true), [(0, 7)]);
    }

    #[test]
    fn what_is_copied_is_cut_at_bytes() {
        assert_eq!(ranges(&[], Dtype::F32, false), [(0, 1)]);
        assert_eq!(ranges(&[3, 0], Dtype::F32, false), [(0, 0)]);
        assert_eq!(ranges(&[3 << 20], Dtype::Bf16, false), [(0, 2 << 20), (2 << 20, 3 << 20)]);
        assert_eq!(ranges(&[2, 3, 1 << 20], Dtype::F32, false).len(), 6);
        for dtype in [Dtype::F4, Dtype::F6E2M3] {
            let ranges = ranges(&[3 << 23], dtype, false);
            assert!(ranges.len() > 1 && ranges.iter().all(|range| range.1 * dtype.bits() % 8 == 0));
        }
    }
}
