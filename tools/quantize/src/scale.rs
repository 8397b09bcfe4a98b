//! The scale search of one row: local scales and super scale together (paper, section 3.4).
//!
//! The encoding search answers for a given step in each group; this chooses the steps. Each answer also says how
//! the group's error would change with the step while the words stay (a [`Parabola`]), so all answers so far bound
//! the error at any step from above, at no cost.
//!
//! ```text
//! 1 probe    encode with steps spread around multiples of the group's rms and of its largest weight, of both
//!            signs; a row of unsigned local scales keeps the sign that is better in sum
//! 2 refit    encode again at the best step of the best parabola, equation (4)
//! 3 compress for super scales from (largest step) / (largest local scale) up, sum over the groups the bound at
//!            the best local scale; keep the super scale of the least sum
//! 4 settle   encode with each local scale and its neighbours, keep the best; refit the super scale over the
//!            row, sum(l w.c) / sum(l^2 c.c); repeat while that gains
//! ```
//!
//! Everything runs on a row scaled by a power of two to a largest magnitude in 1..2, so that neither the
//! smallest nor the largest f32 meets its limits here. [`Unit`] brings scales back, rounded as the decoder will see them.

use super::kernel::{Kernel, Layout, Parabola};
use ccq::code::{Code, LocalScale};

/// The power of two that a row was multiplied by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// Exact, from 2^-127 to 2^149.
    factor: f64,
    /// The largest magnitude a step may have, so that its product with any state is finite.
    max_step: f64,
}

impl Unit {
    /// The unit for a row whose largest magnitude is `max`, positive and finite.
    pub fn new(max: f32, code: &Code) -> Self {
        let exponent = (f64::from(max).to_bits() >> 52) as i64 - 1023;
        let widest = code.segments().iter().map(|s| s.state_bits).max().unwrap_or(1);
        Self {
            factor: f64::from_bits(((1023 - exponent) as u64) << 52),
            max_step: f64::from(f32::MAX) / f64::from(1u32 << (widest - 1)),
        }
    }

    /// A weight in this unit.
    pub fn scale(self, weight: f32) -> f32 {
        (f64::from(weight) * self.factor) as f32
    }

    /// What turns squared errors in this unit into squared errors of weights.
    pub fn square(self) -> f64 {
        1.0 / (self.factor * self.factor)
    }

    /// The nearest super scale there is to a step in this unit.
    fn super_scale(self, step: f64) -> f32 {
        (step / self.factor).clamp(-self.max_step, self.max_step) as f32
    }

    /// The decoder's `fl32(local_scale * super_scale)`, in this unit.
    fn step(self, local: i32, super_scale: f32) -> f32 {
        (f64::from(local as f32 * super_scale) * self.factor) as f32
    }

    /// The largest local scale that may go with a super scale, at most `most`.
    fn max_local(self, super_scale: f32, most: i32) -> i32 {
        if super_scale == 0.0 {
            most
        } else {
            (self.max_step / f64::from(super_scale).abs()).min(most.into()) as i32
        }
    }
}

/// Local scales that go further than this divide so finely that rounding them costs nothing.
const WIDE: i32 = 255;

/// Probes taken with both signs where a row has to choose one.
const SIGN_PROBES: usize = 2;

/// A step to try on a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// This multiple of the group's root mean square.
    Rms(f32),
    /// This multiple of its largest magnitude.
    Max(f32),
}

/// What a scale search costs and finds.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Steps tried on every group; the first ones decide a row's sign.
    pub probes: Vec<Probe>,
    /// Re-encodings at the refitted step.
    pub refits: usize,
    /// Super scales tried.
    pub super_scales: usize,
    /// Rounds of step 4, at most.
    pub rounds: usize,
}

/// Scales found for a row, and the squared error with them, in the row's unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Solution {
    /// Squared error.
    pub error: f64,
    /// The super scale, as it is stored.
    pub super_scale: f32,
    /// A local scale a group.
    pub local_scales: Vec<i32>,
}

impl Solution {
    /// All scales zero.
    pub fn zero(groups: usize) -> Self {
        Self { error: 0.0, super_scale: 0.0, local_scales: vec![0; groups] }
    }
}

/// The search, with its working memory.
#[derive(Clone, Debug)]
pub(crate) struct ScaleSearch {
    layout: Layout,
    settings: Settings,
    local: LocalScale,
    max_local: i32,
    /// `sum w^2` of each group.
    energies: Vec<f64>,
    rms: Vec<f32>,
    max: Vec<f32>,
    /// The answers so far for each group.
    answers: Vec<Vec<Parabola>>,
    steps: Vec<f32>,
    fits: Vec<Parabola>,
}

