//! Local scales: integers embedded in the words, in nibbles or in bytes (paper, section 3.4; spec, clause 6.4).
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use super::Planes;
use super::pack::read_word;
use crate::code::{Code, LocalScale};

/// The local scale of a row's group; 1 where the code has none, 0 past the row.
#[inline]
pub fn local_scale(code: &Code, words_per_group: usize, row: &Planes<'_>, group: usize) -> i32 {
    let byte = |index: usize| row.local_scale.get(index).copied().unwrap_or(0);
    match code.local_scale() {
        LocalScale::None => 1,
        LocalScale::Embedded { bits } => {
            let last = read_word(code.word_bytes(), row.code, last_word(words_per_group, group));
            i32::from(last & mask(bits))
        }
        LocalScale::Nibble => i32::from(byte(group / 2) >> if group.is_multiple_of(2) { 4 } else { 0 } & 0xF),
        LocalScale::Signed8 => i32::from(byte(group).cast_signed()),
    }
}

/// Stores the local scale of a group, over zero bits.
///
/// # Panics
/// When the value does not fit the code's width, or the group lies past the row.
#[allow(clippy::indexing_slicing)]
pub(super) fn write_local_scale(
    code: &Code,
    words_per_group: usize,
    code_row: &mut [u8],
    scale_row: &mut [u8],
    group: usize,
    value: i32,
) {
    let lowest = if code.local_scale() == LocalScale::Signed8 { -128 } else { 0 };
    assert!((lowest..=code.max_local_scale()).contains(&value), "local scale {value} does not fit");
    match code.local_scale() {
        LocalScale::None => {}
        LocalScale::Embedded { .. } => {
            let start = last_word(words_per_group, group).saturating_mul(code.word_bytes());
            let bytes = value.to_le_bytes();
            for (stored, byte) in code_row[start..].iter_mut().take(code.word_bytes()).zip(bytes) {
                *stored |= byte;
            }
        }
        LocalScale::Nibble => {
            let shift = if group.is_multiple_of(2) { 4 } else { 0 };
            scale_row[group / 2] |= (value as u8) << shift;
        }
        LocalScale::Signed8 => scale_row[group] = value as u8,
    }
}

/// The last word of a full group, which holds its embedded scale.
const fn last_word(words_per_group: usize, group: usize) -> usize {
    group.wrapping_add(1).wrapping_mul(words_per_group).wrapping_sub(1)
}

/// The low `bits` bits of a word.
const fn mask(bits: u8) -> u16 {
    (1u32 << bits).wrapping_sub(1) as u16
}
