//! Seeded N(0, 1) values for tests and benchmarks, the same on every machine.
//!
//! Marsaglia's polar method over SplitMix64. It needs one logarithm, which C libraries round differently;
//! the one below is made of additions, multiplications and divisions alone.

/// `n` independent N(0, 1) values: a function of `seed`, and a prefix of any longer run with that seed.
pub fn gaussian(seed: u64, n: usize) -> Vec<f32> {
    let mut random = SplitMix64(seed);
    let mut out = Vec::with_capacity(n + 1);
    while out.len() < n {
        let (u, v) = (random.signed_unit(), random.signed_unit());
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            let radius = (-2.0 * natural_log(s) / s).sqrt();
            out.push((u * radius) as f32);
            out.push((v * radius) as f32);
        }
    }
    out.truncate(n);
    out
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1), 53 bits.
    fn signed_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 52) as f64) - 1.0
    }
}

/// ln(x) of a positive normal number, to a few units in the last place.
///
/// With x = 2^e m and m in [sqrt(1/2), sqrt(2)): ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)), by its series.
fn natural_log(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let f = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..=11).rev().fold(0.0, |sum, k| sum * (f * f) + 1.0 / f64::from(2 * k + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * f * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_a_gaussian() {
        let values = gaussian(1, 1 << 18);
        let moment = |k: i32| values.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.01);
        assert!((moment(2) - 1.0).abs() < 0.01);
        assert!(moment(3).abs() < 0.03);
        assert!((moment(4) - 3.0).abs() < 0.06);
    }

    #[test]
    fn values_are_pinned() {
        let values = gaussian(7, 5);
        assert_eq!(values, gaussian(7, 1000)[..5]);
        assert_ne!(values, gaussian(8, 5));
        assert_eq!(values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), PINNED);
    }

    /// From the same formulas in Python.
    const PINNED: [u32; 5] = [3_173_710_121, 3_191_568_737, 1_063_280_919, 1_043_970_469, 3_197_938_400];

    #[test]
    fn the_logarithm_is_accurate() {
        for i in 1..10_000 {
            let x = f64::from(i) / 10_000.0;
            assert!((natural_log(x) - x.ln()).abs() <= 4e-16 * (1.0 + x.ln().abs()), "{x}");
        }
    }
}
