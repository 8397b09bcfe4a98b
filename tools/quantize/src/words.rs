//! The kernel of codes whose words hold several dependent states: words are searched side by side, in lanes.
//!
//! ```text
//! load:    transpose the row's words, so that state p of neighbouring words is contiguous: first all full words,
//!          then the short word at the end of each group that has one
//! encode:  for each block of LANES words
//!              u[p] = w[p] / step of the word's group
//!              c[p] = the search's answer
//!              error, slope and norm a word; summed over the words of a group, in order
//! ```

use crate::isa::{Isa, Job};
use crate::kernel::{Kernel, Layout, Parabola, Sums, inverse};
use crate::simd::{LANES, Simd};
use ccq::code::{Code, MAX_STATES, State};

/// A search for the best words.
pub(crate) trait WordSearch {
    /// In every lane the best stored word for weights in units of the step, where an error in each counts as much
    /// as `leverage` says, or all the same. With fewer weights than a word has states, the other states carry
    /// none, and of equally good words the one with the lowest code is taken.
    fn block<S: Simd>(&self, simd: S, u: &[S::F], leverage: Option<&[S::F]>) -> S::I;

    /// The codes of stored words.
    fn expand<S: Simd>(&self, simd: S, words: S::I) -> S::I;
}

/// Words of the same number of weights, from a multiple of [`LANES`] on.
#[derive(Clone, Debug)]
struct Section {
    weights: usize,
    slots: std::ops::Range<usize>,
}

/// Where words lie in the transposed order.
#[derive(Clone, Debug)]
struct Slots {
    sections: Vec<Section>,
    /// For each group, the slot of its first full word; one entry more.
    first: Vec<usize>,
    /// For each group, the slot of its short word.
    short: Vec<Option<usize>>,
    /// Slots, rounded up to whole blocks.
    stride: usize,
}

impl Slots {
    fn new(layout: &Layout) -> Self {
        let per_word = layout.states_per_word;
        let mut slots =
            Self { sections: Vec::new(), first: vec![0], short: vec![None; layout.groups], stride: 0 };
        let mut end = 0;
        for group in 0..layout.groups {
            end += layout.weights(group).len() / per_word;
            slots.first.push(end);
        }
        slots.section(per_word, end);
        for weights in 1..per_word {
            let groups =
                (0..layout.groups).filter(|&group| layout.weights(group).len() % per_word == weights);
            let mut end = slots.stride;
            for group in groups {
                slots.short[group] = Some(end);
                end += 1;
            }
            slots.section(weights, end);
        }
        slots
    }

    fn section(&mut self, weights: usize, end: usize) {
        if end > self.stride {
            self.sections.push(Section { weights, slots: self.stride..end });
            self.stride = end.next_multiple_of(LANES);
        }
    }

    /// The row's values in transposed order, `states_per_word` x `stride`; the lanes without any stay as they are.
    fn transpose(&self, layout: &Layout, row: &[f32], out: &mut [f32]) {
        let per_word = layout.states_per_word;
        for group in 0..layout.groups {
            let words = row[layout.weights(group)].chunks_exact(per_word);
            if let Some(slot) = self.short[group] {
                for (p, &weight) in words.remainder().iter().enumerate() {
                    out[p * self.stride + slot] = weight;
                }
            }
            for (slot, word) in (self.first[group]..).zip(words) {
                for (p, &weight) in word.iter().enumerate() {
                    out[p * self.stride + slot] = weight;
                }
            }
        }
    }
}

/// What errors count, in transposed order.
#[derive(Clone, Debug)]
struct Importance {
    /// As it is.
    columns: Vec<f32>,
    /// Scaled to a largest value of 1 in each word, for the searches.
    words: Vec<f32>,
}

impl Importance {
    fn new(layout: &Layout, slots: &Slots, importance: &[f32]) -> Self {
        let mut columns = vec![0.0; slots.stride * layout.states_per_word];
        slots.transpose(layout, importance, &mut columns);
        let mut words = columns.clone();
        for slot in 0..slots.stride {
            let largest = columns[slot..]
                .iter()
                .step_by(slots.stride)
                .fold(0.0f32, |max, &h| if h > max { h } else { max });
            for h in words[slot..].iter_mut().step_by(slots.stride) {
                *h = if largest == 0.0 { 1.0 } else { *h / largest };
            }
        }
        Self { columns, words }
    }
}

/// The words of a row in transposed order, and the search that runs over them.
#[derive(Clone, Debug)]
pub(crate) struct Words<W> {
    /// The search.
    pub search: W,
    isa: Isa,
    layout: Layout,
    states: [State; MAX_STATES],
    slots: Slots,
    importance: Option<Importance>,
    /// `states_per_word` x `stride` weights.
    weights: Vec<f32>,
    inverse: Vec<f32>,
    /// Error, slope and norm of each word, with room for a whole block from any word on.
    sums: [Vec<f32>; 3],
    /// For each group, whether its last step was zero.
    zero: Vec<bool>,
    found: Vec<i32>,
    words: Vec<u16>,
}

impl<W: WordSearch> Words<W> {
    /// Room for a row of that layout; `importance` is normalised.
    pub fn new(search: W, code: &Code, layout: Layout, importance: Option<&[f32]>, isa: Isa) -> Self {
        let slots = Slots::new(&layout);
        let stride = slots.stride;
        Self {
            search,
            isa,
            states: code.states(),
            importance: importance.map(|importance| Importance::new(&layout, &slots, importance)),
            weights: vec![0.0; stride * layout.states_per_word],
            inverse: vec![0.0; stride],
            sums: [(); 3].map(|()| vec![0.0; stride + LANES]),
            zero: vec![true; layout.groups],
            found: vec![0; stride],
            words: vec![0; layout.groups * layout.words_per_group],
            slots,
            layout,
        }
    }
}

