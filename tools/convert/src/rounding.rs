//! Decoded weights to little-endian bytes of a dtype, rounded to nearest even.

use ccq::format::Dtype;
use half::{bf16, f16};

/// A dtype that weights are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// binary32: exactly what was decoded.
    F32,
    /// binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Target {
    /// The dtype to write, or `None` for one that is no target.
    pub fn new(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The dtype.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// What to write instead where a weight overflows.
    pub fn advice(self) -> &'static str {
        match self {
            Self::F16 => "--dtype bf16 or f32",
            Self::F32 | Self::Bf16 => "--dtype f32",
        }
    }

    /// Rounds `values` into `out`, [`Target::size`] bytes each.
    ///
    /// # Errors
    /// The position of the first finite value that would round to an infinity.
    pub fn round(self, values: &[f32], out: &mut [u8]) -> Result<(), usize> {
        match self {
            Self::F32 => store(values, out, |value| (value.to_le_bytes(), false)),
            Self::F16 => store(values, out, |value| {
                let rounded = f16::from_f32(value);
                (rounded.to_le_bytes(), rounded.is_infinite())
            }),
            Self::Bf16 => store(values, out, |value| {
                let rounded = bf16::from_f32(value);
                (rounded.to_le_bytes(), rounded.is_infinite())
            }),
        }
    }
}

fn store<const SIZE: usize>(
    values: &[f32],
    out: &mut [u8],
    round: impl Fn(f32) -> ([u8; SIZE], bool),
) -> Result<(), usize> {
    let (elements, _) = out.as_chunks_mut::<SIZE>();
    let mut overflows = false;
    for (element, &value) in elements.iter_mut().zip(values) {
        let (bytes, infinite) = round(value);
        overflows |= infinite && value.is_finite();
        *element = bytes;
    }
    let overflow = |value: &f32| value.is_finite() && round(*value).1;
    if overflows { values.iter().position(overflow).map_or(Ok(()), Err) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_even() {
        let mut out = [0; 2];
        let mut round = |target: Target, value: f32| {
            target.round(&[value], &mut out).unwrap();
            u16::from_le_bytes(out)
        };
        // Halfway between 1 and 1 + 2^-10, and between that and 1 + 2^-9.
        assert_eq!(round(Target::F16, 1.0 + 1.0 / 2048.0), 0x3C00);
        assert_eq!(round(Target::F16, 1.0 + 3.0 / 2048.0), 0x3C02);
        assert_eq!(round(Target::F16, 2f32.powi(-25)), 0);
        assert_eq!(round(Target::F16, 65519.9), 0x7BFF);
        assert_eq!(round(Target::Bf16, 1.0 + 1.0 / 256.0), 0x3F80);
        assert_eq!(round(Target::Bf16, 1.0 + 3.0 / 256.0), 0x3F82);
        assert_eq!(round(Target::Bf16, -0.0), 0x8000);
    }

    #[test]
    fn overflow_is_found() {
        let mut out = [0; 8];
        assert_eq!(Target::F16.round(&[1.0, 65520.0], &mut out), Err(1));
        assert_eq!(Target::F16.round(&[f32::INFINITY, 65504.0], &mut out), Ok(()));
        assert_eq!(Target::Bf16.round(&[65520.0, f32::MAX], &mut out), Err(1));
        assert_eq!(Target::F32.round(&[65520.0, f32::MAX], &mut out), Ok(()));
    }
}
