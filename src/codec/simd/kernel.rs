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

use core::marker::PhantomData;
use core::ops::Range;

use alloc::vec::Vec;

use super::plan::{BLOCK, HALF, Kind, Plan, WINDOW};
use super::{Isa, Job, LANES, Simd};
use crate::code::{Cluster, Code, LocalScale};
use crate::codec::activations::{Activations, CHUNK, Halves, Values};
use crate::codec::element::Element;
use crate::codec::portable::Decoder;
use crate::codec::{ClusterParams, Matrix, Planes};

/// Bytes of the code plane to ask memory for ahead of their use.
const AHEAD: usize = 4096;
/// Rows are multiplied with so many vectors at once, which share the work of finding the states.
const MOST_VECTORS: usize = 4;
/// Bytes that may be read behind a row, whatever they are: the rest of a last window, and three groups' words.
const BEHIND: usize = 256;

/// The planes of one row, the code plane from the row on, with bytes behind all that is its own.
struct Row<'a> {
    /// The row's `row_stride` bytes, at least, and [`BEHIND`] more.
    code: &'a [u8],
    groups: usize,
    local_scale: &'a [u8],
    super_scale: f32,
    cluster: Option<ClusterParams>,
}

impl<'a> Row<'a> {
    /// `spare` is where the plane's last row goes, to have bytes behind it.
    #[inline(always)]
    fn new(matrix: &Matrix<'a>, widths: &Widths, row: usize, spare: &'a mut Vec<u8>) -> Self {
        let Planes { code, local_scale, super_scale, cluster } = matrix.planes;
        let mut code = code.get(row * matrix.row_stride..).unwrap_or_default();
        if code.len() < matrix.row_stride + BEHIND {
            spare.clear();
            spare.extend_from_slice(code);
            spare.resize(matrix.row_stride + BEHIND, 0);
            code = spare;
        }
        let part = |plane: &'a [u8], width| plane.get(row * width..(row + 1) * width).unwrap_or_default();
        let super_scale = part(super_scale, size_of::<f32>()).first_chunk();
        let cluster = part(cluster, widths.cluster);
        Self {
            code,
            groups: widths.groups,
            local_scale: part(local_scale, widths.local_scale),
            super_scale: super_scale.map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
            cluster: matrix.code.cluster().and_then(|kind| ClusterParams::read(kind, cluster)),
        }
    }

    /// Some bytes of the row, and of what is behind it.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn window<const N: usize>(&self, at: usize) -> &[u8; N] {
        debug_assert!(at + N <= self.code.len());
        // SAFETY: `new` saw to it that there are BEHIND bytes more than a row has. Windows begin where a block of the row
        // begins and have 64 bytes at most; last words are those of the row's groups and of three more at most, of 64
        // bytes each at most.
        unsafe { &*self.code.as_ptr().add(at).cast::<[u8; N]>() }
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    fn scales(&self, groups: Groups, chunk: usize, factor: f32) -> Halves {
        let scales = self.scales_of_groups(groups, chunk, factor);
        let mut halves = [[0.0; 2]; CHUNK];
        match groups.size {
            32 => halves.iter_mut().zip(scales.as_chunks().0).for_each(|(halves, pair)| *halves = *pair),
            64 => halves.iter_mut().zip(scales).for_each(|(halves, scale)| *halves = [scale; 2]),
            _ => {
                let pairs = halves.as_chunks_mut().0.iter_mut();
                pairs.zip(scales).for_each(|(pair, scale)| *pair = [[scale; 2]; 2]);
            }
        }
        halves
    }

    /// The local scales of a chunk's blocks, for groups of 64 weights and more.
    #[inline(always)]
    fn scales_of_blocks(&self, groups: Groups, chunk: usize) -> [f32; CHUNK] {
        let scales = self.scales_of_groups(groups, chunk, 1.0);
        let mut blocks = [0.0; CHUNK];
        if groups.size == BLOCK {
            blocks.copy_from_slice(&scales[..CHUNK]);
        } else {
            let pairs = blocks.as_chunks_mut().0.iter_mut();
            pairs.zip(scales).for_each(|(pair, scale)| *pair = [scale; 2]);
        }
        blocks
    }

