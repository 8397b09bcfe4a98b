//! NEON: a block of states in four registers. Compiled and reviewed, but never run on such a processor so far.

#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "arrays of constant length by counters of `from_fn`, tables of the compiler, 256 times sixteen bits"
)]

use super::plan::{BLOCK, Cut, QUARTER};
use super::row::Row;
use super::{Job, LANES, Simd};
use core::arch::aarch64::*;
use core::array::from_fn;
use half::{bf16, f16};

/// NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// # Safety
    /// The machine has it.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Does a job with NEON on.
#[target_feature(enable = "neon")]
pub fn run<J: Job>(job: J, simd: Neon) {
    job.run(simd);
}

/// What cuts a window, eight weights a register.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    quarters: [usize; 4],
    pairs: [uint8x16_t; 8],
    factors: [uint16x8_t; 8],
    down: int16x8_t,
}

// SAFETY of every block below: whoever made the token vouched for NEON; loads and stores are of references to as many
// bytes as the registers have, and any bits are an integer or an f32.
impl Simd for Neon {
    type Bytes = [uint8x16_t; 4];
    type Floats = [float32x4_t; 4];
    /// The sixteen bytes of each quarter.
    type Window = [uint8x16_t; 4];
    type Tables = Tables;

    #[inline(always)]
    fn tables(self, cut: &Cut) -> Tables {
        // SAFETY: as above.
        unsafe {
            Tables {
                quarters: cut.quarters,
                pairs: from_fn(|eight| vld1q_u8(cut.pairs[16 * eight..].as_ptr())),
                factors: from_fn(|eight| vld1q_u16(cut.factors[8 * eight..].as_ptr())),
                down: vdupq_n_s16(cut.state_bits as i16 - 16),
            }
        }
    }

    #[inline(always)]
    fn window<const N: usize>(self, tables: Tables, row: &Row<'_>, at: usize) -> [uint8x16_t; 4] {
        tables.quarters.map(|first| {
            let bytes: &[u8; QUARTER] = row.window(at + first);
            // SAFETY: as above.
            unsafe { vld1q_u8(bytes.as_ptr()) }
        })
    }

    #[inline(always)]
    fn states(self, tables: Tables, window: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe {
            let eight = |at: usize| {
                let pairs = vreinterpretq_u16_u8(vqtbl1q_u8(window[at / 2], tables.pairs[at]));
                vmovn_u16(vshlq_u16(vmulq_u16(pairs, tables.factors[at]), tables.down))
            };
            from_fn(|at| vcombine_u8(eight(2 * at), eight(2 * at + 1)))
        }
    }

