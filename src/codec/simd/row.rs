//! A row of a matrix, and the scales of its groups.

use alloc::vec::Vec;
use core::array;

use super::plan::{BLOCK, HALF, WIDE};
use crate::code::{Code, LocalScale};
use crate::codec::activations::CHUNK;
use crate::codec::{ClusterParams, Matrix, Planes};

/// Bytes that may be read behind a row, whatever they are: the rest of a last window, and the last words of a
/// chunk's groups, which have less than a byte a weight where they have scales in them.
const BEHIND: usize = CHUNK * BLOCK;
// A block has no more bytes than its window: three behind the row's last, and the window of the last of these.
const _: () = assert!(4 * WIDE <= BEHIND);

/// Numbers that begin at a cache line, so that no register's worth of them lies in two.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Lines<T>(pub T);

/// The planes of one row, the code plane from the row on, with bytes behind all that is its own.
pub struct Row<'a> {
    /// The row's `row_stride` bytes, at least, and [`BEHIND`] more.
    pub code: &'a [u8],
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
        let mut code = code.get(row.wrapping_mul(matrix.row_stride)..).unwrap_or_default();
        // The plane has a row's bytes at least, and no allocation is within BEHIND of the address space's end.
        let needed = matrix.row_stride.wrapping_add(BEHIND);
        if code.len() < needed {
            spare.clear();
            spare.extend_from_slice(code);
            spare.resize(needed, 0);
            code = spare;
        }
        let part = |plane: &'a [u8], width| {
            plane.get(row.wrapping_mul(width)..row.wrapping_add(1).wrapping_mul(width)).unwrap_or_default()
        };
        let super_scale = part(super_scale, size_of::<f32>()).first_chunk();
        let cluster = part(cluster, widths.cluster);
        Self {
            code,
            local_scale: part(local_scale, widths.local_scale),
            super_scale: super_scale.map_or(0.0, |bytes| f32::from_le_bytes(*bytes)),
            cluster: matrix.code.cluster().and_then(|kind| ClusterParams::read(kind, cluster)),
        }
    }

    /// A window of the row, and of what is behind it: it begins where a block of the row does or one of the three after
    /// those, or is a quarter of such a window.
    #[inline(always)]
    #[allow(unsafe_code)]
    pub fn window<const N: usize>(&self, at: usize) -> &[u8; N] {
        debug_assert!(at.saturating_add(N) <= self.code.len());
        // SAFETY: `new` saw to it that there are BEHIND bytes more than a row has, which are enough for four windows. Bringing
        // `at` back into bounds here would take 4 to 14 % of a product's time.
        unsafe { &*self.code.as_ptr().add(at).cast::<[u8; N]>() }
    }

    /// The local scales of a chunk's half blocks, times `factor`.
    #[inline(always)]
    #[allow(
        clippy::indexing_slicing,
        reason = "arrays of constant length, each half as long as the one made of it"
    )]
    pub fn scales(&self, groups: Groups, chunk: usize, factor: f32) -> Lines<[f32; 2 * CHUNK]> {
        if groups.size == HALF {
            // A register's worth at a time, or the compiler keeps the steps between in memory.
            let mut lines = Lines([0.0; 2 * CHUNK]);
            for (half, scales) in lines.0.as_chunks_mut().0.iter_mut().enumerate() {
                let first = CHUNK.wrapping_mul(chunk.wrapping_mul(2).wrapping_add(half));
                let groups = self.scales_of_groups::<CHUNK, { CHUNK / 2 }>(groups, first);
                *scales = groups.map(|scale| scale * factor);
            }
            return lines;
        }
        let blocks = self.scales_of_blocks(groups, chunk);
        Lines(array::from_fn(|half| blocks[half / 2] * factor))
    }

    /// The local scales of a chunk's blocks, for groups of 64 weights and more.
    #[inline(always)]
    #[allow(
        clippy::indexing_slicing,
        reason = "arrays of constant length, each half as long as the one made of it"
    )]
    pub fn scales_of_blocks(&self, groups: Groups, chunk: usize) -> [f32; CHUNK] {
        if groups.size == BLOCK {
            return self.scales_of_groups::<CHUNK, { CHUNK / 2 }>(groups, chunk.wrapping_mul(CHUNK));
        }
        let first = chunk.wrapping_mul(CHUNK / 2);
        let pairs = self.scales_of_groups::<{ CHUNK / 2 }, { CHUNK / 4 }>(groups, first);
        array::from_fn(|block| pairs[block / 2])
    }

    /// The local scales of groups from the first on, and whatever numbers behind the row's last.
    #[inline(always)]
    fn scales_of_groups<const N: usize, const PAIRS: usize>(&self, groups: Groups, first: usize) -> [f32; N] {
        match groups.local_scale {
            LocalScale::None => [1.0; N],
            LocalScale::Embedded { bits } => {
                // Of a last word of one byte, the byte before comes along and is shifted out.
                let last = first.wrapping_add(1).wrapping_mul(groups.bytes).wrapping_sub(2);
                let words = self.words(last, groups.bytes);
                let mask = (1u16 << bits).wrapping_sub(1);
                words.map(|word| f32::from(word >> groups.last_shift & mask))
            }
            #[allow(clippy::indexing_slicing, reason = "of PAIRS bytes for N = 2 PAIRS scales")]
            LocalScale::Nibble => {
                let bytes: [u8; PAIRS] = self.local_scales(first / 2);
                array::from_fn(|at| f32::from(bytes[at / 2] >> if at % 2 == 0 { 4 } else { 0 } & 0xF))
            }
            LocalScale::Signed8 => self.local_scales(first).map(|byte: u8| f32::from(byte.cast_signed())),
        }
    }

    /// Words of two bytes, so many bytes apart; zeros if they are not all there, which is a mistake, too.
    #[inline(always)]
    #[allow(unsafe_code)]
    fn words<const N: usize>(&self, first: usize, apart: usize) -> [u16; N] {
        let all = const { N - 1 }.checked_mul(apart).and_then(|all| all.checked_add(2));
        let Some(bytes) = all.and_then(|all| self.code.get(first..)?.get(..all)) else {
            debug_assert!(false, "words behind the room for them");
            return [0; N];
        };
        array::from_fn(|at| {
            // SAFETY: at is less than N: its word ends where `bytes` ends, or before.
            let word = unsafe { *bytes.as_ptr().add(at.wrapping_mul(apart)).cast::<[u8; 2]>() };
            u16::from_le_bytes(word)
        })
    }

    /// Bytes of the row's local scales, filled with zeros.
    #[inline(always)]
    fn local_scales<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.local_scale.get(at..).unwrap_or_default();
        bytes.first_chunk().copied().unwrap_or_else(|| {
            let mut filled = [0; N];
            if let Some(filled) = filled.get_mut(..bytes.len()) {
                filled.copy_from_slice(bytes);
            }
            filled
        })
    }
}