    /// The local scales of a chunk's groups, times `factor`.
    #[inline(always)]
    fn scales_of_groups(&self, groups: Groups, chunk: usize, factor: f32) -> [f32; 2 * CHUNK] {
        let per_chunk = CHUNK * BLOCK / groups.size;
        let first = chunk * per_chunk;
        let mut all = [0.0; 2 * CHUNK];
        let scales = &mut all[..per_chunk];
        let bytes = |at: usize| self.local_scale.get(at..).unwrap_or_default();
        match groups.local_scale {
            LocalScale::None => scales.fill(factor),
            LocalScale::Embedded { bits } => {
                // Four words at a time in an integer, which is as fast as it gets without gathering them in registers.
                let mask = ((1u64 << bits) - 1) * 0x0001_0001_0001_0001;
                let mut words = [[0u16; 4]; CHUNK / 2];
                let count = self.groups.saturating_sub(first).min(per_chunk);
                let mut end = (first + 1) * groups.bytes;
                for words in &mut words[..count.div_ceil(4)] {
                    // Of a word of one byte, the byte before comes along and is shifted out.
                    let last = |at: usize| {
                        u64::from(u16::from_le_bytes(*self.window(end - 2 + at * groups.bytes))) << (16 * at)
                    };
                    let all = (last(0) | last(1) | last(2) | last(3)) >> groups.last_shift & mask;
                    *words = [all as u16, (all >> 16) as u16, (all >> 32) as u16, (all >> 48) as u16];
                    end += 4 * groups.bytes;
                }
                let words = words.as_flattened();
                scales.iter_mut().zip(words).for_each(|(scale, &word)| *scale = f32::from(word) * factor);
            }
            LocalScale::Nibble => {
                for ([even, odd], &byte) in scales.as_chunks_mut().0.iter_mut().zip(bytes(first / 2)) {
                    *even = f32::from(byte >> 4) * factor;
                    *odd = f32::from(byte & 0xF) * factor;
                }
            }
            LocalScale::Signed8 => {
                for (scale, &byte) in scales.iter_mut().zip(bytes(first)) {
                    *scale = f32::from(byte.cast_signed()) * factor;
                }
            }
        }
        all
    }
}

/// Bytes of a row in the planes, and its groups: divided once.
struct Widths {
    local_scale: usize,
    cluster: usize,
    groups: usize,
}

impl Widths {
    fn new(matrix: &Matrix<'_>) -> Self {
        let rows = matrix.rows.max(1);
        Self {
            local_scale: matrix.planes.local_scale.len() / rows,
            cluster: matrix.planes.cluster.len() / rows,
            groups: matrix.code.groups(matrix.in_features),
        }
    }
}

/// Where the scales of groups are.
#[derive(Clone, Copy)]
struct Groups {
    /// Weights of a group; 64 for one a row, whose scale is the same for all.
    size: usize,
    /// Bytes of its words.
    bytes: usize,
    /// What brings its last word down, when the last two bytes are read.
    last_shift: u32,
    local_scale: LocalScale,
}

impl Groups {
    fn new(code: &Code) -> Self {
        let size = code.group_size().unwrap_or(BLOCK);
        let bytes = code.words_per_group(size) * code.word_bytes();
        Self { size, bytes, last_shift: 16 - code.word_bits(), local_scale: code.local_scale() }
    }
}

/// Where the states of a row come from.
trait Source<S: Simd>: Copy {
    /// Whether a state may have eight bits.
    const WHOLE_BYTES: bool = false;

    /// For one row.
    fn new(simd: S, plan: &'static Plan, row: &Row<'_>) -> Self;

    /// The states of a block.
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes;
}

/// Words in one period or two.
#[derive(Clone, Copy)]
struct Words<S: Simd, const PHASES: usize> {
    period_bytes: usize,
    offsets: [usize; PHASES],
    tables: [S::Tables; PHASES],
}

