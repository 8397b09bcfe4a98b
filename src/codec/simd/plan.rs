//! Where the states of sixty-four weights lie among the bytes of a row, for every named code.
//!
//! A *block* is 64 weights: a group, half a group of 128, or two groups of 32. Blocks repeat every *period*, of one
//! block or of two. The states of a block lie within a *window* of 32 bytes, or of 64 for codes of more than four bits
//! a weight, little-endian, in which state i starts at bit `position[i]`, so that one rule serves all codes, and the
//! tables are all that differs:
//!
//! ```text
//! for each block: window = 32 or 64 bytes of the row at block's offset
//!     for i in 0..64: state[i] = window >> position[i] & mask
//! ```
//!
//! Behind a cluster the window holds the codes of the block's 16 bytes, expanded to 16 bits each. `wint8` has a
//! byte a state: its blocks are loaded as they are.
//!
//! The tables hold the positions in the forms in which instruction sets want them:
//! - AVX-512 VBMI: `vpermb` brings to each group of eight bytes the eight bytes of the window from the one in which
//!   the first of eight states begins; `vpmultishiftqb` shifts each state to the bottom of its byte.
//! - AVX2, NEON: two bytes for each state, from the one in which it begins, in a 16-bit lane; shifted left so that its
//!   top bit is the lane's, then all right by the same number. As their tables reach over 16 bytes, each *quarter* of 16
//!   weights has 16 bytes of the window to itself, in a window of 32 the same ones as the other quarter of its half.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "the compiler makes the tables, of constants alone: what panics here fails to compile"
)]

use crate::code::{Code, Family, GROUP_SIZES, LocalScale, Segment};

/// Weights of a block.
pub const BLOCK: usize = 64;
/// Bytes of a window of at most four bits a weight.
pub const NARROW: usize = 32;
/// Bytes of a window of more.
pub const WIDE: usize = 64;
/// Weights of half a block, which share a group whatever the group's size.
pub const HALF: usize = BLOCK / 2;
/// Weights of a quarter of a block, and the bytes in which their states lie.
pub const QUARTER: usize = BLOCK / 4;

/// How one block of a period is cut into states.
#[derive(Debug)]
pub struct Cut {
    /// From the period's first byte to the window's.
    pub offset: usize,
    /// From the window's first byte to the first of each quarter's sixteen.
    pub quarters: [usize; 4],
    /// Bits of a state.
    pub state_bits: u32,
    /// For each eight states, eight consecutive bytes of the window. Behind a cluster: each of sixteen bytes
    /// as the first and the last of four, and zeros, which are the seventeenth.
    pub bytes: [u8; BLOCK],
    /// Where in those the state begins, in bits. Behind a cluster: in two codes of 32 bits, shifted left by eight.
    pub bits: [u8; BLOCK],
    /// The two bytes of each state among its quarter's sixteen; 0x80 for none.
    pub pairs: [u8; 2 * BLOCK],
    /// What brings the state to the top of its pair.
    pub factors: [u16; BLOCK],
}

/// From where a block's window comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The words themselves, in windows of [`NARROW`] bytes.
    Words,
    /// The words themselves, in windows of [`WIDE`] bytes.
    WideWords,
    /// Every byte is a state.
    Bytes,
    /// The codes of sixteen bytes.
    Cluster,
}

/// How to find the states of a named code.
#[derive(Debug)]
pub struct Plan {
    /// Where windows come from.
    pub kind: Kind,
    /// Blocks in a period, less one: 0 or 1.
    pub phase_mask: usize,
    /// Bytes of a period.
    pub period_bytes: usize,
    /// What every state is reduced by.
    pub zero_point: u8,
    /// The blocks of a period.
    pub cuts: [Cut; 2],
}

impl Plan {
    /// The plan of a code; `None` for one without a name, which the portable decoder takes.
    pub fn find(code: &Code) -> Option<&'static Self> {
        let family = code.family()?;
        let place = Family::ALL.iter().position(|&other| other == family)?;
        let size = code.group_size().unwrap_or(0);
        let group = GROUP_SIZES.iter().position(|&other| usize::from(other) == size)?;
        // A scale in a plane where the family would embed it is no valid code, but nothing here relies on that.
        debug_assert!(size != 0 || code.local_scale() == LocalScale::None);
        PLANS.get(place)?.get(group)
    }
}

