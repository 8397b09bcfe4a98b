//! Benches of a GPU.
//!
//! Copies of the weights lie in the card's memory; their kernels are recorded, one after another, as a CUDA graph that
//! takes a millisecond at least. A run replays it, and its time over the number of kernels counts.

use std::collections::BTreeMap;
use std::time::Duration;

use ccq::codec::Matrix;
use ccq_cuda::operation::{self, Dequantize, Gemv};
use ccq_cuda::{Activations, Cublas, Device, Element, Error};

use super::args::Shape;
use super::operation::Operation;
use super::timing::{Timing, time};
use super::weights::Weights;
use super::{Bench, Measured};
use crate::device::Choice;
use crate::failure::Failure;
use crate::machine::Machine;

/// The operations of a row each, unless a preset names them.
const OPERATIONS: [Operation; 6] = [
    Operation::Dequantize(Element::F32),
    Operation::Dequantize(Element::F16),
    Operation::Dequantize(Element::Bf16),
    Operation::Product { tokens: 1 },
    Operation::Product { tokens: 4 },
    Operation::Product { tokens: 16 },
];

/// Copies of weights at most: those of smaller matrices may stay in the cache, and are said to.
const MOST_SETS: u64 = 1024;
/// Copies of memory that are timed, and the bytes of each.
const COPIES: usize = 50;
const LEAST_COPIED: usize = 1 << 20;
const MOST_COPIED: usize = 1 << 30;

/// A GPU, and what is measured beside our kernels.
pub struct Gpu<'d> {
    device: &'d Device,
    choice: Choice,
    machine: Machine,
    cublas: Option<Cublas<'d>>,
    /// Seconds of its products, which do not depend on how weights are stored.
    dense: BTreeMap<(Shape, usize), Option<f64>>,
    notes: Vec<String>,
}

impl<'d> Gpu<'d> {
    /// Looks for cuBLAS, too.
    pub fn new(device: &'d Device, choice: Choice) -> Self {
        let (cublas, notes) = match device.cublas() {
            Ok(cublas) => {
                let note = format!("cuBLAS bf16: {}, f32 sums, the same shape and M", cublas.library());
                (Some(cublas), vec![note])
            }
            Err(error) => (None, vec![format!("without cuBLAS: {error}")]),
        };
        let machine = Machine::gpu(device.info());
        Self { device, choice, machine, cublas, dense: BTreeMap::new(), notes }
    }

    /// Copies so that what they read and write, so many bytes each, exceeds the cache.
    fn sets(&self, bytes: u64) -> usize {
        let due = self.machine.cache.saturating_mul(2).div_ceil(bytes.max(1)) + 1;
        due.min(MOST_SETS) as usize
    }

    /// Times decoding on so many copies. The outer error is one of making the copies.
    fn dequantize(
        &self,
        matrix: &Matrix<'_>,
        element: Element,
        sets: usize,
        budget: Duration,
    ) -> Result<Result<Timing, Failure>, Error> {
        let rows = matrix.rows();
        // Never touched, so that the system gives no memory for them.
        let mut outs = buffers(sets, || vec![0u8; rows * matrix.in_features() * element.bytes()]);
        let operations = outs.iter_mut().map(|out| Dequantize::new(matrix, 0..rows, element, out));
        self.time(operations.collect::<Result<_, _>>()?, budget)
    }

    /// Times products on so many copies; errors as those of [`Gpu::dequantize`].
    fn product(
        &self,
        matrix: &Matrix<'_>,
        tokens: usize,
        sets: usize,
        budget: Duration,
    ) -> Result<Result<Timing, Failure>, Error> {
        let x = vectors(tokens * matrix.in_features());
        let activations = Activations { element: Element::Bf16, tokens, bytes: &x };
        let mut outs = buffers(sets, || vec![0.0f32; tokens * matrix.rows()]);
        let operations = outs.iter_mut().map(|out| Gemv::new(matrix, activations, out));
        self.time(operations.collect::<Result<_, _>>()?, budget)
    }

    fn time<O: operation::Operation>(
        &self,
        operations: Vec<O>,
        budget: Duration,
    ) -> Result<Result<Timing, Failure>, Error> {
        let sets = operations.len();
        let residents = self.device.residents(operations)?;
        Ok(self.time_launches(sets, budget, || residents.launch()))
    }

    /// Times launches of so many copies each.
    fn time_launches(
        &self,
        sets: usize,
        budget: Duration,
        launch: impl Fn() -> Result<f64, Error>,
    ) -> Result<Timing, Failure> {
        time(budget, |_| {
            let milliseconds = launch().map_err(|error| self.choice.failed(&error))?;
            Ok(milliseconds / 1e3 / sets as f64)
        })
    }

