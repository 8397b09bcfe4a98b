//! The 256 codes that the decoder of a clustered row can reach (paper, section 3.3), as points.
//!
//! Two parameters a row expand a stored byte q to a code; the states of the 256 codes are 256 points in four
//! dimensions, close to a lattice of rank 1. The best q for a word u is the nearest point:
//!
//! ```text
//! cost(q) = sum h (c(q)^2 / 2 - u c(q))     the least, and of several equal ones the lowest q
//! ```
//!
//! Costs are integers in units of 2^-8, with q in the eight bits below: one minimum finds both. The terms are
//! products of 16-bit numbers (256 c is one, and 8 c^2), which any machine adds up in pairs, so that 256 points
//! cost some 50 instructions a word; finding candidates first, by cells of the space, costs as much as it saves.

use crate::simd::Simd;
use crate::words::WordSearch;
use ccq::code::Code;
use ccq::codec::ClusterParams;

/// States of a word; a cluster over another number of them is not searched.
pub(crate) const STATES: usize = 4;
/// Values of the stored byte.
pub(crate) const POINTS: usize = 256;
/// The ratio of step to rms that suits Gaussian weights and a good lattice of the code (6, 4, 3).
pub(crate) const STEP: f32 = 1.0 / 16.4;
/// Units of cost: 2^-8.
const ONE: f32 = 256.0;
/// Weights beyond this many steps count as this many: nearly four times the widest state, and 16 bits.
const LIMIT: f32 = 127.0;
/// Parts of a leverage of 1 that are told apart in a word: any more would reach into the bits of q.
const LEVERAGE: f32 = 128.0;
/// One of them, so that it agrees with the units of cost.
const PART: f32 = 32.0;

/// One point, in the form that the search takes.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    /// `|c|^2 / 2` and q.
    norm: i32,
    /// q alone.
    byte: i32,
    /// Pairs of `-256 c`.
    states: [i32; 2],
    /// Pairs of `8 c^2`.
    squares: [i32; 2],
}

/// The points of one pair of cluster parameters.
#[derive(Clone, Debug)]
pub(crate) struct Lattice {
    /// The code scale in 256ths, and the code zero point.
    a: u16,
    zp: i16,
    points: Box<[Point; POINTS]>,
}

impl Lattice {
    /// The points of the pair with the states of `code`.
    pub fn new(code: &Code, a: u16, zp: i16) -> Self {
        let mut lattice = Self { a, zp, points: Box::new([Point::default(); POINTS]) };
        let params = lattice.params();
        for (q, point) in (0..=255u8).zip(lattice.points.iter_mut()) {
            let bits = i32::from(params.code(q));
            let states = code.states();
            let c: [i32; STATES] = std::array::from_fn(|p| {
                (bits >> states[p].shift & states[p].mask as i32) - states[p].zero_point
            });
            let norm: i32 = c.iter().map(|c| c * c).sum();
            *point = Point {
                norm: norm * (ONE as i32 / 2 * 256) + i32::from(q),
                byte: q.into(),
                states: pairs(c.map(|c| -256 * c)),
                squares: pairs(c.map(|c| 8 * c * c)),
            };
        }
        lattice
    }

    /// The parameters.
    pub fn params(&self) -> ClusterParams {
        ClusterParams::Q8 { a: self.a, zp: self.zp }
    }
}

/// Two and two i16 side by side.
fn pairs([a, b, c, d]: [i32; STATES]) -> [i32; 2] {
    [a & 0xFFFF | b << 16, c & 0xFFFF | d << 16]
}

impl WordSearch for &Lattice {
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, u: &[S::F], leverage: Option<&[S::F]>) -> S::I {
        let mut products = [simd.splat(0.0); STATES];
        for p in 0..u.len() {
            products[p] = simd.mul(simd.clamp(u[p], -LIMIT, LIMIT), simd.splat(ONE));
        }
        if u.len() == STATES && leverage.is_none() {
            return self.least::<S, false>(simd, pack(simd, &products), [simd.splat_i32(0); 2]);
        }
        let mut counts = [simd.splat(0.0); STATES];
        for p in 0..u.len() {
            let h = match leverage {
                None => simd.splat(1.0),
                Some(leverage) => leverage[p],
            };
            // The same in both terms, so that the best state stays where it is.
            let parts = simd.to_f32(simd.round_i32(simd.mul(h, simd.splat(LEVERAGE))));
            products[p] = simd.mul(simd.mul(parts, simd.splat(1.0 / LEVERAGE)), products[p]);
            counts[p] = simd.mul(parts, simd.splat(PART));
        }
        self.least::<S, true>(simd, pack(simd, &products), pack(simd, &counts))
    }

    #[inline(always)]
    fn expand<S: Simd>(&self, simd: S, words: S::I) -> S::I {
        let scaled = simd.mul_i32(words, simd.splat_i32(self.a.into()));
        simd.shr(simd.add_i32(scaled, simd.splat_i32(256 * i32::from(self.zp) + 128)), 8)
    }
}

