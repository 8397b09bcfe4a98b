//! The scale search of one row: local scales and super scale together (paper, section 3.4).
//!
//! The encoding search answers for a given step in each group; this chooses the steps. Each answer also says how
//! the group's error would change with the step while the words stay (a [`Parabola`]), so all answers so far bound
//! the error at any step from above, at no cost.
//!
//! ```text
//! 1 probe    encode with steps spread around multiples of the group's rms and of its largest weight; the sign is
//!            the one that puts the largest weight on the widest state, or both are tried
//! 2 refit    encode again at the best step of the best parabola, equation (4)
//! 3 compress for super scales from (largest step) / (largest local scale) up, sum over the groups the bound at
//!            the best local scale; keep the super scale of the least sum, refit it
//! 4 settle   encode with each local scale and its neighbours, keep the best; refit the super scale over the
//!            row, sum(l w.c) / sum(l^2 c.c); repeat while that gains
//! 5 apply    encode once more with the scales found, refit the super scale to the words
//! ```
//!
//! Everything runs on a row scaled by a power of two to a largest magnitude in 1..2, so that neither the
//! smallest nor the largest f32 meets its limits here. [`Unit`] brings scales back, rounded as the decoder will see them.

use crate::compress::Compress;
use crate::isa::{Isa, Job};
use crate::kernel::{Kernel, Layout, Parabola};
use crate::simd::{LANES, Simd};
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
    pub fn super_scale(self, step: f64) -> f32 {
        (step / self.factor).clamp(-self.max_step, self.max_step) as f32
    }

    /// The decoder's `fl32(local_scale * super_scale)`, in this unit.
    pub fn step(self, local: i32, super_scale: f32) -> f32 {
        (f64::from(local as f32 * super_scale) * self.factor) as f32
    }

    /// The largest local scale that may go with a super scale, at most `most`.
    pub fn max_local(self, super_scale: f32, most: i32) -> i32 {
        if super_scale == 0.0 {
            most
        } else {
            (self.max_step / f64::from(super_scale).abs()).min(most.into()) as i32
        }
    }
}

/// Local scales that go further than this divide so finely that rounding them costs nothing.
const WIDE: i32 = 255;

/// A step to try on a group.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// This multiple of the group's root mean square.
    Rms(f32),
    /// This multiple of its largest magnitude.
    Max(f32),
}

/// How a row's steps get their signs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sign {
    /// This one, for the whole row.
    Given(f32),
    /// For each group the one that puts its largest weight on the widest state, which is negative.
    OfLargest,
    /// For each group whichever is better.
    Both,
    /// For the whole row whichever is better after that many probes.
    Row(usize),
}

/// What a scale search costs and finds.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Steps tried on every group.
    pub probes: Vec<Probe>,
    /// Their signs.
    pub sign: Sign,
    /// Re-encodings at the refitted step.
    pub refits: usize,
    /// Super scales tried.
    pub super_scales: usize,
    /// Rounds of step 4, at most.
    pub rounds: usize,
    /// Neighbours of each local scale that are encoded in a round.
    pub neighbours: &'static [i32],
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

/// What is known of a group's weights.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    /// `sum h w^2`.
    energy: f64,
    rms: f32,
    /// Largest magnitude.
    max: f32,
    /// The sign of the step that makes the largest weight's state negative.
    sign: f32,
}

/// The search, with its working memory.
#[derive(Clone, Debug)]
pub(crate) struct ScaleSearch {
    layout: Layout,
    isa: Isa,
    settings: Settings,
    local: LocalScale,
    max_local: i32,
    importance: Option<Vec<f32>>,
    groups: Vec<Group>,
    /// The answers so far, those of one encoding after the other; a group whose words are all zero has norm 0.
    answers: Vec<Parabola>,
    /// For each group the answer with the least minimum, and that minimum.
    ideals: Vec<(Parabola, f64)>,
    steps: Vec<f32>,
    fits: Vec<Parabola>,
}

