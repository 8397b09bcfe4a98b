//! The exact encoding search of the convolutional codes (paper, Algorithm 1), as a shortest path.
//!
//! A segment (L, N, S) is a path of N states; state t + 1 starts with the last L - S bits of state t, the
//! *memory* m, and adds S new bits b. The squared error is a sum over states, so the best way to end a path
//! depends on its memory alone:
//!
//! ```text
//! cost(t, q)  = c^2 / 2 - u[t] c            with c = q - 2^(L-1): half the squared error, less u[t]^2 / 2
//! V(N, m)     = 0
//! V(t, m)     = min over b of  cost(t, q) + V(t + 1, q mod 2^(L-S)),    q = m 2^S + b
//! best path   = argmin over q of cost(0, q) + V(1, q mod 2^(L-S)), then the b of each V along the way
//! ```
//!
//! Ties go to the lowest q and b, so the path found is the lowest code among the best ones: what Algorithm 1's
//! argmin over all 2^T codes gives, for some 2^L (N - 1) + 2^L steps in place of 2^T N. Segments restart the path and
//! are searched one by one.

use super::kernel::{LANES, Lanes, nearest};
use super::words::WordSearch;
use ccq::code::{Code, Segment};

/// The search for one code, with its working memory.
#[derive(Clone, Debug)]
pub(crate) struct Viterbi {
    segments: Vec<Segment>,
    costs: [Vec<Lanes>; 2],
    /// For each state but the first and each memory value, the best new bits.
    decisions: Vec<[u16; LANES]>,
}

impl Viterbi {
    /// A search over the words of `code`, which has no cluster.
    pub fn new(code: &Code) -> Self {
        let memories = |s: &Segment| if s.states > 1 { 1 << (s.state_bits - s.shift) } else { 1 };
        let most = code.segments().iter().map(memories).max().unwrap_or(1);
        let states = code.segments().iter().map(|s| usize::from(s.states)).max().unwrap_or(1);
        Self {
            segments: code.segments().to_vec(),
            costs: [vec![[0.0; LANES]; most], vec![[0.0; LANES]; most]],
            decisions: vec![[0; LANES]; most * states],
        }
    }
}

impl WordSearch for Viterbi {
    fn block(&mut self, u: &[Lanes], states: &mut [Lanes], words: &mut [u16; LANES]) {
        let (mut u, mut states) = (u, states);
        let mut codes = [0u32; LANES];
        for segment in &self.segments {
            let count = usize::from(segment.states);
            let (head, tail) = u.split_at(count);
            let (states_head, states_tail) = states.split_at_mut(count);
            let work = (&mut self.costs, &mut self.decisions[..]);
            // The named codes' parameters as constants, for the optimiser.
            match (segment.state_bits, segment.shift) {
                (4, 2) => search(4, 2, head, count, work, states_head, &mut codes),
                (3, 2) => search(3, 2, head, count, work, states_head, &mut codes),
                (l, s) => search(l.into(), s.into(), head, count, work, states_head, &mut codes),
            }
            (u, states) = (tail, states_tail);
        }
        *words = codes.map(|code| code as u16);
    }

