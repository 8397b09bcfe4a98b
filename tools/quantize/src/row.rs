//! One row: its unit, for clustered codes its lattice, its scales, its bytes.

use crate::cluster::{self, Clustered};
use crate::kernel::{Kernel, Layout, Parabola};
use crate::lattice::{self, Lattice};
use crate::lattices;
use crate::plain::Plain;
use crate::rank::Sample;
use crate::scale::{Probe, ScaleSearch, Settings, Solution, Unit};
use crate::viterbi::Viterbi;
use crate::words::Words;
use ccq::code::{Cluster, Code, LocalScale};
use ccq::codec::{ClusterParams, RowMut};

/// Lattices that are compared on a sample of each row.
const COMPARED_LATTICES: usize = 32;
/// Lattices, with a sign, that get a whole scale search.
const SEARCHED_LATTICES: usize = 2;
/// Signs of the steps to try.
const BOTH: [f32; 2] = [1.0, -1.0];

/// What the rows of one matrix have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    code: Code,
    layout: Layout,
    settings: Settings,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Plain { state_bits: u32 },
    Trellis,
    Cluster { lattices: Vec<Lattice> },
}

impl Plan {
    /// The plan for rows of `in_features` weights, at least one; `None` for a code that cannot be searched.
    pub fn new(code: &Code, in_features: usize) -> Option<Self> {
        let layout = Layout::new(code, in_features);
        let kind = match code.cluster() {
            None => match Plain::state_bits(code) {
                Some(state_bits) => Kind::Plain { state_bits },
                None => Kind::Trellis,
            },
            Some(Cluster::Q8) if (code.states_per_word(), code.code_bits()) == (lattice::STATES, 15) => {
                let params = lattices::RANKED
                    .iter()
                    .take(COMPARED_LATTICES)
                    .map(|&(a, zp)| ClusterParams::Q8 { a, zp });
                Kind::Cluster { lattices: params.map(|params| Lattice::new(code, params)).collect() }
            }
            Some(_) => return None,
        };
        let half = code.segments().iter().map(|s| 1u32 << (s.state_bits - 1)).max().unwrap_or(1) as f32;
        let probes = match &kind {
            Kind::Plain { state_bits } if *state_bits >= 4 => {
                [1.0, 0.95, 0.9, 0.84, 0.78, 0.7, 0.6].map(|multiple| Probe::Max(multiple / half)).to_vec()
            }
            Kind::Plain { state_bits } => {
                around(calibrate(code, half, |layout| Plain::new(layout, *state_bits)), half)
            }
            Kind::Trellis => {
                around(calibrate(code, half, |layout| Words::new(Viterbi::new(code), layout)), half)
            }
            Kind::Cluster { .. } => around(cluster::STEP, half),
        };
        let settings = Settings { probes, refits: 1, super_scales: 48, rounds: 3 };
        Some(Self { code: *code, layout, settings, kind })
    }
}

/// Probes around `factor` times the rms, and one that puts a lone outlier on the widest state.
fn around(factor: f32, half: f32) -> Vec<Probe> {
    let rms = [0.93, 1.15, 0.72, 0.83, 1.03, 1.3].map(|multiple| Probe::Rms(multiple * factor));
    rms.into_iter().chain([Probe::Max(1.0 / half)]).collect()
}

/// The ratio of step to rms that suits Gaussian weights.
fn calibrate<K: Kernel>(code: &Code, half: f32, kernel: impl Fn(Layout) -> K) -> f32 {
    const WEIGHTS: usize = 512;
    let layout = Layout::new(code, WEIGHTS);
    let mut kernel = kernel(layout.clone());
    kernel.load(&crate::gaussian(1, WEIGHTS));
    let mut fits = vec![Parabola::default(); layout.groups];
    let mut best = (f64::INFINITY, 1.0);
    for i in 0..32u8 {
        // The widest state at half the rms, up to more than five times the rms.
        let factor = (0.5 + 0.15 * f32::from(i)) / half;
        kernel.encode(&vec![factor; layout.groups], &mut fits);
        let error = fits.iter().map(|fit| fit.error).sum();
        if error < best.0 {
            best = (error, factor);
        }
    }
    best.1
}

/// The search for one row after another, with its working memory.
#[derive(Debug)]
pub(crate) struct RowSearch<'a> {
    plan: &'a Plan,
    kernel: RowKernel<'a>,
    scales: ScaleSearch,
    row: Vec<f32>,
}

