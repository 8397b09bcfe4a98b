//! The 256 codes that the decoder of a clustered row can reach (paper, section 3.3), as points.
//!
//! Two parameters a row expand a stored byte q to a code; the states of the 256 codes are 256 points in four
//! dimensions, close to a lattice of rank 1. The best q for a word u is the nearest point:
//!
//! ```text
//! cost(q) = |c(q)|^2 / 2 - u . c(q)         the least, and of several equal ones the lowest q
//! ```

use crate::kernel::LANES;
use ccq::code::Code;
use ccq::codec::ClusterParams;

/// States of a word; a cluster over another number of them is not searched.
pub(crate) const STATES: usize = 4;
/// Values of the stored byte.
pub(crate) const POINTS: usize = 256;

/// The points of one pair of cluster parameters, a coordinate at a time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lattice {
    /// The parameters.
    pub params: ClusterParams,
    coordinates: [[f32; POINTS]; STATES],
    half_norms: [f32; POINTS],
}

impl Lattice {
    /// The points that `params` reaches with the states of `code`.
    pub fn new(code: &Code, params: ClusterParams) -> Self {
        let mut lattice = Self { params, coordinates: [[0.0; POINTS]; STATES], half_norms: [0.0; POINTS] };
        for q in 0..=255u8 {
            let code_of_q = i32::from(params.code(q));
            let at = usize::from(q);
            for (coordinates, state) in lattice.coordinates.iter_mut().zip(code.states()) {
                let c = (code_of_q >> state.shift & state.mask as i32) - state.zero_point;
                coordinates[at] = c as f32;
                lattice.half_norms[at] += (c * c) as f32 * 0.5;
            }
        }
        lattice
    }

    /// `|c(q)|^2 / 2`.
    pub fn half_norms(&self) -> &[f32; POINTS] {
        &self.half_norms
    }

    /// c(q).
    pub fn point(&self, q: u8) -> [f32; STATES] {
        self.coordinates.each_ref().map(|coordinates| coordinates[usize::from(q)])
    }

    /// `word . c(q)` for every q.
    pub fn dots(&self, word: [f32; STATES]) -> [f32; POINTS] {
        let [c0, c1, c2, c3] = &self.coordinates;
        let mut dots = [0.0; POINTS];
        for q in 0..POINTS {
            dots[q] = (word[0] * c0[q] + word[1] * c1[q]) + (word[2] * c2[q] + word[3] * c3[q]);
        }
        dots
    }

    /// The best byte for one word, or for the first weights of one: the others carry no weight.
    pub fn nearest(&self, u: &[f32]) -> u8 {
        if let Ok(&word) = <&[f32; STATES]>::try_from(u) {
            return lowest(&self.dots(word), &self.half_norms, 1.0);
        }
        let (mut best, mut found) = (f32::INFINITY, 0);
        for q in 0..=255u8 {
            let cost: f32 = u.iter().zip(self.point(q)).map(|(u, c)| c * c * 0.5 - u * c).sum();
            if cost < best {
                (best, found) = (cost, q);
            }
        }
        found
    }
}

/// The first byte of least `step * norm - dot`.
pub(crate) fn lowest(dots: &[f32; POINTS], norms: &[f32; POINTS], step: f32) -> u8 {
    let (dots, norms) = (dots.as_chunks::<LANES>().0, norms.as_chunks::<LANES>().0);
    let mut least = [f32::INFINITY; LANES];
    for (dots, norms) in dots.iter().zip(norms) {
        for lane in 0..LANES {
            let cost = step * norms[lane] - dots[lane];
            least[lane] = if cost < least[lane] { cost } else { least[lane] };
        }
    }
    let least = least.into_iter().fold(f32::INFINITY, |least, cost| if cost < least { cost } else { least });
    first_at_most(dots, norms, step, least)
}

/// The first byte with a cost of at most `limit`, or the last byte of all.
fn first_at_most(dots: &[[f32; LANES]], norms: &[[f32; LANES]], step: f32, limit: f32) -> u8 {
    let mut q = 0;
    for (dots, norms) in dots.iter().zip(norms) {
        let mut any = 0;
        for lane in 0..LANES {
            any |= u32::from(step * norms[lane] - dots[lane] <= limit);
        }
        if any != 0 {
            for lane in 0..LANES {
                if step * norms[lane] - dots[lane] <= limit {
                    return q + lane as u8;
                }
            }
        }
        q = q.saturating_add(LANES as u8);
    }
    u8::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaussian::SplitMix64;
    use crate::lattices;
    use ccq::code::Family;

    /// The least cost over all bytes, and the first byte that has it, from the codec's own expansion.
    fn exhaustive(code: &Code, params: ClusterParams, u: &[f32]) -> u16 {
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
        best.0
    }

    #[test]
    fn the_search_is_the_argmin_over_all_bytes() {
        let code = Family::Ccq206.code(64).unwrap();
        let mut random = SplitMix64(9);
        for &(a, zp) in lattices::RANKED.iter().chain(&[(0, 0), (5, 32_000), (u16::MAX, 0)]) {
            let params = ClusterParams::Q8 { a: a.min(32_767), zp };
            let lattice = Lattice::new(&code, params);
            for round in 0..20u64 {
                let span = 10 << (round % 8);
                for _ in 0..LANES {
                    let u = [0; STATES].map(|_| (random.next() % (2 * span + 1)) as f32 - span as f32);
                    for count in 1..=STATES {
                        let expected = exhaustive(&code, params, &u[..count]);
                        assert_eq!(u16::from(lattice.nearest(&u[..count])), expected, "{params:?} {u:?}");
                    }
                }
            }
        }
    }
}