impl<S: Simd, const PHASES: usize> Source<S> for Words<S, PHASES> {
    #[inline(always)]
    fn new(simd: S, plan: &'static Plan, _: &Row<'_>) -> Self {
        Self {
            period_bytes: plan.period_bytes,
            offsets: core::array::from_fn(|phase| plan.cuts[phase].offset),
            tables: core::array::from_fn(|phase| simd.tables(&plan.cuts[phase])),
        }
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        let (period, phase) = (block / PHASES, block % PHASES);
        let at = period * self.period_bytes + self.offsets[phase];
        simd.prefetch(row.code, at + AHEAD);
        simd.states(self.tables[phase], simd.window(self.tables[phase], row.window::<WINDOW>(at)))
    }
}

/// Bytes that are states.
#[derive(Clone, Copy)]
struct Bytes;

impl<S: Simd> Source<S> for Bytes {
    const WHOLE_BYTES: bool = true;

    #[inline(always)]
    fn new(_: S, _: &'static Plan, _: &Row<'_>) -> Self {
        Self
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        simd.prefetch(row.code, block * BLOCK + AHEAD);
        simd.bytes(row.window(block * BLOCK))
    }
}

/// Codes of the integer kind of cluster.
#[derive(Clone, Copy)]
struct Q8<S: Simd> {
    tables: S::Tables,
    a: u16,
    zp: i16,
}

impl<S: Simd> Source<S> for Q8<S> {
    #[inline(always)]
    fn new(simd: S, plan: &'static Plan, row: &Row<'_>) -> Self {
        let (a, zp) = match row.cluster {
            Some(ClusterParams::Q8 { a, zp }) => (a, zp),
            _ => (0, 0),
        };
        Self { tables: simd.tables(&plan.cuts[0]), a, zp }
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        simd.prefetch(row.code, block * 16 + AHEAD);
        simd.q8_states(self.tables, row.window(block * 16), self.a, self.zp)
    }
}

/// Codes of the floating-point kind.
#[derive(Clone, Copy)]
struct F32<S: Simd> {
    tables: S::Tables,
    scale: f32,
    addend: f32,
}

impl<S: Simd> Source<S> for F32<S> {
    #[inline(always)]
    fn new(simd: S, plan: &'static Plan, row: &Row<'_>) -> Self {
        let (scale, zp) = match row.cluster {
            Some(ClusterParams::F32 { scale, zp }) => (scale, zp),
            _ => (0.0, 0.0),
        };
        Self { tables: simd.tables(&plan.cuts[0]), scale, addend: zp + 0.5 }
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        simd.prefetch(row.code, block * 16 + AHEAD);
        simd.f32_states(self.tables, row.window(block * 16), self.scale, self.addend)
    }
}

/// A kind of source, whatever the registers.
trait Origin {
    type Source<S: Simd>: Source<S>;
}

struct FromWords<const PHASES: usize>;
struct FromBytes;
struct FromQ8;
struct FromF32;

impl<const PHASES: usize> Origin for FromWords<PHASES> {
    type Source<S: Simd> = Words<S, PHASES>;
}

impl Origin for FromBytes {
    type Source<S: Simd> = Bytes;
}

impl Origin for FromQ8 {
    type Source<S: Simd> = Q8<S>;
}

impl Origin for FromF32 {
    type Source<S: Simd> = F32<S>;
}

/// An expression for the type of origin that a plan has, so that each becomes a function of its own.
macro_rules! with_origin {
    ($plan:expr, $matrix:expr, $origin:ident => $run:expr) => {
        match ($plan.kind, $matrix.code.cluster()) {
            (Kind::Words, _) if $plan.phase_mask == 0 => {
                type $origin = FromWords<1>;
                $run
            }
            (Kind::Words, _) => {
                type $origin = FromWords<2>;
                $run
            }
            (Kind::Bytes, _) => {
                type $origin = FromBytes;
                $run
            }
            (Kind::Cluster, Some(Cluster::F32)) => {
                type $origin = FromF32;
                $run
            }
            (Kind::Cluster, _) => {
                type $origin = FromQ8;
                $run
            }
        }
    };
}

