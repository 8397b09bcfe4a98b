//! Words <-> bytes: one row of a quantized matrix written into its planes.
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

use super::ClusterParams;
use super::scale::write_local_scale;
use crate::code::Code;

/// The stored word at `index` of a row of the code plane, one or two bytes; 0 past the row.
#[inline]
pub fn read_word(word_bytes: usize, row: &[u8], index: usize) -> u16 {
    match word_bytes {
        2 => row.as_chunks().0.get(index).map_or(0, |bytes| u16::from_le_bytes(*bytes)),
        _ => row.get(index).copied().unwrap_or(0).into(),
    }
}

/// One row of each plane, to be written.
#[derive(Debug)]
pub struct RowMut<'a> {
    /// The row of the code plane, padding included.
    pub code: &'a mut [u8],
    /// The row of the local-scale plane, empty where there is none.
    pub local_scale: &'a mut [u8],
    /// Four bytes.
    pub super_scale: &'a mut [u8],
    /// The row of the cluster plane, empty where there is none.
    pub cluster: &'a mut [u8],
}

impl RowMut<'_> {
    /// Packs a row: `words` are all its stored words in order ([`Code::words_per_group`] a group, zero bits
    /// where an embedded scale goes), `local_scales` one integer a group (none where the code has none).
    ///
    /// # Panics
    /// When a slice is not of the row's length or a value does not fit its width: errors of the quantizer.
    #[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
    pub fn pack(
        self,
        code: &Code,
        words_per_group: usize,
        words: &[u16],
        local_scales: &[i32],
        super_scale: f32,
        cluster: Option<ClusterParams>,
    ) {
        let width = code.word_bytes();
        let (stored, padding) = self.code.split_at_mut(words.len() * width);
        padding.fill(0);
        for (bytes, word) in stored.chunks_exact_mut(width).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes()[..width]);
        }
        self.local_scale.fill(0);
        for (group, &value) in local_scales.iter().enumerate() {
            write_local_scale(code, words_per_group, stored, self.local_scale, group, value);
        }
        self.super_scale.copy_from_slice(&super_scale.to_le_bytes());
        match cluster {
            Some(params) => params.write(self.cluster),
            None => assert!(self.cluster.is_empty(), "a clustered code without cluster parameters"),
        }
    }
}
