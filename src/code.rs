//! The code description: how the bits of a stored word become states (spec, chapter 6).
//!
//! Integers only: no floating point, no I/O. Everything the container stores for a quantized matrix follows
//! from a [`Code`] and the matrix's two dimensions; [`Code::plane_sizes`] is that rule.
//!
//! A stored word holds one or more *segments* (L, N, S): N overlapping states of L bits, each S bits further
//! down than the one before. For `ccq-2.75`, the single segment (4, 3, 2) in a byte:
//!
//! ```text
//! bit      7 6 5 4 3 2 1 0
//! state 0  x x x x            word >> 4 & 0xF
//! state 1      x x x x        word >> 2 & 0xF
//! state 2          x x x x    word >> 0 & 0xF
//! ```
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use core::fmt;

/// The largest number of segments a code description can hold.
pub const MAX_SEGMENTS: usize = 4;
/// The largest number of states a word can hold: sixteen of one bit each.
pub const MAX_STATES: usize = 16;
/// Rows of the code plane start at multiples of this many bytes (spec, clause 5.4).
pub const ROW_ALIGN: u64 = 16;
/// The group sizes a code may have, in weights; 0 stands for one group a row (per channel).
pub const GROUP_SIZES: [u16; 4] = [0, 32, 64, 128];

/// One run of overlapping states, (L, N, S) in the paper (section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Segment {
    /// L: bits of a state, 1 to 16.
    pub state_bits: u8,
    /// N: states in the segment, at least 1.
    pub states: u8,
    /// S: bits by which each state lies below the one before, 1 to L.
    pub shift: u8,
}

impl Segment {
    /// The segment (L, N, S).
    pub const fn new(state_bits: u8, states: u8, shift: u8) -> Self {
        Self { state_bits, states, shift }
    }

    /// T = L + (N - 1) S: bits of the segment's codeword.
    pub const fn bits(self) -> u32 {
        let steps = (self.states as u32).saturating_sub(1);
        steps.saturating_mul(self.shift as u32).saturating_add(self.state_bits as u32)
    }
}

/// Where the local scale of a group is stored (spec, clause 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalScale {
    /// No local scale: the row is one group, scaled by its super scale alone.
    None,
    /// An unsigned integer of `bits` bits in the spare low bits of the group's last word.
    Embedded {
        /// Width in bits: all the spare bits, at least 4.
        bits: u8,
    },
    /// An unsigned 4-bit integer in a plane of its own, two a byte, even group in the high nibble.
    Nibble,
    /// A signed 8-bit integer in a plane of its own.
    Signed8,
}

/// How a stored byte expands to a longer code (the paper's code cluster, section 3.3; spec, clause 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cluster {
    /// Two integers a row: `code = (a q + 256 zp + 128) >> 8`.
    Q8,
    /// Two f32 a row: `code = floor(fma(q, code_scale, code_zero_point + 0.5))`.
    F32,
}

/// Why a code description is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeError {
    /// The number of segments is not 1 to [`MAX_SEGMENTS`], or an unused segment is not zero.
    SegmentCount(u8),
    /// A segment has a zero field, a state wider than 16 bits, or a shift larger than its state.
    Segment(Segment),
    /// The segments do not fill the word: they hold `bits` bits where `expected` were due.
    WordBits {
        /// What the segments add up to.
        bits: u32,
        /// What the stored word has room for.
        expected: u32,
    },
    /// The stored word is neither 8 nor 16 bits wide (8 with a cluster).
    Word(u8),
    /// The group size is not one of [`GROUP_SIZES`], or not one that the encoding takes.
    GroupSize(u32),
    /// The scale placement and width do not fit the spare bits of a group's last word.
    ScaleBits {
        /// Bits left below the last state of a group.
        spare: u32,
        /// The placement asked for.
        scale: LocalScale,
    },
    /// A plane of this many rows and input features is larger than 2^64 - 1 bytes.
    TooLarge,
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SegmentCount(n) => {
                write!(f, "{n} segments, expected 1 to {MAX_SEGMENTS} and the unused ones zero")
            }
            Self::Segment(Segment { state_bits, states, shift }) => {
                write!(
                    f,
                    "segment ({state_bits}, {states}, {shift}), expected (L, N, S) with 1 <= S <= L <= 16 and N >= 1"
                )
            }
            Self::WordBits { bits, expected } => {
                write!(f, "segments of {bits} bits, expected {expected} (9 to 16 behind a cluster)")
            }
            Self::Word(bits) => {
                write!(f, "a stored word of {bits} bits, expected 8 or 16 (8 behind a cluster)")
            }
            Self::GroupSize(size) => write!(f, "group size {size} is not allowed"),
            Self::ScaleBits { spare, scale } => {
                write!(
                    f,
                    "local scale {scale:?} with {spare} spare bits, expected all of them embedded from 4 on, a plane \
                     below 4, none per channel"
                )
            }
            Self::TooLarge => f.write_str("planes larger than 2^64 - 1 bytes"),
        }
    }
}

