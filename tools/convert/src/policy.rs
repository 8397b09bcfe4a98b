//! What a tensor is, by name and shape, and whether it can take an encoding.
//!
//! Projection weights get one: 2-D matrices, and 3-D stacks of them such as experts. What a name or a shape marks
//! as something else stays raw, because it is small, or because errors in it cost much more than the bytes saved
//! (embeddings, output heads, routers). Names follow the habits of transformers, the original LLaMA and
//! DeepSeek releases, GPT-2, RWKV, Mamba and llama.cpp.
//!
//! The last dimension is cut into groups, all others are rows; the importer has turned matrices that a model stores
//! the other way round.
//!
//! A name such as `model.layers.0.mlp.gate.weight` is read from its end: `weight` is dropped, and what follows the
//! last number (`mlp.gate`) says what the tensor is. So a model called `embedding_model` may still have
//! projections.

use std::fmt;
use std::sync::Arc;

use ccq::code::Code;
use ccq::format::{Dtype, Encoding, element_count};

use crate::search::Search;

/// How a tensor is going to be stored, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is done.
    pub action: Action,
    /// Why that.
    pub reason: Reason,
}

/// What is done with a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Its bytes are stored as they are.
    Raw,
    /// It is quantized like this.
    Quantize(Search),
    /// The source has these codes already, and they are copied.
    Copy(Code),
}

/// Why a tensor is stored as it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// What the tensor is.
    Role(Role),
    /// The source has these codes already.
    Source,
    /// A projection that no rule names, and such are left alone.
    RawByDefault,
    /// A rule of the recipe, as a person would know it.
    Rule(Arc<str>),
    /// It should have taken the encoding and could not.
    Refused(Code, Refusal),
}

/// Why a tensor cannot take an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The dtype holds no weights that can be quantized.
    Dtype(Dtype),
    /// There are no weights in it.
    Empty,
    /// It is a scalar.
    Scalar,
    /// It would take as many bytes as it has, or more.
    DoesNotPay {
        /// Bytes it has.
        raw: u64,
        /// Bytes it would take.
        encoded: u64,
    },
    /// Its planes would exceed 2^64 - 1 bytes.
    TooLarge,
}

/// What a tensor is, by name and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A weight matrix.
    Projection,
    /// Several weight matrices.
    StackedProjections,
    /// Vectors looked up or learned as such: of tokens, positions, types.
    Embedding,
    /// The last layer: logits, classes, scores, and the pooler before it.
    OutputHead,
    /// A norm's weight.
    Norm,
    /// A bias.
    Bias,
    /// What chooses the experts.
    Router,
    /// A convolution's kernel.
    Convolution,
    /// Rotary frequencies, position numbers, masks.
    Buffer,
    /// Scales or zero points of weights that are quantized already.
    QuantizationParameter,
    /// A recurrence's own parameter.
    Recurrence,
    /// At most one dimension is larger than one.
    Vector,
    /// No dimension.
    Scalar,
    /// More dimensions than a stack of matrices.
    Rank(usize),
}

impl Decision {
    /// Quantized, or raw where the tensor cannot take the code.
    pub fn quantize(search: Search, reason: Reason, shape: &[u64], dtype: Dtype) -> Self {
        let code = search.result_code();
        match refusal(&code, shape, dtype) {
            Some(refusal) => Self { action: Action::Raw, reason: Reason::Refused(code, refusal) },
            None => Self { action: Action::Quantize(search), reason },
        }
    }

    /// How the container stores it.
    pub fn encoding(&self) -> Encoding {
        match self.action {
            Action::Raw => Encoding::Raw,
            Action::Quantize(search) => Encoding::Coded(search.result_code()),
            Action::Copy(code) => Encoding::Coded(code),
        }
    }
}

