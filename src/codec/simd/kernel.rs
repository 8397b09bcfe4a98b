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

use core::ops::Range;

use alloc::vec::Vec;

use super::plan::{BLOCK, HALF, Kind, Plan, WINDOW};
use super::{Job, LANES, Simd};
use crate::code::{Cluster, LocalScale};
use crate::codec::activations::{Activations, CHUNK, Halves};
use crate::codec::element::Element;
use crate::codec::portable::Decoder;
use crate::codec::{ClusterParams, Matrix};

/// Bytes of the code plane to ask memory for ahead of their use.
const AHEAD: usize = 2048;
/// Rows are multiplied with so many vectors at once, which share the work of finding the states.
const MOST_VECTORS: usize = 8;

/// The planes of one row, the code plane from the row on, with bytes behind all that is its own.
struct Row<'a> {
    code: &'a [u8],
    local_scale: &'a [u8],
    super_scale: f32,
    cluster: Option<ClusterParams>,
}

impl<'a> Row<'a> {
    /// `spare` is where the plane's last row goes, to have bytes behind it.
    #[inline(always)]
    fn new(matrix: &Matrix<'a>, row: usize, spare: &'a mut Vec<u8>) -> Self {
        let planes = matrix.row(row).unwrap_or_default();
        let mut code = matrix.planes.code.get(row * matrix.row_stride..).unwrap_or_default();
        if code.len() < matrix.row_stride + BLOCK {
            spare.clear();
            spare.extend_from_slice(code);
            spare.resize(code.len() + BLOCK, 0);
            code = spare;
        }
        Self {
            code,
            local_scale: planes.local_scale,
            super_scale: planes.super_scale.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
            cluster: matrix.code.cluster().and_then(|kind| ClusterParams::read(kind, planes.cluster)),
        }
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    fn scales(&self, matrix: &Matrix<'_>, chunk: usize, factor: f32) -> Halves {
        let code = &matrix.code;
        let Some(size) = code.group_size() else { return [[factor; 2]; CHUNK] };
        let mut groups = [0.0; 2 * CHUNK];
        let first = chunk * (CHUNK * BLOCK / size);
        let (groups, _) = groups.split_at_mut(CHUNK * BLOCK / size);
        let bytes = |at: usize| self.local_scale.get(at..).unwrap_or_default();
        match code.local_scale() {
            LocalScale::None => groups.fill(factor),
            LocalScale::Embedded { bits } => {
                let mask = ((1u32 << bits) - 1) as u16;
                let (width, group_bytes) =
                    (code.word_bytes(), code.words_per_group(size) * code.word_bytes());
                let last = |group: &[u8]| match group {
                    [.., low, high] if width == 2 => u16::from_le_bytes([*low, *high]),
                    [.., byte] => u16::from(*byte),
                    [] => 0,
                };
                let words =
                    self.code.get(first * group_bytes..).unwrap_or_default().chunks_exact(group_bytes);
                for (group, words) in groups.iter_mut().zip(words) {
                    *group = f32::from(last(words) & mask) * factor;
                }
            }
            LocalScale::Nibble => {
                for ([even, odd], &byte) in groups.as_chunks_mut().0.iter_mut().zip(bytes(first / 2)) {
                    *even = f32::from(byte >> 4) * factor;
                    *odd = f32::from(byte & 0xF) * factor;
                }
            }
            LocalScale::Signed8 => {
                for (group, &byte) in groups.iter_mut().zip(bytes(first)) {
                    *group = f32::from(byte.cast_signed()) * factor;
                }
            }
        }
        let mut halves = [[0.0; 2]; CHUNK];
        match size {
            32 => halves.iter_mut().zip(groups.as_chunks().0).for_each(|(halves, pair)| *halves = *pair),
            64 => halves.iter_mut().zip(groups).for_each(|(halves, &mut group)| *halves = [group; 2]),
            _ => {
                let pairs = halves.as_chunks_mut().0.iter_mut();
                pairs.zip(groups).for_each(|(pair, &mut group)| *pair = [[group; 2]; 2]);
            }
        }
        halves
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
    plan: &'static Plan,
    tables: [S::Tables; PHASES],
}

impl<S: Simd, const PHASES: usize> Source<S> for Words<S, PHASES> {
    #[inline(always)]
    fn new(simd: S, plan: &'static Plan, _: &Row<'_>) -> Self {
        Self { plan, tables: core::array::from_fn(|phase| simd.tables(&plan.cuts[phase])) }
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        let (period, phase) = self.plan.locate(block);
        let phase = phase % PHASES;
        let at = period + self.plan.cuts[phase].offset;
        simd.prefetch(row.code, at + AHEAD);
        simd.states(self.tables[phase], simd.window(self.tables[phase], window::<WINDOW>(row.code, at)))
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
        simd.bytes(window(row.code, block * BLOCK))
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
        simd.q8_states(self.tables, window(row.code, block * 16), self.a, self.zp)
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
        simd.f32_states(self.tables, window(row.code, block * 16), self.scale, self.addend)
    }
}

/// Some bytes of the row; zeros far behind it, where a chunk's last blocks may be.
#[inline(always)]
fn window<const N: usize>(code: &[u8], at: usize) -> &[u8; N] {
    code.get(at..).and_then(|code| code.first_chunk()).unwrap_or(&[0; N])
}

/// A row and how its states are found.
struct Context<'a, 'm, S, P> {
    simd: S,
    source: P,
    matrix: &'a Matrix<'m>,
    row: &'a Row<'a>,
    zero_point: u8,
}

impl<S: Simd, P: Source<S>> Context<'_, '_, S, P> {
    #[inline(always)]
    fn states(&self, block: usize) -> S::Bytes {
        self.source.states(self.simd, self.row, block)
    }

    /// Blocks of a row.
    #[inline(always)]
    fn blocks(&self) -> usize {
        self.matrix.in_features.div_ceil(BLOCK)
    }
}

/// What is done with a row, given where its states come from.
trait RowJob {
    fn row<S: Simd, P: Source<S>>(&mut self, context: Context<'_, '_, S, P>);
}

/// Does all rows, in a loop of its own for each kind of code.
#[inline(always)]
fn each_row<S: Simd, J: RowJob>(
    simd: S,
    matrix: &Matrix<'_>,
    plan: &'static Plan,
    rows: Range<usize>,
    job: &mut J,
) {
    match (plan.kind, matrix.code.cluster()) {
        (Kind::Words, _) if plan.phase_mask == 0 => {
            each_row_of::<S, Words<S, 1>, J>(simd, matrix, plan, rows, job)
        }
        (Kind::Words, _) => each_row_of::<S, Words<S, 2>, J>(simd, matrix, plan, rows, job),
        (Kind::Bytes, _) => each_row_of::<S, Bytes, J>(simd, matrix, plan, rows, job),
        (Kind::Cluster, Some(Cluster::F32)) => each_row_of::<S, F32<S>, J>(simd, matrix, plan, rows, job),
        (Kind::Cluster, _) => each_row_of::<S, Q8<S>, J>(simd, matrix, plan, rows, job),
    }
}

#[inline(always)]
fn each_row_of<S: Simd, P: Source<S>, J: RowJob>(
    simd: S,
    matrix: &Matrix<'_>,
    plan: &'static Plan,
    rows: Range<usize>,
    job: &mut J,
) {
    let mut spare = Vec::new();
    for row in rows {
        let row = &Row::new(matrix, row, &mut spare);
        let source = P::new(simd, plan, row);
        job.row(Context { simd, source, matrix, row, zero_point: plan.zero_point });
    }
}

/// Decodes rows.
pub struct Decode<'a, 'm, T> {
    /// The matrix.
    pub matrix: &'a Matrix<'m>,
    /// Its rows.
    pub rows: Range<usize>,
    /// One row after another.
    pub out: &'a mut [T],
    /// Whether the rows are too many for a cache.
    pub past_caches: bool,
}

impl<T: Element> Job for Decode<'_, '_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Some(plan) = self.matrix.plan else { return self.run_portable() };
        let (matrix, rows) = (self.matrix, self.rows.clone());
        if self.past_caches {
            each_row(simd, matrix, plan, rows, &mut DecodeRows::<T, true> { out: self.out });
            simd.fence();
        } else {
            each_row(simd, matrix, plan, rows, &mut DecodeRows::<T, false> { out: self.out });
        }
    }