impl core::error::Error for CodeError {}

/// A valid code description: what a reader needs to decode a matrix, besides its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    segments: [Segment; MAX_SEGMENTS],
    segment_count: u8,
    word_bits: u8,
    group_size: u16,
    local_scale: LocalScale,
    cluster: Option<Cluster>,
}

/// One state of a word: `(word >> shift) & mask`, minus `zero_point`, is the weight before scaling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Right shift that brings the state to the low bits.
    pub shift: u32,
    /// Its L low bits.
    pub mask: u32,
    /// 2^(L-1).
    pub zero_point: i32,
}

/// Bytes of each plane of a matrix; 0 where the code has no such plane (spec, chapter 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneSizes {
    /// Bytes from one row of the code plane to the next, a multiple of [`ROW_ALIGN`].
    pub row_stride: u64,
    /// The code plane: rows times `row_stride`.
    pub code: u64,
    /// The local-scale plane.
    pub local_scale: u64,
    /// The super-scale plane: an f32 a row.
    pub super_scale: u64,
    /// The cluster plane: a pair a row.
    pub cluster: u64,
}

impl Code {
    /// Checks a description and returns it as a code.
    ///
    /// # Errors
    /// Any [`CodeError`] but `TooLarge`.
    pub fn new(
        segments: &[Segment],
        word_bits: u8,
        group_size: u16,
        local_scale: LocalScale,
        cluster: Option<Cluster>,
    ) -> Result<Self, CodeError> {
        let count = segments.len();
        if count == 0 || count > MAX_SEGMENTS {
            return Err(CodeError::SegmentCount(u8::try_from(count).unwrap_or(u8::MAX)));
        }
        let mut kept = [Segment::default(); MAX_SEGMENTS];
        let mut bits = 0u32;
        for (slot, &segment) in kept.iter_mut().zip(segments) {
            let Segment { state_bits, states, shift } = segment;
            if state_bits == 0 || state_bits > 16 || states == 0 || shift == 0 || shift > state_bits {
                return Err(CodeError::Segment(segment));
            }
            *slot = segment;
            bits = bits.saturating_add(segment.bits());
        }
        match (word_bits, cluster) {
            (8 | 16, None) if bits != u32::from(word_bits) => {
                return Err(CodeError::WordBits { bits, expected: word_bits.into() });
            }
            (8, Some(_)) if !(9..=16).contains(&bits) => {
                return Err(CodeError::WordBits { bits, expected: 16 });
            }
            (8 | 16, None) | (8, Some(_)) => {}
            _ => return Err(CodeError::Word(word_bits)),
        }
        if !GROUP_SIZES.contains(&group_size) {
            return Err(CodeError::GroupSize(group_size.into()));
        }
        #[allow(clippy::cast_possible_truncation)] // count <= MAX_SEGMENTS
        let code =
            Self { segments: kept, segment_count: count as u8, word_bits, group_size, local_scale, cluster };
        let spare = code.spare_bits();
        let fits = match (group_size, local_scale) {
            (0, scale) => scale == LocalScale::None,
            (_, LocalScale::None) => false,
            (_, LocalScale::Embedded { bits }) => spare >= 4 && u32::from(bits) == spare,
            (_, LocalScale::Nibble | LocalScale::Signed8) => spare < 4,
        };
        if fits { Ok(code) } else { Err(CodeError::ScaleBits { spare, scale: local_scale }) }
    }