static PLANS: [[Plan; GROUP_SIZES.len()]; Family::ALL.len()] = {
    let mut plans = [const { [const { EMPTY }; GROUP_SIZES.len()] }; Family::ALL.len()];
    let mut family = 0;
    while family < plans.len() {
        let mut group = 0;
        while group < GROUP_SIZES.len() {
            plans[family][group] = plan(Family::ALL[family], GROUP_SIZES[group] as usize);
            group += 1;
        }
        family += 1;
    }
    plans
};

const EMPTY: Plan =
    Plan { kind: Kind::Bytes, phase_mask: 0, period_bytes: 0, zero_point: 0, cuts: [const { NO_CUT }; 2] };

const NO_CUT: Cut = Cut {
    offset: 0,
    quarters: [0; 4],
    state_bits: 8,
    bytes: [0; BLOCK],
    bits: [0; BLOCK],
    pairs: [0; 2 * BLOCK],
    factors: [0; BLOCK],
};

const fn plan(family: Family, group_size: usize) -> Plan {
    let (segments, word_bits, clustered) = family.shape();
    let state_bits = segments[0].state_bits as u32;
    let zero_point = 1u8 << (state_bits - 1);
    let phases = if group_size == 2 * BLOCK { 2 } else { 1 };
    if state_bits == 8 {
        return Plan { period_bytes: phases * BLOCK, phase_mask: phases - 1, zero_point, ..bytes(phases) };
    }
    // A cluster's bytes are words of two bytes once they are expanded.
    let word_bytes = if clustered { 2 } else { word_bits as usize / 8 };
    if clustered {
        let cuts = [expanded(cut(segments, word_bytes, NARROW, BLOCK, 0)), NO_CUT];
        return Plan { kind: Kind::Cluster, phase_mask: 0, period_bytes: BLOCK / 4, zero_point, cuts };
    }
    let words = match group_size {
        0 => BLOCK / states_of(segments),
        32 => 2 * words_of_group(segments, 32),
        size => words_of_group(segments, size),
    };
    let period_bytes = words * word_bytes;
    let (kind, window) =
        if period_bytes > phases * NARROW { (Kind::WideWords, WIDE) } else { (Kind::Words, NARROW) };
    let first = cut(segments, word_bytes, window, group_size, 0);
    let cuts = [first, cut(segments, word_bytes, window, group_size, phases - 1)];
    Plan { kind, phase_mask: phases - 1, period_bytes, zero_point, cuts }
}

/// For codes of 32 bits in place of 16, shifted left by eight.
const fn expanded(mut cut: Cut) -> Cut {
    let mut i = 0;
    while i < BLOCK {
        cut.bits[i] += cut.bits[i] / 16 * 16 + 8;
        cut.bytes[i] = if matches!(i % 4, 0 | 3) { i as u8 / 4 } else { 16 };
        i += 1;
    }
    cut
}

/// The plan of one byte a state, but for its sizes.
const fn bytes(phases: usize) -> Plan {
    let later = Cut { offset: (phases - 1) * BLOCK, ..NO_CUT };
    Plan { kind: Kind::Bytes, cuts: [NO_CUT, later], ..EMPTY }
}

