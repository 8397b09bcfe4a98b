//! The kernel of clustered codes, over the row's words under one [`Lattice`].
//!
//! In units of the weights the cost of a byte q is a line in the step s: `cost(q, s) = s |c(q)|^2 / 2 - w . c(q)`.
//! Nearly all of a word's 256 lines are nowhere the lowest between the smallest and the largest step that a
//! scale search asks for; those are dropped once, and each encoding afterwards looks at the few that remain.
//!
//! ```text
//! load:    A = argmin over q of cost(q, s0),  B = argmin over q of cost(q, s1)       [s0, s1] the group's interval
//!          s* = the step where the lines A and B meet
//!          keep each q with cost(q, s*) <= cost(A, s*), and a little margin for rounding
//! encode:  argmin over the kept lines; over all 256 points for a step outside the interval
//! ```
//!
//! Why that keeps enough: min(A, B) minus another line is concave between the ends, where it is at most 0, and
//! has its only bend at s*. So a line that is lower than both A and B anywhere is so at s*.

use crate::kernel::{Kernel, LANES, Layout, Parabola, Sums, inverse};
use crate::lattice::{Lattice, STATES, lowest};

/// The ratio of step to rms that suits Gaussian weights and a good lattice of the code (6, 4, 3).
pub(crate) const STEP: f32 = 1.0 / 16.4;
/// The interval that lines are kept for, around [`STEP`] times the group's rms.
const INTERVAL: [f32; 2] = [0.66, 1.5];
/// Nor is a step longer than this times the largest magnitude outside of it.
const WIDEST: f32 = 1.0 / 31.0;

/// A byte that may be the best one for a word.
#[derive(Clone, Copy, Debug)]
struct Line {
    half_norm: f32,
    dot: f32,
    byte: u8,
}

/// The words of a row, with the lines that each has left.
#[derive(Clone, Debug)]
pub(crate) struct Clustered {
    layout: Layout,
    lattice: Lattice,
    sign: f32,
    /// The row, times the sign.
    row: Vec<f32>,
    /// For each group, the interval of steps its lines are kept for.
    intervals: Vec<[f32; 2]>,
    lines: Vec<Line>,
    /// For each word, where its lines end; they start where the previous word's end.
    ends: Vec<usize>,
    words: Vec<u16>,
}

impl Clustered {
    /// Room for a row of that layout.
    pub fn new(lattice: Lattice, layout: Layout) -> Self {
        Self {
            lattice,
            sign: 1.0,
            row: vec![0.0; layout.in_features],
            intervals: vec![[0.0; 2]; layout.groups],
            lines: Vec::new(),
            ends: Vec::new(),
            words: vec![0; layout.groups * layout.words_per_group],
            layout,
        }
    }

    /// The points to search from the next row on, and the sign of its steps.
    pub fn set(&mut self, lattice: &Lattice, sign: f32) {
        self.lattice.clone_from(lattice);
        self.sign = sign;
    }

    /// Keeps the lines of one word.
    fn keep(&mut self, word: [f32; STATES], [low, high]: [f32; 2]) {
        let dots = self.lattice.dots(word);
        let norms = self.lattice.half_norms();
        let [at_low, at_high] = [low, high].map(|step| usize::from(lowest(&dots, norms, step)));
        let slope = norms[at_low] - norms[at_high];
        let meet = if slope == 0.0 { low } else { (dots[at_low] - dots[at_high]) / slope };
        let meet = if meet > low { meet } else { low };
        let meet = if meet < high { meet } else { high };
        let cost = meet * norms[at_low] - dots[at_low];
        let limit = cost + 4e-6 * (meet * norms[at_low] + dots[at_low].abs());
        let mut byte = 0;
        for (dots, norms) in dots.as_chunks::<LANES>().0.iter().zip(norms.as_chunks::<LANES>().0) {
            let mut any = 0;
            for lane in 0..LANES {
                any |= u32::from(meet * norms[lane] - dots[lane] <= limit);
            }
            if any != 0 {
                for lane in 0..LANES {
                    let line = Line { half_norm: norms[lane], dot: dots[lane], byte: byte + lane as u8 };
                    if meet * line.half_norm - line.dot <= limit {
                        self.lines.push(line);
                    }
                }
            }
            byte = byte.wrapping_add(LANES as u8);
        }
        self.ends.push(self.lines.len());
    }

    /// Searches the full words of a group among the lines kept; `step` is positive.
    fn encode_kept(&mut self, group: usize, first_word: usize, step: f32, sums: &mut Sums) {
        let inverse = inverse(step);
        let words = &mut self.words[group * self.layout.words_per_group..];
        let weights = self.row[self.layout.weights(group)].chunks_exact(STATES);
        let mut start = if first_word == 0 { 0 } else { self.ends[first_word - 1] };
        for ((word, weights), &end) in words.iter_mut().zip(weights).zip(&self.ends[first_word..]) {
            let mut best = (f32::INFINITY, 0);
            for line in &self.lines[start..end] {
                let cost = step * line.half_norm - line.dot;
                if cost < best.0 {
                    best = (cost, line.byte);
                }
            }
            start = end;
            *word = best.1.into();
            let u: [f32; STATES] = std::array::from_fn(|p| weights[p] * inverse);
            sums.add_word(&u, self.lattice.point(best.1));
        }
    }