impl ScaleSearch {
    /// A search over rows of that layout; `importance` is normalised.
    pub fn new(
        code: &Code,
        layout: Layout,
        settings: Settings,
        importance: Option<&[f32]>,
        isa: Isa,
    ) -> Self {
        let groups = layout.groups;
        Self {
            layout,
            isa,
            settings,
            local: code.local_scale(),
            max_local: code.max_local_scale(),
            importance: importance.map(<[f32]>::to_vec),
            groups: vec![Group::default(); groups],
            answers: Vec::new(),
            ideals: Vec::new(),
            steps: vec![0.0; groups],
            fits: vec![Parabola::default(); groups],
        }
    }

    /// Takes the row that the kernel has loaded.
    pub fn load(&mut self, row: &[f32]) {
        for (index, group) in self.groups.iter_mut().enumerate() {
            let range = self.layout.weights(index);
            let importance = self.importance.as_ref().map(|importance| &importance[range.clone()]);
            *group = self.isa.run(Measure { weights: &row[range], importance });
        }
    }

    /// Steps 1 to 4; `signs` in place of the settings' where given.
    pub fn search<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, sign: Option<f32>) -> Solution {
        self.probe(kernel, sign.map_or(self.settings.sign, Sign::Given));
        for _ in 0..self.settings.refits {
            for (step, (ideal, _)) in self.steps.iter_mut().zip(&self.ideals) {
                *step = ideal.minimiser() as f32;
            }
            self.encode_steps(kernel);
        }
        let mut super_scale = self.compress(unit);
        let mut best = Solution {
            error: self.groups.iter().map(|group| group.energy).sum(),
            ..Solution::zero(self.layout.groups)
        };
        if self.settings.rounds == 0 {
            let (error, local_scales) = self.nearest(unit, super_scale);
            return if error < best.error { Solution { error, super_scale, local_scales } } else { best };
        }
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

    /// Step 5: encodes with a solution's scales, so that the kernel's words are the solution's.
    pub fn apply<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, solution: &mut Solution) {
        for (step, &local) in self.steps.iter_mut().zip(&solution.local_scales) {
            *step = unit.step(local, solution.super_scale);
        }
        kernel.encode(&self.steps, &mut self.fits);
        let error_at = |super_scale: f32| -> f64 {
            let groups = self.fits.iter().zip(&solution.local_scales).zip(&self.groups);
            groups
                .map(|((fit, &local), group)| match fit.norm {
                    0.0 => group.energy,
                    _ => fit.at(f64::from(unit.step(local, super_scale))),
                })
                .sum()
        };
        let refitted = refit(unit, self.fits.iter().zip(solution.local_scales.iter().copied()));
        let refitted = refitted.unwrap_or(solution.super_scale);
        let error = error_at(solution.super_scale);
        let most = solution.local_scales.iter().map(|local| local.abs()).max().unwrap_or(0);
        let better = error_at(refitted);
        if better < error && most <= unit.max_local(refitted, most) && refitted != 0.0 {
            (solution.error, solution.super_scale) = (better, refitted);
        } else {
            solution.error = error;
        }
    }

    /// Encodes with `self.steps` and keeps the answers.
    fn encode_steps<K: Kernel>(&mut self, kernel: &mut K) {
        kernel.encode(&self.steps, &mut self.fits);
        for (fit, (ideal, least)) in self.fits.iter().zip(&mut self.ideals) {
            let minimum = fit.minimum();
            if fit.norm > 0.0 && minimum < *least {
                (*ideal, *least) = (*fit, minimum);
            }
        }
        self.answers.extend_from_slice(&self.fits);
    }

    fn encode_probe<K: Kernel>(&mut self, kernel: &mut K, probe: Probe, sign: Option<f32>) {
        for (step, group) in self.steps.iter_mut().zip(&self.groups) {
            let magnitude = match probe {
                Probe::Rms(multiple) => group.rms * multiple,
                Probe::Max(multiple) => group.max * multiple,
            };
            *step = magnitude * sign.unwrap_or(group.sign);
        }
        self.encode_steps(kernel);
    }

    fn forget(&mut self) {
        self.answers.clear();
        self.ideals.clear();
        let zero = |group: &Group| (Parabola { error: group.energy, ..Parabola::default() }, group.energy);
        self.ideals.extend(self.groups.iter().map(zero));
    }

    /// Step 1.
    fn probe<K: Kernel>(&mut self, kernel: &mut K, sign: Sign) {
        self.forget();
        let probes = self.settings.probes.clone();
        let (undecided, signs) = match sign {
            Sign::Given(sign) => (0, [Some(sign), None]),
            Sign::OfLargest => (0, [None, None]),
            Sign::Both => (0, [Some(1.0), Some(-1.0)]),
            Sign::Row(first) => (first.min(probes.len()), [Some(1.0), None]),
        };
        let (first, rest) = probes.split_at(undecided);
        let mut chosen = signs;
        if !first.is_empty() {
            for &probe in first {
                self.encode_probe(kernel, probe, Some(1.0));
            }
            let error = |ideals: &[(Parabola, f64)]| ideals.iter().map(|ideal| ideal.1).sum::<f64>();
            let (answers, ideals) = (std::mem::take(&mut self.answers), std::mem::take(&mut self.ideals));
            self.forget();
            for &probe in first {
                self.encode_probe(kernel, probe, Some(-1.0));
            }
            chosen = [Some(-1.0), None];
            if error(&ideals) <= error(&self.ideals) {
                (self.answers, self.ideals, chosen) = (answers, ideals, [Some(1.0), None]);
            }
        }
        for &probe in rest {
            self.encode_probe(kernel, probe, chosen[0]);
            if chosen[1].is_some() {
                self.encode_probe(kernel, probe, chosen[1]);
            }
        }
    }

    /// The least and the largest local scale that may go with a super scale.
    fn local_range(&self, unit: Unit, super_scale: f32) -> (i32, i32) {
        let most = unit.max_local(super_scale, self.max_local);
        (if self.local == LocalScale::Signed8 { -most } else { 0 }, most)
    }

    /// The local scale of least bound for a group under a super scale, over all its answers.
    fn local_scale(&self, index: usize, unit_step: f64, (least, most): (i32, i32)) -> (i32, f64) {
        let ideal = self.ideals[index].0.minimiser();
        let below = if unit_step == 0.0 { 0 } else { floor(ideal / unit_step) };
        let mut best = (0, self.groups[index].energy);
        for local in [below, below.saturating_add(1)] {
            let local = local.clamp(least, most);
            let step = f64::from(local) * unit_step;
            for answer in self.answers[index..].iter().step_by(self.layout.groups) {
                let error = answer.at(step);
                if answer.norm > 0.0 && error < best.1 {
                    best = (local, error);
                }
            }
        }
        best
    }

    /// Every group's best local scale under a super scale, and the sum of the bounds.
    fn bounds(&self, unit: Unit, super_scale: f32) -> (f64, Vec<i32>) {
        let range = self.local_range(unit, super_scale);
        let unit_step = f64::from(unit.step(1, super_scale));
        let mut error = 0.0;
        let local = |index: usize| match self.local {
            LocalScale::None => (1, self.ideals[index].1),
            _ => self.local_scale(index, unit_step, range),
        };
        let mut locals = Vec::with_capacity(self.layout.groups);
        for (local, bound) in (0..self.layout.groups).map(local) {
            error += bound;
            locals.push(local);
        }
        (error, locals)
    }

    /// [`ScaleSearch::bounds`] from each group's best answer alone.
    fn nearest(&self, unit: Unit, super_scale: f32) -> (f64, Vec<i32>) {
        let (least, most) = self.local_range(unit, super_scale);
        let unit_step = f64::from(unit.step(1, super_scale));
        let inverse = if unit_step == 0.0 { 0.0 } else { 1.0 / unit_step };
        let mut error = 0.0;
        let mut locals = Vec::with_capacity(self.layout.groups);
        for (ideal, minimum) in &self.ideals {
            let local = match self.local {
                LocalScale::None => 1,
                _ => floor(ideal.minimiser() * inverse + 0.5).clamp(least, most),
            };
            let difference = f64::from(local) * unit_step - ideal.minimiser();
            error += minimum + difference * difference * ideal.norm;
            locals.push(local);
        }
        (error, locals)
    }

    /// Step 3.
    fn compress(&self, unit: Unit) -> f32 {
        let longest = |longest: f64, (ideal, _): &(Parabola, f64)| {
            let step = ideal.minimiser();
            if step.abs() > longest.abs() { step } else { longest }
        };
        let longest = self.ideals.iter().fold(0.0, longest);
        let signed = self.local == LocalScale::Signed8;
        let longest = if signed { longest.abs() } else { longest };
        if longest == 0.0 || self.local == LocalScale::None || self.max_local > WIDE {
            return unit.super_scale(longest / f64::from(self.max_local));
        }
        let least = if signed { -self.max_local } else { 0 };
        let best = self.isa.run(Compress {
            ideals: &self.ideals,
            longest,
            range: (f64::from(least), f64::from(self.max_local)),
            candidates: self.settings.super_scales,
        });
        unit.super_scale(best)
    }

    /// Step 4: the error, the local scales, and the super scale that would suit their words best.
    fn settle<K: Kernel>(&mut self, kernel: &mut K, unit: Unit, super_scale: f32) -> (f64, Vec<i32>, f32) {
        let range = self.local_range(unit, super_scale);
        let (_, start) = self.bounds(unit, super_scale);
        let mut best: Vec<(f64, i32, Parabola)> =
            self.groups.iter().map(|group| (group.energy, 0, Parabola::default())).collect();
        let alone = self.local == LocalScale::None || self.max_local > WIDE;
        for offset in if alone { &[0] } else { self.settings.neighbours } {
            let local = |group: usize| (start[group] + offset).clamp(range.0, range.1);
            for group in 0..self.layout.groups {
                self.steps[group] = unit.step(local(group), super_scale);
            }
            self.encode_steps(kernel);
            for (group, (best, &fit)) in best.iter_mut().zip(&self.fits).enumerate() {
                if fit.norm > 0.0 && fit.error < best.0 {
                    *best = (fit.error, local(group), fit);
                }
            }
        }
        let error = best.iter().map(|best| best.0).sum();
        let refitted = refit(unit, best.iter().map(|(_, local, fit)| (fit, *local))).unwrap_or(super_scale);
        (error, best.iter().map(|b| b.1).collect(), refitted)
    }
}