    fn short(&mut self, u: &[f32], states: &mut [f32]) -> u16 {
        let mut code = 0u32;
        let mut done = 0;
        for segment in &self.segments {
            let count = usize::from(segment.states).min(u.len() - done);
            if count == 0 {
                code <<= segment.bits();
                continue;
            }
            if count == 1 {
                let half = (1u32 << (segment.state_bits - 1)) as f32;
                states[done] = nearest(u[done], half);
                code = code << segment.bits()
                    | ((states[done] + half) as u32) << (segment.bits() - u32::from(segment.state_bits));
                done += 1;
                continue;
            }
            // One lane of a block: the states past the end, of which there may be none, are left out, and their
            // new bits are zero, the lowest.
            let mut lanes = [[0.0; LANES]; ccq::code::MAX_STATES];
            for (lanes, &u) in lanes.iter_mut().zip(&u[done..done + count]) {
                lanes[0] = u;
            }
            let mut found = [[0.0; LANES]; ccq::code::MAX_STATES];
            let mut codes = [0; LANES];
            let work = (&mut self.costs, &mut self.decisions[..]);
            let (l, s) = (segment.state_bits.into(), segment.shift.into());
            search(l, s, &lanes[..count], count, work, &mut found[..count], &mut codes);
            for (state, found) in states[done..done + count].iter_mut().zip(&found) {
                *state = found[0];
            }
            let missing = usize::from(segment.states) - count;
            code = code << segment.bits() | codes[0] << (missing * usize::from(segment.shift));
            done += count;
        }
        code as u16
    }
}

/// Searches the first `count` states of a segment (L, N, S) in every lane, and appends their bits to `codes`.
#[inline(always)]
fn search(
    state_bits: u32,
    shift: u32,
    u: &[Lanes],
    count: usize,
    (costs, decisions): (&mut [Vec<Lanes>; 2], &mut [[u16; LANES]]),
    states: &mut [Lanes],
    codes: &mut [u32; LANES],
) {
    let memories = if count > 1 { 1usize << (state_bits - shift) } else { 1 };
    let half = (1u32 << (state_bits - 1)) as f32;
    let [next, here] = costs;
    let (next, here) = (&mut next[..memories], &mut here[..memories]);
    next.fill([0.0; LANES]);
    for t in (1..count).rev() {
        for (m, cost) in here.iter_mut().enumerate() {
            let first = m << shift;
            let (best, bits) = least(&u[t], first..first + (1 << shift), half, next);
            *cost = best;
            decisions[t * memories + m] = bits.map(|q| (q as usize - first) as u16);
        }
        next.copy_from_slice(here);
    }
    let (_, first) = least(&u[0], 0..1 << state_bits, half, next);
    for lane in 0..LANES {
        let mut state = first[lane] as usize;
        let mut code = codes[lane] << state_bits | state as u32;
        states[0][lane] = state as f32 - half;
        for t in 1..count {
            let memory = state & (memories - 1);
            let bits = usize::from(decisions[t * memories + memory][lane]);
            state = memory << shift | bits;
            code = code << shift | bits as u32;
            states[t][lane] = state as f32 - half;
        }
        codes[lane] = code;
    }
}

