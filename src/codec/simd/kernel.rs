//! The loops over rows, whatever the instruction set.
//!
//! ```text
//! decode          for each row, for each block b: out[b] = (states(b) - zero_point) * (local_scale * super_scale)
//! product         for each row, for each block b: sum += (states(b) - zero_point) . x[b] * local_scale
//!                 y = sum * super_scale
//! int8 product    for each row, for each block b: sum += (states(b) . x[b]) * (local_scale * x_scale[b])
//!                                                 off += (sum of x[b]) * (local_scale * x_scale[b])
//!                 y = (sum - zero_point * off) * super_scale
//! ```
//!
//! where `.` is a sum in registers, of integers in the last. Blocks are never cut: what lies past a row's end
//! decodes to numbers that are thrown away, or multiplied by zeros. Only windows that reach past the end of the
//! plane are copied first.

use alloc::vec::Vec;
use core::ops::Range;

use super::plan::{BLOCK, HALF, Kind, NARROW, WIDE};
use super::row::{Groups, Lines, Row, Widths};
use super::source::{Context, FromBytes, FromF32, FromQ8, FromWords, Origin, Rows, Source, with_origin};
use super::{Isa, Job, LANES, Simd};
use crate::code::Cluster;
use crate::codec::Matrix;
use crate::codec::activations::{Activations, CHUNK, Chunk};
use crate::codec::element::Element;
use crate::codec::portable::Decoder;

/// Rows are multiplied with so many vectors at once, which share the work of finding the states.
const MOST_VECTORS: usize = 4;
/// Blocks that are decoded near by before they are copied past the caches.
const NEAR: usize = 2 * CHUNK;
/// Blocks of an int8 product in a turn of its loop, with sums of their own, so that none waits for another.
const SUMS: usize = 4;

/// Decodes rows, one after another; `past_caches` where they are too many for a cache.
pub fn decode<T: Element>(
    isa: Isa,
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    out: &mut [T],
    past_caches: bool,
) {
    let Some(plan) = matrix.plan.filter(|_| isa != Isa::PORTABLE) else {
        return decode_portably(matrix, rows, out);
    };
    with_origin!(plan, matrix, O => {
        let rows = Rows::<O>::new(matrix, plan, rows);
        if past_caches { isa.run(DecodePastCaches { rows, out }) } else { isa.run(Decode { rows, out }) }
    });
}

fn decode_portably<T: Element>(matrix: &Matrix<'_>, rows: Range<usize>, out: &mut [T]) {
    let decoder = Decoder::new(&matrix.code);
    let out = out.chunks_exact_mut(matrix.in_features.max(1));
    for (planes, out) in rows.filter_map(|row| matrix.row(row)).zip(out) {
        decoder.decode_row(planes, out);
    }
}

struct Decode<'a, 'm, O, T> {
    rows: Rows<'a, 'm, O>,
    out: &'a mut [T],
}

impl<O: Origin, T: Element> Job for Decode<'_, '_, O, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut rows = self.out.chunks_exact_mut(self.rows.matrix.in_features.max(1));
        self.rows.each(simd, |context| {
            let row = rows.next().unwrap_or_default();
            for (chunk, out) in row.chunks_mut(CHUNK * BLOCK).enumerate() {
                let Lines(scales) = &context.scales(chunk, context.row.super_scale);
                let (blocks, last) = out.as_chunks_mut::<BLOCK>();
                let whole = blocks.len();
                for ((at, out), scales) in blocks.iter_mut().enumerate().zip(scales.as_chunks().0) {
                    decode_block(&context, block_of(chunk, at), scales, out);
                }
                if !last.is_empty()
                    && let Some(scales) = scales.as_chunks().0.get(whole)
                {
                    let mut all = [T::ZERO; BLOCK];
                    decode_block(&context, block_of(chunk, whole), scales, &mut all);
                    last.iter_mut().zip(all).for_each(|(to, from)| *to = from);
                }
            }
        });
    }
}

