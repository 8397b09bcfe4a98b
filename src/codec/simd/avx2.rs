//! AVX2 with FMA and F16C: a block of states in two registers.
//!
//! What takes more than a few instructions is a function with the features on. A closure has them only where the compiler
//! inlines it into one, and in long closures it does not: each instruction is a call then.

#![allow(unsafe_code)]

use super::plan::{BLOCK, Cut, HALF, NARROW, QUARTER};
use super::row::Row;
use super::{Job, LANES, Simd};
use core::arch::x86_64::*;
use half::{bf16, f16};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine has the features.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Does a job with the features on.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn run<J: Job>(job: J, simd: Avx2) {
    job.run(simd);
}

/// What cuts a window, eight weights a lane: 0 to 7 and 16 to 23 of each half in the first register, the others in the
/// second, so that packing the two to bytes puts them in order.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    quarters: [usize; 4],
    pairs: [[__m256i; 2]; 2],
    factors: [[__m256i; 2]; 2],
    down: __m128i,
}

/// The sixteen bytes of each quarter, a half of the block in each register.
type Window = [__m256i; 2];

// SAFETY of every block below: whoever made the token vouched for the features; loads and stores are of references to
// as many bytes as the registers have, and any bits are an integer or an f32.
impl Simd for Avx2 {
    type Bytes = [__m256i; 2];
    type Floats = [__m256; 2];
    type Window = Window;
    type Tables = Tables;

    #[inline(always)]
    fn tables(self, cut: &Cut) -> Tables {
        // SAFETY: as above.
        unsafe { load_tables(cut) }
    }

    #[inline(always)]
    fn window<const N: usize>(self, tables: Tables, row: &Row<'_>, at: usize) -> Window {
        let quarter = |offset: usize| {
            let bytes: &[u8; QUARTER] = row.window(at.wrapping_add(offset));
            // SAFETY: as above.
            unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
        };
        // SAFETY: as above.
        let half = |first: usize, second: usize| unsafe {
            if N == NARROW {
                _mm256_broadcastsi128_si256(quarter(first))
            } else {
                _mm256_set_m128i(quarter(second), quarter(first))
            }
        };
        let [a, b, c, d] = tables.quarters;
        [half(a, b), half(c, d)]
    }

