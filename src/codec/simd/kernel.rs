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

use super::plan::{BLOCK, Kind, Plan, WINDOW};
use super::{Job, LANES, Simd};
use crate::code::{Cluster, LocalScale};
use crate::codec::activations::{Activations, CHUNK, Vector};
use crate::codec::element::Element;
use crate::codec::portable::Decoder;
use crate::codec::{ClusterParams, Matrix, read_word};

/// Bytes of the code plane to ask memory for ahead of their use.
const AHEAD: usize = 2048;
/// Rows are multiplied with so many vectors at once, which share the work of finding the states.
const MOST_VECTORS: usize = 8;

/// The scales of a chunk's half blocks.
type Scales = [[f32; 2]; CHUNK];

/// The planes of one row, the code plane up to its end.
struct Row<'a> {
    code: &'a [u8],
    local_scale: &'a [u8],
    super_scale: f32,
    cluster: Option<ClusterParams>,
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn new(matrix: &Matrix<'a>, row: usize) -> Self {
        let planes = matrix.row(row).unwrap_or_default();
        Self {
            code: matrix.planes.code.get(row * matrix.row_stride..).unwrap_or_default(),
            local_scale: planes.local_scale,
            super_scale: planes.super_scale.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
            cluster: matrix.code.cluster().and_then(|kind| ClusterParams::read(kind, planes.cluster)),
        }
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    fn scales(&self, matrix: &Matrix<'_>, chunk: usize, blocks: usize, factor: f32, scales: &mut Scales) {
        let code = &matrix.code;
        let first = chunk * CHUNK;
        let blocks = blocks.min(CHUNK);
        let Some(size) = code.group_size() else {
            scales[..blocks].fill([factor; 2]);
            return;
        };
        let byte = |at: usize| self.local_scale.get(at).copied().unwrap_or(0);
        match code.local_scale() {
            LocalScale::None => scales[..blocks].fill([factor; 2]),
            LocalScale::Embedded { bits } => {
                let mask = (1u32 << bits) - 1;
                let (words, width) = (code.words_per_group(size), code.word_bytes());
                fill(&mut scales[..blocks], first, size, |group| {
                    let word = read_word(width, self.code, (group + 1) * words - 1);
                    (u32::from(word) & mask) as f32 * factor
                });
            }
            LocalScale::Nibble => fill(&mut scales[..blocks], first, size, |group| {
                f32::from(byte(group / 2) >> (4 - group % 2 * 4) & 0xF) * factor
            }),
            LocalScale::Signed8 => fill(&mut scales[..blocks], first, size, |group| {
                f32::from(byte(group).cast_signed()) * factor
            }),
        }
    }
}

/// The scale of each half block's group.
#[inline(always)]
fn fill(scales: &mut [[f32; 2]], first: usize, size: usize, scale: impl Fn(usize) -> f32) {
    match size {
        32 => {
            for (at, halves) in scales.iter_mut().enumerate() {
                *halves = [scale(2 * (first + at)), scale(2 * (first + at) + 1)];
            }
        }
        64 => {
            for (at, halves) in scales.iter_mut().enumerate() {
                *halves = [scale(first + at); 2];
            }
        }
        _ => {
            for (at, halves) in scales.chunks_mut(2).enumerate() {
                halves.fill([scale(first / 2 + at); 2]);
            }
        }
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
        let mut spare = [0; WINDOW];
        let window = simd.window(self.tables[phase], window(row.code, at, &mut spare));
        simd.states(self.tables[phase], window)
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
        let mut spare = [0; BLOCK];
        simd.bytes(window(row.code, block * BLOCK, &mut spare))
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
        let mut spare = [0; 16];
        let q = window(row.code, block * 16, &mut spare);
        simd.states(self.tables, simd.q8_codes(q, self.a, self.zp))
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
        let mut spare = [0; 16];
        let q = window(row.code, block * 16, &mut spare);
        simd.states(self.tables, simd.f32_codes(q, self.scale, self.addend))
    }
}