    /// The segments of a word, from its top bit down.
    pub fn segments(&self) -> &[Segment] {
        self.segments.get(..self.segment_count.into()).unwrap_or_default()
    }

    /// Bits of a stored word: 8 or 16.
    pub const fn word_bits(&self) -> u32 {
        self.word_bits as u32
    }

    /// Bytes of a stored word: 1 or 2, little-endian.
    pub const fn word_bytes(&self) -> usize {
        self.word_bits as usize / 8
    }

    /// Bits of a code, which the states are cut from: the word's own, or a cluster's longer one.
    pub fn code_bits(&self) -> u32 {
        self.segments().iter().map(|s| s.bits()).sum()
    }

    /// Weights in a group, or `None` where the whole row is one group.
    pub const fn group_size(&self) -> Option<usize> {
        if self.group_size == 0 { None } else { Some(self.group_size as usize) }
    }

    /// Where the local scales are.
    pub const fn local_scale(&self) -> LocalScale {
        self.local_scale
    }

    /// How stored bytes expand to codes, if they do.
    pub const fn cluster(&self) -> Option<Cluster> {
        self.cluster
    }

    /// Weights in a full word.
    pub fn states_per_word(&self) -> usize {
        self.segments().iter().map(|s| usize::from(s.states)).sum()
    }

    /// The states of a word in weight order: the first [`Code::states_per_word`] entries, the others zero.
    pub fn states(&self) -> [State; MAX_STATES] {
        let mut out = [State::default(); MAX_STATES];
        let mut slots = out.iter_mut();
        let mut top = self.code_bits();
        for segment in self.segments() {
            let width = u32::from(segment.state_bits);
            // A valid code's segments end at bit 0, and its states have 1 to 16 bits: nothing saturates.
            for j in 0..u32::from(segment.states) {
                if let Some(slot) = slots.next() {
                    let below = width.saturating_add(j.saturating_mul(segment.shift.into()));
                    *slot = State {
                        shift: top.saturating_sub(below),
                        mask: (1u32 << width).wrapping_sub(1),
                        zero_point: (1i32 << width) / 2,
                    };
                }
            }
            top = top.saturating_sub(segment.bits());
        }
        out
    }

    /// Words of a full group, or of a row of `in_features` weights where the row is one group.
    pub fn words_per_group(&self, in_features: usize) -> usize {
        self.group_size().unwrap_or(in_features).div_ceil(self.states_per_word())
    }

    /// Groups of a row.
    pub fn groups(&self, in_features: usize) -> usize {
        self.group_size().map_or(1, |size| in_features.div_ceil(size))
    }

    /// Bits left below the last state of a full group, where a local scale can be embedded.
    pub fn spare_bits(&self) -> u32 {
        let per_word = self.states_per_word();
        match (self.group_size(), self.cluster) {
            (Some(size), None) => {
                let last = size.saturating_sub(1).checked_rem(per_word).unwrap_or(0);
                self.states().get(last).map_or(0, |state| state.shift)
            }
            _ => 0,
        }
    }

    /// The largest local scale that can be stored; the smallest is 0, or `-128` for [`LocalScale::Signed8`].
    pub const fn max_local_scale(&self) -> i32 {
        match self.local_scale {
            LocalScale::None => 1,
            LocalScale::Embedded { bits } => (1i32 << bits).wrapping_sub(1),
            LocalScale::Nibble => 15,
            LocalScale::Signed8 => 127,
        }
    }

    /// Bytes of every plane of a matrix of `rows` x `in_features` weights.
    ///
    /// # Errors
    /// [`CodeError::TooLarge`] when one of them, or their sum, exceeds 2^64 - 1.
    pub fn plane_sizes(&self, rows: u64, in_features: u64) -> Result<PlaneSizes, CodeError> {
        self.checked_plane_sizes(rows, in_features).ok_or(CodeError::TooLarge)
    }

