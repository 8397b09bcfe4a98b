//! The code cluster: a stored byte q and two parameters a row give a longer code (paper, section 3.3; spec,
//! clause 6.5). Both kinds are exact on every machine.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use crate::code::Cluster;

/// The cluster parameters of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClusterParams {
    /// `code = (a q + 256 zp + 128) >> 8`: the lattice step in 256ths and the code of q = 0.
    Q8 {
        /// code_scale in units of 1/256.
        a: u16,
        /// code_zero_point.
        zp: i16,
    },
    /// `code = floor(fma(q, scale, zp + 0.5))`, as imported files have it.
    F32 {
        /// code_scale.
        scale: f32,
        /// code_zero_point.
        zp: f32,
    },
}

impl ClusterParams {
    /// Bytes in the cluster plane.
    pub const fn stored_bytes(kind: Cluster) -> usize {
        match kind {
            Cluster::Q8 => 4,
            Cluster::F32 => 8,
        }
    }

    /// Reads the pair of a row; `None` unless `row` has exactly the kind's length.
    pub fn read(kind: Cluster, row: &[u8]) -> Option<Self> {
        match kind {
            Cluster::Q8 => {
                let [a0, a1, z0, z1] = *<&[u8; 4]>::try_from(row).ok()?;
                Some(Self::Q8 { a: u16::from_le_bytes([a0, a1]), zp: i16::from_le_bytes([z0, z1]) })
            }
            Cluster::F32 => {
                let (scale, zp) = row.split_first_chunk::<4>()?;
                let zp = <[u8; 4]>::try_from(zp).ok()?;
                Some(Self::F32 { scale: f32::from_le_bytes(*scale), zp: f32::from_le_bytes(zp) })
            }
        }
    }

    /// Writes the pair into its row of the cluster plane.
    ///
    /// # Panics
    /// When `row` has not the kind's length.
    #[allow(clippy::indexing_slicing)]
    pub fn write(self, row: &mut [u8]) {
        match self {
            Self::Q8 { a, zp } => {
                row[..2].copy_from_slice(&a.to_le_bytes());
                row[2..].copy_from_slice(&zp.to_le_bytes());
            }
            Self::F32 { scale, zp } => {
                row[..4].copy_from_slice(&scale.to_le_bytes());
                row[4..].copy_from_slice(&zp.to_le_bytes());
            }
        }
    }

    /// The code of `q`: the low bits of the formula's value, in two's complement, of which the states read as
    /// many as the code has.
    #[inline]
    #[allow(clippy::arithmetic_side_effects)] // the largest sum, of extreme parameters, has 26 bits
    pub fn code(self, q: u8) -> u16 {
        let code = match self {
            Self::Q8 { a, zp } => (i32::from(a) * i32::from(q) + 256 * i32::from(zp) + 128) >> 8,
            Self::F32 { scale, zp } => floor_to_i32(fused_multiply_add(q, scale, zp + 0.5)),
        };
        code as u16
    }
}

/// `fl32(q * scale + addend)` with one rounding, on any machine and without a C library.
///
/// The product is exact in f64 (8 + 24 bits). The sum may not be, and rounding it twice would be wrong once in
/// 2^29; rounding the f64 to odd first makes the second rounding right (Boldo and Melquiond, 2008).
fn fused_multiply_add(q: u8, scale: f32, addend: f32) -> f32 {
    let product = f64::from(q) * f64::from(scale);
    let addend = f64::from(addend);
    let sum = product + addend;
    if !sum.is_finite() {
        return sum as f32;
    }
    // Knuth's two-sum: `error` is exactly what `sum` lost.
    let addend_part = sum - product;
    let error = (product - (sum - addend_part)) + (addend - addend_part);
    if error == 0.0 || sum.to_bits() & 1 == 1 {
        return sum as f32;
    }
    let away = (error > 0.0) == (sum > 0.0);
    let odd = if away { sum.to_bits().wrapping_add(1) } else { sum.to_bits().wrapping_sub(1) };
    f64::from_bits(odd) as f32
}

/// `floor`, saturating to i32, NaN to 0.
fn floor_to_i32(value: f32) -> i32 {
    let truncated = value as i32;
    truncated.saturating_sub(i32::from(truncated as f32 > value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the C library's fused multiply-add, on parameters with every kind of rounding.
    #[test]
    fn fused_multiply_add_rounds_once() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        for i in 0..2_000_000u32 {
            let q = (random() >> 24) as u8;
            let exponent =
                |r: u32| if i.is_multiple_of(2) { r } else { r & 0x807F_FFFF | (120 + r % 16) << 23 };
            let scale = f32::from_bits(exponent(random()));
            let addend = f32::from_bits(exponent(random()));
            let expected = f32::from(q).mul_add(scale, addend);
            let found = fused_multiply_add(q, scale, addend);
            assert!(
                expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan(),
                "{q} * {scale:e} + {addend:e}: {found:e}, expected {expected:e}"
            );
        }
    }

    #[test]
    fn floor_saturates() {
        for (value, expected) in [
            (0.5, 0),
            (-0.5, -1),
            (-3.0, -3),
            (f32::NAN, 0),
            (f32::INFINITY, i32::MAX),
            (f32::NEG_INFINITY, i32::MIN),
            (-1e20, i32::MIN),
            (16_777_217.0, 16_777_216),
        ] {
            assert_eq!(floor_to_i32(value), expected, "{value}");
        }
    }

    /// Both kinds agree on every code of 15 bits, fused or not: the reason for the integer grid.
    #[test]
    fn kinds_agree_on_the_q8_grid() {
        for a in [0u16, 1, 30_721, 31_165, 40_000, u16::MAX] {
            for zp in [0, 1, 853, 1234, i16::MAX] {
                let integers = ClusterParams::Q8 { a, zp };
                let scale = f32::from(a) / 256.0;
                let floats = ClusterParams::F32 { scale, zp: f32::from(zp) };
                for q in (0..=255u8).take_while(|&q| u32::from(a) * u32::from(q) / 256 + (zp as u32) < 32_767)
                {
                    assert_eq!(integers.code(q), floats.code(q), "a {a} zp {zp} q {q}");
                    let unfused = f32::from(q) * scale + f32::from(zp) + 0.5;
                    assert_eq!(integers.code(q), unfused.floor() as u16, "a {a} zp {zp} q {q}");
                }
            }
        }
    }
}