/// Rows of a matrix whose code has a plan.
struct Rows<'a, 'm, O> {
    matrix: &'a Matrix<'m>,
    plan: &'static Plan,
    rows: Range<usize>,
    origin: PhantomData<O>,
}

impl<'a, 'm, O: Origin> Rows<'a, 'm, O> {
    fn new(matrix: &'a Matrix<'m>, plan: &'static Plan, rows: Range<usize>) -> Self {
        Self { matrix, plan, rows, origin: PhantomData }
    }

    #[inline(always)]
    fn each<S: Simd>(self, simd: S, mut job: impl FnMut(Context<'_, S, O::Source<S>>)) {
        let Self { matrix, plan, rows, .. } = self;
        let (widths, groups) = (Widths::new(matrix), Groups::new(&matrix.code));
        let blocks = matrix.in_features.div_ceil(BLOCK);
        let mut spare = Vec::new();
        for row in rows {
            let row = &Row::new(matrix, &widths, row, &mut spare);
            let source = O::Source::new(simd, plan, row);
            job(Context { simd, source, row, groups, blocks, zero_point: plan.zero_point });
        }
    }
}

/// A row and how its states are found.
struct Context<'a, S, P> {
    simd: S,
    source: P,
    row: &'a Row<'a>,
    groups: Groups,
    /// Blocks of a row.
    blocks: usize,
    zero_point: u8,
}

impl<S: Simd, P: Source<S>> Context<'_, S, P> {
    #[inline(always)]
    fn states(&self, block: usize) -> S::Bytes {
        self.source.states(self.simd, self.row, block)
    }

    #[inline(always)]
    fn scales(&self, chunk: usize, factor: f32) -> Halves {
        self.row.scales(self.groups, chunk, factor)
    }
}

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
                let scales = context.scales(chunk, context.row.super_scale);
                let (blocks, last) = out.as_chunks_mut::<BLOCK>();
                let whole = blocks.len();
                for ((at, out), scales) in blocks.iter_mut().enumerate().zip(&scales) {
                    decode_block(&context, chunk * CHUNK + at, scales, out);
                }
                if !last.is_empty() {
                    let mut all = [T::ZERO; BLOCK];
                    decode_block(&context, chunk * CHUNK + whole, &scales[whole], &mut all);
                    last.copy_from_slice(&all[..last.len()]);
                }
            }
        });
    }
}

#[inline(always)]
fn decode_block<S: Simd, P: Source<S>, T: Element>(
    context: &Context<'_, S, P>,
    block: usize,
    scales: &[f32; 2],
    out: &mut [T; BLOCK],
) {
    let simd = context.simd;
    let (low, high) = (simd.splat(scales[0]), simd.splat(scales[1]));
    let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
    let (quarters, _) = out.as_chunks_mut::<LANES>();
    T::store(simd, simd.mul(a, low), &mut quarters[0]);
    T::store(simd, simd.mul(b, low), &mut quarters[1]);
    T::store(simd, simd.mul(c, high), &mut quarters[2]);
    T::store(simd, simd.mul(d, high), &mut quarters[3]);
}

/// Decodes chunks to one place near by and copies those of another past the caches, in turns, so that memory is
/// written all the time.
struct DecodePastCaches<'a, 'm, O, T> {
    rows: Rows<'a, 'm, O>,
    out: &'a mut [T],
}

