//! The encoding search of clustered codes (paper, section 3.3), over the codes that the decoder can reach.
//!
//! Two parameters a row expand a stored byte q to a code; the states of the 256 codes are 256 points in four
//! dimensions, close to a lattice of rank 1. The best q is the nearest point:
//!
//! ```text
//! cost(q) = |c(q)|^2 / 2 - u . c(q)         the least, and of several equal ones the lowest q
//! ```

use super::kernel::{LANES, Lanes};
use super::words::WordSearch;
use ccq::code::Code;
use ccq::codec::ClusterParams;

/// States of a word; a cluster over another number of them is not searched.
pub(crate) const STATES: usize = 4;

/// The points of one pair of cluster parameters.
#[derive(Clone, Debug)]
pub(crate) struct Lattice {
    points: Vec<[f32; STATES]>,
    half_norms: Vec<f32>,
}

impl Lattice {
    /// The points that `params` reaches with the states of `code`.
    pub fn new(code: &Code, params: ClusterParams) -> Self {
        let states = code.states();
        let points: Vec<[f32; STATES]> = (0..=255u8)
            .map(|q| {
                let code = i32::from(params.code(q));
                std::array::from_fn(|p| {
                    ((code >> states[p].shift & states[p].mask as i32) - states[p].zero_point) as f32
                })
            })
            .collect();
        let half_norms = points.iter().map(|point| half_norm(point)).collect();
        Self { points, half_norms }
    }
}

/// `|c|^2 / 2`: exact for states of up to 11 bits.
fn half_norm(point: &[f32]) -> f32 {
    point.iter().map(|c| c * c).sum::<f32>() * 0.5
}

impl WordSearch for Lattice {
    fn block(&mut self, u: &[Lanes], states: &mut [Lanes], words: &mut [u16; LANES]) {
        let Ok([u0, u1, u2, u3]) = <&[Lanes; STATES]>::try_from(u) else { return };
        let mut best = [f32::INFINITY; LANES];
        let mut index = [0u32; LANES];
        for (q, (c, &norm)) in (0u32..).zip(self.points.iter().zip(&self.half_norms)) {
            for lane in 0..LANES {
                let dot = (u0[lane] * c[0] + u1[lane] * c[1]) + (u2[lane] * c[2] + u3[lane] * c[3]);
                let cost = norm - dot;
                let better = cost < best[lane];
                best[lane] = if better { cost } else { best[lane] };
                index[lane] = if better { q } else { index[lane] };
            }
        }
        for lane in 0..LANES {
            words[lane] = index[lane] as u16;
            for (states, &c) in states.iter_mut().zip(&self.points[index[lane] as usize]) {
                states[lane] = c;
            }
        }
    }

    fn short(&mut self, u: &[f32], states: &mut [f32]) -> u16 {
        let (mut best, mut word) = (f32::INFINITY, 0);
        for (q, point) in (0u16..).zip(&self.points) {
            let point = &point[..u.len()];
            let cost = half_norm(point) - u.iter().zip(point).map(|(u, c)| u * c).sum::<f32>();
            if cost < best {
                (best, word) = (cost, q);
            }
        }
        states.copy_from_slice(&self.points[usize::from(word)][..u.len()]);
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaussian::SplitMix64;
    use crate::lattices;
    use ccq::code::Family;

    /// The least cost over all bytes, and the first byte that has it, from the codec's own expansion.
    fn exhaustive(code: &Code, params: ClusterParams, u: &[f32]) -> (u16, f32) {
        let states = code.states();
        let mut best = (0, f32::INFINITY);
        for q in 0..=255u8 {
            let bits = u32::from(params.code(q));
            let cost: f32 = u
                .iter()
                .zip(&states)
                .map(|(u, s)| {
                    let c = ((bits >> s.shift & s.mask) as i32 - s.zero_point) as f32;
                    c * c * 0.5 - u * c
                })
                .sum();
            if cost < best.1 {
                best = (q.into(), cost);
            }
        }
        best
    }

    #[test]
    fn the_search_is_the_argmin_over_all_bytes() {
        let code = Family::Ccq206.code(64).unwrap();
        let mut random = SplitMix64(9);
        for &(a, zp) in lattices::RANKED.iter().chain(&[(0, 0), (5, 32_000), (u16::MAX, 0)]) {
            let params = ClusterParams::Q8 { a: a.min(32_767), zp };
            let mut lattice = Lattice::new(&code, params);
            for round in 0..20u64 {
                let span = 10 << (round % 8);
                let mut u = [[0.0; LANES]; STATES];
                u.iter_mut()
                    .flatten()
                    .for_each(|u| *u = (random.next() % (2 * span + 1)) as f32 - span as f32);
                let (mut states, mut words) = ([[0.0; LANES]; STATES], [0; LANES]);
                lattice.block(&u, &mut states, &mut words);
                for lane in 0..LANES {
                    let u = u.map(|u| u[lane]);
                    assert_eq!(words[lane], exhaustive(&code, params, &u).0, "{params:?} {u:?}");
                    for count in 1..STATES {
                        let mut found = [0.0; STATES];
                        let word = lattice.short(&u[..count], &mut found[..count]);
                        assert_eq!(word, exhaustive(&code, params, &u[..count]).0);
                    }
                }
            }
        }
    }
}
