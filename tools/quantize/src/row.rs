//! One row: its unit, for clustered codes its lattice, its scales, its bytes.

pub(crate) mod stages;

use crate::isa::{Isa, Job};
use crate::kernel::{Kernel, Layout, Parabola, normalised};
use crate::lattice::{self, Lattice};
use crate::lattices;
use crate::options::{Method, Options};
use crate::paper;
use crate::plain::Plain;
use crate::quality;
use crate::rank::{Ranking, Sample};
use crate::scale::{ScaleSearch, Settings, Solution, Unit};
use crate::simd::{LANES, Simd};
use crate::viterbi::Viterbi;
use crate::words::Words;
use ccq::code::{Cluster, Code, LocalScale};
use ccq::codec::{ClusterParams, RowMut};

/// What the rows of one matrix have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    code: Code,
    isa: Isa,
    layout: Layout,
    settings: Settings,
    kind: Kind,
    method: Method,
    /// Normalised.
    importance: Option<Vec<f32>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Plain { state_bits: u32 },
    Trellis,
    Cluster { lattices: Vec<Lattice>, ranking: Ranking },
}

impl Plan {
    /// The plan for rows of `in_features` weights, at least one; `None` for a code that cannot be searched.
    pub fn new(options: &Options<'_>, in_features: usize) -> Option<Self> {
        let Options { code, quality, method, isa, .. } = options;
        let layout = Layout::new(code, in_features);
        let kind = match code.cluster() {
            None => match Plain::state_bits(code) {
                Some(state_bits) => Kind::Plain { state_bits },
                None => Kind::Trellis,
            },
            Some(Cluster::Q8) if (code.states_per_word(), code.code_bits()) != (lattice::STATES, 15) => {
                return None;
            }
            // The codes are clustered when all have been found.
            Some(Cluster::Q8) if *method == Method::Paper => Kind::Trellis,
            Some(Cluster::Q8) => {
                let ranking = quality::ranking(*quality);
                let pairs = lattices::RANKED.iter().take(ranking.lattices);
                Kind::Cluster { lattices: pairs.map(|&(a, zp)| Lattice::new(code, a, zp)).collect(), ranking }
            }
            Some(_) => return None,
        };
        let half = code.segments().iter().map(|s| 1u32 << (s.state_bits - 1)).max().unwrap_or(1) as f32;
        let settings = match &kind {
            Kind::Plain { state_bits } if *state_bits >= 4 => quality::plain(*quality, half),
            Kind::Plain { state_bits } => {
                let factor = calibrate(code, half, |layout| Plain::new(layout, *state_bits, None, *isa));
                quality::coarse(*quality, factor, half)
            }
            Kind::Trellis if *method == Method::Search => {
                let kernel = |layout| Words::new(Viterbi::new(code), code, layout, None, *isa);
                quality::trellis(*quality, calibrate(code, half, kernel), half)
            }
            Kind::Trellis | Kind::Cluster { .. } => quality::cluster(*quality, lattice::STEP, half),
        };
        let importance = match method {
            Method::Search => options.importance.map(|importance| normalised(importance, &layout)),
            Method::Paper => None,
        };
        let code = options.result_code();
        Some(Self { code, isa: *isa, layout, settings, kind, method: *method, importance })
    }
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
    Cluster { kernel: Box<Words<&'a Lattice>>, sample: Sample, lattices: &'a [Lattice] },
}

/// What is stored of a row, but for its words.
struct Found {
    solution: Solution,
    params: Option<ClusterParams>,
}

impl<'a> RowSearch<'a> {
    /// Room for rows of the plan.
    pub fn new(plan: &'a Plan) -> Self {
        let Plan { code, isa, layout, settings, kind, importance, .. } = plan;
        let importance = importance.as_deref();
        let scales = ScaleSearch::new(code, layout.clone(), settings.clone(), importance, *isa);
        let kernel = match kind {
            Kind::Plain { state_bits } => {
                RowKernel::Plain(Box::new(Plain::new(layout.clone(), *state_bits, importance, *isa)))
            }
            Kind::Trellis => {
                let search = Viterbi::new(code);
                RowKernel::Trellis(Box::new(Words::new(search, code, layout.clone(), importance, *isa)))
            }
            Kind::Cluster { lattices, ranking } => RowKernel::Cluster {
                kernel: Box::new(Words::new(&lattices[0], code, layout.clone(), importance, *isa)),
                sample: Sample::new(code, *ranking, *isa),
                lattices,
            },
        };
        Self { plan, kernel, scales, row: vec![0.0; layout.in_features] }
    }