impl ScaleSearch {
    /// A search over rows of that layout.
    pub fn new(code: &Code, layout: Layout, settings: Settings) -> Self {
        let groups = layout.groups;
        Self {
            layout,
            settings,
            local: code.local_scale(),
            max_local: code.max_local_scale(),
            energies: vec![0.0; groups],
            rms: vec![0.0; groups],
            max: vec![0.0; groups],
            answers: vec![Vec::new(); groups],
            steps: vec![0.0; groups],
            fits: vec![Parabola::default(); groups],
        }
    }

    /// Takes the row that the kernel has loaded.
    pub fn load(&mut self, row: &[f32]) {
        for group in 0..self.layout.groups {
            let weights = &row[self.layout.weights(group)];
            let energy: f64 = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            self.energies[group] = energy;
            self.rms[group] = (energy / weights.len() as f64).sqrt() as f32;
            self.max[group] = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        }
    }

    /// The whole search, over steps of these signs.
    pub fn search<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, signs: &[f32]) -> Solution {
        self.probe(kernel, signs);
        for _ in 0..self.settings.refits {
            for group in 0..self.layout.groups {
                self.steps[group] = self.ideal(group).minimiser() as f32;
            }
            self.encode_steps(kernel);
        }
        let mut best = Solution { error: self.energies.iter().sum(), ..Solution::zero(self.layout.groups) };
        let mut super_scale = self.compress(unit);
        for _ in 0..self.settings.rounds {
            let (error, local_scales, refitted) = self.settle(kernel, unit, super_scale);
            if error >= best.error {
                break;
            }
            best = Solution { error, super_scale, local_scales };
            if refitted == super_scale {
                break;
            }
            super_scale = refitted;
        }
        best
    }

    /// Encodes with a solution's scales, so that the kernel's words are the solution's.
    pub fn apply<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, solution: &Solution) {
        for (step, &local) in self.steps.iter_mut().zip(&solution.local_scales) {
            *step = unit.step(local, solution.super_scale);
        }
        kernel.encode(&self.steps, &mut self.fits);
    }

    /// Encodes with `self.steps` and keeps the answers.
    fn encode_steps<K: Kernel>(&mut self, kernel: &mut K) {
        kernel.encode(&self.steps, &mut self.fits);
        for (answers, fit) in self.answers.iter_mut().zip(&self.fits) {
            if fit.norm > 0.0 {
                answers.push(*fit);
            }
        }
    }

    fn encode_probe<K: Kernel>(&mut self, kernel: &mut K, probe: Probe, sign: f32) {
        let (multiple, bases) = match probe {
            Probe::Rms(multiple) => (multiple, &self.rms),
            Probe::Max(multiple) => (multiple, &self.max),
        };
        for (step, base) in self.steps.iter_mut().zip(bases) {
            *step = base * multiple * sign;
        }
        self.encode_steps(kernel);
    }

    /// The answer so far with the least minimum; the zero step where none is better than zeros.
    fn ideal(&self, group: usize) -> Parabola {
        let mut best = Parabola { error: self.energies[group], ..Parabola::default() };
        let mut least = best.error;
        for answer in &self.answers[group] {
            let minimum = answer.minimum();
            if minimum < least {
                (best, least) = (*answer, minimum);
            }
        }
        best
    }

    /// Step 1. Signed local scales choose a sign a group; with unsigned ones the row has one sign, that of the
    /// less error after the first few probes.
    fn probe<K: Kernel>(&mut self, kernel: &mut K, signs: &[f32]) {
        let probes = self.settings.probes.clone();
        let a_sign_a_group = self.local == LocalScale::Signed8;
        let undecided = if a_sign_a_group { probes.len() } else { SIGN_PROBES.min(probes.len()) };
        let (first, rest) = probes.split_at(undecided);
        let mut best: Option<(f64, f32, Vec<Vec<Parabola>>)> = None;
        self.answers.iter_mut().for_each(Vec::clear);
        for &sign in signs {
            for &probe in first {
                self.encode_probe(kernel, probe, sign);
            }
            if a_sign_a_group {
                continue;
            }
            let error = (0..self.layout.groups).map(|group| self.ideal(group).minimum()).sum();
            let answers = self.answers.iter_mut().map(std::mem::take).collect();
            if best.as_ref().is_none_or(|(least, ..)| error < *least) {
                best = Some((error, sign, answers));
            }
        }
        if let Some((_, sign, answers)) = best {
            self.answers = answers;
            for &probe in rest {
                self.encode_probe(kernel, probe, sign);
            }
        }
    }

    /// The least and the largest local scale that may go with a super scale.
    fn local_range(&self, unit: Unit, super_scale: f32) -> (i32, i32) {
        let most = unit.max_local(super_scale, self.max_local);
        (if self.local == LocalScale::Signed8 { -most } else { 0 }, most)
    }

    /// The local scale of least bound for a group under a super scale, given some of its answers.
    fn local_scale(
        &self,
        group: usize,
        answers: &[Parabola],
        ideal: f64,
        unit_step: f64,
        (least, most): (i32, i32),
    ) -> (i32, f64) {
        let below = if unit_step == 0.0 { 0 } else { floor(ideal / unit_step) };
        let mut best = (0, self.energies[group]);
        for local in [below, below.saturating_add(1)] {
            let local = local.clamp(least, most);
            let step = f64::from(local) * unit_step;
            for answer in answers {
                let error = answer.at(step);
                if error < best.1 {
                    best = (local, error);
                }
            }
        }
        best
    }

    /// Step 3.
    fn compress(&self, unit: Unit) -> f32 {
        let ideals: Vec<Parabola> = (0..self.layout.groups).map(|group| self.ideal(group)).collect();
        let signed = self.local == LocalScale::Signed8;
        let longest = |longest: f64, ideal: &Parabola| {
            let step = ideal.minimiser();
            if step.abs() > longest.abs() { step } else { longest }
        };
        let longest = ideals.iter().fold(0.0, longest);
        let longest = if signed { longest.abs() } else { longest };
        if self.local == LocalScale::None || self.max_local > WIDE {
            return unit.super_scale(longest / f64::from(self.max_local));
        }
        let mut best = (f64::INFINITY, 0.0);
        for i in 0..self.settings.super_scales {
            // From a largest local scale that is cut by an eighth to one that uses half the range.
            let range = 1.125 - 0.625 * i as f64 / (self.settings.super_scales - 1) as f64;
            let super_scale = unit.super_scale(longest / (f64::from(self.max_local) * range));
            let (unit_step, range) =
                (f64::from(unit.step(1, super_scale)), self.local_range(unit, super_scale));
            let mut error = 0.0;
            for (group, ideal) in ideals.iter().enumerate() {
                error += self.local_scale(group, &[*ideal], ideal.minimiser(), unit_step, range).1;
            }
            if error < best.0 {
                best = (error, super_scale);
            }
        }
        best.1
    }

    /// Step 4: the error, the local scales, and the super scale that would suit their words best.
    fn settle<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, super_scale: f32) -> (f64, Vec<i32>, f32) {
        let groups = self.layout.groups;
        let range = self.local_range(unit, super_scale);
        let unit_step = f64::from(unit.step(1, super_scale));
        let start: Vec<i32> = (0..groups)
            .map(|group| match self.local {
                LocalScale::None => 1,
                _ => {
                    let ideal = self.ideal(group).minimiser();
                    self.local_scale(group, &self.answers[group], ideal, unit_step, range).0
                }
            })
            .collect();
        let mut best: Vec<(f64, i32, Parabola)> =
            self.energies.iter().map(|&energy| (energy, 0, Parabola::default())).collect();
        let neighbours: &[i32] =
            if self.local == LocalScale::None || self.max_local > WIDE { &[0] } else { &[0, -1, 1] };
        for offset in neighbours {
            let local = |group: usize| (start[group] + offset).clamp(range.0, range.1);
            for group in 0..groups {
                self.steps[group] = unit.step(local(group), super_scale);
            }
            self.encode_steps(kernel);
            for (group, (best, &fit)) in best.iter_mut().zip(&self.fits).enumerate() {
                if fit.norm > 0.0 && fit.error < best.0 {
                    *best = (fit.error, local(group), fit);
                }
            }
        }
        let (mut error, mut dot, mut norm) = (0.0, 0.0, 0.0);
        for &(group_error, local, fit) in &best {
            error += group_error;
            let local = f64::from(local);
            dot += local * fit.minimiser() * fit.norm;
            norm += local * local * fit.norm;
        }
        let refitted = if norm > 0.0 { unit.super_scale(dot / norm) } else { super_scale };
        (error, best.iter().map(|b| b.1).collect(), refitted)
    }
}

/// The largest integer that is no larger, saturating.
fn floor(x: f64) -> i32 {
    let truncated = x as i32;
    truncated.saturating_sub(i32::from(f64::from(truncated) > x))
}