/// The place in its row of a block of a chunk. Rows fit memory, blocks and all: nothing wraps.
#[inline(always)]
fn block_of(chunk: usize, at: usize) -> usize {
    chunk.wrapping_mul(CHUNK).wrapping_add(at)
}

#[inline(always)]
fn decode_block<S: Simd, P: Source<S>, T: Element>(
    context: &Context<'_, S, P>,
    block: usize,
    &[low, high]: &[f32; 2],
    out: &mut [T; BLOCK],
) {
    let simd = context.simd;
    let (low, high) = (simd.splat(low), simd.splat(high));
    let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
    let [to_a, to_b, to_c, to_d] = out.as_chunks_mut::<LANES>().0 else { return };
    T::store(simd, simd.mul(a, low), to_a);
    T::store(simd, simd.mul(b, low), to_b);
    T::store(simd, simd.mul(c, high), to_c);
    T::store(simd, simd.mul(d, high), to_d);
}

/// Decodes blocks to one place near by and copies those of another past the caches, in turns, so that memory is
/// written all the time.
struct DecodePastCaches<'a, 'm, O, T> {
    rows: Rows<'a, 'm, O>,
    out: &'a mut [T],
}

impl<O: Origin, T: Element> Job for DecodePastCaches<'_, '_, O, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut rows = self.out.chunks_exact_mut(self.rows.matrix.in_features.max(1));
        let (mut near, mut other) = ([[T::ZERO; BLOCK]; NEAR], [[T::ZERO; BLOCK]; NEAR]);
        let (mut near, mut other) = (&mut near, &mut other);
        let mut before = Copying::new(&[], &mut []);
        self.rows.each(simd, |context| {
            let row = rows.next().unwrap_or_default();
            for (part, out) in row.chunks_mut(NEAR * BLOCK).enumerate() {
                let chunks = near.get_mut(..out.len().div_ceil(BLOCK)).unwrap_or_default().chunks_mut(CHUNK);
                for (chunk, near) in (part.wrapping_mul(NEAR / CHUNK)..).zip(chunks) {
                    let Lines(scales) = &context.scales(chunk, context.row.super_scale);
                    for ((at, near), scales) in near.iter_mut().enumerate().zip(scales.as_chunks().0) {
                        decode_block(&context, block_of(chunk, at), scales, near);
                        before.step(simd, other.as_flattened());
                    }
                }
                before.end(simd, other.as_flattened());
                core::mem::swap(&mut near, &mut other);
                before = Copying::new(other.as_flattened(), out);
            }
        });
        before.end(simd, other.as_flattened());
        simd.fence();
    }
}

/// A copy in steps of a block each, which begin at cache lines.
struct Copying<'a, T> {
    done: usize,
    blocks: core::slice::IterMut<'a, [T; BLOCK]>,
    tail: &'a mut [T],
}

impl<'a, T: Copy> Copying<'a, T> {
    /// Copies what comes before the first cache line.
    fn new(from: &[T], to: &'a mut [T]) -> Self {
        const LINE: usize = 64;
        let done = to.as_ptr().align_offset(LINE).min(to.len());
        let (head, rest) = to.split_at_mut(done);
        if let Some(from) = from.get(..done) {
            head.copy_from_slice(from);
        }
        let (blocks, tail) = rest.as_chunks_mut();
        Self { done, blocks: blocks.iter_mut(), tail }
    }

    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, from: &[T]) {
        let from = from.get(self.done..).and_then(|from| from.first_chunk());
        if let Some((from, to)) = from.zip(self.blocks.next()) {
            simd.store_past_caches(from, to);
            self.done = self.done.wrapping_add(BLOCK);
        }
    }

    /// Copies what is left.
    #[inline(always)]
    fn end<S: Simd>(&mut self, simd: S, from: &[T]) {
        while self.blocks.len() > 0 {
            self.step(simd, from);
        }
        let tail = core::mem::take(&mut self.tail);
        if let Some(from) = from.get(self.done..).and_then(|from| from.get(..tail.len())) {
            tail.copy_from_slice(from);
        }
    }
}

