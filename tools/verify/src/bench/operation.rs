//! What is timed.

use std::hint::black_box;
use std::ops::Range;

use ccq::codec::{self, Activations, Isa, Matrix, Planes};
use ccq_cuda::Element;
use half::{bf16, f16};
use rayon::prelude::*;

use super::args::Shape;

/// Parts of a matrix a thread, so that a slow thread leaves some to the others.
const PARTS: usize = 4;

/// An operation on a quantized matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Row by row into one buffer a thread.
    DequantizeRows(Element),
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
            Self::DequantizeRows(_) => "dequantize_rows",
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

    /// What weights are decoded to.
    pub const fn element(self) -> Option<Element> {
        match self {
            Self::DequantizeRows(element) | Self::Dequantize(element) => Some(element),
            _ => None,
        }
    }

    /// What memory does at least, in JSON.
    pub const fn memory_name(self) -> &'static str {
        match self {
            Self::Dequantize(_) => "fill",
            _ => "read",
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
    decoded: Decoded,
    /// As many bytes.
    filled: Outputs<u8>,
    /// Vectors one after another.
    x: Vec<f32>,
    /// Of row 0 for every vector, then of row 1.
    y: Vec<f32>,
}

/// Weights of one type.
#[derive(Debug, Default)]
struct Decoded {
    f32: Outputs<f32>,
    f16: Outputs<f16>,
    bf16: Outputs<bf16>,
}

/// Room for one output, as often as together exceeds a cache.
#[derive(Debug, Default)]
struct Outputs<T> {
    len: usize,
    values: Vec<T>,
    taken: usize,
}

impl<T: Clone> Outputs<T> {
    fn new(value: T, len: usize, cache: u64) -> Self {
        let due = cache.saturating_mul(2).div_ceil((len * size_of::<T>()).max(1) as u64).max(1);
        Self { len, values: vec![value; len * due as usize], taken: 0 }
    }

    /// One after another.
    fn next(&mut self) -> &mut [T] {
        self.taken = if self.taken + self.len < self.values.len() { self.taken + self.len } else { 0 };
        self.values.get_mut(self.taken..self.taken + self.len).unwrap_or_default()
    }
}

impl Workspace {
    /// Makes room for an operation, in as many places as exceed the cache.
    pub fn prepare(&mut self, operation: Operation, shape: Shape, cache: u64) {
        *self = Self::default();
        match operation {
            Operation::DequantizeRows(_) => {}
            Operation::Dequantize(element) => {
                let weights = shape.weights();
                self.filled = Outputs::new(1, weights * element.bytes(), cache);
                match element {
                    Element::F32 => self.decoded.f32 = Outputs::new(1.0, weights, cache),
                    Element::F16 => self.decoded.f16 = Outputs::new(f16::ONE, weights, cache),
                    Element::Bf16 => self.decoded.bf16 = Outputs::new(bf16::ONE, weights, cache),
                }
            }
            Operation::Product { tokens } | Operation::Int8Product { tokens } => {
                self.x = (0..tokens * shape.in_features).map(|at| (at % 7) as f32 - 3.0).collect();
                self.y = vec![0.0; tokens * shape.rows];
            }
        }
    }

    /// Runs an operation that was prepared for the matrix's shape, on the threads of the current pool.
    pub fn run(&mut self, operation: Operation, matrix: &Matrix<'_>) {
        let parts = Parts::new(matrix);
        match operation {
            Operation::DequantizeRows(Element::F32) => parts.decode_by_row(matrix, 0.0f32),
            Operation::DequantizeRows(Element::F16) => parts.decode_by_row(matrix, f16::ZERO),
            Operation::DequantizeRows(Element::Bf16) => parts.decode_by_row(matrix, bf16::ZERO),
            Operation::Dequantize(Element::F32) => parts.decode(matrix, self.decoded.f32.next()),
            Operation::Dequantize(Element::F16) => parts.decode(matrix, self.decoded.f16.next()),
            Operation::Dequantize(Element::Bf16) => parts.decode(matrix, self.decoded.bf16.next()),
            Operation::Product { tokens } => parts.fill(&mut self.y, tokens, |rows, y| {
                let multiplied = matrix.matvec_rows(rows, &self.x, y);
                debug_assert_eq!(multiplied, Ok(()));
            }),
            Operation::Int8Product { tokens } => {
                let x = Activations::new(black_box(&self.x), matrix.in_features());
                parts.fill(&mut self.y, tokens, |rows, y| {
                    let multiplied = matrix.matvec_int8_rows(rows, &x, y);
                    debug_assert_eq!(multiplied, Ok(()));
                });
            }
        }
        black_box((&self.decoded, &self.y));
    }