#[derive(Debug)]
enum RowKernel<'a> {
    Plain(Box<Plain>),
    Trellis(Box<Words<Viterbi>>),
    Cluster { kernel: Box<Clustered>, sample: Sample, lattices: &'a [Lattice] },
}

/// What is stored of a row, but for its words.
struct Found {
    solution: Solution,
    params: Option<ClusterParams>,
}

impl<'a> RowSearch<'a> {
    /// Room for rows of the plan.
    pub fn new(plan: &'a Plan) -> Self {
        let layout = plan.layout.clone();
        let scales = ScaleSearch::new(&plan.code, layout.clone(), plan.settings.clone());
        let kernel = match &plan.kind {
            Kind::Plain { state_bits } => RowKernel::Plain(Box::new(Plain::new(layout, *state_bits))),
            Kind::Trellis => RowKernel::Trellis(Box::new(Words::new(Viterbi::new(&plan.code), layout))),
            Kind::Cluster { lattices } => RowKernel::Cluster {
                kernel: Box::new(Clustered::new(lattices[0].clone(), layout)),
                sample: Sample::default(),
                lattices,
            },
        };
        Self { plan, kernel, scales, row: vec![0.0; plan.layout.in_features] }
    }

    /// Quantizes a row of finite weights into `out`; returns the squared error that it leaves.
    pub fn quantize(&mut self, weights: &[f32], out: RowMut<'_>) -> f64 {
        let plan = self.plan;
        let max = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        if max == 0.0 {
            let params = match &self.kernel {
                RowKernel::Cluster { lattices, .. } => Some(lattices[0].params),
                _ => None,
            };
            let words = vec![0; plan.layout.groups * plan.layout.words_per_group];
            plan.pack(out, &words, &Found { solution: Solution::zero(plan.layout.groups), params });
            return 0.0;
        }
        let unit = Unit::new(max, &plan.code);
        for (scaled, &weight) in self.row.iter_mut().zip(weights) {
            *scaled = unit.scale(weight);
        }
        let (row, scales) = (&self.row[..], &mut self.scales);
        scales.load(row);
        let found = match &mut self.kernel {
            RowKernel::Plain(kernel) => search(&mut **kernel, scales, row, unit),
            RowKernel::Trellis(kernel) => search(&mut **kernel, scales, row, unit),
            RowKernel::Cluster { kernel, sample, lattices } => {
                sample.take(&plan.layout, row);
                search_lattices(kernel, scales, row, unit, lattices, sample)
            }
        };
        let words = match &mut self.kernel {
            RowKernel::Plain(kernel) => kernel.words(),
            RowKernel::Trellis(kernel) => kernel.words(),
            RowKernel::Cluster { kernel, .. } => kernel.words(),
        };
        plan.pack(out, words, &found);
        found.solution.error * unit.square()
    }
}

/// The search of a row whose kernel has nothing else to choose.
fn search<K: Kernel>(kernel: &mut K, scales: &mut ScaleSearch, row: &[f32], unit: Unit) -> Found {
    kernel.load(row);
    let solution = scales.search(kernel, unit, &BOTH);
    scales.apply(kernel, unit, &solution);
    Found { solution, params: None }
}

/// The search of a clustered row: the best of the lattices that did well on the sample.
fn search_lattices(
    kernel: &mut Clustered,
    scales: &mut ScaleSearch,
    row: &[f32],
    unit: Unit,
    lattices: &[Lattice],
    sample: &Sample,
) -> Found {
    let mut best = (Solution { error: f64::INFINITY, ..Solution::default() }, &lattices[0], 1.0);
    for (index, sign) in sample.rank(lattices, SEARCHED_LATTICES) {
        kernel.set(&lattices[index], sign);
        kernel.load(row);
        let solution = scales.search(kernel, unit, &[sign]);
        if solution.error < best.0.error {
            best = (solution, &lattices[index], sign);
        }
    }
    let (solution, lattice, sign) = best;
    kernel.set(lattice, sign);
    kernel.load(row);
    scales.apply(kernel, unit, &solution);
    Found { solution, params: Some(lattice.params) }
}

impl Plan {
    fn pack(&self, out: RowMut<'_>, words: &[u16], found: &Found) {
        let Found { solution, params } = found;
        let local_scales = match self.code.local_scale() {
            LocalScale::None => &[],
            _ => &solution.local_scales[..],
        };
        let words_per_group = self.layout.words_per_group;
        out.pack(&self.code, words_per_group, words, local_scales, solution.super_scale, *params);
    }
}
