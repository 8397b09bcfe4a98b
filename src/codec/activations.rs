//! Vectors to multiply with, rounded to eight bits.

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

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::simd::plan::{BLOCK, HALF};
use super::simd::{Isa, Job, Simd};

/// Blocks whose scales are worked on together.
pub(super) const CHUNK: usize = 16;

/// Vectors rounded to signed bytes, with a scale for each 64 values: the input of [`Matrix::matvec_int8`].
///
/// A value x becomes `round(x / scale) * scale` where scale is the largest magnitude of its 64 divided by 127, so that
/// it is off by half a scale at most. A product is then off by no more than the sum of `|w| scale / 2` over the row,
/// beside what f32 arithmetic loses; for values without structure some `0.006 |w| |x|`, the errors being independent.
/// Infinities and NaNs make the products of their block unspecified.
///
/// [`Matrix::matvec_int8`]: super::Matrix::matvec_int8
#[derive(Clone)]
pub struct Activations {
    in_features: usize,
    vectors: usize,
    /// Of one vector after the other.
    chunks: Vec<Chunk>,
}

/// Sixteen blocks, those behind the vector's end being zeros. It begins at a cache line, and so do its parts.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Chunk {
    pub values: [[i8; BLOCK]; CHUNK],
    /// Of each block.
    pub scales: [f32; CHUNK],
    /// The sums of the values times their scales.
    pub sums: [f32; CHUNK],
    /// The same of each half block.
    pub half_scales: [f32; 2 * CHUNK],
    pub half_sums: [f32; 2 * CHUNK],
}

impl Chunk {
    pub const ZEROS: Self = Self {
        values: [[0; BLOCK]; CHUNK],
        scales: [0.0; CHUNK],
        sums: [0.0; CHUNK],
        half_scales: [0.0; 2 * CHUNK],
        half_sums: [0.0; 2 * CHUNK],
    };
}

impl Activations {
    /// Rounds vectors of `in_features` values, one after the other; values after the last whole vector are left out.
    pub fn new(x: &[f32], in_features: usize) -> Self {
        let vectors = x.len().checked_div(in_features).unwrap_or(0);
        let chunks = vec![Chunk::ZEROS; vectors.saturating_mul(in_features.div_ceil(BLOCK * CHUNK))];
        let mut rounded = Self { in_features, vectors, chunks };
        match Isa::detect() {
            Isa::PORTABLE => rounded.round(x),
            isa => isa.run(Rounding { x, to: &mut rounded }),
        }
        rounded
    }

    #[inline(always)]
    fn round(&mut self, x: &[f32]) {
        let vectors = x.chunks_exact(self.in_features.max(1));
        let parts = vectors.flat_map(|x| x.chunks(BLOCK * CHUNK));
        for (x, chunk) in parts.zip(&mut self.chunks) {
            let Chunk { values, scales, sums, half_scales, half_sums } = chunk;
            let halves = half_scales.as_chunks_mut().0.iter_mut().zip(half_sums.as_chunks_mut().0);
            let blocks = values.iter_mut().zip(scales).zip(sums).zip(halves);
            for (x, (((values, scale), sum), (half_scales, half_sums))) in x.chunks(BLOCK).zip(blocks) {
                let mut block = [0.0; BLOCK];
                block.iter_mut().zip(x).for_each(|(to, from)| *to = *from);
                (*values, *scale) = round(&block);
                let sum_of = |values: &[i8]| values.iter().map(|&value| i32::from(value)).sum::<i32>();
                let (low, high) = values.split_at(HALF);
                let (low, high) = (sum_of(low), sum_of(high));
                *sum = low.wrapping_add(high) as f32 * *scale;
                *half_scales = [*scale; 2];
                *half_sums = [low as f32 * *scale, high as f32 * *scale];
            }
        }
    }

    /// Values of a vector.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// The chunks of a vector.
    #[inline(always)]
    pub(super) fn chunks(&self, vector: usize) -> &[Chunk] {
        let of_each = self.in_features.div_ceil(BLOCK * CHUNK).max(1);
        self.chunks.chunks_exact(of_each).nth(vector).unwrap_or_default()
    }
}

/// The same loops, compiled for an instruction set.
struct Rounding<'a> {
    x: &'a [f32],
    to: &'a mut Activations,
}

impl Job for Rounding<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.to.round(self.x);
    }
}

impl fmt::Debug for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { in_features, vectors, .. } = self;
        write!(f, "Activations({vectors} x {in_features})")
    }
}

/// The nearest multiples of the scale, ties to even, and the scale.
#[inline(always)]
fn round(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    /// Adding it to a small number rounds to an integer, which the low bits then hold.
    const ROUNDER: f32 = 12_582_912.0;
    let mut largest = [0.0f32; 16];
    for x in x.as_chunks::<16>().0 {
        for (largest, x) in largest.iter_mut().zip(x) {
            let x = x.abs();
            *largest = if x > *largest { x } else { *largest };
        }
    }
    let largest = largest.iter().fold(0.0f32, |a, &b| a.max(b));
    // So small a block would have a scale that cannot be divided by.
    if largest < f32::MIN_POSITIVE * 256.0 {
        return ([0; BLOCK], 0.0);
    }
    let inverse = 127.0 / largest;
    (x.map(|x| (x * inverse + ROUNDER).to_bits() as i8), largest / 127.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_off_by_half_a_scale() {
        let x: Vec<f32> = (0..200).map(|i| ((i * 7919) % 1009) as f32 - 504.0).collect();
        let activations = Activations::new(&x, 100);
        assert_eq!((activations.vectors(), activations.in_features()), (2, 100));
        for (m, x) in x.chunks(100).enumerate() {
            for (b, x) in x.chunks(BLOCK).enumerate() {
                let Chunk { values, scales, half_sums, .. } = activations.chunks(m)[0];
                let (values, scale) = (values[b], scales[b]);
                for (value, &x) in values.into_iter().zip(x) {
                    assert!((f32::from(value) * scale - x).abs() <= scale * 0.5001 && value != i8::MIN);
                }
                assert!(values[x.len()..].iter().all(|&value| value == 0));
                let sum: i32 = values[..HALF].iter().map(|&value| i32::from(value)).sum();
                assert_eq!(half_sums[2 * b], sum as f32 * scale);
            }
        }
        let zeros = Activations::new(&[0.0, 1e-40, -0.0], 3);
        assert_eq!((zeros.chunks(0)[0].values[0], zeros.chunks(0)[0].scales[0]), ([0; BLOCK], 0.0));
        assert_eq!(Activations::new(&[], 0).vectors(), 0);
    }
}
