//! Benches of the processor.

use std::time::{Duration, Instant};

use super::args::Shape;
use super::operation::{Operation, Workspace};
use super::timing::{Timing, copy_bandwidth, time};
use super::weights::Weights;
use super::{Bench, Measured};
use crate::failure::Failure;
use crate::machine::Machine;
use ccq_cuda::Element;

/// The operations of a row each, unless a preset names them.
const OPERATIONS: [Operation; 6] = [
    Operation::DequantizeRows,
    Operation::Dequantize(Element::F32),
    Operation::Product { tokens: 1 },
    Operation::Product { tokens: 4 },
    Operation::Product { tokens: 16 },
    Operation::Int8Product { tokens: 1 },
];

/// The threads of the current pool.
pub struct Cpu {
    machine: Machine,
    workspace: Workspace,
}

impl Cpu {
    /// Asks the system what it is.
    pub fn new() -> Self {
        Self { machine: Machine::cpu(), workspace: Workspace::default() }
    }
}

impl Bench for Cpu {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn operations(&self) -> &'static [Operation] {
        &OPERATIONS
    }

    fn copies_exceed(&self) -> u64 {
        self.machine.cache
    }

    fn copy_bandwidth(&mut self, budget: Duration) -> Result<f64, Failure> {
        copy_bandwidth(self.machine.cache, budget)
    }

    fn measure(
        &mut self,
        operation: Operation,
        shape: Shape,
        weights: &Weights,
        budget: Duration,
    ) -> Result<Measured, Failure> {
        let workspace = &mut self.workspace;
        workspace.prepare(operation, shape);
        let timing: Timing = time(budget, |run| {
            let matrix = weights.set(run);
            let start = Instant::now();
            workspace.run(operation, &matrix);
            Ok(start.elapsed().as_secs_f64())
        })?;
        Ok(Measured {
            timing,
            element: Element::F32,
            sets: weights.sets(),
            cold: weights.is_cold(),
            cublas_seconds: None,
        })
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