impl Lattice {
    /// The bytes of the least costs, for pairs of `h u` and, if each weight has its own, of h.
    #[inline(always)]
    fn least<S: Simd, const WEIGHTED: bool>(&self, simd: S, u: [S::I; 2], h: [S::I; 2]) -> S::I {
        // Two chains of minima, so that neither waits for the other.
        let mut best = [simd.splat_i32(i32::MAX); 2];
        for points in self.points.as_chunks::<2>().0 {
            for i in 0..2 {
                let point = &points[i];
                let mut cost = simd.splat_i32(if WEIGHTED { point.byte } else { point.norm });
                cost = simd.add_dot(cost, u[0], simd.splat_i32(point.states[0]));
                cost = simd.add_dot(cost, u[1], simd.splat_i32(point.states[1]));
                if WEIGHTED {
                    cost = simd.add_dot(cost, h[0], simd.splat_i32(point.squares[0]));
                    cost = simd.add_dot(cost, h[1], simd.splat_i32(point.squares[1]));
                }
                best[i] = simd.min_i32(best[i], cost);
            }
        }
        simd.and(simd.min_i32(best[0], best[1]), simd.splat_i32(255))
    }
}

/// Rounded to integers, two and two i16 in a lane.
#[inline(always)]
fn pack<S: Simd>(simd: S, x: &[S::F; STATES]) -> [S::I; 2] {
    let low = simd.splat_i32(0xFFFF);
    let mut out = [low; 2];
    for i in 0..2 {
        let (first, second) = (simd.round_i32(x[2 * i]), simd.round_i32(x[2 * i + 1]));
        out[i] = simd.or(simd.and(first, low), simd.shl(second, 16));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gaussian::SplitMix64;
    use crate::isa::{Isa, Job};
    use crate::lattices;
    use crate::simd::LANES;
    use ccq::code::Family;

    /// One block, each word in `u` with its leverages.
    struct Block<'a>(&'a Lattice, &'a [[f32; LANES]], Option<&'a [[f32; LANES]]>);

    impl Job for Block<'_> {
        type Output = ([i32; LANES], [i32; LANES]);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let u: Vec<S::F> = self.1.iter().map(|u| simd.load(u)).collect();
            let h: Option<Vec<S::F>> = self.2.map(|h| h.iter().map(|h| simd.load(h)).collect());
            let words = self.0.block(simd, &u, h.as_deref());
            (simd.store_i32(words), simd.store_i32((&self.0).expand(simd, words)))
        }
    }

    /// The first byte of least cost over all bytes, from the codec's own expansion.
    fn exhaustive(code: &Code, params: ClusterParams, u: &[f32], h: &[f32]) -> i32 {
        let states = code.states();
        let mut best = (0, f64::INFINITY);
        for q in 0..=255u8 {
            let bits = u32::from(params.code(q));
            let cost: f64 = u
                .iter()
                .zip(h)
                .zip(&states)
                .map(|((&u, &h), s)| {
                    let c = f64::from((bits >> s.shift & s.mask) as i32 - s.zero_point);
                    f64::from(h) * (c * c * 0.5 - f64::from(u) * c)
                })
                .sum();
            if cost < best.1 {
                best = (q.into(), cost);
            }
        }
        best.0
    }

    #[test]
    fn the_search_is_the_argmin_over_all_bytes_on_every_instruction_set() {
        let code = Family::Ccq206.code(64).unwrap();
        let mut random = SplitMix64(9);
        for &(a, zp) in lattices::RANKED.iter().take(20).chain(&[(0, 0), (5, 32_000), (32_767, 0)]) {
            let lattice = Lattice::new(&code, a, zp);
            for round in 0..8u64 {
                // Multiples of 2^-6 within the limit, and leverages whose products are multiples as well.
                let span = 128 << (round % 7);
                let mut draw = || (random.next() % (2 * span + 1)) as f32 / 64.0 - span as f32 / 64.0;
                let u: Vec<[f32; LANES]> = (0..STATES).map(|_| [0; LANES].map(|_| draw())).collect();
                let even: Vec<[f32; LANES]> = u.iter().map(|u| u.map(|u| (u * 8.0).trunc() / 8.0)).collect();
                let h: Vec<[f32; LANES]> =
                    (0..STATES).map(|_| [0; LANES].map(|_| (random.next() % 9) as f32 / 8.0)).collect();
                let ones = [[1.0; LANES]; STATES];
                for count in 1..=STATES {
                    for isa in Isa::all() {
                        let (plain, codes) = isa.run(Block(&lattice, &u[..count], None));
                        let (weighted, _) = isa.run(Block(&lattice, &even[..count], Some(&h[..count])));
                        let (alike, _) = isa.run(Block(&lattice, &u[..count], Some(&ones[..count])));
                        assert_eq!(plain, alike);
                        for lane in 0..LANES {
                            let at =
                                |x: &[[f32; LANES]]| x[..count].iter().map(|x| x[lane]).collect::<Vec<_>>();
                            let expected = exhaustive(&code, lattice.params(), &at(&u), &at(&ones));
                            assert_eq!(plain[lane], expected, "{a} {zp} {}", isa.name());
                            let expected = exhaustive(&code, lattice.params(), &at(&even), &at(&h));
                            assert_eq!(weighted[lane], expected, "{a} {zp} {}, weighted", isa.name());
                            let code_of = lattice.params().code(plain[lane] as u8);
                            assert_eq!(codes[lane] as u32 & 0x7FFF, u32::from(code_of) & 0x7FFF);
                        }
                    }
                }
            }
        }
    }
}
