//! The exact encoding search of the convolutional codes (paper, Algorithm 1), as a shortest path.
//!
//! A segment (L, N, S) is a path of N states; state t + 1 starts with the last L - S bits of state t, the
//! *memory* m, and adds S new bits b. The squared error is a sum over states, so the best way to end a path
//! depends on its memory alone:
//!
//! ```text
//! cost(t, q)  = h[t] (c^2 / 2 - u[t] c)     with c = q - 2^(L-1): half the squared error, less h u^2 / 2
//! V(N, m)     = 0
//! V(t, m)     = min over b of  cost(t, q) + V(t + 1, q mod 2^(L-S)),    q = m 2^S + b
//! best path   = argmin over q of cost(0, q) + V(1, q mod 2^(L-S)), then the b of each V along the way
//! ```
//!
//! Costs are integers in units of 2^-12, with the bits of the path so far below them: the least number is the
//! least cost and, of equal ones, the lowest code among the best, which is what Algorithm 1's argmin over all 2^T
//! codes gives, for some 2^L N steps in place of 2^T N. There is nothing to trace back. Segments restart the path
//! and are searched one by one.

use crate::simd::{LANES, Simd};
use crate::words::WordSearch;
use ccq::code::{Code, Segment};

/// Units of cost: 2^-12.
const ONE: f32 = 4096.0;
/// Weights beyond this many steps count as this many: further out than four times the widest state of the codes
/// that are searched in 32 bits, so that costs stay below 2^22 units.
const LIMIT: f32 = 32.0;
/// Bits below a cost, for the path.
const PATH: u32 = 9;

/// The search for one code.
#[derive(Clone, Debug)]
pub(crate) struct Viterbi {
    segments: Vec<Segment>,
}

impl Viterbi {
    /// A search over the words of `code`, which has no cluster.
    pub fn new(code: &Code) -> Self {
        Self { segments: code.segments().to_vec() }
    }
}

impl WordSearch for Viterbi {
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, u: &[S::F], leverage: Option<&[S::F]>) -> S::I {
        let mut codes = simd.splat_i32(0);
        let mut done = 0;
        for segment in &self.segments {
            let count = usize::from(segment.states).min(u.len() - done);
            let u = &u[done..done + count];
            let leverage = leverage.map(|leverage| &leverage[done..done + count]);
            let found = match (segment.state_bits, segment.shift, segment.states) {
                // The named codes' parameters as constants, for the optimiser.
                (4, 2, 3) if count == 3 => search::<S, 4>(simd, 4, 2, &u[..3], leverage),
                (3, 2, 3) if count == 3 => search::<S, 2>(simd, 3, 2, &u[..3], leverage),
                (3, 2, 4) if count == 4 => search::<S, 2>(simd, 3, 2, &u[..4], leverage),
                (4, 2, 3) if count > 0 => search::<S, 4>(simd, 4, 2, u, leverage),
                (3, 2, 3 | 4) if count > 0 => search::<S, 2>(simd, 3, 2, u, leverage),
                (4, 3, 5) if count == 5 => rounding::<S, 2>(simd, 4, 3, &u[..5], leverage),
                (6, 5, 3) if count == 3 => rounding::<S, 2>(simd, 6, 5, &u[..3], leverage),
                (4, 3, 5) if count > 0 => rounding::<S, 2>(simd, 4, 3, u, leverage),
                (6, 5, 3) if count > 0 => rounding::<S, 2>(simd, 6, 5, u, leverage),
                _ => any(simd, *segment, u, leverage),
            };
            let missing = (u32::from(segment.states) - count.max(1) as u32) * u32::from(segment.shift);
            codes = simd.or(simd.shl(codes, segment.bits()), simd.shl(found, missing));
            done += count;
        }
        codes
    }

    #[inline(always)]
    fn expand<S: Simd>(&self, _simd: S, words: S::I) -> S::I {
        words
    }
}

