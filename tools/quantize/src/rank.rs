//! Which lattices suit a row: all of them on a sample of its words, the best ones on more.
//!
//! ```text
//! sample     up to 8 groups spread over the row, each scaled to the step of a Gaussian group of its rms
//! measure    for a lattice and a sign of the step: encode each word, refit each group by equation (4), add up the
//!            errors that are left
//! rank       every lattice with both signs on every third word, the best ones on all words
//! ```

use crate::cluster::STEP;
use crate::kernel::{Layout, MIN_STEP, Sums};
use crate::lattice::{Lattice, STATES, lowest};

/// Groups of a row that lattices are compared on.
const GROUPS: usize = 8;
/// Ratio to a group's largest magnitude that its step has at least: an outlier far beyond the states would
/// drown everything else.
const LEAST_STEP: f32 = 1.0 / 64.0;
/// Signs of the steps to try.
const SIGNS: [f32; 2] = [1.0, -1.0];
/// Lattices, with a sign, that are compared on all words of the sample.
const SECOND_ROUND: usize = 8;

/// Words of a row, in units of their group's reference step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    words: Vec<[f32; STATES]>,
    /// For each group, where its words end, and the square of its reference step.
    groups: Vec<(usize, f64)>,
}

impl Sample {
    /// Takes whole groups spread evenly over the row, or all of a short row.
    pub fn take(&mut self, layout: &Layout, row: &[f32]) {
        self.words.clear();
        self.groups.clear();
        let count = layout.groups.min(GROUPS);
        for i in 0..count {
            let weights = &row[layout.weights(i * layout.groups / count)];
            let energy: f32 = weights.iter().map(|w| w * w).sum();
            let max = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
            let step = ((energy / weights.len() as f32).sqrt() * STEP).max(max * LEAST_STEP);
            if step < MIN_STEP {
                continue;
            }
            let words = weights.as_chunks().0;
            self.words.extend(words.iter().map(|word| word.map(|w| w / step)));
            self.groups.push((self.words.len(), f64::from(step) * f64::from(step)));
        }
    }

    /// The lattices worth a whole search, best first, each with the sign of the steps.
    pub fn rank(&self, lattices: &[Lattice], keep: usize) -> Vec<(usize, f32)> {
        let both = |index: usize| {
            let [positive, negative] = self.measure(&lattices[index], &SIGNS, 3);
            [(positive, index, SIGNS[0]), (negative, index, SIGNS[1])]
        };
        let first = best((0..lattices.len()).flat_map(both).collect(), SECOND_ROUND.max(keep));
        let again = |(_, index, sign)| {
            let [error] = self.measure(&lattices[index], &[sign], 1);
            (error, index, sign)
        };
        let second = best(first.into_iter().map(again).collect(), keep);
        second.into_iter().map(|(_, index, sign)| (index, sign)).collect()
    }

    /// The error that a lattice leaves on every `stride`th word, with steps of each of the signs.
    fn measure<const N: usize>(&self, lattice: &Lattice, signs: &[f32; N], stride: usize) -> [f64; N] {
        let mut total = [0.0; N];
        let mut start = 0;
        for &(end, square) in &self.groups {
            let mut sums = [Sums::default(); N];
            for word in self.words[start..end].iter().step_by(stride) {
                let dots = lattice.dots(*word);
                for (sums, &sign) in sums.iter_mut().zip(signs) {
                    let q = lowest(&dots.map(|dot| dot * sign), lattice.half_norms(), 1.0);
                    sums.add_word(&word.map(|u| u * sign), lattice.point(q));
                }
            }
            for (total, sums) in total.iter_mut().zip(sums) {
                *total += square * sums.parabola(1.0).minimum();
            }
            start = end;
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