    /// In 16-bit lanes, q for q << 7 and a as a signed number: `(q a + 128) >> 8` is vpmulhrsw's `(q a + 2^14) >> 15`.
    /// An a of 2^15 and above is 2^16 too low there, and the result 256 q.
    #[inline(always)]
    fn q8_states(self, tables: Tables, q: &[u8; 16], a: u16, zp: i16) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let q = _mm256_cvtepu8_epi16(_mm_loadu_si128(q.as_ptr().cast()));
            let low = _mm256_mulhrs_epi16(_mm256_slli_epi16::<7>(q), _mm256_set1_epi16(a.cast_signed()));
            let high = if a < 1 << 15 { 0 } else { -1 };
            let missing = _mm256_and_si256(_mm256_slli_epi16::<8>(q), _mm256_set1_epi16(high));
            let codes = _mm256_add_epi16(_mm256_add_epi16(low, _mm256_set1_epi16(zp)), missing);
            self.states(tables, both_lanes(codes))
        }
    }

    #[inline(always)]
    fn f32_states(self, tables: Tables, q: &[u8; 16], scale: f32, addend: f32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let q = _mm_loadu_si128(q.as_ptr().cast());
            let low = f32_codes(q, scale, addend);
            let packed = _mm256_packus_epi32(low, f32_codes(_mm_srli_si128::<8>(q), scale, addend));
            self.states(tables, both_lanes(_mm256_permute4x64_epi64::<0b11_01_10_00>(packed)))
        }
    }

    #[inline(always)]
    fn states(self, tables: Tables, window: Window) -> [__m256i; 2] {
        let Tables { pairs, factors, down, .. } = tables;
        [cut_half(window[0], pairs[0], factors[0], down), cut_half(window[1], pairs[1], factors[1], down)]
    }

    #[inline(always)]
    fn bytes(self, bytes: &[u8; BLOCK]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(*bytes) }
    }

    #[inline(always)]
    fn widen(self, states: [__m256i; 2], zero_point: u8) -> [[__m256; 2]; 4] {
        // SAFETY: as above.
        unsafe {
            let zero_point = _mm256_set1_epi8(zero_point.cast_signed());
            let a = _mm256_sub_epi8(states[0], zero_point);
            let b = _mm256_sub_epi8(states[1], zero_point);
            [
                widen_sixteen(_mm256_castsi256_si128(a)),
                widen_sixteen(_mm256_extracti128_si256::<1>(a)),
                widen_sixteen(_mm256_castsi256_si128(b)),
                widen_sixteen(_mm256_extracti128_si256::<1>(b)),
            ]
        }
    }

    /// Two products of a state and a byte fit 16 bits for states of seven bits; the top bit of a byte goes apart.
    #[inline(always)]
    fn dot(self, states: [__m256i; 2], x: &[i8; BLOCK], whole_bytes: bool) -> [__m256; 2] {
        let [low, high] = x.as_chunks::<HALF>().0 else { return self.splat(0.0) };
        [dot_half(states[0], low, whole_bytes), dot_half(states[1], high, whole_bytes)]
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn halves(self, x: &[f32; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(x[0]), _mm256_set1_ps(x[1])] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(*x) }
    }

    #[inline(always)]
    fn mul(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_mul_ps(a, c), _mm256_mul_ps(b, d)] }
    }

    #[inline(always)]
    fn fma(self, [a, b]: [__m256; 2], [c, d]: [__m256; 2], [e, f]: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] }
    }

    #[inline(always)]
    fn total(self, [a, b]: [__m256; 2]) -> f32 {
        // SAFETY: as above.
        unsafe {
            let eight = _mm256_add_ps(a, b);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn store(self, x: [__m256; 2], out: &mut [f32; LANES]) {
        // SAFETY: as above.
        *out = unsafe { core::mem::transmute::<[__m256; 2], [f32; LANES]>(x) };
    }

    #[inline(always)]
    fn store_f16(self, x: [__m256; 2], out: &mut [f16; LANES]) {
        // SAFETY: as above; an f16 is sixteen bits.
        *out = unsafe {
            let narrow = x.map(|x| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x));
            core::mem::transmute::<[__m128i; 2], [f16; LANES]>(narrow)
        };
    }

    #[inline(always)]
    fn store_bf16(self, x: [__m256; 2], out: &mut [bf16; LANES]) {
        // SAFETY: as above; a bf16 is sixteen bits.
        *out = unsafe {
            let packed = _mm256_packus_epi32(round_to_bf16(x[0]), round_to_bf16(x[1]));
            let narrow = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            core::mem::transmute::<__m256i, [bf16; LANES]>(narrow)
        };
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], ahead: usize) {
        // SAFETY: as above; a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead).cast()) }
    }

    #[inline(always)]
    fn store_past_caches<T: Copy>(self, from: &[T; BLOCK], to: &mut [T; BLOCK]) {
        const { assert!(size_of::<[T; BLOCK]>().is_multiple_of(size_of::<__m256i>())) };
        let target = to.as_mut_ptr().cast::<__m256i>();
        if !target.is_aligned() {
            *to = *from;
            return;
        }
        for at in 0..const { size_of::<[T; BLOCK]>() / size_of::<__m256i>() } {
            // SAFETY: as above; a block of T is a whole number of registers, and the first was seen to be aligned.
            unsafe {
                _mm256_stream_si256(
                    target.add(at),
                    _mm256_loadu_si256(from.as_ptr().cast::<__m256i>().add(at)),
                )
            }
        }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: as above.
        unsafe { _mm_sfence() }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_tables(cut: &Cut) -> Tables {
    // SAFETY: any bits are integers, and both tables have 128 bytes.
    let pairs: [__m128i; 8] = unsafe { core::mem::transmute(cut.pairs) };
    // SAFETY: the same.
    let factors: [__m128i; 8] = unsafe { core::mem::transmute(cut.factors) };
    let lanes = |[a, b, c, d]: [__m128i; 4]| [_mm256_set_m128i(c, a), _mm256_set_m128i(d, b)];
    let halves = |[a, b, c, d, e, f, g, h]: [__m128i; 8]| [lanes([a, b, c, d]), lanes([e, f, g, h])];
    Tables {
        quarters: cut.quarters,
        pairs: halves(pairs),
        factors: halves(factors),
        down: _mm_cvtsi32_si128(16i32.wrapping_sub(cut.state_bits.cast_signed())),
    }
}

/// Each half of sixteen codes in both lanes.
#[inline(always)]
fn both_lanes(codes: __m256i) -> Window {
    // SAFETY: only functions of the token call this.
    unsafe {
        [_mm256_permute4x64_epi64::<0b01_00_01_00>(codes), _mm256_permute4x64_epi64::<0b11_10_11_10>(codes)]
    }
}

/// The states of half a block.
#[inline(always)]
fn cut_half(window: __m256i, [a, b]: [__m256i; 2], [c, d]: [__m256i; 2], down: __m128i) -> __m256i {
    // SAFETY: only functions of the token call this.
    unsafe {
        let low = _mm256_mullo_epi16(_mm256_shuffle_epi8(window, a), c);
        let high = _mm256_mullo_epi16(_mm256_shuffle_epi8(window, b), d);
        _mm256_packus_epi16(_mm256_srl_epi16(low, down), _mm256_srl_epi16(high, down))
    }
}

/// The upper halves of the nearest numbers that end there, as with AVX-512.
#[inline]
#[target_feature(enable = "avx2")]
fn round_to_bf16(x: __m256) -> __m256i {
    let bits = _mm256_castps_si256(x);
    let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), last);
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
}