/// Multiplies rows with f32 vectors, filled with zeros to whole blocks: block by block, of one vector after the other.
/// The products of a row with each vector, row after row.
pub fn multiply(
    isa: Isa,
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    x: &[[f32; BLOCK]],
    y: &mut [f32],
    vectors: usize,
) {
    let Some(plan) = matrix.plan.filter(|_| isa != Isa::PORTABLE) else {
        return multiply_portably(matrix, rows, x, y, vectors);
    };
    let mut first = 0;
    while first < vectors {
        let y = &mut *y;
        with_origin!(plan, matrix, O => {
            let rows = Rows::<O>::new(matrix, plan, rows.clone());
            match first_of(vectors.wrapping_sub(first)) {
                MOST_VECTORS => isa.run(Product::<O, MOST_VECTORS> { rows, x, y, vectors, first }),
                2 => isa.run(Product::<O, 2> { rows, x, y, vectors, first }),
                _ => isa.run(Product::<O, 1> { rows, x, y, vectors, first }),
            }
        });
        first = first.wrapping_add(first_of(vectors.wrapping_sub(first)));
    }
}

/// How many of so many vectors are multiplied with first.
fn first_of(vectors: usize) -> usize {
    match vectors {
        MOST_VECTORS.. => MOST_VECTORS,
        2.. => 2,
        _ => 1,
    }
}

fn multiply_portably(
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    x: &[[f32; BLOCK]],
    y: &mut [f32],
    vectors: usize,
) {
    let decoder = Decoder::new(&matrix.code);
    let mut weights = alloc::vec![0.0f32; matrix.in_features.next_multiple_of(BLOCK)];
    for (planes, y) in rows.filter_map(|row| matrix.row(row)).zip(y.chunks_exact_mut(vectors)) {
        decoder.decode_row(planes, weights.get_mut(..matrix.in_features).unwrap_or_default());
        for (m, y) in y.iter_mut().enumerate() {
            *y = dot(weights.as_chunks().0, x.iter().skip(m).step_by(vectors));
        }
    }
}

/// The sum of products, in lanes that the compiler turns into vectors.
fn dot<'a>(a: &[[f32; BLOCK]], b: impl Iterator<Item = &'a [f32; BLOCK]>) -> f32 {
    let mut sums = [0.0f32; BLOCK];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

/// The products with M vectors from the `first`.
struct Product<'a, 'm, O, const M: usize> {
    rows: Rows<'a, 'm, O>,
    x: &'a [[f32; BLOCK]],
    y: &'a mut [f32],
    vectors: usize,
    first: usize,
}

impl<O: Origin, const M: usize> Job for Product<'_, '_, O, M> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, x, y, vectors, first } = self;
        let mut products = y.chunks_exact_mut(vectors);
        rows.each(simd, |context| {
            let mut sums = [simd.splat(0.0); M];
            let mut blocks = x.chunks_exact(vectors);
            for chunk in 0..context.blocks.div_ceil(CHUNK) {
                let Lines(scales) = &context.scales(chunk, 1.0);
                for ((block, scales), x) in
                    (block_of(chunk, 0)..).zip(scales.as_chunks::<2>().0).zip(&mut blocks)
                {
                    let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
                    let (low, high) = (simd.splat(scales[0]), simd.splat(scales[1]));
                    let Some(x) = x.get(first..).and_then(|x| x.first_chunk::<M>()) else { return };
                    #[allow(
                        clippy::indexing_slicing,
                        reason = "arrays of M by a number below M, and of the four parts of a block"
                    )]
                    for m in 0..M {
                        let (x, _) = x[m].as_chunks::<LANES>();
                        let one = simd.fma(b, simd.load(&x[1]), simd.mul(a, simd.load(&x[0])));
                        let two = simd.fma(d, simd.load(&x[3]), simd.mul(c, simd.load(&x[2])));
                        sums[m] = simd.fma(two, high, simd.fma(one, low, sums[m]));
                    }
                }
            }
            let Some(products) = products.next().and_then(|row| row.get_mut(first..)?.first_chunk_mut::<M>())
            else {
                return;
            };
            for (product, sum) in products.iter_mut().zip(sums) {
                *product = simd.total(sum) * context.row.super_scale;
            }
        });
    }
}

