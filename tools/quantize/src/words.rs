//! The kernel of codes whose words hold several dependent states: words are searched side by side, in lanes.
//!
//! ```text
//! load:    transpose the row's full words, so that state p of neighbouring words is contiguous
//! encode:  for each block of LANES words
//!              u[p] = w[p] / step of the word's group
//!              c[p] = the search's answer
//!              error, slope and norm a word; summed over the words of a group, in order
//!          then the short word at the end of each group that has one, by itself
//! ```

use super::kernel::{Kernel, LANES, Lanes, Layout, Parabola, Sums, inverse};
use ccq::code::MAX_STATES;

/// A search for the best word, given weights in units of the step.
pub(crate) trait WordSearch {
    /// The best word of each lane: its stored form, and its states less their zero points.
    fn block(&mut self, u: &[Lanes], states: &mut [Lanes], words: &mut [u16; LANES]);

    /// The best word for fewer weights than it has states. The other states carry no weight, and of equally good
    /// words the one with the lowest code is taken.
    fn short(&mut self, u: &[f32], states: &mut [f32]) -> u16;
}

/// Full words of a row in transposed order, and the search that runs over them.
#[derive(Clone, Debug)]
pub(crate) struct Words<S> {
    search: S,
    layout: Layout,
    /// For each group, the number of its first full word among the full words of the row; one entry more.
    first: Vec<usize>,
    /// Full words, rounded up to whole blocks.
    stride: usize,
    /// `states_per_word` x `stride` weights.
    weights: Vec<f32>,
    /// The weights of the row, for the short words.
    row: Vec<f32>,
    inverse: Vec<f32>,
    /// Groups whose last step was zero.
    zero: Vec<bool>,
    sums: [Vec<f32>; 3],
    full: Vec<u16>,
    short: Vec<u16>,
    words: Vec<u16>,
}

impl<S: WordSearch> Words<S> {
    /// Room for a row of that layout.
    pub fn new(search: S, layout: Layout) -> Self {
        let mut first = vec![0; layout.groups + 1];
        for group in 0..layout.groups {
            first[group + 1] = first[group] + layout.weights(group).len() / layout.states_per_word;
        }
        let stride = first[layout.groups].next_multiple_of(LANES);
        Self {
            search,
            first,
            stride,
            weights: vec![0.0; stride * layout.states_per_word],
            row: vec![0.0; layout.in_features],
            inverse: vec![0.0; stride],
            zero: vec![true; layout.groups],
            sums: [vec![0.0; stride], vec![0.0; stride], vec![0.0; stride]],
            full: vec![0; stride],
            short: vec![0; layout.groups],
            words: vec![0; layout.groups * layout.words_per_group],
            layout,
        }
    }

    /// Positions in the row of the weights of a group's short word; empty where the last word is full.
    fn short_word(&self, group: usize) -> std::ops::Range<usize> {
        let weights = self.layout.weights(group);
        weights.start + weights.len() / self.layout.states_per_word * self.layout.states_per_word..weights.end
    }
}

impl<S: WordSearch> Kernel for Words<S> {
    fn load(&mut self, row: &[f32]) {
        self.row.copy_from_slice(row);
        let per_word = self.layout.states_per_word;
        for group in 0..self.layout.groups {
            let words = row[self.layout.weights(group)].chunks_exact(per_word);
            for (index, word) in (self.first[group]..).zip(words) {
                for (p, &weight) in word.iter().enumerate() {
                    self.weights[p * self.stride + index] = weight;
                }
            }
        }
    }

    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]) {
        for (group, &step) in steps.iter().enumerate() {
            self.inverse[self.first[group]..self.first[group + 1]].fill(inverse(step));
        }
        let per_word = self.layout.states_per_word;
        let mut u = [[0.0; LANES]; MAX_STATES];
        let mut states = [[0.0; LANES]; MAX_STATES];
        let (u, states) = (&mut u[..per_word], &mut states[..per_word]);
        for start in (0..self.stride).step_by(LANES) {
            let inverse = &self.inverse[start..start + LANES];
            for (p, u) in u.iter_mut().enumerate() {
                let weights = &self.weights[p * self.stride + start..][..LANES];
                for lane in 0..LANES {
                    u[lane] = weights[lane] * inverse[lane];
                }
            }
            let mut words = [0; LANES];
            self.search.block(u, states, &mut words);
            self.full[start..start + LANES].copy_from_slice(&words);
            let [mut error, mut slope, mut norm] = [[0.0f32; LANES]; 3];
            for (u, c) in u.iter().zip(states.iter()) {
                for lane in 0..LANES {
                    let r = u[lane] - c[lane];
                    error[lane] += r * r;
                    slope[lane] += r * c[lane];
                    norm[lane] += c[lane] * c[lane];
                }
            }
            for (sums, block) in self.sums.iter_mut().zip([error, slope, norm]) {
                sums[start..start + LANES].copy_from_slice(&block);
            }
        }
        for (group, (&step, fit)) in steps.iter().zip(fits).enumerate() {
            self.short[group] = 0;
            *fit = Parabola::default();
            let inverse = inverse(step);
            self.zero[group] = inverse == 0.0;
            if self.zero[group] {
                continue;
            }
            let range = self.first[group]..self.first[group + 1];
            let [error, slope, norm] =
                self.sums.each_ref().map(|sums| sums[range.clone()].iter().map(|&x| f64::from(x)).sum());
            let mut sums = Sums { error, slope, norm };
            let positions = self.short_word(group);
            if !positions.is_empty() {
                let mut u = [0.0; MAX_STATES];
                let mut states = [0.0; MAX_STATES];
                let count = positions.len();
                for (u, weight) in u.iter_mut().zip(&self.row[positions]) {
                    *u = weight * inverse;
                }
                self.short[group] = self.search.short(&u[..count], &mut states[..count]);
                for (&u, &c) in u.iter().zip(&states).take(count) {
                    sums.add(u, c);
                }
            }
            *fit = sums.parabola(step);
        }
    }

    fn words(&mut self) -> &[u16] {
        self.words.fill(0);
        for group in 0..self.layout.groups {
            if self.zero[group] {
                continue;
            }
            let range = self.first[group]..self.first[group + 1];
            let words = &mut self.words[group * self.layout.words_per_group..];
            words[..range.len()].copy_from_slice(&self.full[range.clone()]);
            if !self.short_word(group).is_empty() {
                self.words[group * self.layout.words_per_group + range.len()] = self.short[group];
            }
        }
        &self.words
    }
}
