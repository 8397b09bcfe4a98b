//! What the encoding searches have in common: a row goes in, one step a group goes in, words come out.
//!
//! A *step* is the product of a group's local scale and the row's super scale: what an integer state is
//! multiplied by. A kernel finds, for a given step in each group, the words of least squared error, and says
//! how that error would change if the step did while the words stayed ([`Parabola`]). It never chooses steps.

use ccq::code::Code;

/// Words searched side by side. The compiler keeps lanes in vector registers; results do not depend on it.
pub(crate) const LANES: usize = 16;

/// One value for each of the words searched side by side.
pub(crate) type Lanes = [f32; LANES];

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

    /// The best step for these states, equation (4) of the paper; the present one if all states are zero.
    pub fn minimiser(&self) -> f64 {
        if self.norm > 0.0 { self.step + self.slope / self.norm } else { self.step }
    }

    /// The squared error there.
    pub fn minimum(&self) -> f64 {
        if self.norm > 0.0 { self.error - self.slope * self.slope / self.norm } else { self.error }
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
    /// Adds one weight.
    pub fn add(&mut self, u: f32, c: f32) {
        let r = u - c;
        self.error += f64::from(r * r);
        self.slope += f64::from(r * c);
        self.norm += f64::from(c * c);
    }

    /// Adds a few weights that belong together, their own sums in f32.
    #[inline]
    pub fn add_word(&mut self, u: &[f32], states: impl IntoIterator<Item = f32>) {
        let (mut error, mut slope, mut norm) = (0.0, 0.0, 0.0);
        for (&u, c) in u.iter().zip(states) {
            let r = u - c;
            error += r * r;
            slope += r * c;
            norm += c * c;
        }
        self.error += f64::from(error);
        self.slope += f64::from(slope);
        self.norm += f64::from(norm);
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
    /// its parabola is zero too.
    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]);

    /// The stored words of the last search, zero bits where an embedded scale goes.
    fn words(&mut self) -> &[u16];
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

/// The integer in `-half..half` nearest to `u`; the lower one of two equally near.
#[inline(always)]
pub(crate) fn nearest(u: f32, half: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves no fraction bits: the sum is rounded to an integer, ties to even, and
    // subtracting it again is exact.
    const ROUNDER: f32 = 12_582_912.0;
    let clamped = if u < -half { -half } else { u };
    let clamped = if clamped > half - 1.0 { half - 1.0 } else { clamped };
    let even = (clamped + ROUNDER) - ROUNDER;
    if even - clamped == 0.5 { even - 1.0 } else { even }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_the_lower_of_two() {
        for (u, expected) in [
            (0.5, 0.0),
            (-0.5, -1.0),
            (1.5, 1.0),
            (0.500_001, 1.0),
            (-7.6, -8.0),
            (-1e30, -8.0),
            (7.4, 7.0),
            (1e30, 7.0),
            (6.5, 6.0),
            (-0.0, 0.0),
        ] {
            assert_eq!(nearest(u, 8.0), expected, "{u}");
        }
    }

    #[test]
    fn a_parabola_follows_the_error() {
        let (weights, states) = ([1.0f32, -2.5, 0.25], [3.0f32, -7.0, 1.0]);
        let mut sums = Sums::default();
        for (w, c) in weights.iter().zip(states) {
            sums.add(w / 0.5, c);
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