/// Multiplies rows with vectors of bytes. The products of a row with each vector, row after row.
pub fn multiply_int8(isa: Isa, matrix: &Matrix<'_>, rows: Range<usize>, x: &Activations, y: &mut [f32]) {
    let Some(plan) = matrix.plan.filter(|_| isa != Isa::PORTABLE) else {
        return multiply_int8_portably(matrix, rows, x, y);
    };
    let mut first = 0;
    while first < x.vectors() {
        let y = &mut *y;
        with_origin!(plan, matrix, O => {
            let rows = Rows::<O>::new(matrix, plan, rows.clone());
            match (first_of(x.vectors().wrapping_sub(first)), matrix.code.group_size() == Some(HALF)) {
                (MOST_VECTORS, false) => isa.run(Int8Product::<O, MOST_VECTORS, false> { rows, x, y, first }),
                (MOST_VECTORS, true) => isa.run(Int8Product::<O, MOST_VECTORS, true> { rows, x, y, first }),
                (2, false) => isa.run(Int8Product::<O, 2, false> { rows, x, y, first }),
                (2, true) => isa.run(Int8Product::<O, 2, true> { rows, x, y, first }),
                (_, false) => isa.run(Int8Product::<O, 1, false> { rows, x, y, first }),
                (_, true) => isa.run(Int8Product::<O, 1, true> { rows, x, y, first }),
            }
        });
        first = first.wrapping_add(first_of(x.vectors().wrapping_sub(first)));
    }
}

fn multiply_int8_portably(matrix: &Matrix<'_>, rows: Range<usize>, x: &Activations, y: &mut [f32]) {
    let decoder = Decoder::new(&matrix.code);
    let (widths, groups) = (Widths::new(matrix), Groups::new(&matrix.code));
    let mut states = alloc::vec![0i32; matrix.in_features.next_multiple_of(BLOCK)];
    let mut spare = Vec::new();
    for (row, y) in rows.zip(y.chunks_exact_mut(x.vectors().max(1))) {
        decoder.states_of_row(
            matrix.row(row).unwrap_or_default(),
            states.get_mut(..matrix.in_features).unwrap_or_default(),
        );
        let row = Row::new(matrix, &widths, row, &mut spare);
        y.fill(0.0);
        for (chunk, states) in states.chunks(CHUNK * BLOCK).enumerate() {
            let Lines(scales) = row.scales(groups, chunk, 1.0);
            for (m, y) in y.iter_mut().enumerate() {
                let x = x.chunks(m).get(chunk).unwrap_or(&Chunk::ZEROS);
                let halves = x.values.as_flattened().as_chunks::<HALF>().0;
                let scales = scales.iter().zip(&x.half_scales);
                for ((states, x), (scale, x_scale)) in states.chunks(HALF).zip(halves).zip(scales) {
                    let products = states.iter().zip(x).map(|(&state, &x)| state.wrapping_mul(x.into()));
                    *y += products.sum::<i32>() as f32 * (scale * x_scale);
                }
            }
        }
        y.iter_mut().for_each(|y| *y *= row.super_scale);
    }
}

/// The products with M vectors from the `first`; HALVES where half blocks have scales of their own.
struct Int8Product<'a, 'm, O, const M: usize, const HALVES: bool> {
    rows: Rows<'a, 'm, O>,
    x: &'a Activations,
    y: &'a mut [f32],
    first: usize,
}

