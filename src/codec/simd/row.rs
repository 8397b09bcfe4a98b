//! A row of a matrix, and the scales of its groups.

use alloc::vec::Vec;

use super::plan::BLOCK;
use crate::code::{Code, LocalScale};
use crate::codec::activations::{CHUNK, Halves};
use crate::codec::{ClusterParams, Matrix, Planes};

/// Bytes that may be read behind a row, whatever they are: the rest of a last window, and three groups' words.
const BEHIND: usize = 256;

/// Numbers that begin at a cache line, so that no register's worth of them lies in two.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Lines<T>(pub T);

/// The planes of one row, the code plane from the row on, with bytes behind all that is its own.
pub struct Row<'a> {
    /// The row's `row_stride` bytes, at least, and [`BEHIND`] more.
    pub code: &'a [u8],
    groups: usize,
    local_scale: &'a [u8],
    /// The scale of the row.
    pub super_scale: f32,
    /// How its bytes expand to codes.
    pub cluster: Option<ClusterParams>,
}

impl<'a> Row<'a> {
    /// `spare` is where the plane's last row goes, to have bytes behind it.
    #[inline(always)]
    pub fn new(matrix: &Matrix<'a>, widths: &Widths, row: usize, spare: &'a mut Vec<u8>) -> Self {
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
    pub fn window<const N: usize>(&self, at: usize) -> &[u8; N] {
        debug_assert!(at + N <= self.code.len());
        // SAFETY: `new` saw to it that there are BEHIND bytes more than a row has. Windows begin where a block of the row
        // begins and have 64 bytes at most; last words are those of the row's groups and of three more at most, of 64
        // bytes each at most.
        unsafe { &*self.code.as_ptr().add(at).cast::<[u8; N]>() }
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    pub fn scales(&self, groups: Groups, chunk: usize, factor: f32) -> Lines<Halves> {
        let Lines(scales) = self.scales_of_groups(groups, chunk, factor);
        let mut lines = Lines([[0.0; 2]; CHUNK]);
        let halves = &mut lines.0;
        match groups.size {
            32 => halves.iter_mut().zip(scales.as_chunks().0).for_each(|(halves, pair)| *halves = *pair),
            64 => halves.iter_mut().zip(scales).for_each(|(halves, scale)| *halves = [scale; 2]),
            _ => {
                let pairs = halves.as_chunks_mut().0.iter_mut();
                pairs.zip(scales).for_each(|(pair, scale)| *pair = [[scale; 2]; 2]);
            }
        }
        lines
    }

    /// The local scales of a chunk's blocks, for groups of 64 weights and more.
    #[inline(always)]
    pub fn scales_of_blocks(&self, groups: Groups, chunk: usize) -> Lines<[f32; CHUNK]> {
        let Lines(scales) = self.scales_of_groups(groups, chunk, 1.0);
        let mut lines = Lines([0.0; CHUNK]);
        let blocks = &mut lines.0;
        if groups.size == BLOCK {
            blocks.copy_from_slice(&scales[..CHUNK]);
        } else {
            let pairs = blocks.as_chunks_mut().0.iter_mut();
            pairs.zip(scales).for_each(|(pair, scale)| *pair = [scale; 2]);
        }
        lines
    }

    /// The local scales of a chunk's groups, times `factor`.
    #[inline(always)]
    fn scales_of_groups(&self, groups: Groups, chunk: usize, factor: f32) -> Lines<[f32; 2 * CHUNK]> {
        let per_chunk = CHUNK * BLOCK / groups.size;
        let first = chunk * per_chunk;
        let mut all = Lines([0.0; 2 * CHUNK]);
        let scales = &mut all.0[..per_chunk];
        let bytes = |at: usize| self.local_scale.get(at..).unwrap_or_default();
        match groups.local_scale {
            LocalScale::None => scales.fill(factor),
            LocalScale::Embedded { bits } => {
                // Four words at a time in an integer, which is as fast as it gets without gathering them in registers.
                let mask = ((1u64 << bits) - 1) * 0x0001_0001_0001_0001;
                let mut words = Lines([[0u16; 4]; CHUNK / 2]);
                let count = self.groups.saturating_sub(first).min(per_chunk);
                let mut end = (first + 1) * groups.bytes;
                for words in &mut words.0[..count.div_ceil(4)] {
                    // Of a word of one byte, the byte before comes along and is shifted out.
                    let last = |at: usize| {
                        u64::from(u16::from_le_bytes(*self.window(end - 2 + at * groups.bytes))) << (16 * at)
                    };
                    let all = (last(0) | last(1) | last(2) | last(3)) >> groups.last_shift & mask;
                    *words = [all as u16, (all >> 16) as u16, (all >> 32) as u16, (all >> 48) as u16];
                    end += 4 * groups.bytes;
                }
                let words = words.0.as_flattened();
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
pub struct Widths {
    local_scale: usize,
    cluster: usize,
    groups: usize,
}

impl Widths {
    pub fn new(matrix: &Matrix<'_>) -> Self {
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
pub struct Groups {
    /// Weights of a group; 64 for one a row, whose scale is the same for all.
    size: usize,
    /// Bytes of its words.
    bytes: usize,
    /// What brings its last word down, when the last two bytes are read.
    last_shift: u32,
    local_scale: LocalScale,
}

impl Groups {
    pub fn new(code: &Code) -> Self {
        let size = code.group_size().unwrap_or(BLOCK);
        let bytes = code.words_per_group(size) * code.word_bytes();
        Self { size, bytes, last_shift: 16 - code.word_bits(), local_scale: code.local_scale() }
    }
}