/// The codes of the first eight bytes, in lanes of 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn f32_codes(q: __m128i, scale: f32, addend: f32) -> __m256i {
    let q = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q));
    let floor = _mm256_floor_ps(_mm256_fmadd_ps(q, _mm256_set1_ps(scale), _mm256_set1_ps(addend)));
    // Of what does not fit, the conversion makes 2^31, which is right below and whose low bits are right for NaN; above,
    // all ones are wanted.
    let above = _mm256_cmp_ps::<_CMP_GE_OQ>(floor, _mm256_set1_ps(2_147_483_648.0));
    let code = _mm256_or_si256(_mm256_cvttps_epi32(floor), _mm256_castps_si256(above));
    _mm256_and_si256(code, _mm256_set1_epi32(0xFFFF))
}

#[inline(always)]
fn widen_sixteen(bytes: __m128i) -> [__m256; 2] {
    // SAFETY: only functions of the token call this.
    unsafe {
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
        ]
    }
}

#[inline(always)]
fn dot_half(states: __m256i, x: &[i8; HALF], whole_bytes: bool) -> __m256 {
    // SAFETY: only functions of the token call this; the load is of as many bytes.
    unsafe {
        let x = _mm256_loadu_si256(x.as_ptr().cast());
        let ones = _mm256_set1_epi16(1);
        let top = _mm256_set1_epi8(i8::MIN);
        let rest = if whole_bytes { _mm256_andnot_si256(top, states) } else { states };
        let mut sums = _mm256_madd_epi16(_mm256_maddubs_epi16(rest, x), ones);
        if whole_bytes {
            let of_top = _mm256_maddubs_epi16(_mm256_and_si256(top, states), x);
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(of_top, ones));
        }
        _mm256_cvtepi32_ps(sums)
    }
}
