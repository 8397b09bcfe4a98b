//! Where the states of a row come from: words, bytes, or bytes behind a cluster.
//!
//! Blocks are never cut: what lies past a row's end decodes to numbers that are thrown away, or multiplied by zeros.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;

use super::Simd;
use super::plan::{BLOCK, Plan};
use super::row::{Groups, Lines, Row, Widths};
use crate::codec::activations::CHUNK;
use crate::codec::{ClusterParams, Matrix};

/// Bytes of the code plane to ask memory for ahead of their use.
pub const AHEAD: usize = 8192;

/// Where the states of a row come from.
pub trait Source<S: Simd>: Copy {
    /// Whether a state may have eight bits.
    const WHOLE_BYTES: bool = false;

    /// For one row.
    fn new(simd: S, plan: &'static Plan, row: &Row<'_>) -> Self;

    /// The states of a block.
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes;
}

/// Words in periods of one block or two, whose windows have N bytes.
#[derive(Clone, Copy)]
pub struct Words<S: Simd, const PHASES: usize, const N: usize> {
    period_bytes: usize,
    offsets: [usize; PHASES],
    tables: [S::Tables; PHASES],
}

impl<S: Simd, const PHASES: usize, const N: usize> Source<S> for Words<S, PHASES, N> {
    #[allow(
        clippy::indexing_slicing,
        reason = "a period has PHASES blocks, one or two, and a plan has two cuts"
    )]
    #[inline(always)]
    fn new(simd: S, plan: &'static Plan, _: &Row<'_>) -> Self {
        Self {
            period_bytes: plan.period_bytes,
            offsets: core::array::from_fn(|phase| plan.cuts[phase].offset),
            tables: core::array::from_fn(|phase| simd.tables(&plan.cuts[phase])),
        }
    }

    #[inline(always)]
    #[allow(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "PHASES is one or two, which a remainder stays below"
    )]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        let (period, phase) = (block / PHASES, block % PHASES);
        let at = period.wrapping_mul(self.period_bytes).wrapping_add(self.offsets[phase]);
        simd.prefetch(row.code, at.wrapping_add(AHEAD));
        simd.states(self.tables[phase], simd.window::<N>(self.tables[phase], row, at))
    }
}

/// Bytes that are states.
#[derive(Clone, Copy)]
pub struct Bytes;

impl<S: Simd> Source<S> for Bytes {
    const WHOLE_BYTES: bool = true;

    #[inline(always)]
    fn new(_: S, _: &'static Plan, _: &Row<'_>) -> Self {
        Self
    }

    #[inline(always)]
    fn states(self, simd: S, row: &Row<'_>, block: usize) -> S::Bytes {
        let at = block.wrapping_mul(BLOCK);
        simd.prefetch(row.code, at.wrapping_add(AHEAD));
        simd.bytes(row.window(at))
    }
}

/// Codes of the integer kind of cluster.
#[derive(Clone, Copy)]
pub struct Q8<S: Simd> {
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
        let at = block.wrapping_mul(16);
        simd.prefetch(row.code, at.wrapping_add(AHEAD));
        simd.q8_states(self.tables, row.window(at), self.a, self.zp)
    }
}

/// Codes of the floating-point kind.
#[derive(Clone, Copy)]
pub struct F32<S: Simd> {
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
        let at = block.wrapping_mul(16);
        simd.prefetch(row.code, at.wrapping_add(AHEAD));
        simd.f32_states(self.tables, row.window(at), self.scale, self.addend)
    }
}

/// A kind of source, whatever the registers.
pub trait Origin {
    type Source<S: Simd>: Source<S>;
}

pub struct FromWords<const PHASES: usize, const N: usize>;
pub struct FromBytes;
pub struct FromQ8;
pub struct FromF32;

impl<const PHASES: usize, const N: usize> Origin for FromWords<PHASES, N> {
    type Source<S: Simd> = Words<S, PHASES, N>;
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
                type $origin = FromWords<1, NARROW>;
                $run
            }
            (Kind::Words, _) => {
                type $origin = FromWords<2, NARROW>;
                $run
            }
            (Kind::WideWords, _) if $plan.phase_mask == 0 => {
                type $origin = FromWords<1, WIDE>;
                $run
            }
            (Kind::WideWords, _) => {
                type $origin = FromWords<2, WIDE>;
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

pub(super) use with_origin;

/// Rows of a matrix whose code has a plan.
pub struct Rows<'a, 'm, O> {
    /// The matrix.
    pub matrix: &'a Matrix<'m>,
    plan: &'static Plan,
    rows: Range<usize>,
    origin: PhantomData<O>,
}

impl<'a, 'm, O: Origin> Rows<'a, 'm, O> {
    pub fn new(matrix: &'a Matrix<'m>, plan: &'static Plan, rows: Range<usize>) -> Self {
        Self { matrix, plan, rows, origin: PhantomData }
    }

    #[inline(always)]
    pub fn each<S: Simd>(self, simd: S, mut job: impl FnMut(Context<'_, S, O::Source<S>>)) {
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
pub struct Context<'a, S, P> {
    pub simd: S,
    source: P,
    pub row: &'a Row<'a>,
    pub groups: Groups,
    /// Blocks of a row.
    pub blocks: usize,
    pub zero_point: u8,
}

impl<S: Simd, P: Source<S>> Context<'_, S, P> {
    #[inline(always)]
    pub fn states(&self, block: usize) -> S::Bytes {
        self.source.states(self.simd, self.row, block)
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    pub fn scales(&self, chunk: usize, factor: f32) -> Lines<[f32; 2 * CHUNK]> {
        self.row.scales(self.groups, chunk, factor)
    }
}
