//! What weights are decoded to.

use half::{bf16, f16};

/// A floating-point type that weights can be decoded to: `f32`, or [`struct@f16`] or [`bf16`] of the crate `half`.
///
/// The narrow ones are the f32 weight rounded once more, to nearest, ties to even.
pub trait Element: sealed::Element {}

impl Element for f32 {}
impl Element for f16 {}
impl Element for bf16 {}

pub(super) mod sealed {
    use super::super::simd::{LANES, Simd};
    use half::{bf16, f16};

    /// Kept here so that no other type becomes an element.
    pub trait Element: Copy + Send + Sync + 'static {
        /// Zero.
        const ZERO: Self;

        /// The nearest value.
        fn from_f32(value: f32) -> Self;

        /// The nearest values, from registers.
        fn store<S: Simd>(simd: S, values: S::Floats, out: &mut [Self; LANES]);
    }

    impl Element for f32 {
        const ZERO: Self = 0.0;

        #[inline(always)]
        fn from_f32(value: f32) -> Self {
            value
        }

        #[inline(always)]
        fn store<S: Simd>(simd: S, values: S::Floats, out: &mut [Self; LANES]) {
            simd.store(values, out);
        }
    }

    impl Element for f16 {
        const ZERO: Self = Self::ZERO;

        #[inline(always)]
        fn from_f32(value: f32) -> Self {
            Self::from_f32(value)
        }

        #[inline(always)]
        fn store<S: Simd>(simd: S, values: S::Floats, out: &mut [Self; LANES]) {
            simd.store_f16(values, out);
        }
    }

    impl Element for bf16 {
        const ZERO: Self = Self::ZERO;

        #[inline(always)]
        fn from_f32(value: f32) -> Self {
            Self::from_f32(value)
        }

        #[inline(always)]
        fn store<S: Simd>(simd: S, values: S::Floats, out: &mut [Self; LANES]) {
            simd.store_bf16(values, out);
        }
    }
}