/// In every lane, the least `c^2 / 2 - u c + next[q mod memories]` over states q, and the first q that has it.
#[inline(always)]
fn least(u: &Lanes, states: std::ops::Range<usize>, half: f32, next: &[Lanes]) -> (Lanes, [u32; LANES]) {
    let mut best = [f32::INFINITY; LANES];
    let mut index = [states.start as u32; LANES];
    for q in states {
        let c = q as f32 - half;
        let norm = c * c * 0.5;
        let next = &next[q & (next.len() - 1)];
        for lane in 0..LANES {
            let cost = (norm - u[lane] * c) + next[lane];
            let better = cost < best[lane];
            best[lane] = if better { cost } else { best[lane] };
            index[lane] = if better { q as u32 } else { index[lane] };
        }
    }
    (best, index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaussian::SplitMix64;
    use ccq::code::{Family, LocalScale};

    /// The codes of the paper, and others that exercise the general case. (6, 4, 3) has 15 bits; one more segment
    /// of one bit fills its word.
    fn codes() -> Vec<Code> {
        let other = |segments: &[(u8, u8, u8)], word| {
            let segments: Vec<Segment> = segments.iter().map(|&(l, n, s)| Segment::new(l, n, s)).collect();
            [LocalScale::Nibble, LocalScale::Embedded { bits: 8 }]
                .into_iter()
                .find_map(|scale| Code::new(&segments, word, 64, scale, None).ok())
        };
        let named = [Family::Ccq275, Family::Ccq25, Family::Wint4].map(|family| family.code(64).ok());
        named
            .into_iter()
            .chain([
                other(&[(6, 4, 3), (1, 1, 1)], 16),
                other(&[(2, 7, 1)], 8),
                other(&[(5, 2, 3)], 8),
                other(&[(4, 5, 3)], 16),
            ])
            .flatten()
            .collect()
    }

    /// The states of a code, less their zero points.
    fn states(code: &Code, word: u32) -> impl Iterator<Item = f32> {
        let states = code.states();
        (0..code.states_per_word())
            .map(move |p| ((word >> states[p].shift & states[p].mask) as i32 - states[p].zero_point) as f32)
    }

    /// Algorithm 1: the first of all codes with the least cost over the given weights, the cost summed the way
    /// the path's is.
    fn exhaustive(code: &Code, u: &[f32]) -> (u32, f32) {
        let mut best = (0, f32::INFINITY);
        for word in 0..1u32 << code.word_bits() {
            let cost = cost(code, u, word);
            if cost < best.1 {
                best = (word, cost);
            }
        }
        best
    }

    fn cost(code: &Code, u: &[f32], word: u32) -> f32 {
        let costs: Vec<f32> = u.iter().zip(states(code, word)).map(|(&u, c)| c * c * 0.5 - u * c).collect();
        let mut at = 0;
        let mut total = 0.0;
        for segment in code.segments() {
            let end = (at + usize::from(segment.states)).min(costs.len());
            total += costs[at..end].iter().rev().fold(0.0, |sum, cost| cost + sum);
            at = end;
        }
        total
    }

    fn check(code: &Code, draw: &mut dyn FnMut() -> f32, exact: bool) {
        let per_word = code.states_per_word();
        let mut viterbi = Viterbi::new(code);
        let mut u = vec![[0.0; LANES]; per_word];
        u.iter_mut().flatten().for_each(|u| *u = draw());
        let mut found_states = vec![[0.0; LANES]; per_word];
        let mut words = [0; LANES];
        viterbi.block(&u, &mut found_states, &mut words);
        let lanes = if code.word_bits() == 16 { 3 } else { LANES };
        for lane in 0..lanes {
            let u: Vec<f32> = u.iter().map(|u| u[lane]).collect();
            for count in 1..=per_word {
                let mut found = vec![0.0; count];
                let word = if count == per_word {
                    found.iter_mut().zip(&found_states).for_each(|(f, states)| *f = states[lane]);
                    words[lane]
                } else {
                    viterbi.short(&u[..count], &mut found)
                };
                let word = u32::from(word);
                assert!(found.iter().copied().eq(states(code, word).take(count)), "states of {word:x}");
                let (expected, least) = exhaustive(code, &u[..count]);
                if exact {
                    assert_eq!(word, expected, "{:?} {u:?} {count}", code.segments());
                } else {
                    assert!(cost(code, &u[..count], word) <= least + least.abs() * 1e-6);
                }
            }
        }
    }

    #[test]
    fn integer_weights_give_the_code_of_algorithm_1() {
        let mut random = SplitMix64(5);
        for code in codes() {
            let half = 1u64 << (code.segments()[0].state_bits - 1);
            for round in 0..12u64 {
                // Within the range of the states at first, then far beyond it.
                let span = half * (1 + round);
                check(&code, &mut || (random.next() % (2 * span + 1)) as f32 - span as f32, true);
            }
        }
    }

    #[test]
    fn float_weights_give_the_cost_of_algorithm_1() {
        for (code, seed) in codes().into_iter().zip(1..) {
            let mut values = crate::gaussian(seed, 10_000).into_iter();
            let scale = f32::from(1u16 << (code.segments()[0].state_bits - 1)) * 0.4;
            for _ in 0..12 {
                check(&code, &mut || values.next().unwrap_or(0.0) * scale, false);
            }
        }
    }
}
