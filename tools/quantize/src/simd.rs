//! Sixteen lanes of f32 and of i32, for one instruction set or another.
//!
//! [`Portable`] says what each operation does. The others do the same to the last bit (but for the sign of a zero,
//! which nothing here depends on), in wider registers. Loops written over [`Simd`] are inlined into functions that
//! are compiled for the instruction set (module `isa`), so that lanes stay in registers from one operation to
//! the next; loops over plain arrays, which the compiler would have to vectorise by itself, ran at a third of the
//! speed here.

/// Values worked on side by side.
pub(crate) const LANES: usize = 16;

/// Adding it to a value below 2^22 and subtracting it again rounds to an integer, ties to even.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// The operations of an instruction set. A value of the type is the proof that the machine has it.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;

    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F) -> [f32; LANES];
    fn splat(self, x: f32) -> Self::F;
    fn add(self, x: Self::F, y: Self::F) -> Self::F;
    fn sub(self, x: Self::F, y: Self::F) -> Self::F;
    fn mul(self, x: Self::F, y: Self::F) -> Self::F;
    /// x if x < y, otherwise y.
    fn min(self, x: Self::F, y: Self::F) -> Self::F;
    /// x if x > y, otherwise y.
    fn max(self, x: Self::F, y: Self::F) -> Self::F;
    /// All bits where x < y, none elsewhere.
    fn less(self, x: Self::F, y: Self::F) -> Self::I;
    /// The least integer that is no less, of a magnitude below 2^22.
    fn ceil(self, x: Self::F) -> Self::F;
    /// The bits of each lane.
    fn bits(self, x: Self::F) -> Self::I;
    /// The integers as f32, of a magnitude below 2^24.
    fn to_f32(self, x: Self::I) -> Self::F;

    fn store_i32(self, x: Self::I) -> [i32; LANES];
    fn splat_i32(self, x: i32) -> Self::I;
    fn add_i32(self, x: Self::I, y: Self::I) -> Self::I;
    fn sub_i32(self, x: Self::I, y: Self::I) -> Self::I;
    fn mul_i32(self, x: Self::I, y: Self::I) -> Self::I;
    fn min_i32(self, x: Self::I, y: Self::I) -> Self::I;
    fn and(self, x: Self::I, y: Self::I) -> Self::I;
    fn or(self, x: Self::I, y: Self::I) -> Self::I;
    /// x where all bits of `mask` are set, y where none is.
    fn select(self, mask: Self::I, x: Self::I, y: Self::I) -> Self::I;
    /// `x << n` for n below 32.
    fn shl(self, x: Self::I, n: u32) -> Self::I;
    /// `x >> n` for n below 32, of the bits as an unsigned number.
    fn shr(self, x: Self::I, n: u32) -> Self::I;
    /// Each lane of x and y as two i16, of products that fit: `sum + x.0 y.0 + x.1 y.1`.
    fn add_dot(self, sum: Self::I, x: Self::I, y: Self::I) -> Self::I;

    /// `round(x)` as an integer, of a magnitude below 2^22; ties to even.
    #[inline(always)]
    fn round_i32(self, x: Self::F) -> Self::I {
        let rounder = self.splat(ROUNDER);
        self.sub_i32(self.bits(self.add(x, rounder)), self.bits(rounder))
    }

    /// `min(max(x, -limit), limit)`.
    #[inline(always)]
    fn clamp(self, x: Self::F, low: f32, high: f32) -> Self::F {
        self.min(self.max(x, self.splat(low)), self.splat(high))
    }

    /// The sum of all lanes: of neighbours first, then of neighbouring sums.
    #[inline(always)]
    fn total(self, x: Self::F) -> f32 {
        let x = self.store(x);
        let eight: [f32; 8] = std::array::from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

/// Any machine; the definition.
///
/// Operations are calls, each vectorised by itself: inlined, sixteen lanes at a time, they take the compiler minutes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// One expression for each lane.
macro_rules! lanes {
    ($i:ident => $lane:expr) => {{
        let mut out = [Default::default(); LANES];
        for $i in 0..LANES {
            out[$i] = $lane;
        }
        out
    }};
}

#[rustfmt::skip]
impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];

    #[inline(always)] fn load(self, x: &[f32; LANES]) -> Self::F { *x }
    #[inline(always)] fn store(self, x: Self::F) -> [f32; LANES] { x }
    #[inline(always)] fn splat(self, x: f32) -> Self::F { [x; LANES] }
    #[inline(never)] fn add(self, x: Self::F, y: Self::F) -> Self::F { lanes!(i => x[i] + y[i]) }
    #[inline(never)] fn sub(self, x: Self::F, y: Self::F) -> Self::F { lanes!(i => x[i] - y[i]) }
    #[inline(never)] fn mul(self, x: Self::F, y: Self::F) -> Self::F { lanes!(i => x[i] * y[i]) }
    #[inline(never)] fn min(self, x: Self::F, y: Self::F) -> Self::F { lanes!(i => if x[i] < y[i] { x[i] } else { y[i] }) }
    #[inline(never)] fn max(self, x: Self::F, y: Self::F) -> Self::F { lanes!(i => if x[i] > y[i] { x[i] } else { y[i] }) }
    #[inline(never)] fn less(self, x: Self::F, y: Self::F) -> Self::I { lanes!(i => -i32::from(x[i] < y[i])) }
    #[inline(never)] fn select(self, mask: Self::I, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i] & mask[i] | y[i] & !mask[i]) }
    #[inline(never)] fn ceil(self, x: Self::F) -> Self::F {
        let even = self.sub(self.add(x, self.splat(ROUNDER)), self.splat(ROUNDER));
        lanes!(i => if even[i] < x[i] { even[i] + 1.0 } else { even[i] })
    }
    #[inline(always)] fn bits(self, x: Self::F) -> Self::I { lanes!(i => x[i].to_bits().cast_signed()) }
    #[inline(never)] fn to_f32(self, x: Self::I) -> Self::F { lanes!(i => x[i] as f32) }
    #[inline(always)] fn store_i32(self, x: Self::I) -> [i32; LANES] { x }
    #[inline(always)] fn splat_i32(self, x: i32) -> Self::I { [x; LANES] }
    #[inline(never)] fn add_i32(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i].wrapping_add(y[i])) }
    #[inline(never)] fn sub_i32(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i].wrapping_sub(y[i])) }
    #[inline(never)] fn mul_i32(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i].wrapping_mul(y[i])) }
    #[inline(never)] fn min_i32(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => if x[i] < y[i] { x[i] } else { y[i] }) }
    #[inline(never)] fn and(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i] & y[i]) }
    #[inline(never)] fn or(self, x: Self::I, y: Self::I) -> Self::I { lanes!(i => x[i] | y[i]) }
    #[inline(never)] fn shl(self, x: Self::I, n: u32) -> Self::I { lanes!(i => x[i] << (n & 31)) }
    #[inline(never)] fn shr(self, x: Self::I, n: u32) -> Self::I { lanes!(i => (x[i].cast_unsigned() >> (n & 31)).cast_signed()) }
    #[inline(never)] fn add_dot(self, sum: Self::I, x: Self::I, y: Self::I) -> Self::I {
        let low = |x: i32| i32::from(x as i16);
        lanes!(i => sum[i].wrapping_add(low(x[i]) * low(y[i])).wrapping_add((x[i] >> 16) * (y[i] >> 16)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::{LANES, Simd};
    use std::arch::x86_64::*;

    /// AVX2: two registers of eight lanes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx2(());

    /// AVX-512 with BW, DQ, VL and VNNI: one register.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Avx512(());

    impl Avx2 {
        /// # Safety
        /// The machine has AVX2.
        pub(crate) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Avx512 {
        /// # Safety
        /// The machine has AVX-512 F, BW, DQ, VL and VNNI.
        pub(crate) unsafe fn new() -> Self {
            Self(())
        }
    }

    /// Methods of a token, each one expression of intrinsics.
    macro_rules! methods {
        ($(fn $name:ident(self $(, $x:ident: $t:ty)*) -> $out:ty = $body:expr;)*) => {$(
            #[inline(always)]
            fn $name(self $(, $x: $t)*) -> $out {
                // SAFETY: whoever made the token vouched for the features; arrays and registers have the same
                // size, and any bits are an f32 or an i32.
                unsafe { $body }
            }
        )*};
    }

    /// An intrinsic for both halves.
    macro_rules! both {
        ($x:ident => $e:expr) => {{
            let [a, b] = $x;
            [
                {
                    let $x = a;
                    $e
                },
                {
                    let $x = b;
                    $e
                },
            ]
        }};
        ($x:ident, $y:ident => $e:expr) => {{
            let ([a, b], [c, d]) = ($x, $y);
            [
                {
                    let ($x, $y) = (a, c);
                    $e
                },
                {
                    let ($x, $y) = (b, d);
                    $e
                },
            ]
        }};
    }

    impl Simd for Avx512 {
        type F = __m512;
        type I = __m512i;

        methods! {
            fn load(self, x: &[f32; LANES]) -> __m512 = _mm512_loadu_ps(x.as_ptr());
            fn store(self, x: __m512) -> [f32; LANES] = std::mem::transmute(x);
            fn splat(self, x: f32) -> __m512 = _mm512_set1_ps(x);
            fn add(self, x: __m512, y: __m512) -> __m512 = _mm512_add_ps(x, y);
            fn sub(self, x: __m512, y: __m512) -> __m512 = _mm512_sub_ps(x, y);
            fn mul(self, x: __m512, y: __m512) -> __m512 = _mm512_mul_ps(x, y);
            fn min(self, x: __m512, y: __m512) -> __m512 = _mm512_min_ps(x, y);
            fn max(self, x: __m512, y: __m512) -> __m512 = _mm512_max_ps(x, y);
            fn less(self, x: __m512, y: __m512) -> __m512i = _mm512_movm_epi32(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, y));
            fn select(self, mask: __m512i, x: __m512i, y: __m512i) -> __m512i = _mm512_ternarylogic_epi32::<0xCA>(mask, x, y);
            fn ceil(self, x: __m512) -> __m512 = _mm512_roundscale_ps::<0x0A>(x);
            fn bits(self, x: __m512) -> __m512i = _mm512_castps_si512(x);
            fn to_f32(self, x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
            fn store_i32(self, x: __m512i) -> [i32; LANES] = std::mem::transmute(x);
            fn splat_i32(self, x: i32) -> __m512i = _mm512_set1_epi32(x);
            fn add_i32(self, x: __m512i, y: __m512i) -> __m512i = _mm512_add_epi32(x, y);
            fn sub_i32(self, x: __m512i, y: __m512i) -> __m512i = _mm512_sub_epi32(x, y);
            fn mul_i32(self, x: __m512i, y: __m512i) -> __m512i = _mm512_mullo_epi32(x, y);
            fn min_i32(self, x: __m512i, y: __m512i) -> __m512i = _mm512_min_epi32(x, y);
            fn and(self, x: __m512i, y: __m512i) -> __m512i = _mm512_and_si512(x, y);
            fn or(self, x: __m512i, y: __m512i) -> __m512i = _mm512_or_si512(x, y);
            fn shl(self, x: __m512i, n: u32) -> __m512i = _mm512_sll_epi32(x, _mm_cvtsi32_si128(n.cast_signed()));
            fn shr(self, x: __m512i, n: u32) -> __m512i = _mm512_srl_epi32(x, _mm_cvtsi32_si128(n.cast_signed()));
            fn add_dot(self, sum: __m512i, x: __m512i, y: __m512i) -> __m512i = _mm512_dpwssd_epi32(sum, x, y);
        }
    }

    impl Simd for Avx2 {
        type F = [__m256; 2];
        type I = [__m256i; 2];

        methods! {
            fn load(self, x: &[f32; LANES]) -> Self::F = std::mem::transmute(*x);
            fn store(self, x: Self::F) -> [f32; LANES] = std::mem::transmute(x);
            fn splat(self, x: f32) -> Self::F = [_mm256_set1_ps(x); 2];
            fn add(self, x: Self::F, y: Self::F) -> Self::F = both!(x, y => _mm256_add_ps(x, y));
            fn sub(self, x: Self::F, y: Self::F) -> Self::F = both!(x, y => _mm256_sub_ps(x, y));
            fn mul(self, x: Self::F, y: Self::F) -> Self::F = both!(x, y => _mm256_mul_ps(x, y));
            fn min(self, x: Self::F, y: Self::F) -> Self::F = both!(x, y => _mm256_min_ps(x, y));
            fn max(self, x: Self::F, y: Self::F) -> Self::F = both!(x, y => _mm256_max_ps(x, y));
            fn less(self, x: Self::F, y: Self::F) -> Self::I =
                both!(x, y => _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(x, y)));
            fn select(self, mask: Self::I, x: Self::I, y: Self::I) -> Self::I = [
                _mm256_blendv_epi8(y[0], x[0], mask[0]), _mm256_blendv_epi8(y[1], x[1], mask[1])
            ];
            fn ceil(self, x: Self::F) -> Self::F = both!(x => _mm256_ceil_ps(x));
            fn bits(self, x: Self::F) -> Self::I = both!(x => _mm256_castps_si256(x));
            fn to_f32(self, x: Self::I) -> Self::F = both!(x => _mm256_cvtepi32_ps(x));
            fn store_i32(self, x: Self::I) -> [i32; LANES] = std::mem::transmute(x);
            fn splat_i32(self, x: i32) -> Self::I = [_mm256_set1_epi32(x); 2];
            fn add_i32(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_add_epi32(x, y));
            fn sub_i32(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_sub_epi32(x, y));
            fn mul_i32(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_mullo_epi32(x, y));
            fn min_i32(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_min_epi32(x, y));
            fn and(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_and_si256(x, y));
            fn or(self, x: Self::I, y: Self::I) -> Self::I = both!(x, y => _mm256_or_si256(x, y));
            fn shl(self, x: Self::I, n: u32) -> Self::I =
                both!(x => _mm256_sll_epi32(x, _mm_cvtsi32_si128(n.cast_signed())));
            fn shr(self, x: Self::I, n: u32) -> Self::I =
                both!(x => _mm256_srl_epi32(x, _mm_cvtsi32_si128(n.cast_signed())));
            fn add_dot(self, sum: Self::I, x: Self::I, y: Self::I) -> Self::I = {
                let dots = both!(x, y => _mm256_madd_epi16(x, y));
                both!(sum, dots => _mm256_add_epi32(sum, dots))
            };
        }
    }
}