impl<O: Origin, T: Element> Job for DecodePastCaches<'_, '_, O, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut rows = self.out.chunks_exact_mut(self.rows.matrix.in_features.max(1));
        let (mut near, mut other) = ([[T::ZERO; BLOCK]; CHUNK], [[T::ZERO; BLOCK]; CHUNK]);
        let (mut near, mut other) = (&mut near, &mut other);
        let mut before = Copying::new(&[], &mut []);
        self.rows.each(simd, |context| {
            let row = rows.next().unwrap_or_default();
            for (chunk, out) in row.chunks_mut(CHUNK * BLOCK).enumerate() {
                let scales = context.scales(chunk, context.row.super_scale);
                let blocks = out.len().div_ceil(BLOCK);
                for ((at, near), scales) in near.iter_mut().enumerate().zip(&scales).take(blocks) {
                    decode_block(&context, chunk * CHUNK + at, scales, near);
                    before.step(simd, other.as_flattened());
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
        head.copy_from_slice(&from[..done]);
        let (blocks, tail) = rest.as_chunks_mut();
        Self { done, blocks: blocks.iter_mut(), tail }
    }

    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, from: &[T]) {
        let from = from.get(self.done..).and_then(|from| from.first_chunk());
        if let Some((from, to)) = from.zip(self.blocks.next()) {
            simd.store_past_caches(from, to);
            self.done += BLOCK;
        }
    }

    /// Copies what is left.
    #[inline(always)]
    fn end<S: Simd>(&mut self, simd: S, from: &[T]) {
        while self.blocks.len() > 0 {
            self.step(simd, from);
        }
        let tail = core::mem::take(&mut self.tail);
        tail.copy_from_slice(&from[self.done..][..tail.len()]);
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
            match first_of(vectors - first) {
                MOST_VECTORS => isa.run(Product::<O, MOST_VECTORS> { rows, x, y, vectors, first }),
                2 => isa.run(Product::<O, 2> { rows, x, y, vectors, first }),
                _ => isa.run(Product::<O, 1> { rows, x, y, vectors, first }),
            }
        });
        first += first_of(vectors - first);
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
        decoder.decode_row(planes, &mut weights[..matrix.in_features]);
        for (m, y) in y.iter_mut().enumerate() {
            *y = dot(weights.as_chunks().0, x.iter().skip(m).step_by(vectors));
        }
    }
}

/// The sum of products, in lanes that the compiler turns into vectors.
fn dot<'a>(a: &[[f32; BLOCK]], b: impl Iterator<Item = &'a [f32; BLOCK]>) -> f32 {
    let mut sums = [0.0f32; BLOCK];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..BLOCK {
            sums[lane] += a[lane] * b[lane];
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
                let scales = context.scales(chunk, 1.0);
                for ((block, scales), x) in (chunk * CHUNK..).zip(&scales).zip(&mut blocks) {
                    let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
                    let (low, high) = (simd.splat(scales[0]), simd.splat(scales[1]));
                    let x: &[_; M] = x[first..].first_chunk().expect("M of the vectors");
                    for m in 0..M {
                        let (x, _) = x[m].as_chunks::<LANES>();
                        let one = simd.fma(b, simd.load(&x[1]), simd.mul(a, simd.load(&x[0])));
                        let two = simd.fma(d, simd.load(&x[3]), simd.mul(c, simd.load(&x[2])));
                        sums[m] = simd.fma(two, high, simd.fma(one, low, sums[m]));
                    }
                }
            }
            let products = &mut products.next().unwrap_or_default()[first..][..M];
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
            match (first_of(x.vectors() - first), matrix.code.group_size() == Some(HALF)) {
                (MOST_VECTORS, false) => isa.run(Int8Product::<O, MOST_VECTORS, false> { rows, x, y, first }),
                (MOST_VECTORS, true) => isa.run(Int8Product::<O, MOST_VECTORS, true> { rows, x, y, first }),
                (2, false) => isa.run(Int8Product::<O, 2, false> { rows, x, y, first }),
                (2, true) => isa.run(Int8Product::<O, 2, true> { rows, x, y, first }),
                (_, false) => isa.run(Int8Product::<O, 1, false> { rows, x, y, first }),
                (_, true) => isa.run(Int8Product::<O, 1, true> { rows, x, y, first }),
            }
        });
        first += first_of(x.vectors() - first);
    }
}