    /// Seconds of the dense product, where cuBLAS is there and the card has room for it.
    fn dense_product(
        &mut self,
        matrix: &Matrix<'_>,
        shape: Shape,
        tokens: usize,
        budget: Duration,
    ) -> Result<Option<f64>, Failure> {
        let Some(cublas) = &self.cublas else { return Ok(None) };
        if let Some(known) = self.dense.get(&(shape, tokens)) {
            return Ok(*known);
        }
        let x = vectors(tokens * shape.in_features);
        let activations = Activations { element: Element::Bf16, tokens, bytes: &x };
        let sets = self.sets(shape.weights() as u64 * 2);
        let found = with_fewer(sets, |sets| {
            let product = cublas.product(matrix, activations, sets)?;
            Ok(self.time_launches(sets, budget, || product.launch()))
        });
        let seconds = match found {
            Ok((timing, _)) => Some(timing?.median),
            Err(error) => {
                self.notes.push(format!("cuBLAS, {shape}, M = {tokens}: {error}"));
                None
            }
        };
        self.dense.insert((shape, tokens), seconds);
        Ok(seconds)
    }
}

impl Bench for Gpu<'_> {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn operations(&self) -> &'static [Operation] {
        &OPERATIONS
    }

    /// Copies are made in the card's memory.
    fn copies_exceed(&self) -> u64 {
        0
    }

    fn copy_bandwidth(&mut self, _budget: Duration) -> Result<f64, Failure> {
        let most = (self.device.info().memory / 4).clamp(LEAST_COPIED, MOST_COPIED);
        let bytes = (self.machine.cache as usize).saturating_mul(8).clamp(LEAST_COPIED, most);
        let found = with_fewer(bytes, |bytes| self.device.copy_bandwidth(bytes, COPIES));
        found.map(|(bandwidth, _)| bandwidth).map_err(|error| self.choice.failed(&error))
    }

    fn measure(
        &mut self,
        operation: Operation,
        shape: Shape,
        weights: &Weights,
        budget: Duration,
    ) -> Result<Measured, Failure> {
        let matrix = weights.set(0);
        let bytes = weights.stored_bytes() + operation.written_bytes(shape);
        let found = with_fewer(self.sets(bytes), |sets| match operation {
            // Not among the operations; the kernels have but one way to do either.
            Operation::DequantizeRows(element) | Operation::Dequantize(element) => {
                self.dequantize(&matrix, element, sets, budget)
            }
            Operation::Product { tokens } | Operation::Int8Product { tokens } => {
                self.product(&matrix, tokens, sets, budget)
            }
        });
        let (timing, sets) = found.map_err(|error| self.choice.failed(&error))?;
        let cublas_seconds = match operation {
            Operation::Product { tokens } => self.dense_product(&matrix, shape, tokens, budget)?,
            _ => None,
        };
        Ok(Measured {
            timing: timing?,
            element: operation.element().unwrap_or(Element::Bf16),
            sets,
            cold: sets as u64 * bytes >= self.machine.cache.saturating_mul(2),
            memory_seconds: None,
            single_seconds: None,
            cublas_seconds,
        })
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}

/// Tries with ever fewer as long as memory runs out; also how many it was.
fn with_fewer<T>(
    most: usize,
    mut attempt: impl FnMut(usize) -> Result<T, Error>,
) -> Result<(T, usize), Error> {
    let mut count = most;
    loop {
        match attempt(count) {
            Err(Error::OutOfMemory { .. }) if count > 1 => count /= 2,
            done => return done.map(|value| (value, count)),
        }
    }
}

fn buffers<T>(count: usize, buffer: impl Fn() -> Vec<T>) -> Vec<Vec<T>> {
    (0..count).map(|_| buffer()).collect()
}

/// Small whole numbers in bf16.
fn vectors(len: usize) -> Vec<u8> {
    let value = |at: usize| (((at % 7) as f32 - 3.0).to_bits() >> 16) as u16;
    (0..len).flat_map(|at| value(at).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq_cuda::Memory;

    #[test]
    fn fewer_are_tried_while_memory_runs_out() {
        let full = |bytes| Error::OutOfMemory { memory: Memory::Device, bytes };
        let room = |most: usize| move |count: usize| if count > most { Err(full(count)) } else { Ok(count) };
        assert_eq!(with_fewer(9, room(9)).unwrap(), (9, 9));
        assert_eq!(with_fewer(9, room(3)).unwrap(), (2, 2));
        assert!(matches!(with_fewer(9, room(0)), Err(Error::OutOfMemory { bytes: 1, .. })));
        assert!(matches!(with_fewer(9, |_| Err::<(), _>(Error::NoDevice)), Err(Error::NoDevice)));
    }

    #[test]
    fn vectors_are_exact() {
        let halves: Vec<_> = vectors(7)
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[a, b]| f32::from_bits(u32::from_le_bytes([0, 0, a, b])))
            .collect();
        assert_eq!(halves, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]);
    }
}
