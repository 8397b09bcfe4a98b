//! What is timed.

use std::hint::black_box;
use std::ops::Range;

use ccq::codec::{Activations, Matrix};
use ccq_cuda::Element;
use rayon::prelude::*;

use super::args::Shape;

/// Parts of a matrix a thread, so that a slow thread leaves some to the others.
const PARTS: usize = 4;

/// An operation on a quantized matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To f32, row by row into one buffer a thread.
    DequantizeRows,
    /// The whole matrix to memory.
    Dequantize(Element),
    /// `y = W x` for so many vectors x, decoded in registers.
    Product {
        /// Vectors.
        tokens: usize,
    },
    /// The same with vectors rounded to eight bits, rounding them included.
    Int8Product {
        /// Vectors.
        tokens: usize,
    },
}

impl Operation {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DequantizeRows => "dequantize_rows",
            Self::Dequantize(_) => "dequantize",
            Self::Product { .. } => "product",
            Self::Int8Product { .. } => "int8_product",
        }
    }

    /// M of a product.
    pub const fn tokens(self) -> Option<usize> {
        match self {
            Self::Product { tokens } | Self::Int8Product { tokens } => Some(tokens),
            _ => None,
        }
    }

    /// Bytes written to memory: those of other operations stay in a cache.
    pub fn written_bytes(self, shape: Shape) -> u64 {
        match self {
            Self::Dequantize(element) => (shape.weights() * element.bytes()) as u64,
            _ => 0,
        }
    }
}

/// Memory that operations work in, kept from run to run.
#[derive(Debug, Default)]
pub struct Workspace {
    decoded: Vec<f32>,
    /// Vectors one after another.
    x: Vec<f32>,
    /// Of row 0 for every vector, then of row 1.
    y: Vec<f32>,
}

impl Workspace {
    /// Makes room for an operation.
    pub fn prepare(&mut self, operation: Operation, shape: Shape) {
        match operation {
            Operation::DequantizeRows => {}
            Operation::Dequantize(_) => self.decoded.resize(shape.weights(), 0.0),
            Operation::Product { tokens } | Operation::Int8Product { tokens } => {
                self.decoded = Vec::new();
                self.x = (0..tokens * shape.in_features).map(|at| (at % 7) as f32 - 3.0).collect();
                self.y = vec![0.0; tokens * shape.rows];
            }
        }
    }

    /// Runs an operation that was prepared for the matrix's shape, in f32, on the threads of the current pool.
    pub fn run(&mut self, operation: Operation, matrix: &Matrix<'_>) {
        let width = matrix.in_features();
        let part = matrix.rows().div_ceil(rayon::current_num_threads() * PARTS).max(1);
        let rows = |at: usize| at * part..((at + 1) * part).min(matrix.rows());
        match operation {
            Operation::DequantizeRows => {
                let parts = matrix.rows().div_ceil(part);
                (0..parts).into_par_iter().for_each(|at| {
                    let mut buffer = vec![0.0; width];
                    rows(at).for_each(|row| decode(matrix, row..row + 1, black_box(&mut buffer)));
                });
            }
            Operation::Dequantize(_) => {
                let parts = self.decoded.par_chunks_mut(part * width).enumerate();
                parts.for_each(|(at, decoded)| decode(matrix, rows(at), decoded));
            }
            Operation::Product { tokens } => {
                let parts = self.y.par_chunks_mut(part * tokens).enumerate();
                parts.for_each(|(at, y)| {
                    let multiplied = matrix.matvec_rows(rows(at), &self.x, y);
                    debug_assert_eq!(multiplied, Ok(()));
                });
            }
            Operation::Int8Product { tokens } => {
                let x = Activations::new(black_box(&self.x), width);
                let parts = self.y.par_chunks_mut(part * tokens).enumerate();
                parts.for_each(|(at, y)| {
                    let multiplied = matrix.matvec_int8_rows(rows(at), &x, y);
                    debug_assert_eq!(multiplied, Ok(()));
                });
            }
        }
        black_box((&self.decoded, &self.y));
    }
}

fn decode(matrix: &Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    // The rows are the matrix's own and the buffer has their size.
    let decoded = matrix.decode_rows_into(rows, out);
    debug_assert_eq!(decoded, Ok(()));
}

#[cfg(test)]
mod tests {
    use super::super::weights::Weights;
    use super::*;
    use ccq::code::Family;

    #[test]
    fn products_are_those_of_the_decoded_matrix() {
        let shape = Shape { rows: 37, in_features: 101 };
        for family in Family::ALL {
            let weights =
                Weights::random(family.default_code().unwrap(), shape.rows, shape.in_features, 1).unwrap();
            let mut workspace = Workspace::default();
            workspace.prepare(Operation::Dequantize(Element::F32), shape);
            workspace.run(Operation::Dequantize(Element::F32), &weights.set(0));
            let decoded = workspace.decoded.clone();
            assert!(decoded.iter().any(|weight| *weight != 0.0) && decoded.iter().all(|w| w.is_finite()));
            workspace.run(Operation::DequantizeRows, &weights.set(1));
            // x goes from -3 to 3, so that rounding is off by 3 / 254, a hundredth of what the terms may be.
            let products =
                [(Operation::Product { tokens: 4 }, 1e-5), (Operation::Int8Product { tokens: 4 }, 0.05)];
            for (product, tolerance) in products {
                workspace.prepare(product, shape);
                workspace.run(product, &weights.set(0));
                for (row, y) in decoded.chunks(shape.in_features).zip(workspace.y.chunks(4)) {
                    for (x, y) in workspace.x.chunks(shape.in_features).zip(y) {
                        let terms = || row.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b));
                        let (expected, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        assert!((f64::from(*y) - expected).abs() <= size * tolerance, "{y} {expected}");
                    }
                }
            }
        }
    }
}