/// The super scale that suits the words of all groups best, given their local scales.
fn refit<'a>(unit: Unit, groups: impl Iterator<Item = (&'a Parabola, i32)>) -> Option<f32> {
    let (mut dot, mut norm) = (0.0, 0.0);
    for (fit, local) in groups {
        let local = f64::from(local);
        dot += local * (fit.step * fit.norm + fit.slope);
        norm += local * local * fit.norm;
    }
    (norm > 0.0).then(|| unit.super_scale(dot / norm))
}

/// The largest integer that is no larger, saturating.
fn floor(x: f64) -> i32 {
    let truncated = x as i32;
    truncated.saturating_sub(i32::from(f64::from(truncated) > x))
}

/// A group's energy, rms and largest weight.
struct Measure<'a> {
    weights: &'a [f32],
    importance: Option<&'a [f32]>,
}

impl Job for Measure<'_> {
    type Output = Group;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Group {
        let Self { weights, importance } = self;
        let zero = simd.splat(0.0);
        let [mut squares, mut energy, mut max, mut min] = [zero; 4];
        for (block, weights) in weights.chunks(LANES).enumerate() {
            let w = load(simd, weights);
            let square = simd.mul(w, w);
            squares = simd.add(squares, square);
            let weighted = match importance {
                None => square,
                Some(h) => simd.mul(square, load(simd, &h[block * LANES..][..weights.len()])),
            };
            energy = simd.add(energy, weighted);
            max = simd.max(max, w);
            min = simd.min(min, w);
        }
        let max = simd.store(max).into_iter().fold(0.0f32, |max, w| if w > max { w } else { max });
        let min = simd.store(min).into_iter().fold(0.0f32, |min, w| if w < min { w } else { min });
        Group {
            energy: simd.total(energy).into(),
            rms: (simd.total(squares) / weights.len() as f32).sqrt(),
            max: if -min > max { -min } else { max },
            sign: if -min >= max { 1.0 } else { -1.0 },
        }
    }
}

/// Up to sixteen values, then zeros.
#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::F {
    match values.first_chunk() {
        Some(values) => simd.load(values),
        None => {
            let mut padded = [0.0; LANES];
            padded[..values.len()].copy_from_slice(values);
            simd.load(&padded)
        }
    }
}