    /// Quantizes a row into `out`; returns the squared error that it leaves, weighted by the normalised
    /// importance. `None` when a weight is not finite.
    pub fn quantize(&mut self, weights: &[f32], out: RowMut<'_>) -> Option<f64> {
        let plan = self.plan;
        let max = plan.isa.run(Largest(weights));
        if !max.is_finite() {
            return None;
        }
        if max == 0.0 {
            let params = match (&self.kernel, plan.code.cluster()) {
                (RowKernel::Cluster { lattices, .. }, _) => Some(lattices[0].params()),
                (_, Some(_)) => Some(paper::cluster(&mut [0])),
                (_, None) => None,
            };
            let words = vec![0; plan.layout.groups * plan.layout.words_per_group];
            plan.pack(out, &words, &Found { solution: Solution::zero(plan.layout.groups), params });
            return Some(0.0);
        }
        let unit = Unit::new(max, &plan.code);
        plan.isa.run(Scale { unit, weights, out: &mut self.row });
        let (row, scales) = (&self.row[..], &mut self.scales);
        if plan.method == Method::Paper {
            plan.paper(&mut self.kernel, row, unit, out);
            return Some(f64::NAN);
        }
        scales.load(row);
        let found = match &mut self.kernel {
            RowKernel::Plain(kernel) => search(&mut **kernel, scales, row, unit),
            RowKernel::Trellis(kernel) => search(&mut **kernel, scales, row, unit),
            RowKernel::Cluster { kernel, sample, lattices } => {
                sample.take(row, plan.importance.as_deref());
                search_lattices(kernel, scales, row, unit, lattices, sample)
            }
        };
        let words = match &mut self.kernel {
            RowKernel::Plain(kernel) => kernel.words(),
            RowKernel::Trellis(kernel) => kernel.words(),
            RowKernel::Cluster { kernel, .. } => kernel.words(),
        };
        plan.pack(out, words, &found);
        Some(found.solution.error * unit.square())
    }
}

/// The largest magnitude; what is not finite is larger than anything else.
struct Largest<'a>(&'a [f32]);

impl Job for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> f32 {
        // As integers, magnitudes are in the same order, and NaN comes last.
        let mut max = [0u32; LANES];
        let (blocks, rest) = self.0.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                max[lane] = max[lane].max(block[lane].abs().to_bits());
            }
        }
        let rest = rest.iter().map(|w| w.abs().to_bits());
        f32::from_bits(rest.chain(max).fold(0, u32::max))
    }
}

/// A row in its unit.
struct Scale<'a> {
    unit: Unit,
    weights: &'a [f32],
    out: &'a mut [f32],
}

impl Job for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for (scaled, &weight) in self.out.iter_mut().zip(self.weights) {
            *scaled = self.unit.scale(weight);
        }
    }
}

/// The search of a row whose kernel has nothing else to choose.
fn search<K: Kernel>(kernel: &mut K, scales: &mut ScaleSearch, row: &[f32], unit: Unit) -> Found {
    kernel.load(row);
    let mut solution = scales.search(kernel, unit, None);
    scales.apply(kernel, unit, &mut solution);
    Found { solution, params: None }
}

/// The search of a clustered row: the best of the lattices that did well on the sample.
fn search_lattices<'a>(
    kernel: &mut Words<&'a Lattice>,
    scales: &mut ScaleSearch,
    row: &[f32],
    unit: Unit,
    lattices: &'a [Lattice],
    sample: &Sample,
) -> Found {
    kernel.load(row);
    let mut best = (Solution { error: f64::INFINITY, ..Solution::default() }, &lattices[0]);
    for (index, sign) in sample.rank(lattices) {
        kernel.search = &lattices[index];
        let solution = scales.search(kernel, unit, Some(sign));
        if solution.error < best.0.error {
            best = (solution, &lattices[index]);
        }
    }
    let (mut solution, lattice) = best;
    kernel.search = lattice;
    scales.apply(kernel, unit, &mut solution);
    Found { solution, params: Some(lattice.params()) }
}

impl Plan {
    /// The paper's procedure for one row.
    fn paper(&self, kernel: &mut RowKernel<'_>, row: &[f32], unit: Unit, out: RowMut<'_>) {
        let Self { code, layout, .. } = self;
        let (solution, words) = match kernel {
            RowKernel::Plain(kernel) => {
                (paper::scales(&mut **kernel, code, layout, row, unit, false), kernel.words())
            }
            RowKernel::Trellis(kernel) => {
                (paper::scales(&mut **kernel, code, layout, row, unit, true), kernel.words())
            }
            // The plan has no lattices.
            RowKernel::Cluster { .. } => return,
        };
        let mut words = words.to_vec();
        let params = code.cluster().map(|_| paper::cluster(&mut words));
        self.pack(out, &words, &Found { solution, params });
    }

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