fn multiply_int8_portably(matrix: &Matrix<'_>, rows: Range<usize>, x: &Activations, y: &mut [f32]) {
    let decoder = Decoder::new(&matrix.code);
    let (widths, groups) = (Widths::new(matrix), Groups::new(&matrix.code));
    let mut states = alloc::vec![0i32; matrix.in_features.next_multiple_of(BLOCK)];
    let mut spare = Vec::new();
    for (row, y) in rows.zip(y.chunks_exact_mut(x.vectors().max(1))) {
        decoder.states_of_row(matrix.row(row).unwrap_or_default(), &mut states[..matrix.in_features]);
        let row = Row::new(matrix, &widths, row, &mut spare);
        y.fill(0.0);
        for (chunk, states) in states.chunks(CHUNK * BLOCK).enumerate() {
            let scales = row.scales(groups, chunk, 1.0);
            for (m, y) in y.iter_mut().enumerate() {
                let (x_scales, _) = x.scales_of_halves(m, chunk);
                let values = x.values().iter().skip(m).step_by(x.vectors()).skip(chunk * CHUNK);
                let halves = values.flat_map(|values| values.0.as_chunks::<HALF>().0);
                let scales = scales.as_flattened().iter().zip(x_scales.as_flattened());
                for ((states, x), (scale, x_scale)) in states.chunks(HALF).zip(halves).zip(scales) {
                    let products = states.iter().zip(x).map(|(&state, &x)| state * i32::from(x));
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
        rows.each(simd, |context| {
            // Two sums, so that an addition need not wait for the one before.
            let mut sums = [[simd.splat(0.0); M]; 2];
            let mut offs = [simd.splat(0.0); M];
            let mut blocks = x.values().chunks_exact(x.vectors());
            for chunk in 0..context.blocks.div_ceil(CHUNK) {
                let mut factors = [[0.0; 2 * CHUNK]; M];
                if HALVES {
                    let scales = context.scales(chunk, 1.0);
                    for m in 0..M {
                        let (x_scales, x_sums) = x.scales_of_halves(first + m, chunk);
                        let (scales, x_scales) = (scales.as_flattened(), x_scales.as_flattened());
                        let x_sums = x_sums.as_flattened();
                        offs[m] = scale(simd, scales, x_scales, x_sums, &mut factors[m], offs[m]);
                    }
                } else {
                    let scales = context.row.scales_of_blocks(context.groups, chunk);
                    for m in 0..M {
                        let (x_scales, x_sums) = x.scales(first + m, chunk);
                        offs[m] = scale(simd, &scales, x_scales, x_sums, &mut factors[m], offs[m]);
                    }
                }
                for pair in 0..CHUNK / 2 {
                    let Some(values) = blocks.next() else { break };
                    let at = 2 * pair;
                    add_block::<S, _, M, HALVES>(
                        &context,
                        chunk,
                        at,
                        &values[first..],
                        &factors,
                        &mut sums[0],
                    );
                    let Some(values) = blocks.next() else { break };
                    let at = at + 1;
                    add_block::<S, _, M, HALVES>(
                        &context,
                        chunk,
                        at,
                        &values[first..],
                        &factors,
                        &mut sums[1],
                    );
                }
            }
            let (zero_point, one) = (simd.splat(-f32::from(context.zero_point)), simd.splat(1.0));
            let products = &mut products.next().unwrap_or_default()[first..][..M];
            for m in 0..M {
                let both = simd.fma(sums[1][m], one, sums[0][m]);
                products[m] = simd.total(simd.fma(offs[m], zero_point, both)) * context.row.super_scale;
            }
        });
    }
}

/// Adds the products with the first M of the values in a block.
#[inline(always)]
fn add_block<S: Simd, P: Source<S>, const M: usize, const HALVES: bool>(
    context: &Context<'_, S, P>,
    chunk: usize,
    at: usize,
    values: &[Values],
    factors: &[[f32; 2 * CHUNK]; M],
    sums: &mut [S::Floats; M],
) {
    let simd = context.simd;
    let states = context.states(chunk * CHUNK + at);
    let values: &[_; M] = values.first_chunk().expect("M of the vectors");
    for m in 0..M {
        let dot = simd.dot(states, &values[m].0, P::WHOLE_BYTES);
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