/// The best path through `u.len()` states, at least one, in every lane; its bits, the first state's on top.
#[inline(always)]
fn search<S: Simd, const MEMORIES: usize>(
    simd: S,
    state_bits: u32,
    shift: u32,
    u: &[S::F],
    leverage: Option<&[S::F]>,
) -> S::I {
    let mut next = [simd.splat_i32(0); MEMORIES];
    // `t` from the end to 1, then 0, whose states have no memory to be told apart by.
    for t in (1..u.len()).rev() {
        let place = shift * (u.len() - 1 - t) as u32;
        let mut costs = Costs::new(simd, u[t], at(leverage, t), state_bits);
        let mut here = next;
        for (m, here) in here.iter_mut().enumerate() {
            let mut best = simd.splat_i32(i32::MAX);
            for b in 0..1usize << shift {
                let q = m << shift | b;
                let cost = simd.add_i32(costs.next(simd, b << place), next[q & (MEMORIES - 1)]);
                best = simd.min_i32(best, cost);
            }
            *here = best;
        }
        next = here;
    }
    let place = shift * (u.len() - 1) as u32;
    let mut costs = Costs::new(simd, u[0], at(leverage, 0), state_bits);
    let mut best = simd.splat_i32(i32::MAX);
    for q in 0..1usize << state_bits {
        let cost = simd.add_i32(costs.next(simd, q << place), next[q & (MEMORIES - 1)]);
        best = simd.min_i32(best, cost);
    }
    simd.and(best, simd.splat_i32((1 << PATH) - 1))
}

/// [`search`] for states of many bits that share few with the next: between one memory and the other lie states
/// that are equally far apart, and rounding finds the nearest of them.
///
/// ```text
/// states of t = m 2^S + i 2^(L-S) + m' for all i     m, m': the memories before and after it
/// c(t, m, m') = the one of them nearest to u[t], less 2^(L-1)
/// V(N, m)     = 0
/// V(t, m)     = min over m' of  h[t] (u[t] - c(t, m, m'))^2 + V(t + 1, m')
/// ```
///
/// Nothing comes before the first state, whose m is free, nor after the last, which ends with any bits.
///
/// Costs are f32 here. Of equally good paths, too, the lowest is taken; a weight that counts for nothing gets the
/// nearest state.
#[inline(always)]
fn rounding<S: Simd, const MEMORIES: usize>(
    simd: S,
    state_bits: u32,
    shift: u32,
    u: &[S::F],
    leverage: Option<&[S::F]>,
) -> S::I {
    let zero_point = (1u32 << (state_bits - 1)) as f32;
    let last = u.len() - 1;
    let mut next = [(simd.splat(0.0), simd.splat_i32(0)); MEMORIES];
    for (t, &u) in u.iter().enumerate().rev() {
        let (memories, free_bits) = if t == 0 { (1, state_bits) } else { (MEMORIES, shift) };
        let (memories_after, apart_bits) = if t == last { (1, 0) } else { (MEMORIES, state_bits - shift) };
        let apart = (1u32 << apart_bits) as f32;
        let most = ((1u32 << (free_bits - apart_bits)) - 1) as f32;
        let place = shift * (last - t) as u32;
        let after = next;
        for (m, here) in next.iter_mut().enumerate().take(memories) {
            let mut best = None;
            for (m_after, &(beyond, path)) in after.iter().enumerate().take(memories_after) {
                let lowest = (m << shift | m_after) as f32 - zero_point;
                let above = simd.sub(u, simd.splat(lowest));
                let index = simd.clamp(simd.mul(above, simd.splat(1.0 / apart)), 0.0, most);
                let index = simd.ceil(simd.sub(index, simd.splat(0.5)));
                let r = simd.sub(above, simd.mul(index, simd.splat(apart)));
                let hr = match at(leverage, t) {
                    None => r,
                    Some(h) => simd.mul(h, r),
                };
                let cost = simd.add(simd.mul(hr, r), beyond);
                let bits =
                    simd.or(simd.shl(simd.round_i32(index), apart_bits), simd.splat_i32(m_after as i32));
                let found = (cost, simd.or(simd.shl(bits, place), path));
                best = Some(match best {
                    None => found,
                    Some(best) => better(simd, best, found),
                });
            }
            if let Some(best) = best {
                *here = best;
            }
        }
    }
    next[0].1
}

/// Of two paths the one that costs less, of equals the lower one.
#[inline(always)]
fn better<S: Simd>(simd: S, x: (S::F, S::I), y: (S::F, S::I)) -> (S::F, S::I) {
    let equal = simd.min_i32(x.1, y.1);
    let path = simd.select(simd.less(x.0, y.0), x.1, simd.select(simd.less(y.0, x.0), y.1, equal));
    (simd.min(x.0, y.0), path)
}

/// A `match`, not a closure: those are not always inlined, and outside of a function for an instruction set its
/// intrinsics are calls.
#[inline(always)]
#[allow(clippy::manual_map)]
fn at<F: Copy>(leverage: Option<&[F]>, t: usize) -> Option<F> {
    match leverage {
        None => None,
        Some(leverage) => Some(leverage[t]),
    }
}