    fn run_portable(self) {
        let decoder = Decoder::new(&self.matrix.code);
        let out = self.out.chunks_exact_mut(self.matrix.in_features.max(1));
        for (planes, out) in self.rows.filter_map(|row| self.matrix.row(row)).zip(out) {
            decoder.decode_row(planes, out);
        }
    }
}

struct DecodeRows<'a, T, const PAST_CACHES: bool> {
    out: &'a mut [T],
}

impl<T: Element, const PAST_CACHES: bool> RowJob for DecodeRows<'_, T, PAST_CACHES> {
    #[inline(always)]
    fn row<S: Simd, P: Source<S>>(&mut self, context: Context<'_, '_, S, P>) {
        let out = core::mem::take(&mut self.out);
        let (out, rest) = out.split_at_mut(context.matrix.in_features.min(out.len()));
        self.out = rest;
        for (chunk, out) in out.chunks_mut(CHUNK * BLOCK).enumerate() {
            if PAST_CACHES {
                let mut near = [T::ZERO; CHUNK * BLOCK];
                let (near, _) = near.split_at_mut(out.len());
                decode_chunk(&context, chunk, near);
                context.simd.copy_past_caches(near, out);
            } else {
                decode_chunk(&context, chunk, out);
            }
        }
    }
}

#[inline(always)]
fn decode_chunk<S: Simd, P: Source<S>, T: Element>(
    context: &Context<'_, '_, S, P>,
    chunk: usize,
    out: &mut [T],
) {
    let scales = context.row.scales(context.matrix, chunk, context.row.super_scale);
    let (blocks, last) = out.as_chunks_mut::<BLOCK>();
    let whole = blocks.len();
    for ((at, out), &scales) in blocks.iter_mut().enumerate().zip(&scales) {
        decode_block(context, chunk * CHUNK + at, scales, out);
    }
    if !last.is_empty() {
        let mut all = [T::ZERO; BLOCK];
        decode_block(context, chunk * CHUNK + whole, scales[whole], &mut all);
        last.copy_from_slice(&all[..last.len()]);
    }
}