/// A role without its numbers, as recipes write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Weight matrices and stacks of them.
    Projection,
    /// Embeddings.
    Embedding,
    /// Output heads.
    OutputHead,
    /// Norms.
    Norm,
    /// Biases.
    Bias,
    /// Routers.
    Router,
    /// Convolutions.
    Convolution,
    /// Positions and masks.
    Buffer,
    /// Scales and zero points.
    QuantizationParameter,
    /// Parameters of a recurrence.
    Recurrence,
    /// Whatever else: vectors, scalars, more than three dimensions.
    Other,
}

impl RoleName {
    /// Every name.
    pub const ALL: [Self; 11] = [
        Self::Projection,
        Self::Embedding,
        Self::OutputHead,
        Self::Norm,
        Self::Bias,
        Self::Router,
        Self::Convolution,
        Self::Buffer,
        Self::QuantizationParameter,
        Self::Recurrence,
        Self::Other,
    ];

    /// What recipes call it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Projection => "projection",
            Self::Embedding => "embedding",
            Self::OutputHead => "output-head",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Router => "router",
            Self::Convolution => "convolution",
            Self::Buffer => "buffer",
            Self::QuantizationParameter => "quantization-parameter",
            Self::Recurrence => "recurrence",
            Self::Other => "other",
        }
    }
}

impl Role {
    /// What recipes call it.
    pub const fn name(self) -> RoleName {
        match self {
            Self::Projection | Self::StackedProjections => RoleName::Projection,
            Self::Embedding => RoleName::Embedding,
            Self::OutputHead => RoleName::OutputHead,
            Self::Norm => RoleName::Norm,
            Self::Bias => RoleName::Bias,
            Self::Router => RoleName::Router,
            Self::Convolution => RoleName::Convolution,
            Self::Buffer => RoleName::Buffer,
            Self::QuantizationParameter => RoleName::QuantizationParameter,
            Self::Recurrence => RoleName::Recurrence,
            Self::Vector | Self::Scalar | Self::Rank(_) => RoleName::Other,
        }
    }
}

/// Why a tensor cannot take the code, if it cannot.
pub fn refusal(code: &Code, shape: &[u64], dtype: Dtype) -> Option<Refusal> {
    let Some((&in_features, leading)) = shape.split_last() else { return Some(Refusal::Scalar) };
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
        return Some(Refusal::Dtype(dtype));
    }
    if shape.contains(&0) {
        return Some(Refusal::Empty);
    }
    let sizes = element_count(leading).and_then(|rows| code.plane_sizes(rows, in_features).ok());
    let encoded = sizes.and_then(|sizes| sizes.total());
    match (dtype.tensor_bytes(shape), encoded) {
        (Some(raw), Some(encoded)) => (encoded >= raw).then_some(Refusal::DoesNotPay { raw, encoded }),
        _ => Some(Refusal::TooLarge),
    }
}

/// What a tensor is.
pub fn role(name: &str, shape: &[u64]) -> Role {
    if let Some(role) = role_by_name(name) {
        return role;
    }
    match shape {
        [] => Role::Scalar,
        _ if shape.iter().filter(|&&dimension| dimension != 1).count() <= 1 => Role::Vector,
        [_, _] => Role::Projection,
        [_, _, _] => Role::StackedProjections,
        more => Role::Rank(more.len()),
    }
}