    fn checked_plane_sizes(&self, rows: u64, in_features: u64) -> Option<PlaneSizes> {
        let per_word = self.states_per_word() as u64;
        let (groups, words) = match self.group_size() {
            None => (1, in_features.div_ceil(per_word)),
            Some(size) => {
                let groups = in_features.div_ceil(size as u64);
                (groups, groups.checked_mul((size as u64).div_ceil(per_word))?)
            }
        };
        let row_stride = words.checked_mul(self.word_bytes() as u64)?.checked_next_multiple_of(ROW_ALIGN)?;
        let sizes = PlaneSizes {
            row_stride,
            code: rows.checked_mul(row_stride)?,
            local_scale: rows.checked_mul(match self.local_scale {
                LocalScale::None | LocalScale::Embedded { .. } => 0,
                LocalScale::Nibble => groups.div_ceil(2),
                LocalScale::Signed8 => groups,
            })?,
            super_scale: rows.checked_mul(4)?,
            cluster: rows.checked_mul(match self.cluster {
                None => 0,
                Some(Cluster::Q8) => 4,
                Some(Cluster::F32) => 8,
            })?,
        };
        sizes.total().map(|_| sizes)
    }

    /// The family the code belongs to, if it is one of the named ones.
    pub fn family(&self) -> Option<Family> {
        Family::ALL.into_iter().find(|family| {
            let (segments, word_bits, clustered) = family.shape();
            segments == self.segments()
                && word_bits == self.word_bits
                && clustered == self.cluster.is_some()
                && family.is_trellis() != matches!(self.local_scale, LocalScale::None | LocalScale::Signed8)
        })
    }
}

impl PlaneSizes {
    /// All planes together, row padding included, or `None` where that exceeds 2^64 - 1.
    pub fn total(&self) -> Option<u64> {
        self.code.checked_add(self.local_scale)?.checked_add(self.super_scale)?.checked_add(self.cluster)
    }
}

/// The family's name, with the group size where it is not the family's usual one: `ccq-2.06`, `wint4 g32`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(family) = self.family() else { return f.write_str("custom") };
        f.write_str(family.name())?;
        match self.group_size() {
            size if size == family.default_group_size() => Ok(()),
            Some(size) => write!(f, " g{size}"),
            None => f.write_str(" per channel"),
        }
    }
}

/// The named codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Family {
    /// `ccq-2.75`: (4,3,2) in a byte.
    Ccq275,
    /// `ccq-2.5`: (3,3,2) + (3,4,2) in sixteen bits.
    Ccq25,
    /// `ccq-2.06`: (6,4,3) behind a code cluster.
    Ccq206,
    /// `ccq-3.31`: (4,5,3) in sixteen bits; not the paper's.
    Ccq331,
    /// `ccq-5.5`: (6,3,5) in sixteen bits; not the paper's.
    Ccq55,
    /// `wint8`: plain 8-bit integers.
    Wint8,
    /// `wint4`: plain 4-bit integers.
    Wint4,
    /// `int2`: plain 2-bit integers.
    Int2,
}

impl Family {
    /// Every family, in the order tools list them.
    pub const ALL: [Self; 8] = [
        Self::Ccq206,
        Self::Ccq25,
        Self::Ccq275,
        Self::Ccq331,
        Self::Ccq55,
        Self::Wint4,
        Self::Wint8,
        Self::Int2,
    ];