    /// Searches some weights of a group among all points.
    fn encode_all(&mut self, group: usize, skip: usize, inverse: f32, sums: &mut Sums) {
        let words = &mut self.words[group * self.layout.words_per_group..][skip..];
        let weights = self.row[self.layout.weights(group)].chunks(STATES).skip(skip);
        for (word, weights) in words.iter_mut().zip(weights) {
            let mut u = [0.0; STATES];
            for (u, weight) in u.iter_mut().zip(weights) {
                *u = weight * inverse;
            }
            let byte = self.lattice.nearest(&u[..weights.len()]);
            *word = byte.into();
            sums.add_word(&u[..weights.len()], self.lattice.point(byte));
        }
    }
}

impl Kernel for Clustered {
    fn load(&mut self, row: &[f32]) {
        for (kept, weight) in self.row.iter_mut().zip(row) {
            *kept = weight * self.sign;
        }
        self.lines.clear();
        self.ends.clear();
        for group in 0..self.layout.groups {
            let weights = self.layout.weights(group);
            let energy: f32 = self.row[weights.clone()].iter().map(|w| w * w).sum();
            let reference = (energy / weights.len() as f32).sqrt() * STEP;
            let max = self.row[weights.clone()].iter().fold(0.0f32, |max, w| max.max(w.abs()));
            let [low, high] = INTERVAL.map(|multiple| multiple * reference);
            self.intervals[group] = [low, high.max(max * WIDEST)];
            for start in weights.clone().step_by(STATES).take(weights.len() / STATES) {
                if let Some(&word) = self.row[start..].first_chunk() {
                    self.keep(word, self.intervals[group]);
                }
            }
        }
    }

    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]) {
        self.words.fill(0);
        let mut first_word = 0;
        for (group, (&step, fit)) in steps.iter().zip(fits).enumerate() {
            let full = self.layout.weights(group).len() / STATES;
            let inside = step * self.sign;
            let mut sums = Sums::default();
            if inverse(step) != 0.0 {
                let [low, high] = self.intervals[group];
                let skip = if low <= inside && inside <= high {
                    self.encode_kept(group, first_word, inside, &mut sums);
                    full
                } else {
                    0
                };
                self.encode_all(group, skip, inverse(inside), &mut sums);
            }
            *fit = sums.parabola(step);
            first_word += full;
        }
    }

    fn words(&mut self) -> &[u16] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lattices;
    use ccq::code::Family;
    use ccq::codec::ClusterParams;

    /// Dropping lines loses nothing: every word costs what the best of all 256 points does, at steps in the
    /// interval, at its ends and outside, of both signs, on Gaussian and on heavy-tailed groups.
    #[test]
    fn kept_lines_hold_the_best_word() {
        let code = Family::Ccq206.code(64).unwrap();
        let mut weights = crate::gaussian(11, 8 * 64 + 6);
        weights[64..].iter_mut().for_each(|w| *w *= w.abs() * w.abs());
        let layout = Layout::new(&code, weights.len());
        for (&(a, zp), sign) in lattices::RANKED.iter().zip([1.0, -1.0].into_iter().cycle()).take(6) {
            let lattice = Lattice::new(&code, ClusterParams::Q8 { a, zp });
            let mut kernel = Clustered::new(lattice.clone(), layout.clone());
            kernel.set(&lattice, sign);
            kernel.load(&weights);
            let mut fits = vec![Parabola::default(); layout.groups];
            for multiple in [0.3, 0.66, 0.7, 0.9, 1.0, 1.2, 1.5, 2.5, -1.0] {
                let steps: Vec<f32> =
                    kernel.intervals.iter().map(|[low, _]| low / INTERVAL[0] * multiple * sign).collect();
                kernel.encode(&steps, &mut fits);
                for (group, &step) in steps.iter().enumerate() {
                    let words = &kernel.words()[group * layout.words_per_group..];
                    for (word, weights) in words.iter().zip(weights[layout.weights(group)].chunks(STATES)) {
                        let u: Vec<f32> = weights.iter().map(|w| w / step).collect();
                        let distance = |q: u8| -> f32 {
                            u.iter().zip(lattice.point(q)).map(|(u, c)| (u - c) * (u - c)).sum()
                        };
                        let least = distance(lattice.nearest(&u));
                        let found = distance(*word as u8);
                        assert!(found <= least * 1.0001 + 1e-3, "{a} {zp} x {multiple}: {found} {least}");
                    }
                }
            }
        }
    }
}
