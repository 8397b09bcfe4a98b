//! One row: its unit, its kernel, for clustered codes its lattice, its scales, its bytes.

use crate::kernel::{Kernel, Layout, Parabola};
use crate::lattice::{self, Lattice};
use crate::lattices;
use crate::plain::Plain;
use crate::scale::{Reference, ScaleSearch, Settings, Solution, Unit};
use crate::viterbi::Viterbi;
use crate::words::Words;
use ccq::code::{Cluster, Code};
use ccq::codec::{ClusterParams, RowMut};

/// Groups of a row that lattices are compared on before the best ones see the whole row.
const SAMPLE_GROUPS: usize = 8;

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
    Cluster { lattices: Vec<(ClusterParams, Lattice)> },
}

impl Plan {
    /// The plan for rows of `in_features` weights, at least one; `None` for a code that cannot be searched.
    pub fn new(code: &Code, in_features: usize) -> Option<Self> {
        let layout = Layout::new(code, in_features);
        let probes = vec![0.72, 0.83, 0.93, 1.03, 1.15, 1.3];
        let mut settings =
            Settings { reference: Reference::Rms(1.0), probes, refits: 1, super_scales: 48, rounds: 3 };
        let kind = match code.cluster() {
            None => match Plain::state_bits(code) {
                Some(state_bits) => Kind::Plain { state_bits },
                None => Kind::Trellis,
            },
            Some(Cluster::Q8) if code.states_per_word() == lattice::STATES => {
                let lattices = lattices::RANKED
                    .iter()
                    .map(|&(a, zp)| ClusterParams::Q8 { a, zp })
                    .map(|params| (params, Lattice::new(code, params)))
                    .collect();
                Kind::Cluster { lattices }
            }
            Some(_) => return None,
        };
        settings.reference = match &kind {
            Kind::Plain { state_bits } if *state_bits >= 4 => {
                settings.probes = vec![1.0, 0.95, 0.9, 0.84, 0.78, 0.7, 0.6];
                Reference::Max(1.0 / (1u32 << (state_bits - 1)) as f32)
            }
            Kind::Plain { state_bits } => calibrate(code, |layout| Plain::new(layout, *state_bits)),
            Kind::Trellis => calibrate(code, |layout| Words::new(Viterbi::new(code), layout)),
            Kind::Cluster { .. } => Reference::Rms(1.0 / 16.4),
        };
        Some(Self { code: *code, layout, settings, kind })
    }
}

/// The ratio of step to rms that suits Gaussian weights: what a group's probes are spread around.
fn calibrate<K: Kernel>(code: &Code, kernel: impl Fn(Layout) -> K) -> Reference {
    const WEIGHTS: usize = 512;
    let layout = Layout::new(code, WEIGHTS);
    let row = crate::gaussian(1, WEIGHTS);
    let mut kernel = kernel(layout.clone());
    kernel.load(&row);
    let mut fits = vec![Parabola::default(); layout.groups];
    let mut best = (f64::INFINITY, 1.0);
    for i in 0..32 {
        // 2^(-L) to 2^(-L) 16, and a little further.
        let half = code.segments().iter().map(|s| 1u32 << (s.state_bits - 1)).max().unwrap_or(1) as f32;
        let factor = (0.5 + 0.15 * i as f32) / half;
        kernel.encode(&vec![factor; layout.groups], &mut fits);
        let error = fits.iter().map(|fit| fit.error).sum();
        if error < best.0 {
            best = (error, factor);
        }
    }
    Reference::Rms(best.1)
}

/// The search for one row after another, with its working memory.
#[derive(Debug)]
pub(crate) struct RowSearch<'a> {
    plan: &'a Plan,
    kernel: RowKernel,
    scales: ScaleSearch,
    row: Vec<f32>,
}

#[derive(Debug)]
enum RowKernel {
    Plain(Plain),
    Trellis(Words<Viterbi>),
    Cluster {
        whole: Words<Lattice>,
        sample: Words<Lattice>,
        sample_scales: ScaleSearch,
        sample_row: Vec<f32>,
    },
}

impl<'a> RowSearch<'a> {
    /// Room for rows of the plan.
    pub fn new(plan: &'a Plan) -> Self {
        let layout = || plan.layout.clone();
        let scales = |layout| ScaleSearch::new(&plan.code, layout, plan.settings.clone());
        let kernel = match &plan.kind {
            Kind::Plain { state_bits } => RowKernel::Plain(Plain::new(layout(), *state_bits)),
            Kind::Trellis => RowKernel::Trellis(Words::new(Viterbi::new(&plan.code), layout())),
            Kind::Cluster { lattices } => {
                let first = lattices[0].1.clone();
                let sampled = (SAMPLE_GROUPS * plan.layout.group_size).min(plan.layout.in_features);
                let sample_layout = Layout::new(&plan.code, sampled);
                RowKernel::Cluster {
                    whole: Words::new(first.clone(), layout()),
                    sample: Words::new(first, sample_layout.clone()),
                    sample_scales: scales(sample_layout),
                    sample_row: Vec::with_capacity(sampled),
                }
            }
        };
        Self { plan, kernel, scales: scales(layout()), row: vec![0.0; plan.layout.in_features] }
    }

