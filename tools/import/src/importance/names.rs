//! Hugging Face's tensor names in llama.cpp's words.
//!
//! | model | imatrix |
//! |---|---|
//! | `layers.N.self_attn.{q,k,v,o}_proj` | `blk.N.attn_{q,k,v,output}` |
//! | `layers.N.self_attn.qkv_proj` | `blk.N.attn_qkv` |
//! | `layers.N.self_attn.{q_a,q_b,kv_b}_proj`, `.kv_a_proj_with_mqa` | `blk.N.attn_{q_a,q_b,kv_b,kv_a_mqa}` |
//! | `layers.N.MLP.{gate,up,down}_proj`, `.{w1,w3,w2}` | `blk.N.ffn_{gate,up,down}` |
//! | `layers.N.MLP.experts.E.` the same | row E of `blk.N.ffn_{gate,up,down}_exps` |
//! | `layers.N.MLP.experts.` the same, stacked | `blk.N.ffn_{gate,up,down}_exps` |
//! | `layers.N.MLP.shared_expert.` or `shared_experts.` the same | `blk.N.ffn_{gate,up,down}_shexp` |
//! | `layers.N.MLP.gate`, `.router`, `.shared_expert_gate` | `blk.N.ffn_gate_inp`, `..._inp_shexp` |
//! | `lm_head`, `embed_tokens` | `output`, `token_embd` |
//!
//! `MLP` is `mlp`, `block_sparse_moe` or `feed_forward`; `model.`, `language_model.` or both may come before;
//! `.weight` follows, but for stacked experts, where it may be missing. Matrices that share their input share
//! its importance, so where one side fuses q, k and v, or gate and up, and the other does not, either name
//! serves. Only input channels count here, which llama.cpp's conversion leaves in their order for all of these.

/// The names that a model's tensor may have in an imatrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Aliases {
    /// Whose vectors are the tensor's, the best first.
    pub names: Vec<String>,
    /// The expert that the tensor belongs to, if it is one of many behind the name.
    pub expert: Option<usize>,
    /// Further names that the tensor explains, though their vectors are not its own.
    pub related: Vec<String>,
}

/// The longer ones first.
const PREFIXES: &[&str] = &["model.language_model.", "language_model.model.", "language_model.", "model."];
const BLOCKS: &[&str] = &["mlp.", "block_sparse_moe.", "feed_forward."];
const ATTENTION: &[(&str, &[&str])] = &[
    ("q_proj", &["q", "qkv"]),
    ("k_proj", &["k", "qkv"]),
    ("v_proj", &["v", "qkv"]),
    ("qkv_proj", &["qkv", "q", "k", "v"]),
    ("o_proj", &["output"]),
    ("q_a_proj", &["q_a"]),
    ("q_b_proj", &["q_b"]),
    ("kv_a_proj_with_mqa", &["kv_a_mqa"]),
    ("kv_b_proj", &["kv_b"]),
];
const FEED_FORWARD: &[(&str, &[&str])] = &[
    ("gate_proj", &["gate", "gate_up"]),
    ("up_proj", &["up", "gate_up"]),
    ("down_proj", &["down"]),
    ("gate_up_proj", &["gate_up", "gate", "up"]),
    ("w1", &["gate", "gate_up"]),
    ("w2", &["down"]),
    ("w3", &["up", "gate_up"]),
];

/// The names in an imatrix of the model's tensor `tensor`; none if it is of no known layout.
pub(super) fn aliases(tensor: &str) -> Aliases {
    let (name, is_weight) = match tensor.strip_suffix(".weight") {
        Some(name) => (name, true),
        None => (tensor, false),
    };
    let name = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let found = match name {
        // Tied embeddings are the output's weights too, but what enters the two differs.
        "embed_tokens" if is_weight => {
            Aliases { related: vec!["output.weight".into()], ..named(["token_embd.weight".into()]) }
        }
        "lm_head" if is_weight => named(["output.weight".into()]),
        _ => layer(name).unwrap_or_default(),
    };
    // Only a stack of experts may lack the ending: the bias of a matrix has no importance.
    let is_stack = found.expert.is_none() && name.contains(".experts.");
    if is_weight || is_stack { found } else { Aliases::default() }
}

fn named(names: impl IntoIterator<Item = String>) -> Aliases {
    Aliases { names: names.into_iter().collect(), ..Aliases::default() }
}

