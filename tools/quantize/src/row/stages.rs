//! The stages of a row's search one by one, for benchmarks.

use super::{Kernel, Options, Parabola, Plan, RowKernel, RowSearch, ScaleSearch, Unit};
use crate::lattice::STEP;

/// A part of the search for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One encoding search over all groups: a Viterbi pass, the 256-code search, or rounding.
    Encode,
    /// The choice of the lattices worth a whole search; of clustered codes alone.
    RankLattices,
    /// The scale search, encodings included, with the first lattice where there are several.
    Scales,
}

/// Hands `repeat` a function that runs a stage on a row once; does nothing where the code has no such stage.
pub fn bench_stage(options: &Options<'_>, row: &[f32], stage: Stage, repeat: impl FnOnce(&mut dyn FnMut())) {
    let Some(plan) = Plan::new(options, row.len()) else { return };
    let mut search = RowSearch::new(&plan);
    let max = row.iter().fold(0.0f32, |max, weight| max.max(weight.abs()));
    let unit = Unit::new(max, &plan.code);
    let row: Vec<f32> = row.iter().map(|&weight| unit.scale(weight)).collect();
    let RowSearch { kernel, scales, .. } = &mut search;
    scales.load(&row);
    match (kernel, stage) {
        (RowKernel::Cluster { sample, lattices, .. }, Stage::RankLattices) => {
            sample.take(&row, None);
            repeat(&mut || drop(sample.rank(lattices)));
        }
        (_, Stage::RankLattices) => {}
        (RowKernel::Plain(kernel), stage) => run(&plan, &mut **kernel, scales, &row, unit, stage, repeat),
        (RowKernel::Trellis(kernel), stage) => run(&plan, &mut **kernel, scales, &row, unit, stage, repeat),
        (RowKernel::Cluster { kernel, .. }, stage) => {
            run(&plan, &mut **kernel, scales, &row, unit, stage, repeat)
        }
    }
}

fn run<K: Kernel>(
    plan: &Plan,
    kernel: &mut K,
    scales: &mut ScaleSearch,
    row: &[f32],
    unit: Unit,
    stage: Stage,
    repeat: impl FnOnce(&mut dyn FnMut()),
) {
    kernel.load(row);
    if stage == Stage::Scales {
        return repeat(&mut || drop(scales.search(kernel, unit, None)));
    }
    // Any step will do: the searches take the same time for all.
    let groups = plan.layout.groups;
    let (steps, mut fits) = (vec![STEP; groups], vec![Parabola::default(); groups]);
    repeat(&mut || kernel.encode(&steps, &mut fits));
}