#[inline(always)]
fn decode_block<S: Simd, P: Source<S>, T: Element>(
    context: &Context<'_, '_, S, P>,
    block: usize,
    [low, high]: [f32; 2],
    out: &mut [T; BLOCK],
) {
    let simd = context.simd;
    let (low, high) = (simd.splat(low), simd.splat(high));
    let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
    let (quarters, _) = out.as_chunks_mut::<LANES>();
    T::store(simd, simd.mul(a, low), &mut quarters[0]);
    T::store(simd, simd.mul(b, low), &mut quarters[1]);
    T::store(simd, simd.mul(c, high), &mut quarters[2]);
    T::store(simd, simd.mul(d, high), &mut quarters[3]);
}

/// Multiplies rows with f32 vectors.
pub struct Product<'a, 'm> {
    /// The matrix.
    pub matrix: &'a Matrix<'m>,
    /// Its rows.
    pub rows: Range<usize>,
    /// The vectors, filled with zeros to whole blocks: block by block, of one vector after the other.
    pub x: &'a [[f32; BLOCK]],
    /// The products of a row with each vector, row after row.
    pub y: &'a mut [f32],
    /// How many vectors there are.
    pub vectors: usize,
}

impl Job for Product<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Some(plan) = self.matrix.plan else { return self.run_portable() };
        let (matrix, rows) = (self.matrix, self.rows.clone());
        each_row(simd, matrix, plan, rows, &mut self);
    }

    fn run_portable(self) {
        let Self { matrix, rows, x, y, vectors } = self;
        let decoder = Decoder::new(&matrix.code);
        let mut weights = alloc::vec![0.0f32; matrix.in_features.next_multiple_of(BLOCK)];
        for (planes, y) in rows.filter_map(|row| matrix.row(row)).zip(y.chunks_exact_mut(vectors)) {
            decoder.decode_row(planes, &mut weights[..matrix.in_features]);
            for (m, y) in y.iter_mut().enumerate() {
                *y = dot(weights.as_chunks().0, x.iter().skip(m).step_by(vectors));
            }
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

impl RowJob for Product<'_, '_> {
    #[inline(always)]
    fn row<S: Simd, P: Source<S>>(&mut self, context: Context<'_, '_, S, P>) {
        let y = core::mem::take(&mut self.y);
        let (y, rest) = y.split_at_mut(self.vectors.min(y.len()));
        self.y = rest;
        let mut at = 0;
        while at < y.len() {
            let (x, vectors, y) = (self.x.get(at..).unwrap_or_default(), self.vectors, &mut y[at..]);
            at += match y.len() {
                MOST_VECTORS.. => products::<S, P, MOST_VECTORS>(&context, x, vectors, y),
                4.. => products::<S, P, 4>(&context, x, vectors, y),
                2.. => products::<S, P, 2>(&context, x, vectors, y),
                _ => products::<S, P, 1>(&context, x, vectors, y),
            };
        }
    }
}

/// The products of a row with the first M of the vectors; M.
#[inline(always)]
fn products<S: Simd, P: Source<S>, const M: usize>(
    context: &Context<'_, '_, S, P>,
    x: &[[f32; BLOCK]],
    vectors: usize,
    y: &mut [f32],
) -> usize {
    let simd = context.simd;
    let mut sums = [simd.splat(0.0); M];
    for chunk in 0..context.blocks().div_ceil(CHUNK) {
        let scales = context.row.scales(context.matrix, chunk, 1.0);
        let x = x.get(chunk * CHUNK * vectors..).unwrap_or_default().chunks(vectors);
        for ((block, &[low, high]), x) in (chunk * CHUNK..).zip(&scales).zip(x) {
            let [a, b, c, d] = simd.widen(context.states(block), context.zero_point);
            let (low, high) = (simd.splat(low), simd.splat(high));
            let x = &x[..M];
            for m in 0..M {
                let (x, _) = x[m].as_chunks::<LANES>();
                let first = simd.fma(b, simd.load(&x[1]), simd.mul(a, simd.load(&x[0])));
                let second = simd.fma(d, simd.load(&x[3]), simd.mul(c, simd.load(&x[2])));
                sums[m] = simd.fma(second, high, simd.fma(first, low, sums[m]));
            }
        }
    }
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = simd.total(sum) * context.row.super_scale;
    }
    M
}

/// Multiplies rows with vectors of bytes.
pub struct Int8Product<'a, 'm> {
    /// The matrix.
    pub matrix: &'a Matrix<'m>,
    /// Its rows.
    pub rows: Range<usize>,
    /// The vectors.
    pub x: &'a Activations,
    /// The products of a row with each vector, row after row.
    pub y: &'a mut [f32],
}

impl Job for Int8Product<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Some(plan) = self.matrix.plan else { return self.run_portable() };
        let (matrix, rows) = (self.matrix, self.rows.clone());
        each_row(simd, matrix, plan, rows, &mut self);
    }

    fn run_portable(self) {
        let Self { matrix, rows, x, y } = self;
        let decoder = Decoder::new(&matrix.code);
        let mut states = alloc::vec![0i32; matrix.in_features.next_multiple_of(BLOCK)];
        let mut spare = Vec::new();
        for (row, y) in rows.zip(y.chunks_exact_mut(x.vectors().max(1))) {
            decoder.states_of_row(matrix.row(row).unwrap_or_default(), &mut states[..matrix.in_features]);
            let row = Row::new(matrix, row, &mut spare);
            y.fill(0.0);
            for (chunk, states) in states.chunks(CHUNK * BLOCK).enumerate() {
                let scales = row.scales(matrix, chunk, 1.0);
                for (m, y) in y.iter_mut().enumerate() {
                    let (x_scales, _) = x.scales(m, chunk);
                    let values = x.values(chunk * CHUNK).iter().skip(m).step_by(x.vectors());
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
}

impl RowJob for Int8Product<'_, '_> {
    #[inline(always)]
    fn row<S: Simd, P: Source<S>>(&mut self, context: Context<'_, '_, S, P>) {
        let y = core::mem::take(&mut self.y);
        let (y, rest) = y.split_at_mut(self.x.vectors().min(y.len()));
        self.y = rest;
        let mut at = 0;
        while at < y.len() {
            let (x, y) = (self.x, &mut y[at..]);
            at += match y.len() {
                MOST_VECTORS.. => int8_products::<S, P, MOST_VECTORS>(&context, x, at, y),
                4.. => int8_products::<S, P, 4>(&context, x, at, y),
                2.. => int8_products::<S, P, 2>(&context, x, at, y),
                _ => int8_products::<S, P, 1>(&context, x, at, y),
            };
        }
    }
}

/// The products of a row with M vectors from the `first`; M.
#[inline(always)]
fn int8_products<S: Simd, P: Source<S>, const M: usize>(
    context: &Context<'_, '_, S, P>,
    x: &Activations,
    first: usize,
    y: &mut [f32],
) -> usize {
    let simd = context.simd;
    // Two sums for few vectors, so that one addition does not wait for the other.
    let mut sums = [[simd.splat(0.0); M]; 2];
    let mut offs = [simd.splat(0.0); M];
    for chunk in 0..context.blocks().div_ceil(CHUNK) {
        let scales = context.row.scales(context.matrix, chunk, 1.0);
        let mut factors = [[[0.0; 2]; CHUNK]; M];
        for m in 0..M {
            let (x_scales, x_sums) = x.scales(first + m, chunk);
            let factors = factors[m].as_flattened_mut().as_chunks_mut::<LANES>().0;
            let parts = lanes(&scales).iter().zip(lanes(x_scales)).zip(lanes(x_sums)).zip(factors);
            for (((scales, x_scales), x_sums), factors) in parts {
                let scales = simd.load(scales);
                simd.store(simd.mul(scales, simd.load(x_scales)), factors);
                offs[m] = simd.fma(scales, simd.load(x_sums), offs[m]);
            }
        }
        let blocks = (context.blocks() - chunk * CHUNK).min(CHUNK);
        let values = x.values(chunk * CHUNK).chunks(2 * x.vectors());
        for (pair, values) in (0..blocks.div_ceil(2)).zip(values) {
            for odd in 0..2 {
                let states = context.states(chunk * CHUNK + 2 * pair + odd);
                let values = &values[odd * x.vectors() + first..][..M];
                let sums = &mut sums[if M <= 2 { odd } else { 0 }];
                for m in 0..M {
                    let dot = simd.dot(states, &values[m].0, P::WHOLE_BYTES);
                    sums[m] = simd.fma(dot, simd.halves(&factors[m][2 * pair + odd]), sums[m]);
                }
            }
        }
    }
    let (zero_point, one) = (simd.splat(-f32::from(context.zero_point)), simd.splat(1.0));
    for m in 0..M {
        let both = simd.fma(sums[1][m], one, sums[0][m]);
        y[m] = simd.total(simd.fma(offs[m], zero_point, both)) * context.row.super_scale;
    }
    M
}

/// A chunk's numbers as they go into registers.
#[inline(always)]
fn lanes(halves: &Halves) -> &[[f32; LANES]] {
    halves.as_flattened().as_chunks().0
}