impl<O: Origin, const M: usize, const HALVES: bool> Job for Int8Product<'_, '_, O, M, HALVES> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { rows, x, y, first } = self;
        let mut products = y.chunks_exact_mut(x.vectors());
        let vectors: [_; M] = core::array::from_fn(|m| x.chunks(first.wrapping_add(m)));
        rows.each(simd, |context| {
            let mut sums = [[simd.splat(0.0); M]; SUMS];
            let mut offs = [simd.splat(0.0); M];
            for chunk in 0..context.blocks.div_ceil(CHUNK) {
                let x = vectors.map(|x| x.get(chunk).unwrap_or(&Chunk::ZEROS));
                let mut factors = Lines([[0.0; 2 * CHUNK]; M]);
                let factors = &mut factors.0;
                let each = offs.iter_mut().zip(x).zip(&mut *factors);
                if HALVES {
                    let Lines(scales) = context.scales(chunk, 1.0);
                    for ((off, Chunk { half_scales, half_sums, .. }), factors) in each {
                        *off = scale(simd, &scales, half_scales, half_sums, factors, *off);
                    }
                } else {
                    let scales = context.row.scales_of_blocks(context.groups, chunk);
                    for ((off, x), factors) in each {
                        *off = scale(simd, &scales, &x.scales, &x.sums, factors, *off);
                    }
                }
                let blocks = context.blocks.wrapping_sub(block_of(chunk, 0)).min(CHUNK);
                for four in 0..blocks.div_ceil(SUMS) {
                    for (at, sums) in sums.iter_mut().enumerate() {
                        let at = SUMS.wrapping_mul(four).wrapping_add(at);
                        add_block::<S, _, M, HALVES>(&context, chunk, at, x, factors, sums);
                    }
                }
            }
            let (zero_point, one) = (simd.splat(-f32::from(context.zero_point)), simd.splat(1.0));
            let products = products.next().and_then(|row| row.get_mut(first..)?.first_chunk_mut::<M>());
            let Some(products) = products else { return };
            #[allow(clippy::indexing_slicing, reason = "arrays of M, indexed by a number below M")]
            for m in 0..M {
                let off = simd.mul(offs[m], zero_point);
                let sum = sums.iter().fold(off, |sum, sums| simd.fma(sums[m], one, sum));
                products[m] = simd.total(sum) * context.row.super_scale;
            }
        });
    }
}

/// Adds the products with M vectors in a block of a chunk, `at` being below CHUNK.
#[inline(always)]
#[allow(
    clippy::indexing_slicing,
    reason = "arrays of M by a number below M, of CHUNK by one that the caller cut to CHUNK's turns: no value of a file"
)]
fn add_block<S: Simd, P: Source<S>, const M: usize, const HALVES: bool>(
    context: &Context<'_, S, P>,
    chunk: usize,
    at: usize,
    x: [&Chunk; M],
    factors: &[[f32; 2 * CHUNK]; M],
    sums: &mut [S::Floats; M],
) {
    let simd = context.simd;
    let states = context.states(block_of(chunk, at));
    for m in 0..M {
        let dot = simd.dot(states, &x[m].values[at], P::WHOLE_BYTES);
        let factors = &factors[m];
        let factor = if HALVES { simd.halves(&factors.as_chunks().0[at]) } else { simd.splat(factors[at]) };
        sums[m] = simd.fma(dot, factor, sums[m]);
    }
}

/// `factors = scales * x_scales`, and `off + scales . x_sums`.
#[inline(always)]
fn scale<S: Simd>(
    simd: S,
    scales: &[f32],
    x_scales: &[f32],
    x_sums: &[f32],
    factors: &mut [f32],
    mut off: S::Floats,
) -> S::Floats {
    let (scales, x_scales, x_sums) = (scales.as_chunks().0, x_scales.as_chunks().0, x_sums.as_chunks().0);
    let factors = factors.as_chunks_mut::<LANES>().0;
    for (((scales, x_scales), x_sums), factors) in scales.iter().zip(x_scales).zip(x_sums).zip(factors) {
        let scales = simd.load(scales);
        simd.store(simd.mul(scales, simd.load(x_scales)), factors);
        off = simd.fma(scales, simd.load(x_sums), off);
    }
    off
}
