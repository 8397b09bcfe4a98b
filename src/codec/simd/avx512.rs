//! AVX-512 with VBMI and VNNI: a block of states in one register.

#![allow(unsafe_code)]

use super::plan::{BLOCK, Cut, NARROW, WIDE};
use super::row::Row;
use super::{Job, LANES, Simd};
use core::arch::x86_64::*;
use half::{bf16, f16};

/// AVX-512 F, BW, DQ, VL, VBMI and VNNI.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The machine has the features.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Does a job with the features on.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn run<J: Job>(job: J, simd: Avx512) {
    job.run(simd);
}

/// What cuts a window.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    bytes: __m512i,
    bits: __m512i,
    mask: __m512i,
}

// SAFETY of every block below: whoever made the token vouched for the features; loads and stores are of references to
// as many bytes as the registers have, and any bits are an integer or an f32.
impl Simd for Avx512 {
    type Bytes = __m512i;
    type Floats = __m512;
    type Window = __m512i;
    type Tables = Tables;

    #[inline(always)]
    fn tables(self, cut: &Cut) -> Tables {
        // SAFETY: as above.
        unsafe {
            Tables {
                bytes: _mm512_loadu_si512(cut.bytes.as_ptr().cast()),
                bits: _mm512_loadu_si512(cut.bits.as_ptr().cast()),
                mask: _mm512_set1_epi8(
                    (1u32 << cut.state_bits).wrapping_sub(1).to_le_bytes()[0].cast_signed(),
                ),
            }
        }
    }

    #[inline(always)]
    fn window<const N: usize>(self, _: Tables, row: &Row<'_>, at: usize) -> __m512i {
        const { assert!(N == NARROW || N == WIDE) };
        // SAFETY: as above.
        unsafe {
            if N == NARROW {
                _mm512_zextsi256_si512(_mm256_loadu_si256(row.window::<NARROW>(at).as_ptr().cast()))
            } else {
                _mm512_loadu_si512(row.window::<WIDE>(at).as_ptr().cast())
            }
        }
    }

    #[inline(always)]
    fn states(self, tables: Tables, window: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let eights = _mm512_permutexvar_epi8(tables.bytes, window);
            _mm512_and_si512(_mm512_multishift_epi64_epi8(tables.bits, eights), tables.mask)
        }
    }

    /// In 32-bit lanes, `q` in the lower 16 bits times a, as a signed number, and where that is 2^16 too low `q << 8`
    /// in the upper 16 times 2^8. The code stays where it is, eight bits too high; what is above its 16 bits is not read,
    /// so that it does not matter that `q << 8` is a signed number too.
    #[inline(always)]
    fn q8_states(self, tables: Tables, q: &[u8; 16], a: u16, zp: i16) -> __m512i {
        let factors = u32::from(a) | if a < 1 << 15 { 0 } else { 1 << 24 };
        // SAFETY: as above.
        unsafe {
            let q = _mm512_zextsi128_si512(_mm_loadu_si128(q.as_ptr().cast()));
            let twice = _mm512_permutexvar_epi8(tables.bytes, q);
            let offset = _mm512_set1_epi32(i32::from(zp).wrapping_mul(256).wrapping_add(128));
            let code = _mm512_dpwssd_epi32(offset, twice, _mm512_set1_epi32(factors.cast_signed()));
            _mm512_and_si512(_mm512_multishift_epi64_epi8(tables.bits, code), tables.mask)
        }
    }

    #[inline(always)]
    fn f32_states(self, tables: Tables, q: &[u8; 16], scale: f32, addend: f32) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let q = _mm512_cvtepu8_epi32(_mm_loadu_si128(q.as_ptr().cast()));
            let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scale), _mm512_set1_ps(addend));
            let floor = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(sum);
            // Of what does not fit, the conversion makes 2^31, which is right below and whose low bits are right for NaN.
            let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(floor, _mm512_set1_ps(2_147_483_648.0));
            let code = _mm512_mask_set1_epi32(_mm512_cvttps_epi32(floor), above, i32::MAX);
            _mm512_and_si512(
                _mm512_multishift_epi64_epi8(tables.bits, _mm512_slli_epi32::<8>(code)),
                tables.mask,
            )
        }
    }

    #[inline(always)]
    fn bytes(self, bytes: &[u8; BLOCK]) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn widen(self, states: __m512i, zero_point: u8) -> [__m512; 4] {
        // SAFETY: as above.
        unsafe {
            let signed = _mm512_sub_epi8(states, _mm512_set1_epi8(zero_point.cast_signed()));
            [
                _mm512_castsi512_si128(signed),
                _mm512_extracti32x4_epi32::<1>(signed),
                _mm512_extracti32x4_epi32::<2>(signed),
                _mm512_extracti32x4_epi32::<3>(signed),
            ]
            .map(|sixteen| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen)))
        }
    }

    #[inline(always)]
    fn dot(self, states: __m512i, x: &[i8; BLOCK], _: bool) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), states, x))
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn halves(self, x: &[f32; 2]) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let both = _mm512_castps128_ps512(_mm_castpd_ps(_mm_load_sd(x.as_ptr().cast())));
            let places = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
            _mm512_permutexvar_ps(places, both)
        }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn mul(self, x: __m512, y: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(x, y) }
    }

    #[inline(always)]
    fn fma(self, x: __m512, y: __m512, z: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(x, y, z) }
    }

    #[inline(always)]
    fn total(self, x: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(x) }
    }

    #[inline(always)]
    fn store(self, x: __m512, out: &mut [f32; LANES]) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn store_f16(self, x: __m512, out: &mut [f16; LANES]) {
        // SAFETY: as above; an f16 is sixteen bits.
        unsafe {
            let narrow = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
        }
    }

    /// Half of the bit below the last one kept, less one, plus the last one: to nearest, ties to even. The processor's
    /// own conversion takes subnormal numbers for zero.
    #[inline(always)]
    fn store_bf16(self, x: __m512, out: &mut [bf16; LANES]) {
        // SAFETY: as above; a bf16 is sixteen bits.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), last);
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
            let narrow = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(kept));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), narrow);
        }
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], ahead: usize) {
        // SAFETY: as above; a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead).cast()) }
    }

    #[inline(always)]
    fn store_past_caches<T: Copy>(self, from: &[T; BLOCK], to: &mut [T; BLOCK]) {
        const { assert!(size_of::<[T; BLOCK]>().is_multiple_of(size_of::<__m512i>())) };
        let target = to.as_mut_ptr().cast::<__m512i>();
        if !target.is_aligned() {
            *to = *from;
            return;
        }
        for at in 0..const { size_of::<[T; BLOCK]>() / size_of::<__m512i>() } {
            // SAFETY: as above; a block of T is a whole number of registers, and the first was seen to be aligned.
            unsafe {
                _mm512_stream_si512(
                    target.add(at),
                    _mm512_loadu_si512(from.as_ptr().cast::<__m512i>().add(at)),
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
