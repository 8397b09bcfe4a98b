//! ggml's quantized blocks to f32, each product and difference rounded once, as llama.cpp's reference does it.
//!
//! | type | weights | bytes of a block |
//! |---|---:|---|
//! | Q4_0 | 32 | f16 d, 16 x two nibbles: weight i low in byte i, weight i + 16 high |
//! | Q8_0 | 32 | f16 d, 32 x i8 |
//! | Q4_K | 256 | f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 x two nibbles |
//! | Q5_K | 256 | the same with 32 bytes of fifth bits before the nibbles |
//! | Q6_K | 256 | 128 x two low nibbles, 64 x four high pairs, 16 x i8 scales, f16 d |

use ccq::format::Dtype;

/// A type of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// What a type number of ggml stands for, as far as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Plain(Dtype),
    Blocks(Block),
}

/// The types that are read, for messages.
pub(crate) const KNOWN: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K";

impl Type {
    /// The type of that number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Plain(Dtype::F32),
            1 => Self::Plain(Dtype::F16),
            30 => Self::Plain(Dtype::Bf16),
            2 => Self::Blocks(Block::Q4_0),
            8 => Self::Blocks(Block::Q8_0),
            12 => Self::Blocks(Block::Q4K),
            13 => Self::Blocks(Block::Q5K),
            14 => Self::Blocks(Block::Q6K),
            _ => return None,
        })
    }

    /// ggml's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain(dtype) => dtype.name(),
            Self::Blocks(block) => block.name(),
        }
    }

    /// Bytes of so many rows of so many weights; `None` where that overflows, or a row is no whole blocks.
    pub(crate) fn bytes(self, row: u64, rows: u64) -> Option<u64> {
        let row = match self {
            Self::Plain(dtype) => row.checked_mul(dtype.bits() / 8)?,
            Self::Blocks(block) => {
                let weights = block.weights() as u64;
                row.is_multiple_of(weights).then_some(())?;
                row.checked_div(weights)?.checked_mul(block.bytes() as u64)?
            }
        };
        row.checked_mul(rows)
    }
}

impl Block {
    /// ggml's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Weights of a block.
    pub(crate) const fn weights(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Where a block has the first of its own scales that is NaN or infinite: only they make weights so.
    pub(crate) fn non_finite_scale(self, block: &[u8]) -> Option<usize> {
        let scales: &[usize] = match self {
            Self::Q4_0 | Self::Q8_0 => &[0],
            Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q6K => &[208],
        };
        scales.iter().copied().find(|&at| !f16(block.get(at..).unwrap_or_default()).is_finite())
    }

    /// Decodes whole blocks, appending to `out`; bytes of a block that is cut short are left alone.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::Q4_0 => each::<18>(bytes, |block| q4_0(block, out)),
            Self::Q8_0 => each::<34>(bytes, |block| q8_0(block, out)),
            Self::Q4K => each::<144>(bytes, |block| q4_k(block, out)),
            Self::Q5K => each::<176>(bytes, |block| q5_k(block, out)),
            Self::Q6K => each::<210>(bytes, |block| q6_k(block, out)),
        }
    }
}

fn each<const SIZE: usize>(bytes: &[u8], decode: impl FnMut(&[u8; SIZE])) {
    bytes.as_chunks::<SIZE>().0.iter().for_each(decode);
}

fn f16(bytes: &[u8]) -> f32 {
    bytes.first_chunk().map_or(0.0, |bytes| half::f16::from_le_bytes(*bytes).to_f32())
}

fn q4_0(block: &[u8; 18], out: &mut Vec<f32>) {
    let (d, nibbles) = block.split_at(2);
    let d = f16(d);
    let weight = |nibble: u8| d * (f32::from(nibble) - 8.0);
    out.extend(nibbles.iter().map(|byte| weight(byte & 0xF)));
    out.extend(nibbles.iter().map(|byte| weight(byte >> 4)));
}