/// The names of a tensor within a layer.
fn layer(name: &str) -> Option<Aliases> {
    let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer = number(layer)?;
    let block = |kind: &str, part: &str, ending: &str| format!("blk.{layer}.{kind}_{part}{ending}.weight");
    if let Some(part) = part.strip_prefix("self_attn.") {
        let names = look_up(ATTENTION, part)?.iter().map(|part| block("attn", part, ""));
        // llama.cpp cuts this matrix in two, one of them transposed, so that neither has its input.
        let halves: &[&str] = if part == "kv_b_proj" { &["k_b", "v_b"] } else { &[] };
        let related = halves.iter().map(|part| block("attn", part, "")).collect();
        return Some(Aliases { related, ..named(names) });
    }
    let part = BLOCKS.iter().find_map(|block| part.strip_prefix(block))?;
    let (ending, part, expert) = match part {
        "gate" | "router" => return Some(named([block("ffn", "gate_inp", "")])),
        "shared_expert_gate" => return Some(named([block("ffn", "gate_inp", "_shexp")])),
        _ => match part.split_once('.') {
            None => ("", part, None),
            Some(("shared_expert" | "shared_experts", part)) => ("_shexp", part, None),
            Some(("experts", part)) => match part.split_once('.') {
                None => ("_exps", part, None),
                Some((expert, part)) => ("_exps", part, Some(number(expert)?)),
            },
            Some(_) => return None,
        },
    };
    let names = look_up(FEED_FORWARD, part)?.iter().map(|part| block("ffn", part, ending));
    Some(Aliases { expert, ..named(names) })
}

fn look_up<'a>(table: &[(&str, &'a [&'a str])], part: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(name, _)| *name == part).map(|(_, parts)| *parts)
}

/// A number as it is written in names: digits without a leading zero.
fn number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(tensor: &str) -> Option<(String, Option<usize>)> {
        let Aliases { names, expert, .. } = aliases(tensor);
        names.into_iter().next().map(|name| (name, expert))
    }

    #[test]
    fn the_common_layouts_have_names() {
        let table = [
            ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight", None),
            ("model.layers.12.self_attn.k_proj.weight", "blk.12.attn_k.weight", None),
            ("layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight", None),
            ("model.language_model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight", None),
            ("language_model.model.layers.3.self_attn.qkv_proj.weight", "blk.3.attn_qkv.weight", None),
            ("model.layers.1.self_attn.kv_a_proj_with_mqa.weight", "blk.1.attn_kv_a_mqa.weight", None),
            ("model.layers.3.mlp.gate_proj.weight", "blk.3.ffn_gate.weight", None),
            ("model.layers.3.mlp.up_proj.weight", "blk.3.ffn_up.weight", None),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight", None),
            ("model.layers.3.mlp.experts.17.up_proj.weight", "blk.3.ffn_up_exps.weight", Some(17)),
            ("model.layers.3.block_sparse_moe.experts.7.w2.weight", "blk.3.ffn_down_exps.weight", Some(7)),
            ("model.layers.3.mlp.experts.down_proj", "blk.3.ffn_down_exps.weight", None),
            ("model.layers.3.feed_forward.experts.down_proj.weight", "blk.3.ffn_down_exps.weight", None),
            ("model.layers.3.mlp.experts.gate_up_proj", "blk.3.ffn_gate_up_exps.weight", None),
            ("model.layers.3.mlp.shared_expert.up_proj.weight", "blk.3.ffn_up_shexp.weight", None),
            ("model.layers.3.mlp.shared_experts.gate_proj.weight", "blk.3.ffn_gate_shexp.weight", None),
            ("model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight", None),
            ("model.layers.3.mlp.shared_expert_gate.weight", "blk.3.ffn_gate_inp_shexp.weight", None),
            ("lm_head.weight", "output.weight", None),
            ("language_model.lm_head.weight", "output.weight", None),
            ("model.embed_tokens.weight", "token_embd.weight", None),
        ];
        for (tensor, name, expert) in table {
            assert_eq!(first(tensor), Some((name.into(), expert)), "{tensor}");
        }
    }

    #[test]
    fn what_has_no_input_or_no_known_layout_has_no_name() {
        for tensor in [
            "",
            ".weight",
            "model.norm.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.experts.1.up_proj",
            "model.layers.0.mlp.experts.down_proj_bias",
            "model.layers.00.self_attn.q_proj.weight",
            "model.layers.+1.self_attn.q_proj.weight",
            "model.layers.99999999999999999999.self_attn.q_proj.weight",
            "model.layers.0.input_layernorm.weight",
            "model.visual.layers.0.self_attn.q_proj.weight",
            "vision_tower.encoder.layers.0.self_attn.q_proj.weight",
            "model.layers.0.mlp.experts.x.up_proj.weight",
            "model.layers.0.mlp.other.up_proj.weight",
        ] {
            assert_eq!(aliases(tensor), Aliases::default(), "{tensor}");
        }
    }
}