/// The costs of one state after the other, from 0 on, in every lane.
struct Costs<S: Simd> {
    /// The state to come, less its zero point.
    c: i32,
    /// `h u`, in units.
    slope: S::I,
    /// `h u c`.
    product: S::I,
    /// h / 2, in units, where there is one.
    leverage: Option<S::I>,
}

impl<S: Simd> Costs<S> {
    #[inline(always)]
    fn new(simd: S, u: S::F, leverage: Option<S::F>, state_bits: u32) -> Self {
        let one = simd.splat(ONE);
        let u = simd.mul(simd.clamp(u, -LIMIT, LIMIT), one);
        let (product, leverage) = match leverage {
            None => (u, None),
            Some(h) => {
                let half = simd.round_i32(simd.mul(h, simd.splat(ONE / 2.0)));
                (simd.mul(h, u), Some(simd.shl(half, PATH)))
            }
        };
        let slope = simd.shl(simd.round_i32(product), PATH);
        Self {
            c: -(1 << (state_bits - 1)),
            slope,
            product: simd.sub_i32(simd.splat_i32(0), simd.shl(slope, state_bits - 1)),
            leverage,
        }
    }

    /// The next state's cost, with bits of the path.
    #[inline(always)]
    fn next(&mut self, simd: S, path: usize) -> S::I {
        let (square, path) = (self.c * self.c, path as i32);
        let norm = match self.leverage {
            None => simd.splat_i32(((square * (ONE as i32 / 2)) << PATH) + path),
            Some(half) => {
                let norm = simd.mul_i32(half, simd.splat_i32(square));
                simd.add_i32(norm, simd.splat_i32(path))
            }
        };
        let cost = simd.sub_i32(norm, self.product);
        self.product = simd.add_i32(self.product, self.slope);
        self.c += 1;
        cost
    }
}

/// [`search`] for codes without a name: lane by lane, with 64 bits for cost and path.
#[inline(always)]
fn any<S: Simd>(simd: S, segment: Segment, u: &[S::F], leverage: Option<&[S::F]>) -> S::I {
    let mut codes = [0.0; LANES];
    if !u.is_empty() {
        for (lane, code) in codes.iter_mut().enumerate() {
            let u = u.iter().map(|&u| simd.store(u)[lane]);
            let u: Vec<(f32, f32)> = match leverage {
                None => u.map(|u| (u, 1.0)).collect(),
                Some(leverage) => u.zip(leverage.iter().map(|&h| simd.store(h)[lane])).collect(),
            };
            *code = any_lane(segment, &u) as f32;
        }
    }
    simd.round_i32(simd.load(&codes))
}