/// Bytes of a row in the planes: divided once.
pub struct Widths {
    local_scale: usize,
    cluster: usize,
}

impl Widths {
    pub fn new(matrix: &Matrix<'_>) -> Self {
        let rows = matrix.rows.max(1);
        Self {
            local_scale: matrix.planes.local_scale.len().checked_div(rows).unwrap_or(0),
            cluster: matrix.planes.cluster.len().checked_div(rows).unwrap_or(0),
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
        let bytes = code.words_per_group(size).wrapping_mul(code.word_bytes());
        Self {
            size,
            bytes,
            last_shift: 16u32.wrapping_sub(code.word_bits()),
            local_scale: code.local_scale(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Family, GROUP_SIZES, Segment};
    use crate::codec::local_scale;

    /// Every named code, and one of three states in sixteen bits, whose groups have the most bytes that embed scales.
    fn codes() -> impl Iterator<Item = Code> {
        let named = Family::ALL
            .into_iter()
            .flat_map(|family| GROUP_SIZES.map(|size| family.code(size.into())))
            .flatten();
        let wide = [32, 64, 128].into_iter().flat_map(|size| {
            (4..16).filter_map(move |bits| {
                let scale = LocalScale::Embedded { bits };
                Code::new(&[Segment::new(8, 3, 4)], 16, size, scale, None).ok()
            })
        });
        named.chain(wide)
    }

    /// Of a plane's last row too, whose last chunk has any number of groups: `window` asserts that it stays within.
    #[test]
    fn scales_are_those_of_their_groups() {
        for code in codes() {
            for in_features in (1..=2 * CHUNK * BLOCK + 1).step_by(HALF) {
                let sizes = code.plane_sizes(1, in_features as u64).unwrap();
                let plane = |bytes: u64| (0..bytes).map(|at| (at * 151 % 251) as u8).collect::<Vec<_>>();
                let (code_plane, local_scales) = (plane(sizes.code), plane(sizes.local_scale));
                let (super_scale, cluster) = (plane(sizes.super_scale), plane(sizes.cluster));
                let planes = Planes {
                    code: &code_plane,
                    local_scale: &local_scales,
                    super_scale: &super_scale,
                    cluster: &cluster,
                };
                let matrix = Matrix::new(code, 1, in_features, planes).unwrap();
                let mut spare = Vec::new();
                let row = Row::new(&matrix, &Widths::new(&matrix), 0, &mut spare);
                let groups = Groups::new(&code);
                let words = code.words_per_group(in_features);
                let size = code.group_size().unwrap_or(in_features);
                for first in (0..in_features).step_by(HALF) {
                    let half = first / HALF;
                    let Lines(scales) = row.scales(groups, half / (2 * CHUNK), 1.0);
                    let due = local_scale(&code, words, &planes, first / size);
                    assert_eq!(
                        scales[half % (2 * CHUNK)],
                        due as f32,
                        "{code} weight {first} of {in_features}"
                    );
                }
            }
        }
    }
}
