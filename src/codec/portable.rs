//! Decoding in portable Rust: the definition of every decoded value (spec, chapter 6).
//!
//! ```text
//! for each row, for each group g:
//!     scale = fl32(local_scale[g] * super_scale)        super_scale alone where there is no local scale
//!     for each word of the group, for each state s of the word, until the group or the row ends:
//!         code   = word, or the cluster's expansion of it
//!         weight = fl32((code >> shift[s] & mask[s]) - zero_point[s]) * scale)
//! ```

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

use super::element::Element;
use super::pack::read_word;
use super::scale::local_scale;
use super::{ClusterParams, Planes};
use crate::code::{Code, MAX_STATES};

/// A code made ready for decoding.
#[derive(Debug)]
pub struct Decoder {
    code: Code,
    states_per_word: usize,
    shift: [u32; MAX_STATES],
    mask: [u32; MAX_STATES],
    zero_point: [i32; MAX_STATES],
}

impl Decoder {
    /// Prepares the shifts, masks and zero points of a code.
    pub fn new(code: &Code) -> Self {
        let states = code.states();
        Self {
            code: *code,
            states_per_word: code.states_per_word(),
            shift: states.map(|state| state.shift),
            mask: states.map(|state| state.mask),
            zero_point: states.map(|state| state.zero_point),
        }
    }

    /// Decodes one row. Planes that are too short read as zero.
    pub fn decode_row<T: Element>(&self, row: Planes<'_>, out: &mut [T]) {
        let super_scale = row.super_scale.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        self.read_row(row, out, super_scale, |state, scale| T::from_f32(state as f32 * scale));
    }

    /// The states of one row, less their zero points.
    pub(super) fn states_of_row(&self, row: Planes<'_>, out: &mut [i32]) {
        self.read_row(row, out, 1.0, |state, _| state);
    }

    /// What `weight` makes of each state and its scale.
    fn read_row<W>(&self, row: Planes<'_>, out: &mut [W], super_scale: f32, weight: impl Fn(i32, f32) -> W) {
        let cluster = self.code.cluster().and_then(|kind| ClusterParams::read(kind, row.cluster));
        match (cluster, self.code.word_bytes()) {
            (Some(params), _) => self.read_groups(row, out, super_scale, weight, |row, index| {
                params.code(row.code.get(index).copied().unwrap_or(0)).into()
            }),
            (None, 1) => self.read_groups(row, out, super_scale, weight, |row, index| {
                row.code.get(index).copied().unwrap_or(0).into()
            }),
            (None, _) => self.read_groups(row, out, super_scale, weight, |row, index| {
                read_word(2, row.code, index).into()
            }),
        }
    }

    /// The same for all groups of a row, given how a stored word becomes a code.
    #[inline]
    fn read_groups<W>(
        &self,
        row: Planes<'_>,
        out: &mut [W],
        super_scale: f32,
        weight: impl Fn(i32, f32) -> W,
        code_at: impl Fn(&Planes<'_>, usize) -> u32,
    ) {
        let words_per_group = self.code.words_per_group(out.len());
        let group_size = self.code.group_size().unwrap_or(out.len()).max(1);
        for (group, weights) in out.chunks_mut(group_size).enumerate() {
            let local = local_scale(&self.code, words_per_group, &row, group);
            let scale = local as f32 * super_scale;
            let first_word = group.saturating_mul(words_per_group);
            for (index, weights) in weights.chunks_mut(self.states_per_word).enumerate() {
                let code = code_at(&row, first_word.saturating_add(index));
                let states = self.shift.iter().zip(&self.mask).zip(&self.zero_point);
                for (out, ((&shift, &mask), &zero_point)) in weights.iter_mut().zip(states) {
                    // Both are below 2^16.
                    *out = weight((code >> shift & mask).cast_signed().wrapping_sub(zero_point), scale);
                }
            }
        }
    }
}