/// Some bytes of the plane: where they are, or in `spare` where the plane ends before them.
#[inline(always)]
fn window<'a, const N: usize>(code: &'a [u8], at: usize, spare: &'a mut [u8; N]) -> &'a [u8; N] {
    match code.get(at..).and_then(|code| code.first_chunk()) {
        Some(window) => window,
        None => last_window(code, at, spare),
    }
}

#[cold]
#[inline(never)]
fn last_window<'a, const N: usize>(code: &[u8], at: usize, spare: &'a mut [u8; N]) -> &'a [u8; N] {
    let rest = code.get(at..).unwrap_or_default();
    spare[..rest.len()].copy_from_slice(rest);
    spare
}

/// What is done with a row, given where its states come from.
trait RowJob {
    fn row<S: Simd, P: Source<S>>(&mut self, simd: S, source: P, row: &Row<'_>, plan: &Plan);
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
        (Kind::Words, _) if plan.phase_mask == 0 => each_row_of::<S, Words<S, 1>, J>(simd, matrix, plan, rows, job),
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
    for row in rows {
        let row = Row::new(matrix, row);
        job.row(simd, P::new(simd, plan, &row), &row, plan);
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
            each_row(simd, matrix, plan, rows, &mut DecodeRows::<T, true> { matrix, out: self.out });
            simd.fence();
        } else {
            each_row(simd, matrix, plan, rows, &mut DecodeRows::<T, false> { matrix, out: self.out });
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

struct DecodeRows<'a, 'm, T, const PAST_CACHES: bool> {
    matrix: &'a Matrix<'m>,
    out: &'a mut [T],
}

impl<T: Element, const PAST_CACHES: bool> RowJob for DecodeRows<'_, '_, T, PAST_CACHES> {
    #[inline(always)]
    fn row<S: Simd, P: Source<S>>(&mut self, simd: S, source: P, row: &Row<'_>, plan: &Plan) {
        let out = core::mem::take(&mut self.out);
        let (out, rest) = out.split_at_mut(self.matrix.in_features.min(out.len()));
        self.out = rest;
        let mut scales = [[0.0; 2]; CHUNK];
        for (chunk, out) in out.chunks_mut(CHUNK * BLOCK).enumerate() {
            row.scales(self.matrix, chunk, out.len().div_ceil(BLOCK), row.super_scale, &mut scales);
            if PAST_CACHES {
                let mut near = [T::ZERO; CHUNK * BLOCK];
                let (near, _) = near.split_at_mut(out.len());
                decode_chunk(simd, source, row, plan, chunk, &scales, near);
                simd.copy_past_caches(near, out);
            } else {
                decode_chunk(simd, source, row, plan, chunk, &scales, out);
            }
        }
    }
}

#[inline(always)]
fn decode_chunk<S: Simd, P: Source<S>, T: Element>(
    simd: S,
    source: P,
    row: &Row<'_>,
    plan: &Plan,
    chunk: usize,
    scales: &Scales,
    out: &mut [T],
) {
    let (blocks, last) = out.as_chunks_mut::<BLOCK>();
    let whole = blocks.len();
    for (at, (out, &scales)) in blocks.iter_mut().zip(scales).enumerate() {
        decode_block(simd, source.states(simd, row, chunk * CHUNK + at), plan.zero_point, scales, out);
    }
    if !last.is_empty() {
        let mut all = [T::ZERO; BLOCK];
        let states = source.states(simd, row, chunk * CHUNK + whole);
        decode_block(simd, states, plan.zero_point, scales[whole], &mut all);
        last.copy_from_slice(&all[..last.len()]);
    }
}

#[inline(always)]
fn decode_block<S: Simd, T: Element>(
    simd: S,
    states: S::Bytes,
    zero_point: u8,
    [low, high]: [f32; 2],
    out: &mut [T; BLOCK],
) {
    let (low, high) = (simd.splat(low), simd.splat(high));
    let [a, b, c, d] = simd.widen(states, zero_point);
    let values = [simd.mul(a, low), simd.mul(b, low), simd.mul(c, high), simd.mul(d, high)];
    let (quarters, _) = out.as_chunks_mut::<LANES>();
    for (out, values) in quarters.iter_mut().zip(values) {
        T::store(simd, values, out);
    }
}

/// Multiplies rows with f32 vectors.
pub struct Product<'a, 'm> {
    /// The matrix.
    pub matrix: &'a Matrix<'m>,
    /// Its rows.
    pub rows: Range<usize>,
    /// The vectors, each filled with zeros to whole blocks.
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
        let blocks = weights.len() / BLOCK;
        for (planes, y) in rows.filter_map(|row| matrix.row(row)).zip(y.chunks_exact_mut(vectors)) {
            decoder.decode_row(planes, &mut weights[..matrix.in_features]);
            for (x, y) in x.chunks_exact(blocks.max(1)).zip(y) {
                *y = dot(weights.as_chunks().0, x);
            }
        }
    }
}

/// The sum of products, in lanes that the compiler turns into vectors.
fn dot(a: &[[f32; BLOCK]], b: &[[f32; BLOCK]]) -> f32 {
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
    fn row<S: Simd, P: Source<S>>(&mut self, simd: S, source: P, row: &Row<'_>, plan: &Plan) {
        let y = core::mem::take(&mut self.y);
        let (mut y, rest) = y.split_at_mut(self.vectors.min(y.len()));
        self.y = rest;
        let mut x = self.x;
        let blocks = self.matrix.in_features.div_ceil(BLOCK);
        while !y.is_empty() {
            let done = match y.len() {
                MOST_VECTORS.. => products::<S, P, MOST_VECTORS>(simd, source, row, plan, self.matrix, x, y),
                4.. => products::<S, P, 4>(simd, source, row, plan, self.matrix, x, y),
                2.. => products::<S, P, 2>(simd, source, row, plan, self.matrix, x, y),
                _ => products::<S, P, 1>(simd, source, row, plan, self.matrix, x, y),
            };
            y = &mut y[done..];
            x = &x[done * blocks..];
        }
    }
}

/// The products of a row with the first M vectors; M.
#[inline(always)]
fn products<S: Simd, P: Source<S>, const M: usize>(
    simd: S,
    source: P,
    row: &Row<'_>,
    plan: &Plan,
    matrix: &Matrix<'_>,
    x: &[[f32; BLOCK]],
    y: &mut [f32],
) -> usize {
    let blocks = matrix.in_features.div_ceil(BLOCK);
    let mut sums = [simd.splat(0.0); M];
    let mut scales = [[0.0; 2]; CHUNK];
    let x: [&[[f32; BLOCK]]; M] = core::array::from_fn(|m| &x[m * blocks..][..blocks]);
    for chunk in 0..blocks.div_ceil(CHUNK) {
        row.scales(matrix, chunk, blocks - chunk * CHUNK, 1.0, &mut scales);
        for (block, &[low, high]) in (chunk * CHUNK..blocks).zip(&scales) {
            let weights = simd.widen(source.states(simd, row, block), plan.zero_point);
            let (low, high) = (simd.splat(low), simd.splat(high));
            for (sum, x) in sums.iter_mut().zip(&x) {
                let (x, _) = x[block].as_chunks::<LANES>();
                let half = |at: usize| {
                    let first = simd.mul(weights[at], simd.load(&x[at]));
                    simd.fma(weights[at + 1], simd.load(&x[at + 1]), first)
                };
                *sum = simd.fma(half(0), low, *sum);
                *sum = simd.fma(half(2), high, *sum);
            }
        }
    }
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = simd.total(sum) * row.super_scale;
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
        let blocks = matrix.in_features.div_ceil(BLOCK);
        let mut states = alloc::vec![0i32; blocks * BLOCK];
        let mut scales = [[0.0; 2]; CHUNK];
        for (row, y) in rows.zip(y.chunks_exact_mut(x.vectors().max(1))) {
            let Some(planes) = matrix.row(row) else { continue };
            let row = Row::new(matrix, row);
            decoder.states_of_row(planes, &mut states[..matrix.in_features]);
            y.fill(0.0);
            for (block, states) in states.as_chunks::<BLOCK>().0.iter().enumerate() {
                if block % CHUNK == 0 {
                    row.scales(matrix, block / CHUNK, blocks - block, 1.0, &mut scales);
                }
                for (m, y) in y.iter_mut().enumerate() {
                    let (x, x_scale) = x.vector(m).block(block);
                    let (states, x) = (states.as_chunks::<{ BLOCK / 2 }>().0, x.as_chunks::<{ BLOCK / 2 }>().0);
                    for ((states, x), scale) in states.iter().zip(x).zip(scales[block % CHUNK]) {
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
    fn row<S: Simd, P: Source<S>>(&mut self, simd: S, source: P, row: &Row<'_>, plan: &Plan) {
        let vectors = self.x.vectors();
        let y = core::mem::take(&mut self.y);
        let (y, rest) = y.split_at_mut(vectors.min(y.len()));
        self.y = rest;
        let mut first = 0;
        while first < y.len() {
            let (x, y) = (self.x, &mut y[first..]);
            first += match y.len() {
                MOST_VECTORS.. => {
                    int8_products::<S, P, MOST_VECTORS>(simd, source, row, plan, self.matrix, x, first, y)
                }
                4.. => int8_products::<S, P, 4>(simd, source, row, plan, self.matrix, x, first, y),
                2.. => int8_products::<S, P, 2>(simd, source, row, plan, self.matrix, x, first, y),
                _ => int8_products::<S, P, 1>(simd, source, row, plan, self.matrix, x, first, y),
            };
        }
    }
}

/// The products of a row with M vectors from the `first`; M.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn int8_products<S: Simd, P: Source<S>, const M: usize>(
    simd: S,
    source: P,
    row: &Row<'_>,
    plan: &Plan,
    matrix: &Matrix<'_>,
    x: &Activations,
    first: usize,
    y: &mut [f32],
) -> usize {
    let blocks = matrix.in_features.div_ceil(BLOCK);
    let x: [Vector<'_>; M] = core::array::from_fn(|m| x.vector(first + m));
    let mut sums = [simd.splat(0.0); M];
    let mut offs = [simd.splat(0.0); M];
    for chunk in 0..blocks.div_ceil(CHUNK) {
        let mut scales = [[0.0; 2]; CHUNK];
        row.scales(matrix, chunk, blocks - chunk * CHUNK, 1.0, &mut scales);
        for (off, x) in offs.iter_mut().zip(&x) {
            let parts = x.sums(chunk).as_flattened().as_chunks::<LANES>().0;
            for (x, scales) in parts.iter().zip(scales.as_flattened().as_chunks::<LANES>().0) {
                *off = simd.fma(simd.load(x), simd.load(scales), *off);
            }
        }
        for (block, &[low, high]) in (chunk * CHUNK..blocks).zip(&scales) {
            let states = source.states(simd, row, block);
            let scale = simd.halves(low, high);
            for (sum, x) in sums.iter_mut().zip(&x) {
                let (x, x_scale) = x.block(block);
                let dot = simd.dot(states, x, P::WHOLE_BYTES);
                *sum = simd.fma(dot, simd.mul(scale, simd.splat(x_scale)), *sum);
            }
        }
    }
    let zero_point = -f32::from(plan.zero_point);
    for ((y, sum), off) in y.iter_mut().zip(sums).zip(offs) {
        let all = simd.fma(off, simd.splat(zero_point), sum);
        *y = simd.total(all) * row.super_scale;
    }
    M
}