    /// Does no more than memory has to for a prepared operation: fills as many bytes, or reads the same planes.
    pub fn memory(&mut self, operation: Operation, matrix: &Matrix<'_>) {
        let parts = Parts::new(matrix);
        if operation.memory_name() == "fill" {
            let filled = self.filled.next();
            let width = filled.len() / matrix.rows().max(1);
            parts.fill(filled, width, |_, bytes| bytes.fill(1));
            black_box(filled);
            return;
        }
        let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
        parts.each().for_each(|rows| {
            for plane in [code, local_scale, super_scale, cluster] {
                let width = plane.len() / matrix.rows().max(1);
                let bytes = plane.get(rows.start * width..rows.end * width).unwrap_or_default();
                black_box(Isa::detect().read(bytes, true));
            }
        });
    }
}

/// The rows of a matrix, a few parts for each thread of the current pool.
struct Parts {
    rows: usize,
    size: usize,
}

impl Parts {
    fn new(matrix: &Matrix<'_>) -> Self {
        let rows = matrix.rows();
        Self { rows, size: rows.div_ceil(rayon::current_num_threads() * PARTS).max(1) }
    }

    fn rows(&self, part: usize) -> Range<usize> {
        part * self.size..((part + 1) * self.size).min(self.rows)
    }

    fn each(&self) -> impl ParallelIterator<Item = Range<usize>> {
        (0..self.rows.div_ceil(self.size)).into_par_iter().map(|part| self.rows(part))
    }

    /// Fills so many values a row.
    fn fill<T: Send>(&self, out: &mut [T], width: usize, fill: impl Fn(Range<usize>, &mut [T]) + Sync) {
        let parts = out.par_chunks_mut(self.size * width).enumerate();
        parts.for_each(|(part, out)| fill(self.rows(part), out));
    }

    fn decode<T: codec::Element>(&self, matrix: &Matrix<'_>, out: &mut [T]) {
        self.fill(out, matrix.in_features(), |rows, out| decode(matrix, rows, out));
    }

    fn decode_by_row<T: codec::Element>(&self, matrix: &Matrix<'_>, zero: T) {
        self.each().for_each(|rows| {
            let mut buffer = vec![zero; matrix.in_features()];
            rows.for_each(|row| decode(matrix, row..row + 1, black_box(&mut buffer)));
        });
    }
}

fn decode<T: codec::Element>(matrix: &Matrix<'_>, rows: Range<usize>, out: &mut [T]) {
    // The rows are the matrix's own and the buffer has their size.
    let decoded = matrix.decode_rows_as(rows, out);
    debug_assert_eq!(decoded, Ok(()));
}

#[cfg(test)]
mod tests {
    use super::super::weights::Weights;
    use super::*;
    use ccq::code::Family;

    #[test]
    fn outputs_take_turns_and_exceed_the_cache() {
        for (cache, expected) in [(0, 1), (50, 1), (51, 2), (100, 2), (150, 3)] {
            let mut outputs = Outputs::new(0u32, 25, cache);
            assert_eq!(outputs.values.len(), 25 * expected);
            (0..2 * expected).for_each(|_| outputs.next().iter_mut().for_each(|value| *value += 1));
            assert!(outputs.values.iter().all(|value| *value == 2), "{cache}");
        }
    }

    #[test]
    fn products_are_those_of_the_decoded_matrix() {
        let shape = Shape { rows: 37, in_features: 101 };
        for family in Family::ALL {
            let weights =
                Weights::random(family.default_code().unwrap(), shape.rows, shape.in_features, 1).unwrap();
            let mut workspace = Workspace::default();
            workspace.prepare(Operation::Dequantize(Element::F32), shape, 1);
            workspace.run(Operation::Dequantize(Element::F32), &weights.set(0));
            let decoded = workspace.decoded.f32.values.clone();
            assert!(decoded.iter().any(|weight| *weight != 0.0) && decoded.iter().all(|w| w.is_finite()));
            for element in Element::ALL {
                workspace.run(Operation::DequantizeRows(element), &weights.set(1));
            }
            // x goes from -3 to 3, so that rounding is off by 3 / 254, a hundredth of what the terms may be.
            let products =
                [(Operation::Product { tokens: 4 }, 1e-5), (Operation::Int8Product { tokens: 4 }, 0.05)];
            for (product, tolerance) in products {
                workspace.prepare(product, shape, 1);
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