    /// Quantizes a row of finite weights into `out`; returns the squared error that it leaves.
    pub fn quantize(&mut self, weights: &[f32], out: RowMut<'_>) -> f64 {
        let plan = self.plan;
        let max = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        if max == 0.0 {
            let params = match &plan.kind {
                Kind::Cluster { lattices } => Some(lattices[0].0),
                _ => None,
            };
            let zeros = vec![0; plan.layout.groups * plan.layout.words_per_group];
            pack(plan, out, &zeros, &Solution::zero(plan.layout.groups), params);
            return 0.0;
        }
        let unit = Unit::new(max, &plan.code);
        for (scaled, &weight) in self.row.iter_mut().zip(weights) {
            *scaled = unit.scale(weight);
        }
        self.scales.load(&self.row);
        let error = match &mut self.kernel {
            RowKernel::Plain(kernel) => {
                kernel.load(&self.row);
                let solution = self.scales.search(kernel, unit);
                self.scales.apply(kernel, unit, &solution);
                pack(plan, out, kernel.words(), &solution, None);
                solution.error
            }
            RowKernel::Trellis(kernel) => {
                kernel.load(&self.row);
                let solution = self.scales.search(kernel, unit);
                self.scales.apply(kernel, unit, &solution);
                pack(plan, out, kernel.words(), &solution, None);
                solution.error
            }
            RowKernel::Cluster { whole, sample, sample_scales, sample_row } => {
                let Kind::Cluster { lattices } = &plan.kind else { return 0.0 };
                take_sample(&plan.layout, &self.row, sample_row);
                sample.load(sample_row);
                sample_scales.load(sample_row);
                let ranked = rank(lattices, sample, sample_scales);
                whole.load(&self.row);
                let mut best: Option<(Solution, usize)> = None;
                for index in ranked {
                    *whole.search_mut() = lattices[index].1.clone();
                    let solution = self.scales.search(whole, unit);
                    if best.as_ref().is_none_or(|(found, _)| solution.error < found.error) {
                        best = Some((solution, index));
                    }
                }
                let Some((solution, index)) = best else { return 0.0 };
                *whole.search_mut() = lattices[index].1.clone();
                self.scales.apply(whole, unit, &solution);
                pack(plan, out, whole.words(), &solution, Some(lattices[index].0));
                solution.error
            }
        };
        error * unit.square()
    }
}

/// Whole groups spread evenly over the row, or the row itself where it is short.
fn take_sample(layout: &Layout, row: &[f32], sample: &mut Vec<f32>) {
    sample.clear();
    let size = layout.group_size;
    if row.len() <= SAMPLE_GROUPS * size {
        sample.extend_from_slice(row);
        return;
    }
    let groups = row.len() / size;
    for i in 0..SAMPLE_GROUPS {
        let start = i * groups / SAMPLE_GROUPS * size;
        sample.extend_from_slice(&row[start..start + size]);
    }
}

/// The lattices worth a whole search, best first.
fn rank(
    lattices: &[(ClusterParams, Lattice)],
    sample: &mut Words<Lattice>,
    scales: &mut ScaleSearch,
) -> Vec<usize> {
    let mut remaining: Vec<(f64, usize)> = (0..lattices.len()).map(|index| (0.0, index)).collect();
    for (multiples, keep) in [(&[1.0f32, -1.0][..], 6), (&[0.88, 1.14, -0.88, -1.14][..], 2)] {
        for (error, index) in &mut remaining {
            *sample.search_mut() = lattices[*index].1.clone();
            *error = scales.probe(sample, multiples);
        }
        remaining.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
        remaining.truncate(keep);
    }
    remaining.into_iter().map(|(_, index)| index).collect()
}

fn pack(plan: &Plan, out: RowMut<'_>, words: &[u16], solution: &Solution, params: Option<ClusterParams>) {
    let local_scales = match plan.code.local_scale() {
        ccq::code::LocalScale::None => &[],
        _ => &solution.local_scales[..],
    };
    out.pack(&plan.code, plan.layout.words_per_group, words, local_scales, solution.super_scale, params);
}
