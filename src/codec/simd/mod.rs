//! Decoding and multiplying in the registers of one instruction set or another.
//!
//! A loop is a [`Job`], generic over the operations of [`Simd`] and inlined into whatever calls it; [`Isa::run`] calls
//! it from functions compiled for one instruction set each. Decoded weights are the portable decoder's to the last
//! bit; products differ from it, and from each other, by the order of their sums.

// What is allowed again counts arrays whose lengths are types, or is worked out by the compiler. Places in a row wrap:
// `Row::new` and `Row::window` say why they do not.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod plan;
mod read;
mod row;
mod source;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use plan::{BLOCK, Cut};
use row::Row;

#[cfg(target_arch = "x86_64")]
use {avx2::Avx2, avx512::Avx512};

/// Floating-point values worked on side by side.
pub const LANES: usize = 16;

/// The operations of an instruction set. A value of the type is the proof that the machine has it.
pub trait Simd: Copy {
    /// Sixty-four bytes: the states of a block, in the order of its weights.
    type Bytes: Copy;
    /// Sixteen f32.
    type Floats: Copy;
    /// The bytes in which a block's states lie.
    type Window: Copy;
    /// The tables that cut a window into states.
    type Tables: Copy;

    /// Loads the tables of a block.
    fn tables(self, cut: &Cut) -> Self::Tables;
    /// Loads a window of [`NARROW`](plan::NARROW) or [`WIDE`](plan::WIDE) bytes, which begins `at` a byte of a row.
    fn window<const N: usize>(self, tables: Self::Tables, row: &Row<'_>, at: usize) -> Self::Window;
    /// The states of a block.
    fn states(self, tables: Self::Tables, window: Self::Window) -> Self::Bytes;
    /// The states of the codes `(a q + 256 zp + 128) >> 8` of sixteen bytes.
    fn q8_states(self, tables: Self::Tables, q: &[u8; 16], a: u16, zp: i16) -> Self::Bytes;
    /// The states of the codes `floor(fma(q, scale, addend))`, saturating to 32 bits, cut to 16.
    fn f32_states(self, tables: Self::Tables, q: &[u8; 16], scale: f32, addend: f32) -> Self::Bytes;
    /// Bytes as they are.
    fn bytes(self, bytes: &[u8; BLOCK]) -> Self::Bytes;

    /// States less their zero point, exact.
    fn widen(self, states: Self::Bytes, zero_point: u8) -> [Self::Floats; 4];
    /// The products of states and signed bytes from -127 to 127, each four neighbours summed, exact. States have less
    /// than eight bits unless `whole_bytes`.
    fn dot(self, states: Self::Bytes, x: &[i8; BLOCK], whole_bytes: bool) -> Self::Floats;

    /// One value in all lanes.
    fn splat(self, x: f32) -> Self::Floats;
    /// The first value in the first eight lanes, the second in the others.
    fn halves(self, x: &[f32; 2]) -> Self::Floats;
    /// Loads sixteen values.
    fn load(self, x: &[f32; LANES]) -> Self::Floats;
    /// `x * y`.
    fn mul(self, x: Self::Floats, y: Self::Floats) -> Self::Floats;
    /// `x * y + z`, rounded once.
    fn fma(self, x: Self::Floats, y: Self::Floats, z: Self::Floats) -> Self::Floats;
    /// The sum of all lanes.
    fn total(self, x: Self::Floats) -> f32;
    /// Stores the values.
    fn store(self, x: Self::Floats, out: &mut [f32; LANES]);
    /// Stores the nearest `f16`s.
    fn store_f16(self, x: Self::Floats, out: &mut [f16; LANES]);
    /// Stores the nearest `bf16`s.
    fn store_bf16(self, x: Self::Floats, out: &mut [bf16; LANES]);

    /// Asks for the cache line `ahead` bytes after the first of `bytes`, whatever is there.
    fn prefetch(self, bytes: &[u8], ahead: usize);
    /// Copies a block past the caches, where the processor can and `to` is at a cache line's beginning.
    fn store_past_caches<T: Copy>(self, from: &[T; BLOCK], to: &mut [T; BLOCK]);
    /// Ends stores past the caches: other threads see them after it as they see any store.
    fn fence(self);
}

/// Work to compile for each instruction set. `run` is to be `#[inline(always)]`, and all it calls.
pub trait Job {
    /// Does it.
    fn run<S: Simd>(self, simd: S);
}

/// An instruction set that this machine has: there is no other way to get one than from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Whether the machine has all of these features: asked of it with `std`, of the compiler without.
#[cfg(target_arch = "x86_64")]
macro_rules! has {
    ($($feature:tt),*) => {{
        #[cfg(feature = "std")]
        let found = true $(&& std::is_x86_feature_detected!($feature))*;
        #[cfg(not(feature = "std"))]
        let found = true $(&& cfg!(target_feature = $feature))*;
        found
    }};
}

impl Isa {
    /// What any machine has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The instruction sets of this machine, the best one last.
    #[cfg(target_arch = "x86_64")]
    pub fn all() -> impl Iterator<Item = Self> {
        let avx2 = !cfg!(feature = "no_avx2") && has!("avx2", "fma", "f16c");
        let avx512 = avx2
            && !cfg!(feature = "no_avx512")
            && has!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni");
        let found = [avx2.then_some(Self(Level::Avx2)), avx512.then_some(Self(Level::Avx512))];
        [Self::PORTABLE].into_iter().chain(found.into_iter().flatten())
    }

    /// The instruction sets of this machine, the best one last.
    #[cfg(target_arch = "aarch64")]
    pub fn all() -> impl Iterator<Item = Self> {
        let neon = !cfg!(feature = "no_neon") && cfg!(target_feature = "neon");
        [Self::PORTABLE].into_iter().chain(neon.then_some(Self(Level::Neon)))
    }

    /// The instruction sets of this machine.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::PORTABLE].into_iter()
    }

    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        Self::all().last().unwrap_or(Self::PORTABLE)
    }

    /// Does a job in this instruction set; none in the portable one, which has no registers.
    #[allow(unsafe_code)]
    pub(super) fn run<J: Job>(self, job: J) {
        match self.0 {
            Level::Portable => {}
            // SAFETY: `all` makes this level after it has found the features, and nothing else does.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::run(job, Avx2::new()) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::run(job, Avx512::new()) },
            // SAFETY: the same.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::run(job, neon::Neon::new()) },
        }
    }

    /// Reads bytes with this instruction set's loads, and does next to nothing with them: what bounds the speed of
    /// products, for benches.
    pub fn read(self, bytes: &[u8], prefetch: bool) -> f32 {
        read::read(self, bytes, prefetch)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
        }
    }
}