    #[inline(always)]
    fn q8_states(self, tables: Tables, q: &[u8; 16], a: u16, zp: i16) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe {
            let q = vld1q_u8(q.as_ptr());
            let offset = vdupq_n_u32((256 * i32::from(zp) + 128).cast_unsigned());
            let codes = |q: uint8x8_t| {
                let q = vmovl_u8(q);
                let low = vmlal_n_u16(offset, vget_low_u16(q), a);
                let high = vmlal_n_u16(offset, vget_high_u16(q), a);
                vreinterpretq_u8_u16(vcombine_u16(vshrn_n_u32::<8>(low), vshrn_n_u32::<8>(high)))
            };
            let (low, high) = (codes(vget_low_u8(q)), codes(vget_high_u8(q)));
            self.states(tables, [low, low, high, high])
        }
    }

    #[inline(always)]
    fn f32_states(self, tables: Tables, q: &[u8; 16], scale: f32, addend: f32) -> [uint8x16_t; 4] {
        // SAFETY: as above; the conversion saturates, and NaN becomes zero.
        unsafe {
            let q = vld1q_u8(q.as_ptr());
            let four = |q: uint16x4_t| {
                let q = vcvtq_f32_u32(vmovl_u16(q));
                let code = vcvtmq_s32_f32(vfmaq_f32(vdupq_n_f32(addend), q, vdupq_n_f32(scale)));
                vmovn_u32(vreinterpretq_u32_s32(code))
            };
            let codes = |q: uint8x8_t| {
                let q = vmovl_u8(q);
                vreinterpretq_u8_u16(vcombine_u16(four(vget_low_u16(q)), four(vget_high_u16(q))))
            };
            let (low, high) = (codes(vget_low_u8(q)), codes(vget_high_u8(q)));
            self.states(tables, [low, low, high, high])
        }
    }

    #[inline(always)]
    fn bytes(self, bytes: &[u8; BLOCK]) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe { from_fn(|at| vld1q_u8(bytes[16 * at..].as_ptr())) }
    }

    #[inline(always)]
    fn widen(self, states: [uint8x16_t; 4], zero_point: u8) -> [[float32x4_t; 4]; 4] {
        // SAFETY: as above.
        unsafe {
            let zero_point = vdupq_n_u8(zero_point);
            from_fn(|at| {
                let signed = vreinterpretq_s8_u8(vsubq_u8(states[at], zero_point));
                let (low, high) = (vmovl_s8(vget_low_s8(signed)), vmovl_s8(vget_high_s8(signed)));
                [
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
                ]
            })
        }
    }

    #[inline(always)]
    fn dot(self, states: [uint8x16_t; 4], x: &[i8; BLOCK], _: bool) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe {
            from_fn(|at| {
                let x = vld1q_s8(x[16 * at..].as_ptr());
                let products = |states: uint8x8_t, x: int8x8_t| {
                    let (states, x) = (vreinterpretq_s16_u16(vmovl_u8(states)), vmovl_s8(x));
                    let low = vmull_s16(vget_low_s16(states), vget_low_s16(x));
                    vpaddq_s32(low, vmull_s16(vget_high_s16(states), vget_high_s16(x)))
                };
                let low = products(vget_low_u8(states[at]), vget_low_s8(x));
                let high = products(vget_high_u8(states[at]), vget_high_s8(x));
                vcvtq_f32_s32(vpaddq_s32(low, high))
            })
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn halves(self, x: &[f32; 2]) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe { [vdupq_n_f32(x[0]), vdupq_n_f32(x[0]), vdupq_n_f32(x[1]), vdupq_n_f32(x[1])] }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe { from_fn(|at| vld1q_f32(x[4 * at..].as_ptr())) }
    }

    #[inline(always)]
    fn mul(self, x: [float32x4_t; 4], y: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe { from_fn(|at| vmulq_f32(x[at], y[at])) }
    }

    #[inline(always)]
    fn fma(self, x: [float32x4_t; 4], y: [float32x4_t; 4], z: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: as above.
        unsafe { from_fn(|at| vfmaq_f32(z[at], x[at], y[at])) }
    }

    #[inline(always)]
    fn total(self, x: [float32x4_t; 4]) -> f32 {
        // SAFETY: as above.
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(x[0], x[1]), vaddq_f32(x[2], x[3]))) }
    }

    #[inline(always)]
    fn store(self, x: [float32x4_t; 4], out: &mut [f32; LANES]) {
        for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
            // SAFETY: as above.
            unsafe { vst1q_f32(out.as_mut_ptr(), x) }
        }
    }

    #[inline(always)]
    fn store_f16(self, x: [float32x4_t; 4], out: &mut [f16; LANES]) {
        let mut values = [0.0; LANES];
        self.store(x, &mut values);
        *out = values.map(f16::from_f32);
    }

    #[inline(always)]
    fn store_bf16(self, x: [float32x4_t; 4], out: &mut [bf16; LANES]) {
        let mut values = [0.0; LANES];
        self.store(x, &mut values);
        *out = values.map(bf16::from_f32);
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {}

    #[inline(always)]
    fn store_past_caches<T: Copy>(self, from: &[T; BLOCK], to: &mut [T; BLOCK]) {
        *to = *from;
    }

    #[inline(always)]
    fn fence(self) {}
}
