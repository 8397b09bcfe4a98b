//! How the tensor cores' kernels walk the rows of a matrix (`cu/tensor.cuh`): which runs of words a lane takes, and
//! how much of them lies in shared memory at a time.

use ccq::code::{Code, LocalScale};

use crate::plan::{CodeKernel, WARPS};

/// Rows of a block.
pub(crate) const BLOCK_ROWS: u32 = 32;
/// Lanes that share a row of a matrix instruction, and so a tile of it.
const ROW_LANES: u32 = 4;
/// Bytes of a copy to shared memory.
const CHUNK: u32 = 16;
/// The most bytes of a tile of a row, unless it has one unit a lane.
const TILE_BYTES: u32 = 176;
/// The most chunks of a row that leave a warp room for two stages; tiles of groups of 128 can have more.
const TWO_STAGES: u32 = 12;
/// The most weights of a tile of a row.
pub(crate) const TILE_WEIGHTS: usize = 512;
/// Shared memory that every device has for a block.
const SHARED_BYTES: u32 = 48 << 10;

/// The kernels' `struct Walk` (`cu/product.cuh`). All zeros for the general kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Walk {
    unit_weights: u32,
    unit_bytes: u32,
    group_shift: u32,
    lane_units: u32,
    tile_bytes: u32,
    tiles: u32,
    chunks: u32,
    pitch: u32,
    stages: u32,
}
const _: () = assert!(size_of::<Walk>() == 36);

impl Walk {
    /// For the named kernels; `None` where a code's kernels, or its scales, are not for the tensor cores.
    pub(crate) fn new(kernel: CodeKernel, code: &Code, in_features: u32) -> Option<Self> {
        // The placements that `Split` of `cu/tensor.cuh` lists.
        let served = match (kernel.suffix, code.local_scale()) {
            (_, LocalScale::None) => kernel != CodeKernel::GENERAL,
            ("ccq275" | "ccq25" | "ccq331" | "ccq55", LocalScale::Embedded { .. }) => true,
            ("ccq275" | "ccq331" | "ccq206_q8" | "ccq206_f32", LocalScale::Nibble) => true,
            ("int2" | "wint4" | "wint8", LocalScale::Signed8) => true,
            _ => false,
        };
        if !served {
            return None;
        }
        let word_bytes = code.word_bytes() as u32;
        let states = code.states_per_word() as u32;
        let group = code.group_size().map(|size| size as u32);
        let whole = 32 % states == 0;
        let unit_weights = match group {
            _ if whole => group.unwrap_or(64).min(64).min(32 / word_bytes * states),
            Some(size) => size,
            None => CHUNK / word_bytes * states,
        };
        let unit_bytes = unit_weights.div_ceil(states) * word_bytes;
        let lane_units = [4, 2].into_iter().find(|n| ROW_LANES * n * unit_bytes <= TILE_BYTES).unwrap_or(1);
        let tile_bytes = ROW_LANES * lane_units * unit_bytes;
        // Tiles begin at multiples of this many bytes of a row.
        let step = 1 << tile_bytes.trailing_zeros().min(4);
        let chunks = (CHUNK - step + tile_bytes).div_ceil(CHUNK);
        let stages = if chunks <= TWO_STAGES { 2 } else { 1 };
        // An odd number of chunks spreads the rows over the banks.
        let odd = chunks | 1;
        Some(Self {
            unit_weights,
            unit_bytes,
            group_shift: group.map_or(0, |size| (size / unit_weights).trailing_zeros()),
            lane_units,
            tile_bytes,
            tiles: in_features.div_ceil(unit_weights).div_ceil(ROW_LANES * lane_units),
            chunks,
            pitch: CHUNK * if stages == 2 { odd.min(TWO_STAGES) } else { odd },
            stages,
        })
    }

    /// Dynamic shared memory of a block. A lane reads up to 4 bytes behind its last unit: past the last row of a
    /// stage, unless rows have 12 chunks, whose tiles end 4 bytes before their rows do.
    pub(crate) fn shared_bytes(&self) -> u32 {
        (WARPS * self.stages * BLOCK_ROWS * self.pitch + CHUNK).min(SHARED_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use ccq::code::{Family, GROUP_SIZES};

    use super::*;

    #[test]
    fn stages_hold_their_tiles() {
        for family in Family::ALL {
            for code in GROUP_SIZES.into_iter().filter_map(|group| family.code(group.into()).ok()) {
                let walk = Walk::new(CodeKernel::of(&code), &code, 4095).unwrap();
                let weights = ROW_LANES * walk.lane_units * walk.unit_weights;
                assert!(weights as usize <= TILE_WEIGHTS, "{code}: {walk:?}");
                assert!(
                    walk.tiles * weights >= 4095 && (walk.tiles - 1) * weights < 4095,
                    "{code}: {walk:?}"
                );
                assert!(
                    walk.chunks * CHUNK <= walk.pitch && walk.shared_bytes() <= SHARED_BYTES,
                    "{code}: {walk:?}"
                );
                // Only kernels of pieces that are `LONG` in `cu/tensor.cuh` look whether there is a second stage.
                let long = matches!(family, Family::Ccq331 | Family::Ccq55) && code.group_size() == Some(128);
                assert_eq!(walk.stages, if long { 1 } else { 2 }, "{code}: {walk:?}");
                let mut last = 0; // what the last lane reads of a row, rounded up to whole registers
                for tile in 0..16 {
                    let begin = tile * walk.tile_bytes % CHUNK;
                    let unit = begin + walk.tile_bytes - walk.unit_bytes;
                    assert!(begin + walk.tile_bytes <= walk.chunks * CHUNK, "{code}: {walk:?}");
                    last = last.max(unit / 4 * 4 + walk.unit_bytes.div_ceil(4) * 4 + 4);
                }
                let end = (WARPS * walk.stages * BLOCK_ROWS - 1) * walk.pitch + last;
                assert!(end <= walk.shared_bytes(), "{code}: {walk:?}");
            }
        }
    }
}
