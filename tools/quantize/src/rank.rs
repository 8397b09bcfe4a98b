//! Which lattices suit a row: all of them on a sample of its weights, the best ones on more.
//!
//! ```text
//! sample     runs of 64 weights spread over the row, each scaled to the step of a Gaussian run of its rms
//! measure    for a lattice and a sign of the step: encode each run, refit its step by equation (4), add up the
//!            errors that are left
//! rank       every lattice with both signs on the first few runs, the best ones on all
//! ```

use crate::isa::{Isa, Job};
use crate::kernel::{MIN_STEP, Sums};
use crate::lattice::{Lattice, STATES, STEP};
use crate::simd::{LANES, Simd};
use crate::words::WordSearch;
use ccq::code::{Code, State};

/// Ratio to a run's largest magnitude that its step has at least: an outlier far beyond the states would
/// drown everything else.
const LEAST_STEP: f32 = 1.0 / 64.0;
/// Weights of a run.
const RUN: usize = STATES * LANES;
/// Signs of the steps to try.
const SIGNS: [f32; 2] = [1.0, -1.0];

/// How many lattices are tried how hard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranking {
    /// Lattices of the table.
    pub lattices: usize,
    /// Whether both signs are tried, or the positive one alone.
    pub both_signs: bool,
    /// Runs of weights that all lattices are compared on.
    pub first_runs: usize,
    /// Lattices, with a sign, that are compared on all runs.
    pub second_round: usize,
    /// Runs in all.
    pub runs: usize,
    /// Lattices, with a sign, that get a whole scale search.
    pub searched: usize,
}

/// Words of a row, transposed, in units of their run's reference step.
#[derive(Clone, Debug)]
struct Run {
    u: [[f32; LANES]; STATES],
    importance: Option<[[f32; LANES]; STATES]>,
    /// The square of the step.
    square: f64,
}

/// A sample of a row.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    ranking: Ranking,
    isa: Isa,
    states: [State; STATES],
    runs: Vec<Run>,
}

impl Sample {
    /// An empty sample.
    pub fn new(code: &Code, ranking: Ranking, isa: Isa) -> Self {
        let states = code.states();
        Self { ranking, isa, states: std::array::from_fn(|p| states[p]), runs: Vec::new() }
    }

    /// Takes runs spread evenly over the row, or all of a short row.
    pub fn take(&mut self, row: &[f32], importance: Option<&[f32]>) {
        self.runs.clear();
        let there = row.len().div_ceil(RUN);
        let count = there.min(self.ranking.runs);
        for i in 0..count {
            // The first few runs are spread over the row like all of them.
            let run = spread(i, count) * there / count * RUN;
            let weights = &row[run..row.len().min(run + RUN)];
            let importance = importance.map(|importance| &importance[run..][..weights.len()]);
            self.runs.extend(Run::new(weights, importance));
        }
    }

    /// The lattices worth a whole search, best first, each with the sign of the steps.
    pub fn rank(&self, lattices: &[Lattice]) -> Vec<(usize, f32)> {
        let Ranking { both_signs, first_runs, second_round, searched, .. } = self.ranking;
        let signs = if both_signs { &SIGNS[..] } else { &SIGNS[..1] };
        let pairs = (0..lattices.len()).flat_map(|index| signs.iter().map(move |&sign| (index, sign)));
        let runs = &self.runs[..first_runs.min(self.runs.len())];
        let first = pairs.map(|(index, sign)| (self.measure(&lattices[index], sign, runs), index, sign));
        let mut best = best(first.collect(), second_round.max(searched));
        let rest = &self.runs[runs.len()..];
        if !rest.is_empty() && best.len() > searched {
            for (error, index, sign) in &mut best {
                *error += self.measure(&lattices[*index], *sign, rest);
            }
        }
        self::best(best, searched).into_iter().map(|(_, index, sign)| (index, sign)).collect()
    }

    /// The error that a lattice leaves on some runs, with steps of that sign.
    fn measure(&self, lattice: &Lattice, sign: f32, runs: &[Run]) -> f64 {
        self.isa.run(Measure { sample: self, lattice, sign, runs })
    }
}

/// i of `0..count` with its bits reversed, so that any prefix is spread out.
fn spread(i: usize, count: usize) -> usize {
    let bits = usize::BITS - (count - 1).leading_zeros();
    let reversed = |i: usize| if bits == 0 { 0 } else { i.reverse_bits() >> (usize::BITS - bits) };
    (0..1usize << bits).map(reversed).filter(|&at| at < count).nth(i).unwrap_or(i)
}

impl Run {
    fn new(weights: &[f32], importance: Option<&[f32]>) -> Option<Self> {
        let energy: f32 = weights.iter().map(|w| w * w).sum();
        let max = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let step = ((energy / weights.len() as f32).sqrt() * STEP).max(max * LEAST_STEP);
        if step < MIN_STEP {
            return None;
        }
        let inverse = 1.0 / step;
        let transpose = |values: &[f32], factor: f32| {
            let mut out = [[0.0; LANES]; STATES];
            for (lane, word) in values.chunks(STATES).enumerate() {
                for (p, &value) in word.iter().enumerate() {
                    out[p][lane] = value * factor;
                }
            }
            out
        };
        // What is not there counts for nothing.
        let ones = [1.0; RUN];
        let partial = (weights.len() < RUN).then_some(&ones[..weights.len()]);
        Some(Self {
            u: transpose(weights, inverse),
            importance: importance.or(partial).map(|importance| transpose(importance, 1.0)),
            square: f64::from(step) * f64::from(step),
        })
    }
}

struct Measure<'a> {
    sample: &'a Sample,
    lattice: &'a Lattice,
    sign: f32,
    runs: &'a [Run],
}

impl Job for Measure<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let sign = simd.splat(self.sign);
        let mut total = 0.0;
        for run in self.runs {
            let (mut u, mut h) = ([sign; STATES], [sign; STATES]);
            for p in 0..STATES {
                u[p] = simd.mul(simd.load(&run.u[p]), sign);
                if let Some(importance) = &run.importance {
                    h[p] = simd.load(&importance[p]);
                }
            }
            let weighted = run.importance.is_some();
            let words = self.lattice.block(simd, &u, if weighted { Some(&h) } else { None });
            let codes = self.lattice.expand(simd, words);
            let [mut error, mut slope, mut norm] = [simd.splat(0.0); 3];
            for p in 0..STATES {
                let State { shift, mask, zero_point } = self.sample.states[p];
                let state = simd.and(simd.shr(codes, shift), simd.splat_i32(mask.cast_signed()));
                let c = simd.to_f32(simd.sub_i32(state, simd.splat_i32(zero_point)));
                let r = simd.sub(u[p], c);
                let (hr, hc) = if weighted { (simd.mul(h[p], r), simd.mul(h[p], c)) } else { (r, c) };
                error = simd.add(error, simd.mul(hr, r));
                slope = simd.add(slope, simd.mul(hr, c));
                norm = simd.add(norm, simd.mul(hc, c));
            }
            total += run.square * Sums::total(simd, error, slope, norm).parabola(1.0).minimum();
        }
        total
    }
}

/// The `keep` entries of least error.
fn best(mut measured: Vec<(f64, usize, f32)>, keep: usize) -> Vec<(f64, usize, f32)> {
    // A stable sort by a total order: the same ranks everywhere.
    measured.sort_by(|x, y| x.0.total_cmp(&y.0));
    measured.truncate(keep);
    measured
}