fn q8_0(block: &[u8; 34], out: &mut Vec<f32>) {
    let (d, bytes) = block.split_at(2);
    let d = f16(d);
    out.extend(bytes.iter().map(|byte| d * f32::from(byte.cast_signed())));
}

/// The six-bit scale and minimum of each of the eight groups of a block.
///
/// Groups 0 to 3 have them in the low six bits of bytes 0 to 3 and 4 to 7, whose top bits are those of the last
/// four; the rest of these is in the nibbles of bytes 8 to 11.
fn scales(packed: &[u8]) -> [(f32, f32); 8] {
    let byte = |at: usize| packed.get(at).copied().unwrap_or(0);
    let mut groups = [(0.0, 0.0); 8];
    for (at, group) in groups.iter_mut().enumerate() {
        let (scale, min) = match at.checked_sub(4) {
            None => (byte(at) & 0x3F, byte(at.saturating_add(4)) & 0x3F),
            Some(low) => {
                let (rest, four) = (byte(at.saturating_add(4)), low.saturating_add(4));
                (rest & 0xF | byte(low) >> 6 << 4, rest >> 4 | byte(four) >> 6 << 4)
            }
        };
        *group = (scale.into(), min.into());
    }
    groups
}

fn q4_k(block: &[u8; 144], out: &mut Vec<f32>) {
    let (head, nibbles) = block.split_at(16);
    k_groups(head, nibbles, |_, _| 0, out);
}

fn q5_k(block: &[u8; 176], out: &mut Vec<f32>) {
    let (head, rest) = block.split_at(16);
    let (fifth, nibbles) = rest.split_at(32);
    // Bit g of byte i belongs to weight i of group g.
    let high = |group: u32, at: usize| (fifth.get(at).copied().unwrap_or(0).wrapping_shr(group) & 1) << 4;
    k_groups(head, nibbles, high, out);
}

/// Pairs of groups of 32: the first in the low nibbles of 32 bytes, the second in the high ones.
fn k_groups(head: &[u8], nibbles: &[u8], high: impl Fn(u32, usize) -> u8, out: &mut Vec<f32>) {
    let (d, rest) = head.split_at(2);
    let (min, packed) = rest.split_at(2);
    let (d, dmin) = (f16(d), f16(min));
    let pairs = nibbles.chunks_exact(32).flat_map(|pair| [(pair, 0), (pair, 4)]);
    for ((group, (scale, min)), (bytes, shift)) in (0u32..).zip(scales(packed)).zip(pairs) {
        let (scale, min) = (d * scale, dmin * min);
        let weight = |(at, byte): (usize, &u8)| {
            scale * f32::from(byte.wrapping_shr(shift) & 0xF | high(group, at)) - min
        };
        out.extend(bytes.iter().enumerate().map(weight));
    }
}

/// Halves of 128 weights, each four runs of 32: low nibbles of the first and second 32 bytes, then the high ones;
/// a byte of the high pairs serves the same place of all four runs. A scale is for 16 weights.
fn q6_k(block: &[u8; 210], out: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = f16(d);
    for ((low, high), scales) in low.chunks_exact(64).zip(high.chunks_exact(32)).zip(scales.chunks_exact(8)) {
        let (first, second) = low.split_at(32);
        let runs = [(first, 0, 0), (second, 0, 2), (first, 4, 4), (second, 4, 6)];
        for ((low, nibble, pair), scales) in runs.into_iter().zip(scales.chunks_exact(2)) {
            for ((low, high), scale) in low.chunks_exact(16).zip(high.chunks_exact(16)).zip(scales) {
                let scale = d * f32::from(scale.cast_signed());
                let state = |(low, high): (&u8, &u8)| {
                    low.wrapping_shr(nibble) & 0xF | (high.wrapping_shr(pair) & 3) << 4
                };
                out.extend(low.iter().zip(high).map(state).map(|state| scale * (f32::from(state) - 32.0)));
            }
        }
    }
}