/// The best path for weights and what each counts.
fn any_lane(segment: Segment, weights: &[(f32, f32)]) -> u32 {
    let (state_bits, shift) = (u32::from(segment.state_bits), u32::from(segment.shift));
    let memories = 1usize << (state_bits - shift);
    let half = 1i64 << (state_bits - 1);
    let limit = half as f32 * 4.0;
    let mut next = vec![0i64; memories];
    for (t, &(u, h)) in weights.iter().enumerate().rev() {
        let place = shift * (weights.len() - 1 - t) as u32;
        let u = u.clamp(-limit, limit);
        let (slope, h) = ((h * u * ONE).round() as i64, (h * ONE).round() as i64);
        let cost = |q: usize, path: usize| {
            let c = q as i64 - half;
            ((h * c * c / 2 - slope * c) << 16 | (path as i64) << place) + next[q & (memories - 1)]
        };
        if t == 0 {
            let best = (0..1usize << state_bits).map(|q| cost(q, q)).min();
            return best.map_or(0, |best| (best & 0xFFFF) as u32);
        }
        let bits = 0..1usize << shift;
        next =
            (0..memories).map(|m| bits.clone().map(|b| cost(m << shift | b, b)).min().unwrap_or(0)).collect();
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaussian::SplitMix64;
    use crate::isa::{Isa, Job};
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
        let named = [Family::Ccq275, Family::Ccq25, Family::Ccq331, Family::Ccq55, Family::Wint4]
            .map(|family| family.code(64).ok());
        named
            .into_iter()
            .chain([
                other(&[(6, 4, 3), (1, 1, 1)], 16),
                other(&[(2, 7, 1)], 8),
                other(&[(5, 2, 3)], 8),
                other(&[(7, 4, 3)], 16),
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

    /// Algorithm 1: the first of all codes with the least `sum h (c^2 / 2 - u c)` over the given weights.
    fn exhaustive(code: &Code, weights: &[(f32, f32)]) -> (u32, f64) {
        let mut best = (0, f64::INFINITY);
        for word in 0..1u32 << code.word_bits() {
            let cost = cost(code, weights, word);
            if cost < best.1 {
                best = (word, cost);
            }
        }
        best
    }

    fn cost(code: &Code, weights: &[(f32, f32)], word: u32) -> f64 {
        let terms = weights.iter().zip(states(code, word)).map(|(&(u, h), c)| {
            let (u, h, c) = (f64::from(u), f64::from(h), f64::from(c));
            h * (c * c * 0.5 - u * c)
        });
        terms.sum()
    }

    /// One block.
    struct Block<'a>(&'a Viterbi, &'a [[f32; LANES]], Option<&'a [[f32; LANES]]>);

    impl Job for Block<'_> {
        type Output = [i32; LANES];

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let u: Vec<S::F> = self.1.iter().map(|u| simd.load(u)).collect();
            let h: Option<Vec<S::F>> = self.2.map(|h| h.iter().map(|h| simd.load(h)).collect());
            simd.store_i32(self.0.block(simd, &u, h.as_deref()))
        }
    }

    /// Words of every length against Algorithm 1, on every instruction set: the same code, or if not `exact` the
    /// same cost.
    fn check(code: &Code, mut draw: impl FnMut() -> (f32, f32), weighted: bool, exact: bool) {
        let viterbi = Viterbi::new(code);
        let per_word = code.states_per_word();
        let mut draws = || -> ([f32; LANES], [f32; LANES]) {
            let mut lanes = ([0.0; LANES], [1.0; LANES]);
            for lane in 0..LANES {
                let (u, h) = draw();
                lanes.0[lane] = u;
                lanes.1[lane] = if weighted { h } else { 1.0 };
            }
            lanes
        };
        let (u, h): (Vec<_>, Vec<_>) = (0..per_word).map(|_| draws()).unzip();
        let lanes = if code.word_bits() == 16 { 2 } else { LANES };
        for count in 1..=per_word {
            let (u, h) = (&u[..count], &h[..count]);
            let words = Isa::PORTABLE.run(Block(&viterbi, u, Some(h)));
            for isa in Isa::all() {
                assert_eq!(isa.run(Block(&viterbi, u, Some(h))), words, "{}", isa.name());
                if !weighted {
                    assert_eq!(isa.run(Block(&viterbi, u, None)), words, "{}, unweighted", isa.name());
                }
            }
            for (lane, &word) in words.iter().enumerate().take(lanes) {
                let weights: Vec<_> = u.iter().zip(h).map(|(u, h)| (u[lane], h[lane])).collect();
                let (expected, least) = exhaustive(code, &weights);
                let word = word as u32;
                // Rounding gives a weight that counts for nothing the nearest state, not the lowest.
                let is_rounded = matches!(code.family(), Some(Family::Ccq331 | Family::Ccq55));
                if exact && (!is_rounded || weights.iter().all(|&(_, h)| h > 0.0)) {
                    assert_eq!(word, expected, "{:?} {weights:?}", code.segments());
                } else {
                    let excess = cost(code, &weights, word) - least;
                    assert!(
                        excess <= 1e-2 + least.abs() * 1e-4,
                        "{:?} {weights:?}: {excess}",
                        code.segments()
                    );
                }
            }
        }
    }

    /// Weights on the search's grid and up to its limit.
    #[test]
    fn weights_of_few_bits_give_the_code_of_algorithm_1() {
        let mut random = SplitMix64(5);
        for code in codes() {
            let widest = 1u64 << (code.segments()[0].state_bits - 1);
            for round in 0..6u64 {
                for weighted in [false, true] {
                    // Within the range of the states at first, then up to four times that.
                    let span = (widest << (round % 3)) * 4;
                    let mut draw = |span: u64| (random.next() % (2 * span + 1)) as f32 - span as f32;
                    check(&code, || (draw(span) / 4.0, draw(4).abs() / 4.0), weighted, true);
                }
            }
        }
    }

    #[test]
    fn float_weights_give_the_cost_of_algorithm_1() {
        for (code, seed) in codes().into_iter().zip(1..) {
            let mut values = crate::gaussian(seed, 20_000).into_iter();
            let scale = f32::from(1u16 << (code.segments()[0].state_bits - 1)) * 0.4;
            for weighted in [false, true, false, true] {
                let mut next = || values.next().unwrap_or(0.0);
                check(&code, || (next() * scale, (next() * 0.3).abs().min(1.0)), weighted, false);
            }
        }
    }
}
