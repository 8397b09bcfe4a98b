//! Raw little-endian bytes of F32, F16 and BF16 tensors to f32.
//!
//! Every conversion is exact. Bytes are read element by element: safetensors promises no alignment.

use ccq::format::Dtype;

/// Why bytes cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The dtype is not one of F32, F16 and BF16.
    #[error("dtype {0} does not decode to f32: expected F32, F16 or BF16; keep the tensor raw")]
    UnsupportedDtype(Dtype),
    /// The bytes end inside an element.
    #[error("{len} bytes are no whole number of {dtype} elements")]
    PartialElement {
        /// The element type.
        dtype: Dtype,
        /// Bytes given.
        len: usize,
    },
}

/// Decodes whole elements of `bytes`, at any alignment, into `out`, replacing what it held.
///
/// Any run of whole elements decodes, so that a caller may go row by row. The conversion is exact, also for
/// subnormals and infinities; a NaN stays a NaN.
///
/// # Errors
/// [`DecodeError`]; `out` is then empty.
pub fn decode_f32(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) -> Result<(), DecodeError> {
    out.clear();
    match dtype {
        Dtype::F32 => extend(dtype, bytes, out, f32::from_le_bytes),
        Dtype::F16 => extend(dtype, bytes, out, |pair| f32_from_f16(u16::from_le_bytes(pair))),
        Dtype::Bf16 => {
            extend(dtype, bytes, out, |pair| f32::from_bits(u32::from(u16::from_le_bytes(pair)) << 16))
        }
        other => Err(DecodeError::UnsupportedDtype(other)),
    }
}

/// The position of the first NaN or infinity.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    values.iter().position(|value| !value.is_finite())
}

fn extend<const SIZE: usize>(
    dtype: Dtype,
    bytes: &[u8],
    out: &mut Vec<f32>,
    convert: impl Fn([u8; SIZE]) -> f32,
) -> Result<(), DecodeError> {
    let (elements, rest) = bytes.as_chunks::<SIZE>();
    if !rest.is_empty() {
        return Err(DecodeError::PartialElement { dtype, len: bytes.len() });
    }
    out.extend(elements.iter().map(|&element| convert(element)));
    Ok(())
}

/// binary16 to binary32, without a branch so that it vectorizes.
///
/// Thirteen places to the left, exponent and mantissa of an f16 read as an f32 2^112 times too small,
/// subnormals included; the product with 2^112 is exact. An exponent of all ones stays all ones.
fn f32_from_f16(bits: u16) -> f32 {
    const SCALE: f32 = f32::from_bits(0x7780_0000); // 2^112
    let bits = u32::from(bits);
    let magnitude = (f32::from_bits((bits & 0x7FFF) << 13) * SCALE).to_bits();
    let special = if bits & 0x7C00 == 0x7C00 { 0x7F80_0000 } else { 0 };
    f32::from_bits(magnitude | special | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_decodes_as_the_half_crate_says() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let (mut f16, mut bf16) = (Vec::new(), Vec::new());
        decode_f32(Dtype::F16, &all, &mut f16).unwrap();
        decode_f32(Dtype::Bf16, &all, &mut bf16).unwrap();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for bits in 0..=u16::MAX {
            let (a, b) = (f16[usize::from(bits)], half::f16::from_bits(bits).to_f32());
            assert!(same(a, b), "f16 {bits:#06x}: {a} {b}");
            let (a, b) = (bf16[usize::from(bits)], half::bf16::from_bits(bits).to_f32());
            assert!(same(a, b), "bf16 {bits:#06x}: {a} {b}");
        }
        assert_eq!(f16[1], 2f32.powi(-24));
        assert_eq!(f16[0x7C00], f32::INFINITY);
        assert_eq!(f16[0x8000].to_bits(), (-0f32).to_bits());
    }

    #[test]
    fn any_alignment_decodes() {
        let values = [1.5f32, -2.25, f32::MIN_POSITIVE / 8.0, f32::MAX];
        let mut bytes = vec![0u8; 3];
        for lead in 0..8 {
            bytes.truncate(lead.min(bytes.len()));
            bytes.resize(lead, 0);
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let mut out = vec![9.0];
            decode_f32(Dtype::F32, &bytes[lead..], &mut out).unwrap();
            assert_eq!(out, values);
        }
    }

    #[test]
    fn what_does_not_decode_is_refused() {
        let mut out = vec![1.0];
        assert_eq!(decode_f32(Dtype::F64, &[0; 8], &mut out), Err(DecodeError::UnsupportedDtype(Dtype::F64)));
        assert!(out.is_empty());
        assert_eq!(
            decode_f32(Dtype::F16, &[0; 3], &mut out),
            Err(DecodeError::PartialElement { dtype: Dtype::F16, len: 3 })
        );
        assert_eq!(decode_f32(Dtype::F32, &[], &mut out), Ok(()));
    }

    #[test]
    fn the_first_non_finite_value_is_found() {
        assert_eq!(first_non_finite(&[0.0, f32::MAX, -1.0]), None);
        assert_eq!(first_non_finite(&[0.0, f32::NEG_INFINITY, f32::NAN]), Some(1));
        assert_eq!(first_non_finite(&[f32::NAN]), Some(0));
        assert_eq!(first_non_finite(&[]), None);
    }
}
