//! The super scale of least rounding error: step 3 of the scale search.
//!
//! Near a group's best step t the error is `minimum + (l s - t)^2 norm` for a local scale l and a super scale s. For
//! each of some candidates s, l is t / s rounded, and s is refitted once to those l, `sum(l t norm) / sum(l^2 norm)`.

use crate::isa::Job;
use crate::kernel::Parabola;
use crate::simd::Simd;

/// Step 3, over the best answer of each group.
pub(crate) struct Compress<'a> {
    /// The best answers, and their minima.
    pub ideals: &'a [(Parabola, f64)],
    /// The longest step.
    pub longest: f64,
    /// The least and the largest local scale.
    pub range: (f64, f64),
    /// Super scales to start from.
    pub candidates: usize,
}

/// Groups side by side.
const EIGHT: usize = 8;

impl Job for Compress<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> f64 {
        let mut groups = Vec::with_capacity(self.ideals.len().div_ceil(EIGHT));
        for ideals in self.ideals.chunks(EIGHT) {
            let mut group = [[0.0; EIGHT]; 2];
            for (i, (ideal, _)) in ideals.iter().enumerate() {
                (group[0][i], group[1][i]) = (ideal.minimiser(), ideal.norm);
            }
            groups.push(group);
        }
        let mut best = (f64::INFINITY, self.longest / self.range.1);
        for i in 0..self.candidates {
            // From a largest local scale that is cut by an eighth to one that uses half the range.
            let range = 1.125 - 0.625 * i as f64 / (self.candidates - 1) as f64;
            let mut super_scale = self.longest / (self.range.1 * range);
            for _ in 0..2 {
                let (error, refitted) = self.excess(&groups, super_scale);
                if error < best.0 {
                    best = (error, super_scale);
                }
                super_scale = refitted;
            }
        }
        best.1
    }
}

impl Compress<'_> {
    /// What rounding the local scales costs, and the super scale that suits them best.
    #[inline(always)]
    fn excess(&self, groups: &[[[f64; EIGHT]; 2]], super_scale: f64) -> (f64, f64) {
        const ROUNDER: f64 = 6_755_399_441_055_744.0;
        let inverse = 1.0 / super_scale;
        let [mut error, mut dot, mut norm] = [[0.0; EIGHT]; 3];
        for [steps, norms] in groups {
            for i in 0..EIGHT {
                let local = steps[i] * inverse;
                let local = if local < self.range.0 { self.range.0 } else { local };
                let local = if local > self.range.1 { self.range.1 } else { local };
                let local = (local + ROUNDER) - ROUNDER;
                let difference = local * super_scale - steps[i];
                error[i] += difference * difference * norms[i];
                dot[i] += local * steps[i] * norms[i];
                norm[i] += local * local * norms[i];
            }
        }
        let [error, dot, norm] = [error, dot, norm].map(|sums| {
            let [a, b, c, d, e, f, g, h] = sums;
            ((a + e) + (b + f)) + ((c + g) + (d + h))
        });
        (error, if norm > 0.0 { dot / norm } else { super_scale })
    }
}
