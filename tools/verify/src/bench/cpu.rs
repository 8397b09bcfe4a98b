//! Benches of the processor.

use std::time::{Duration, Instant};

use rayon::ThreadPool;

use super::args::Shape;
use super::operation::{Operation, Workspace};
use super::timing::{copy_bandwidth, time_in_turns};
use super::weights::Weights;
use super::{Bench, Measured};
use crate::failure::Failure;
use crate::machine::Machine;
use ccq_cuda::Element;

/// The operations of a row each, unless a preset names them.
const OPERATIONS: [Operation; 10] = [
    Operation::DequantizeRows(Element::F32),
    Operation::DequantizeRows(Element::F16),
    Operation::DequantizeRows(Element::Bf16),
    Operation::Dequantize(Element::F32),
    Operation::Dequantize(Element::F16),
    Operation::Dequantize(Element::Bf16),
    Operation::Product { tokens: 1 },
    Operation::Product { tokens: 4 },
    Operation::Product { tokens: 16 },
    Operation::Int8Product { tokens: 1 },
];

/// The threads of the current pool.
pub struct Cpu {
    machine: Machine,
    workspace: Workspace,
    /// One thread to compare with, if they are more.
    single: Option<ThreadPool>,
}

impl Cpu {
    /// Asks the system what it is.
    pub fn new(single: Option<ThreadPool>) -> Self {
        Self { machine: Machine::cpu(), workspace: Workspace::default(), single }
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
        let Self { machine, workspace, single } = self;
        workspace.prepare(operation, shape, machine.cache);
        let run = |which, number| {
            let matrix = weights.set(number);
            Ok(match (which, &*single) {
                (1, _) => seconds(|| workspace.memory(operation, &matrix)),
                (2, Some(single)) => single.install(|| seconds(|| workspace.run(operation, &matrix))),
                _ => seconds(|| workspace.run(operation, &matrix)),
            })
        };
        let (timing, memory, one) = if single.is_some() {
            let [timing, memory, one] = time_in_turns(budget, run)?;
            (timing, memory, Some(one.median))
        } else {
            let [timing, memory] = time_in_turns(budget, run)?;
            (timing, memory, None)
        };
        Ok(Measured {
            timing,
            element: operation.element().unwrap_or(Element::F32),
            sets: weights.sets(),
            cold: weights.is_cold(),
            memory_seconds: Some(memory.median),
            single_seconds: one,
            cublas_seconds: None,
        })
    }

    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