    /// The name users type, such as `ccq-2.06`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ccq275 => "ccq-2.75",
            Self::Ccq25 => "ccq-2.5",
            Self::Ccq206 => "ccq-2.06",
            Self::Ccq331 => "ccq-3.31",
            Self::Ccq55 => "ccq-5.5",
            Self::Wint8 => "wint8",
            Self::Wint4 => "wint4",
            Self::Int2 => "int2",
        }
    }

    /// The family of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// Whether states overlap (the convolutional codes), so that encoding is a search over paths.
    pub const fn is_trellis(self) -> bool {
        !matches!(self, Self::Wint8 | Self::Wint4 | Self::Int2)
    }

    /// The group size taken when none is asked for; `None` is one group a row.
    pub const fn default_group_size(self) -> Option<usize> {
        match self {
            Self::Wint8 => None,
            _ => Some(64),
        }
    }

    /// The family's code with groups of `group_size` weights, or one group a row for 0.
    ///
    /// The scale goes where the spare bits of a group's last word hold at least four bits, otherwise into a
    /// plane; a cluster is [`Cluster::Q8`], the kind this project's quantizer writes.
    ///
    /// # Errors
    /// [`CodeError::GroupSize`]: the convolutional codes take 32, 64 and 128, the plain ones also 0.
    pub fn code(self, group_size: u32) -> Result<Code, CodeError> {
        let refused = CodeError::GroupSize(group_size);
        let size = u16::try_from(group_size).map_err(|_| refused)?;
        if !GROUP_SIZES.contains(&size) || (size == 0 && self.is_trellis()) {
            return Err(refused);
        }
        let (segments, word_bits, clustered) = self.shape();
        let cluster = clustered.then_some(Cluster::Q8);
        if !self.is_trellis() {
            let scale = if size == 0 { LocalScale::None } else { LocalScale::Signed8 };
            return Code::new(segments, word_bits, size, scale, cluster);
        }
        match Code::new(segments, word_bits, size, LocalScale::Nibble, cluster) {
            Err(CodeError::ScaleBits { spare, .. }) => {
                #[allow(clippy::cast_possible_truncation)] // spare < word_bits
                let scale = LocalScale::Embedded { bits: spare as u8 };
                Code::new(segments, word_bits, size, scale, cluster)
            }
            code => code,
        }
    }

    /// The family's code with its usual group size.
    ///
    /// # Errors
    /// None: every family takes its default.
    pub fn default_code(self) -> Result<Code, CodeError> {
        #[allow(clippy::cast_possible_truncation)] // at most 128
        self.code(self.default_group_size().unwrap_or(0) as u32)
    }

    /// Segments, bits of the stored word, and whether a cluster expands it.
    pub(crate) const fn shape(self) -> (&'static [Segment], u8, bool) {
        const CCQ275: &[Segment] = &[Segment::new(4, 3, 2)];
        const CCQ25: &[Segment] = &[Segment::new(3, 3, 2), Segment::new(3, 4, 2)];
        const CCQ206: &[Segment] = &[Segment::new(6, 4, 3)];
        const CCQ331: &[Segment] = &[Segment::new(4, 5, 3)];
        const CCQ55: &[Segment] = &[Segment::new(6, 3, 5)];
        const WINT8: &[Segment] = &[Segment::new(8, 1, 8)];
        const WINT4: &[Segment] = &[Segment::new(4, 2, 4)];
        const INT2: &[Segment] = &[Segment::new(2, 4, 2)];
        match self {
            Self::Ccq275 => (CCQ275, 8, false),
            Self::Ccq25 => (CCQ25, 16, false),
            Self::Ccq206 => (CCQ206, 8, true),
            Self::Ccq331 => (CCQ331, 16, false),
            Self::Ccq55 => (CCQ55, 16, false),
            Self::Wint8 => (WINT8, 8, false),
            Self::Wint4 => (WINT4, 8, false),
            Self::Int2 => (INT2, 8, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 1 of the paper, our own codes, and the spare bits that CONTAINER's rule embeds the scale in.
    #[test]
    fn named_codes_are_those_of_the_paper_and_the_spec() {
        let shifts = |family: Family| {
            let code = family.code(64).unwrap();
            code.states().iter().take(code.states_per_word()).map(|s| s.shift).collect::<std::vec::Vec<_>>()
        };
        assert_eq!(shifts(Family::Ccq275), [4, 2, 0]);
        assert_eq!(shifts(Family::Ccq25), [13, 11, 9, 6, 4, 2, 0]);
        assert_eq!(shifts(Family::Ccq206), [9, 6, 3, 0]);
        assert_eq!(shifts(Family::Ccq331), [12, 9, 6, 3, 0]);
        assert_eq!(shifts(Family::Ccq55), [10, 5, 0]);
        assert_eq!(shifts(Family::Wint4), [4, 0]);
        assert_eq!(shifts(Family::Int2), [6, 4, 2, 0]);

        let scale = |family: Family, group| family.code(group).unwrap().local_scale();
        assert_eq!(scale(Family::Ccq275, 64), LocalScale::Embedded { bits: 4 });
        assert_eq!(scale(Family::Ccq275, 32), LocalScale::Nibble);
        assert_eq!(scale(Family::Ccq275, 128), LocalScale::Nibble);
        assert_eq!(scale(Family::Ccq25, 32), LocalScale::Embedded { bits: 6 });
        assert_eq!(scale(Family::Ccq25, 64), LocalScale::Embedded { bits: 13 });
        assert_eq!(scale(Family::Ccq25, 128), LocalScale::Embedded { bits: 11 });
        assert_eq!(scale(Family::Ccq206, 64), LocalScale::Nibble);
        assert_eq!(scale(Family::Ccq331, 32), LocalScale::Embedded { bits: 9 });
        assert_eq!(scale(Family::Ccq331, 64), LocalScale::Nibble);
        assert_eq!(scale(Family::Ccq331, 128), LocalScale::Embedded { bits: 6 });
        assert_eq!(scale(Family::Ccq55, 32), LocalScale::Embedded { bits: 5 });
        assert_eq!(scale(Family::Ccq55, 64), LocalScale::Embedded { bits: 10 });
        assert_eq!(scale(Family::Ccq55, 128), LocalScale::Embedded { bits: 5 });
        assert_eq!(scale(Family::Wint4, 0), LocalScale::None);
        assert_eq!(scale(Family::Wint8, 64), LocalScale::Signed8);
    }

    /// Equation (5), and clause 6.8: bits a weight of codes and local scales, for a row of whole groups.
    #[test]
    fn bits_a_weight_match_equation_5() {
        let bits = |family: Family, group| {
            let sizes = family.code(group).unwrap().plane_sizes(1, 1 << 16).unwrap();
            (sizes.code + sizes.local_scale) as f64 * 8.0 / 65536.0
        };
        assert_eq!(bits(Family::Ccq275, 64), 2.75);
        assert_eq!(bits(Family::Ccq25, 64), 2.5);
        assert_eq!(bits(Family::Ccq206, 64), 2.0625);
        assert_eq!([32, 64, 128].map(|group| bits(Family::Ccq331, group)), [3.5, 3.3125, 3.25]);
        assert_eq!([32, 64, 128].map(|group| bits(Family::Ccq55, group)), [5.5, 5.5, 5.375]);
    }

    #[test]
    fn families_round_trip_through_their_codes() {
        for family in Family::ALL {
            for group in [0, 32, 64, 128] {
                match family.code(group) {
                    Ok(code) => assert_eq!(code.family(), Some(family), "{family:?} g{group}"),
                    Err(error) => {
                        assert_eq!((group, family.is_trellis()), (0, true));
                        assert_eq!(error, CodeError::GroupSize(0));
                    }
                }
            }
            assert_eq!(Family::from_name(family.name()), Some(family));
        }
    }

    #[test]
    fn bad_descriptions_are_refused() {
        let new = |segments: &[Segment], word, group, scale| Code::new(segments, word, group, scale, None);
        let nibble = LocalScale::Nibble;
        assert_eq!(new(&[], 8, 64, nibble), Err(CodeError::SegmentCount(0)));
        let narrow = Segment::new(4, 2, 2);
        assert_eq!(new(&[narrow], 8, 64, nibble), Err(CodeError::WordBits { bits: 6, expected: 8 }));
        let backwards = Segment::new(2, 3, 3);
        assert_eq!(new(&[backwards], 8, 64, nibble), Err(CodeError::Segment(backwards)));
        let trellis = Segment::new(4, 3, 2);
        assert_eq!(new(&[trellis], 8, 48, nibble), Err(CodeError::GroupSize(48)));
        assert_eq!(new(&[trellis], 12, 64, nibble), Err(CodeError::Word(12)));
        assert_eq!(
            new(&[trellis], 8, 64, nibble),
            Err(CodeError::ScaleBits { spare: 4, scale: LocalScale::Nibble })
        );
        let wide = Family::Wint8.code(0).unwrap();
        assert_eq!(wide.plane_sizes(u64::MAX, 1), Err(CodeError::TooLarge));
    }
}