/// What the name says, where it says that the tensor is no projection.
fn role_by_name(name: &str) -> Option<Role> {
    let name = name.to_ascii_lowercase();
    let parts: Vec<&str> = name.split('.').collect();
    let (leaf, before) = parts.split_last().map_or(("", &[][..]), |(leaf, before)| (*leaf, before));
    let unnamed = leaf.starts_with("weight");
    let owner = own_parts(if unnamed { before } else { &parts });
    let last = owner.last().copied().unwrap_or_default();
    let is = |names: &[&str]| names.contains(&last);
    let any = |test: &dyn Fn(&str) -> bool| owner.iter().any(|part| test(part));

    if contains_any(leaf, &["scale", "zeros", "zero_point", "absmax", "quant_map", "quant_state", "g_idx"]) {
        Some(Role::QuantizationParameter)
    } else if leaf.contains("bias") || last.contains("bias") {
        Some(Role::Bias)
    } else if last.contains("norm") || is(&["ln", "ln_f"]) || last.starts_with("ln_") {
        Some(Role::Norm)
    } else if any(&|part| contains_any(part, &["rotary", "inv_freq", "freqs"]) || part == "rope")
        || leaf.ends_with("_ids")
        || contains_any(leaf, &["mask", "cos_cached", "sin_cached", "position_index"])
    {
        Some(Role::Buffer)
    } else if owner.iter().rev().take(2).any(|part| part.contains("embed") || part.contains("embd"))
        || is(&["wte", "wpe", "emb", "tok_emb", "pos_emb", "shared", "codebook", "latents"])
        || (!unnamed && contains_any(leaf, &["token", "rel_pos"]))
    {
        Some(Role::Embedding)
    } else if is(&["score", "scores", "qa_outputs", "logits", "output_layer"])
        || any(&|part| {
            part == "cls" || contains_any(part, &["classifier", "pooler", "vocab_"]) || is_head(part)
        })
        || (is(&["output", "proj_out"]) && !parts.iter().any(|part| is_number(part)))
    {
        Some(Role::OutputHead)
    } else if is(&["gate", "wg", "gate_inp", "ffn_gate_inp", "ffn_gate_inp_shexp", "shared_expert_gate"])
        || any(&|p| p == "router")
    {
        Some(Role::Router)
    } else if last.contains("conv") {
        Some(Role::Convolution)
    } else if matches!(leaf, "a_log" | "ssm_a") || leaf.starts_with("time_") {
        Some(Role::Recurrence)
    } else {
        None
    }
}

/// The parts after the last number, which tell a layer's tensors apart; numbers at the very end are dropped.
fn own_parts<'a, 'b>(parts: &'a [&'b str]) -> &'a [&'b str] {
    let mut named = parts;
    while let [before @ .., last] = named
        && is_number(last)
    {
        named = before;
    }
    named.rsplit(|part| is_number(part)).next().unwrap_or_default()
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// `head`, `lm_head`, `lm_heads`, `v_head`, `classification_head`; attention is called `multi_head`.
fn is_head(part: &str) -> bool {
    let stem = part.strip_suffix("heads").or(part.strip_suffix("head"));
    stem.is_some_and(|stem| stem.is_empty() || stem.ends_with('_') && !stem.starts_with("multi"))
}

fn contains_any(text: &str, wanted: &[&str]) -> bool {
    wanted.iter().any(|wanted| text.contains(wanted))
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Source => f.write_str("as in the source"),
            Self::RawByDefault => f.write_str("raw by default"),
            Self::Rule(label) => f.write_str(label),
            Self::Refused(code, refusal) => write!(f, "could not take {code}: {refusal}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dtype(dtype) => write!(f, "{dtype}, expected F32, F16 or BF16"),
            Self::Empty => f.write_str("it has no weights"),
            Self::Scalar => f.write_str("it has no dimensions"),
            Self::DoesNotPay { raw, encoded } => write!(f, "{encoded} bytes instead of {raw}"),
            Self::TooLarge => f.write_str("its size exceeds 64 bits"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Projection => "projection",
            Self::StackedProjections => "stacked projections",
            Self::Embedding => "embedding",
            Self::OutputHead => "output head",
            Self::Norm => "norm",
            Self::Bias => "bias",
            Self::Router => "router",
            Self::Convolution => "convolution",
            Self::Buffer => "positions or mask",
            Self::QuantizationParameter => "scales or zero points",
            Self::Recurrence => "recurrence",
            Self::Vector => "vector",
            Self::Scalar => "scalar",
            Self::Rank(rank) => return write!(f, "{rank}-D"),
        })
    }
}

#[cfg(test)]
mod tests;