impl<W: WordSearch> Kernel for Words<W> {
    fn load(&mut self, row: &[f32]) {
        self.slots.transpose(&self.layout, row, &mut self.weights);
    }

    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]) {
        self.isa.run(Encode { kernel: self, steps, fits });
    }

    fn words(&mut self) -> &[u16] {
        self.words.fill(0);
        for (group, words) in self.words.chunks_exact_mut(self.layout.words_per_group).enumerate() {
            if self.zero[group] {
                continue;
            }
            let full = &self.found[self.slots.first[group]..self.slots.first[group + 1]];
            for (word, &found) in words.iter_mut().zip(full) {
                *word = found as u16;
            }
            if let Some(slot) = self.slots.short[group] {
                words[full.len()] = self.found[slot] as u16;
            }
        }
        &self.words
    }
}

struct Encode<'a, W> {
    kernel: &'a mut Words<W>,
    steps: &'a [f32],
    fits: &'a mut [Parabola],
}

impl<W: WordSearch> Job for Encode<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { kernel, steps, fits } = self;
        for (group, &step) in steps.iter().enumerate() {
            let inverse = inverse(step);
            kernel.zero[group] = inverse == 0.0;
            kernel.inverse[kernel.slots.first[group]..kernel.slots.first[group + 1]].fill(inverse);
            if let Some(slot) = kernel.slots.short[group] {
                kernel.inverse[slot] = inverse;
            }
        }
        for section in 0..kernel.slots.sections.len() {
            let Section { weights, slots } = kernel.slots.sections[section].clone();
            for start in slots.step_by(LANES) {
                kernel.block(simd, start, weights);
            }
        }
        for (group, (&step, fit)) in steps.iter().zip(fits).enumerate() {
            *fit = if kernel.zero[group] {
                Parabola::default()
            } else {
                kernel.sums(simd, group).parabola(step)
            };
        }
    }
}

impl<W: WordSearch> Words<W> {
    /// Searches the words of the slots from `start` on, and adds up each.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, start: usize, weights: usize) {
        let stride = self.slots.stride;
        let load = |values: &[f32], p: usize| match values[p * stride + start..].first_chunk() {
            Some(values) => simd.load(values),
            None => simd.splat(0.0),
        };
        let zero = simd.splat(0.0);
        let inverse = load(&self.inverse, 0);
        let mut u = [zero; MAX_STATES];
        for (p, u) in u.iter_mut().enumerate().take(weights) {
            *u = simd.mul(load(&self.weights, p), inverse);
        }
        let u = &u[..weights];
        let words = match &self.importance {
            None => self.search.block(simd, u, None),
            Some(importance) => {
                let mut leverage = [zero; MAX_STATES];
                for (p, leverage) in leverage.iter_mut().enumerate().take(weights) {
                    *leverage = load(&importance.words, p);
                }
                self.search.block(simd, u, Some(&leverage[..weights]))
            }
        };
        self.found[start..start + LANES].copy_from_slice(&simd.store_i32(words));
        let codes = self.search.expand(simd, words);
        let [mut error, mut slope, mut norm] = [zero; 3];
        for (p, (&u, state)) in u.iter().zip(&self.states).enumerate() {
            let State { shift, mask, zero_point } = *state;
            let state = simd.and(simd.shr(codes, shift), simd.splat_i32(mask.cast_signed()));
            let c = simd.to_f32(simd.sub_i32(state, simd.splat_i32(zero_point)));
            let r = simd.sub(u, c);
            let (hr, hc) = match &self.importance {
                None => (r, c),
                Some(importance) => {
                    let h = load(&importance.columns, p);
                    (simd.mul(h, r), simd.mul(h, c))
                }
            };
            error = simd.add(error, simd.mul(hr, r));
            slope = simd.add(slope, simd.mul(hr, c));
            norm = simd.add(norm, simd.mul(hc, c));
        }
        for (sums, block) in self.sums.iter_mut().zip([error, slope, norm]) {
            sums[start..start + LANES].copy_from_slice(&simd.store(block));
        }
    }

    /// The sums of a group's words.
    #[inline(always)]
    fn sums<S: Simd>(&self, simd: S, group: usize) -> Sums {
        let full = self.slots.first[group]..self.slots.first[group + 1];
        let mut totals = [0.0; 3];
        for (total, sums) in totals.iter_mut().zip(&self.sums) {
            let mut lanes = simd.splat(0.0);
            for start in full.clone().step_by(LANES) {
                let Some(values) = sums[start..].first_chunk() else { continue };
                let values = simd.load(values);
                // What lies past the group's end is another group's, and finite.
                let there = &THERE[LANES - (full.end - start).min(LANES)..];
                lanes = match there.first_chunk() {
                    Some(there) => simd.add(lanes, simd.mul(values, simd.load(there))),
                    None => lanes,
                };
            }
            *total = simd.total(lanes);
            if let Some(slot) = self.slots.short[group] {
                *total += sums[slot];
            }
        }
        let [error, slope, norm] = totals;
        Sums { error: error.into(), slope: slope.into(), norm: norm.into() }
    }
}

/// The last n of [`LANES`] values from n before its middle on are zero, the ones before are one.
const THERE: [f32; 2 * LANES] = {
    let mut there = [0.0; 2 * LANES];
    let mut i = 0;
    while i < LANES {
        there[i] = 1.0;
        i += 1;
    }
    there
};
