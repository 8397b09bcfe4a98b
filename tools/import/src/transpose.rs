//! Matrices that are stored the other way round: which ones, and their rows.
//!
//! A container has rows of output channels, `[..., out_features, in_features]`, and so do most models. Known to be
//! the other way round, by `model_type` in config.json:
//!
//! | `model_type` | tensors |
//! |---|---|
//! | `gpt_oss`, `llama4`, `qwen3_vl_moe` and their `_text` | `*.experts.gate_up_proj`, `*.experts.down_proj` |
//! | `gpt2`, `openai-gpt` | `*.attn.c_attn.weight`, `*.{attn,mlp}.c_proj.weight`, `*.mlp.c_fc.weight`, `*.q_attn.weight` |
//!
//! Where `hidden_size` tells the two sides of an expert apart, it decides: a checkpoint of these types that was
//! saved as `[E, out, in]` is left as it is.

use std::collections::BTreeSet;
use std::ops::Range;

use ccq::format::{Dtype, Metadata, Value};

use crate::config::Config;

/// Which tensors are stored as `[..., in_features, out_features]` and are to be turned round.
#[derive(Clone, Copy)]
pub enum Transpose<'a> {
    /// Those that the type of the model says, and those of these names.
    Rule(&'a dyn Fn(&str) -> bool),
    /// Those that a container has on record ([`TRANSPOSED`]), and no other.
    Exactly(&'a BTreeSet<String>),
}

/// The key of a container's metadata that names the tensors which were turned round, one a line.
pub const TRANSPOSED: &str = "ccq.transposed";

/// The tensors that a container has the other way round than its source.
pub fn transposed(metadata: &Metadata) -> BTreeSet<String> {
    match metadata.get(TRANSPOSED) {
        Some(Value::String(names)) => names.lines().map(String::from).collect(),
        _ => BTreeSet::new(),
    }
}

impl std::fmt::Debug for Transpose<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(_) => f.write_str("Rule"),
            Self::Exactly(names) => f.debug_tuple("Exactly").field(names).finish(),
        }
    }
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    No,
    /// By the model's type.
    Rule,
    /// By name: that it cannot be done is an error.
    Asked,
}

impl Transpose<'_> {
    pub(crate) fn of(&self, config: &Config, name: &str, shape: &[u64]) -> Wanted {
        match self {
            Self::Rule(also) if also(name) => Wanted::Asked,
            Self::Rule(_) if is_other_way_round(config, name, shape) => Wanted::Rule,
            Self::Exactly(names) if names.contains(name) => Wanted::Asked,
            _ => Wanted::No,
        }
    }
}

/// Whether a tensor is a matrix, or a stack of them, of whole bytes.
pub(crate) fn is_possible(shape: &[u64], dtype: Dtype) -> bool {
    shape.len() >= 2 && dtype.bits().is_multiple_of(8)
}

fn is_other_way_round(config: &Config, name: &str, shape: &[u64]) -> bool {
    let is_type = |types: &[&str]| config.model_types.iter().any(|found| types.contains(&found.as_str()));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    match *shape {
        [_, _] => {
            is_type(&["gpt2", "openai-gpt"])
                && ends(&[
                    ".attn.c_attn.weight",
                    ".attn.c_proj.weight",
                    ".mlp.c_fc.weight",
                    ".mlp.c_proj.weight",
                    ".crossattention.c_attn.weight",
                    ".crossattention.c_proj.weight",
                    ".q_attn.weight",
                ])
        }
        [_, down, across] => {
            let types = ["gpt_oss", "llama4", "llama4_text", "qwen3_vl_moe", "qwen3_vl_moe_text"];
            let (inner, outer) = if ends(&[".experts.gate_up_proj"]) {
                (down, across)
            } else if ends(&[".experts.down_proj"]) {
                (across, down)
            } else {
                return false;
            };
            // Of `[E, in, out]`, the input of the first and the output of the second layer have the hidden size.
            let saved_as_rows = config.hidden_size.is_some_and(|hidden| outer == hidden && inner != hidden);
            is_type(&types) && !saved_as_rows
        }
        _ => false,
    }
}

/// Writes columns of a row-major matrix of `width` elements a row as rows, `stride` bytes from one to the next.
///
/// What the matrix does not have stays as it is in `out`.
pub fn columns_to_rows(
    matrix: &[u8],
    width: usize,
    size: usize,
    columns: Range<usize>,
    out: &mut [u8],
    stride: usize,
) {
    /// Rows of the matrix at a time: their parts of a few columns stay in the cache.
    const TILE: usize = 64;
    let (row_bytes, size) = (width.saturating_mul(size).max(1), size.max(1));
    let mut place = 0usize;
    for tile in matrix.chunks(row_bytes.saturating_mul(TILE)) {
        for (out, column) in out.chunks_mut(stride.max(1)).zip(columns.clone()) {
            let at = column.saturating_mul(size);
            let end = at.saturating_add(size);
            let out = out.get_mut(place..).unwrap_or_default();
            for (out, row) in out.chunks_exact_mut(size).zip(tile.chunks_exact(row_bytes)) {
                if let Some(element) = row.get(at..end) {
                    out.copy_from_slice(element);
                }
            }
        }
        place = place.saturating_add(size.saturating_mul(TILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        for (rows, width, size) in [(1, 1, 1), (3, 2, 2), (130, 5, 4), (64, 3, 1), (65, 1, 2)] {
            let matrix: Vec<u8> = (0..rows * width * size).map(|at| (at * 7 % 251) as u8).collect();
            for columns in [0..width, width / 2..width] {
                let stride = rows * size + 3;
                let mut out = vec![0xEE; columns.len() * stride];
                columns_to_rows(&matrix, width, size, columns.clone(), &mut out, stride);
                for (out, column) in out.chunks(stride).zip(columns) {
                    for row in 0..rows {
                        let at = (row * width + column) * size;
                        assert_eq!(out[row * size..][..size], matrix[at..][..size]);
                    }
                    assert_eq!(out[rows * size..], [0xEE; 3]);
                }
            }
        }
    }

    #[test]
    fn types_and_sizes_decide() {
        let config = |model_type: &str, hidden_size| Config {
            model_types: vec![model_type.into()],
            hidden_size,
            weight_block_size: None,
        };
        let (up, down) = ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj");
        for (model_type, hidden, name, shape, expected) in [
            ("gpt_oss", Some(8), up, &[4, 8, 12][..], true),
            ("gpt_oss", Some(8), down, &[4, 6, 8], true),
            ("gpt_oss", Some(8), up, &[4, 12, 8], false),
            ("gpt_oss", Some(8), down, &[4, 8, 6], false),
            ("gpt_oss", Some(8), down, &[4, 8, 8], true),
            ("llama4", None, up, &[4, 8, 12], true),
            ("qwen3_vl_moe_text", Some(8), up, &[4, 8, 12], true),
            ("qwen3_moe", Some(8), up, &[4, 8, 12], false),
            ("gpt_oss", Some(8), "model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 12], false),
            ("gpt2", Some(8), "transformer.h.0.attn.c_attn.weight", &[8, 24], true),
            ("gpt2", Some(8), "h.0.mlp.c_proj.weight", &[32, 8], true),
            ("gpt2", Some(8), "wte.weight", &[100, 8], false),
            ("gpt_bigcode", Some(8), "transformer.h.0.attn.c_attn.weight", &[8, 24], false),
        ] {
            let found = is_other_way_round(&config(model_type, hidden), name, shape);
            assert_eq!(found, expected, "{model_type} {name} {shape:?}");
        }
    }
}