const fn cut(segments: &[Segment], word_bytes: usize, window: usize, group_size: usize, phase: usize) -> Cut {
    let state_bits = segments[0].state_bits as usize;
    let offset = position(segments, word_bytes, group_size, phase * BLOCK) / (8 * word_bytes) * word_bytes;
    let mut places = [0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        places[i] = position(segments, word_bytes, group_size, phase * BLOCK + i) - 8 * offset;
        i += 1;
    }
    let quarters = quarters(&places, window);
    let mut cut = Cut { offset, quarters, state_bits: state_bits as u32, ..NO_CUT };
    let mut i = 0;
    while i < BLOCK {
        let eight = first_byte(&places, i / 8 * 8);
        cut.bytes[i] = (eight + i % 8) as u8;
        cut.bits[i] = (places[i] - 8 * eight) as u8;
        assert!(cut.bits[i] as usize + state_bits <= 64 && places[i] + state_bits <= 8 * window);
        let byte = places[i] / 8 - quarters[i / QUARTER];
        assert!(byte < QUARTER);
        cut.pairs[2 * i] = byte as u8;
        // A state of a quarter's last byte has all its bits there.
        assert!(byte + 1 < QUARTER || places[i] % 8 + state_bits <= 8);
        cut.pairs[2 * i + 1] = if byte + 1 < QUARTER { byte as u8 + 1 } else { 0x80 };
        cut.factors[i] = 1 << (16 - state_bits - places[i] % 8);
        i += 1;
    }
    cut
}

/// Where the sixteen bytes of each quarter begin: where its states do, or those of its half in a narrow window.
const fn quarters(places: &[usize; BLOCK], window: usize) -> [usize; 4] {
    let part = if window == NARROW { HALF } else { QUARTER };
    let mut quarters = [0; 4];
    let mut i = 0;
    while i < quarters.len() {
        quarters[i] = first_byte(places, i * QUARTER / part * part);
        assert!(quarters[i] + QUARTER <= window);
        i += 1;
    }
    quarters
}

/// The byte in which the first of the next eight weights begins, by place and not by weight.
const fn first_byte(places: &[usize; BLOCK], from: usize) -> usize {
    let mut first = places[from];
    let mut i = from;
    while i < from + 8 {
        if places[i] < first {
            first = places[i];
        }
        i += 1;
    }
    first / 8
}

/// The bit in which the state of a weight begins, from the first bit of a row.
const fn position(segments: &[Segment], word_bytes: usize, group_size: usize, weight: usize) -> usize {
    // One group a row: as if it were that of all weights.
    let size = if group_size == 0 { usize::MAX } else { group_size };
    let (group, within) = (weight / size, weight % size);
    let per_word = states_of(segments);
    let before = group * words_of_group(segments, size);
    (before + within / per_word) * 8 * word_bytes + shift_of(segments, within % per_word)
}

/// The shift of a state of a word, which [`Code::states`] gives at run time.
const fn shift_of(segments: &[Segment], state: usize) -> usize {
    let mut below = 0;
    let mut before = 0;
    let mut at = 0;
    let mut found = None;
    while at < segments.len() {
        let Segment { states, shift, .. } = segments[at];
        let states = states as usize;
        if found.is_some() {
            below += segments[at].bits() as usize;
        } else if state < before + states {
            found = Some((before + states - 1 - state) * shift as usize);
        }
        before += states;
        at += 1;
    }
    match found {
        Some(shift) => below + shift,
        None => panic!("a word has fewer states"),
    }
}

const fn states_of(segments: &[Segment]) -> usize {
    let mut states = 0;
    let mut at = 0;
    while at < segments.len() {
        states += segments[at].states as usize;
        at += 1;
    }
    states
}

const fn words_of_group(segments: &[Segment], group_size: usize) -> usize {
    group_size.div_ceil(states_of(segments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_those_of_the_code() {
        for family in Family::ALL {
            let code = family.default_code().unwrap();
            let (segments, ..) = family.shape();
            for (at, state) in code.states().iter().take(code.states_per_word()).enumerate() {
                assert_eq!(shift_of(segments, at), state.shift as usize, "{family:?} {at}");
                assert_eq!(i32::from(Plan::find(&code).unwrap().zero_point), state.zero_point);
            }
        }
    }

    #[test]
    fn periods_are_the_bytes_of_their_weights() {
        for family in Family::ALL {
            for group in GROUP_SIZES {
                let Ok(code) = family.code(group.into()) else { continue };
                let plan = Plan::find(&code).unwrap();
                let groups = code.group_size().map_or(1, |size| 2 * BLOCK / size);
                let bytes = groups * code.words_per_group(2 * BLOCK) * code.word_bytes();
                assert_eq!(plan.period_bytes * 2, bytes * (plan.phase_mask + 1), "{code}");
            }
        }
    }
}
