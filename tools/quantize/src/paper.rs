//! The paper's own procedure (section 3), to compare with: nothing is searched but the codes.
//!
//! ```text
//! 1 scale     a group's step is its largest magnitude / 2^(L-1)
//! 2 encode    Algorithm 1 over the full codebook (plain codes: round to nearest)
//! 3 refit     the step by equation (4); not for plain codes, for which this is the usual round to nearest
//! 4 compress  super scale = largest step / largest local scale, local scale = round(step / super scale)
//! 5 cluster   alpha = (max - min) / 255 and beta = min over the row's codes, q = floor((code - beta) / alpha); the
//!             decoder takes floor(alpha q + beta + 0.5)
//! ```
//!
//! The codes are those of step 2: neither compression nor clustering looks back at the weights. Clustering rounds the
//! low 7 bits of a 15-bit code away, which hold a state and a half of the word's four; that is why the error is
//! about that of zeros.

use crate::kernel::{Kernel, Layout, Parabola};
use crate::scale::{Solution, Unit};
use ccq::code::{Code, LocalScale};
use ccq::codec::ClusterParams;

/// Steps 1 to 4; the kernel's words are the codes.
pub(crate) fn scales<K: Kernel>(
    kernel: &mut K,
    code: &Code,
    layout: &Layout,
    row: &[f32],
    unit: Unit,
    refit: bool,
) -> Solution {
    let half = code.segments().iter().map(|s| 1u32 << (s.state_bits - 1)).max().unwrap_or(1) as f32;
    let largest = |group| row[layout.weights(group)].iter().fold(0.0f32, |max, w| max.max(w.abs()));
    let steps: Vec<f32> = (0..layout.groups).map(|group| largest(group) / half).collect();
    let mut fits = vec![Parabola::default(); layout.groups];
    kernel.load(row);
    kernel.encode(&steps, &mut fits);
    let ideals =
        fits.iter().zip(&steps).map(|(fit, &step)| if refit { fit.minimiser() } else { step.into() });
    let ideals: Vec<f64> = ideals.map(|step| step.max(0.0)).collect();
    let longest = ideals.iter().copied().fold(0.0, f64::max);
    let super_scale = unit.super_scale(longest / f64::from(code.max_local_scale()));
    let unit_step = f64::from(unit.step(1, super_scale));
    let most = unit.max_local(super_scale, code.max_local_scale());
    let local = |ideal: &f64| match code.local_scale() {
        LocalScale::None => 1,
        _ if unit_step == 0.0 => 0,
        _ => ((ideal / unit_step + 0.5) as i32).min(most),
    };
    Solution { error: 0.0, super_scale, local_scales: ideals.iter().map(local).collect() }
}

/// Step 5: the codes become stored bytes.
pub(crate) fn cluster(codes: &mut [u16]) -> ClusterParams {
    let (min, max) = (codes.iter().min().copied().unwrap_or(0), codes.iter().max().copied().unwrap_or(0));
    let scale = f32::from(max - min) / 255.0;
    for code in codes {
        let steps = if scale == 0.0 { 0.0 } else { f32::from(*code - min) / scale };
        *code = (steps as u16).min(255);
    }
    ClusterParams::F32 { scale, zp: min.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clustering_floors() {
        let mut codes = [100, 100 + 255 * 4, 103, 104, 100 + 9 * 4 + 2];
        let params = cluster(&mut codes);
        assert_eq!((params, codes), (ClusterParams::F32 { scale: 4.0, zp: 100.0 }, [0, 255, 0, 1, 9]));
        assert_eq!(cluster(&mut [7, 7]), ClusterParams::F32 { scale: 0.0, zp: 7.0 });
    }
}
