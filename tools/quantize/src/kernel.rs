//! What the encoding searches have in common: a row goes in, one step a group goes in, words come out.
//!
//! A *step* is the product of a group's local scale and the row's super scale: what an integer state is
//! multiplied by. A kernel finds, for a given step in each group, the words of least squared error, and says
//! how that error would change if the step did while the words stayed ([`Parabola`]). It never chooses steps.

use crate::simd::Simd;
use ccq::code::Code;

/// Steps below this are taken as zero. Rows are scaled to a largest magnitude of 1 to 2, and no local scale is
/// wide enough to reach from there down to here.
pub(crate) const MIN_STEP: f32 = 1.0 / (1u64 << 40) as f32;

/// The squared error of fixed states as a function of the step, in f64:
/// `sum (w - t c)^2 = error - 2 (t - step) slope + (t - step)^2 norm`.
///
/// Centred on the step the states were searched with, so that nothing cancels at any rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Parabola {
    /// The step that the states were searched with.
    pub step: f64,
    /// Squared error at that step.
    pub error: f64,
    /// `sum (w - step c) c`.
    pub slope: f64,
    /// `sum c^2`.
    pub norm: f64,
}

impl Parabola {
    /// The squared error with step `t`.
    pub fn at(&self, t: f64) -> f64 {
        let delta = t - self.step;
        self.error + delta * (delta * self.norm - 2.0 * self.slope)
    }

    /// The best step for these states, equation (4) of the paper, but no further away than half the present one:
    /// where few weights count, their states may say little of the step.
    pub fn minimiser(&self) -> f64 {
        if self.norm > 0.0 {
            let most = 0.5 * self.step.abs();
            self.step + (self.slope / self.norm).clamp(-most, most)
        } else {
            self.step
        }
    }

    /// The squared error there.
    pub fn minimum(&self) -> f64 {
        self.at(self.minimiser())
    }
}

/// Sums over states in units of the step: `u = w / step`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    /// `sum (u - c)^2`.
    pub error: f64,
    /// `sum (u - c) c`.
    pub slope: f64,
    /// `sum c^2`.
    pub norm: f64,
}

impl Sums {
    /// The sums over all lanes.
    #[inline(always)]
    pub fn total<S: Simd>(simd: S, error: S::F, slope: S::F, norm: S::F) -> Self {
        let total = |sum| f64::from(simd.total(sum));
        Self { error: total(error), slope: total(slope), norm: total(norm) }
    }

    /// The same sums as a function of the step.
    pub fn parabola(self, step: f32) -> Parabola {
        let step = f64::from(step);
        Parabola { step, error: step * step * self.error, slope: step * self.slope, norm: self.norm }
    }
}

/// An encoding search over the groups of one row.
pub(crate) trait Kernel {
    /// Takes a row of finite weights.
    fn load(&mut self, row: &[f32]);

    /// Searches every group with its step, of either sign; the words of a group with step 0 are all zero, and
    /// its parabola is zero too. With an importance every term of a parabola is weighted by it.
    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]);

    /// The stored words of the last search, zero bits where an embedded scale goes.
    fn words(&mut self) -> &[u16];
}

/// What an error in each column counts, of a largest value of 1.
///
/// A group whose columns count for nothing is searched as if they counted alike, and so little that it does not
/// sway the scales of the others.
pub(crate) fn normalised(importance: &[f32], layout: &Layout) -> Vec<f32> {
    const NEGLIGIBLE: f32 = 1.0 / (1u64 << 30) as f32;
    let largest = |h: &[f32]| h.iter().fold(0.0f32, |max, &h| if h > max { h } else { max });
    let most = largest(importance);
    if most == 0.0 {
        return vec![1.0; importance.len()];
    }
    let mut out: Vec<f32> = importance.iter().map(|h| (f64::from(*h) / f64::from(most)) as f32).collect();
    for group in 0..layout.groups {
        let columns = &mut out[layout.weights(group)];
        if largest(columns) < NEGLIGIBLE {
            columns.fill(NEGLIGIBLE);
        }
    }
    out
}

/// Where the groups and words of a row lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Weights in a row.
    pub in_features: usize,
    /// Weights in a full group.
    pub group_size: usize,
    /// Groups in a row.
    pub groups: usize,
    /// Words of a group, full or not.
    pub words_per_group: usize,
    /// Weights in a full word.
    pub states_per_word: usize,
}

impl Layout {
    /// The layout of rows of `in_features` weights, at least one.
    pub fn new(code: &Code, in_features: usize) -> Self {
        Self {
            in_features,
            group_size: code.group_size().unwrap_or(in_features),
            groups: code.groups(in_features),
            words_per_group: code.words_per_group(in_features),
            states_per_word: code.states_per_word(),
        }
    }

    /// The weights of a group.
    pub fn weights(&self, group: usize) -> std::ops::Range<usize> {
        let start = group * self.group_size;
        start..(start + self.group_size).min(self.in_features)
    }
}

/// `1 / step`, or 0 for a step that is taken as zero.
pub(crate) fn inverse(step: f32) -> f32 {
    if step.abs() < MIN_STEP { 0.0 } else { 1.0 / step }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_relative_and_no_group_is_without() {
        let code = ccq::code::Family::Ccq275.code(32).unwrap();
        let layout = Layout::new(&code, 96);
        let mut importance = vec![3e-20f32; 96];
        importance[5] = 6e-20;
        importance[32..64].fill(0.0);
        importance[70] = 0.0;
        let found = normalised(&importance, &layout);
        assert_eq!((found[5], found[70]), (1.0, 0.0));
        assert!((found[0] - 0.5).abs() < 1e-6);
        assert!(found[32..64].iter().all(|&h| h > 0.0 && h < 1e-9));
        assert_eq!(normalised(&[0.0; 96], &layout), [1.0; 96]);
        assert_eq!(normalised(&[0.3; 96], &layout), [1.0; 96]);
    }

    #[test]
    fn a_parabola_follows_the_error() {
        let (weights, states) = ([1.0f32, -2.5, 0.25], [3.0f32, -7.0, 1.0]);
        let mut sums = Sums::default();
        for (w, c) in weights.iter().zip(states) {
            let (u, c) = (f64::from(w / 0.5), f64::from(c));
            sums.error += (u - c) * (u - c);
            sums.slope += (u - c) * c;
            sums.norm += c * c;
        }
        let parabola = sums.parabola(0.5);
        let error = |t: f64| -> f64 {
            weights.iter().zip(states).map(|(&w, c)| (f64::from(w) - t * f64::from(c)).powi(2)).sum()
        };
        for t in [0.5, 0.4, 0.0, -1.0] {
            assert!((parabola.at(t) - error(t)).abs() < 1e-12);
        }
        let best = parabola.minimiser();
        assert!((parabola.minimum() - error(best)).abs() < 1e-12);
        assert!(error(best) <= error(best + 1e-3).min(error(best - 1e-3)));
    }
}
