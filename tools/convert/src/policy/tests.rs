//! The policy on the names and shapes of published models.

use ccq::code::Family;
use ccq_quantize::{Method, Quality};

use super::*;

fn check(expected: Role, cases: &[(&str, &[u64])]) {
    for (name, shape) in cases {
        assert_eq!(role(name, shape), expected, "{name} {shape:?}");
    }
}

#[test]
fn bert() {
    check(
        Role::Projection,
        &[
            ("encoder.layer.0.attention.self.query.weight", &[384, 384]),
            ("encoder.layer.0.attention.output.dense.weight", &[384, 384]),
            ("bert.encoder.layer.11.output.dense.weight", &[384, 1536]),
            ("encoder.layer.0.intermediate.dense.weight", &[1536, 384]),
        ],
    );
    check(
        Role::Embedding,
        &[
            ("embeddings.word_embeddings.weight", &[30522, 384]),
            ("bert.embeddings.position_embeddings.weight", &[512, 384]),
            ("embeddings.token_type_embeddings.weight", &[2, 384]),
        ],
    );
    check(
        Role::OutputHead,
        &[
            ("pooler.dense.weight", &[384, 384]),
            ("cls.predictions.transform.dense.weight", &[384, 384]),
            ("cls.predictions.decoder.weight", &[30522, 384]),
            ("classifier.weight", &[2, 384]),
            ("classifier.dense.weight", &[384, 384]),
            ("qa_outputs.weight", &[2, 384]),
            ("lm_head.dense.weight", &[768, 768]),
            ("head.dense.weight", &[768, 768]),
            ("pre_classifier.weight", &[768, 768]),
            ("vocab_projector.weight", &[30522, 768]),
        ],
    );
    check(Role::Norm, &[("embeddings.LayerNorm.weight", &[384])]);
    check(Role::Bias, &[("encoder.layer.0.output.dense.bias", &[384]), ("cls.predictions.bias", &[30522])]);
    check(Role::Buffer, &[("embeddings.position_ids", &[1, 512])]);
}

#[test]
fn llama() {
    check(
        Role::Projection,
        &[
            ("model.layers.0.self_attn.q_proj.weight", &[4096, 4096]),
            ("model.layers.0.mlp.gate_proj.weight", &[11008, 4096]),
            ("layers.0.attention.wq.weight", &[4096, 4096]),
            ("layers.0.feed_forward.w1.weight", &[11008, 4096]),
            ("language_model.model.layers.3.mlp.down_proj.weight", &[4096, 11008]),
        ],
    );
    check(
        Role::Embedding,
        &[("model.embed_tokens.weight", &[32000, 4096]), ("tok_embeddings.weight", &[32000, 4096])],
    );
    check(
        Role::OutputHead,
        &[
            ("lm_head.weight", &[32000, 4096]),
            ("output.weight", &[32000, 4096]),
            ("language_model.output.weight", &[92544, 4096]),
            ("transformer.output_layer.weight", &[65024, 4096]),
            ("score.weight", &[3, 4096]),
            ("v_head.summary.weight", &[1, 4096]),
        ],
    );
    check(
        Role::Norm,
        &[("model.layers.0.input_layernorm.weight", &[4096]), ("layers.0.attention_norm.weight", &[4096])],
    );
    check(Role::Buffer, &[("model.layers.0.self_attn.rotary_emb.inv_freq", &[64]), ("rope.freqs", &[64])]);
}

#[test]
fn gpt2() {
    check(
        Role::Projection,
        &[("h.0.attn.c_attn.weight", &[768, 2304]), ("transformer.h.11.mlp.c_proj.weight", &[3072, 768])],
    );
    check(Role::Embedding, &[("wte.weight", &[50257, 768]), ("transformer.wpe.weight", &[1024, 768])]);
    check(Role::Bias, &[("h.0.attn.bias", &[1, 1, 1024, 1024]), ("h.0.attn.masked_bias", &[])]);
    check(Role::Norm, &[("h.0.ln_1.weight", &[768]), ("ln_f.weight", &[768])]);
}

#[test]
fn mixtures_of_experts() {
    check(
        Role::Projection,
        &[
            // Qwen MoE
            ("model.layers.0.mlp.experts.0.gate_proj.weight", &[1408, 2048]),
            ("model.layers.0.mlp.shared_expert.gate_proj.weight", &[5632, 2048]),
            // Mixtral
            ("model.layers.0.block_sparse_moe.experts.7.w1.weight", &[14336, 4096]),
            // DeepSeek-V3
            ("model.layers.3.mlp.experts.255.down_proj.weight", &[7168, 2048]),
            ("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", &[576, 7168]),
            ("model.layers.61.eh_proj.weight", &[7168, 14336]),
            // ERNIE 4.5
            ("model.layers.3.mlp.shared_experts.up_proj.weight", &[3072, 2560]),
        ],
    );
    check(
        Role::StackedProjections,
        &[
            ("model.layers.0.mlp.experts.gate_up_proj", &[128, 2048, 1536]),
            ("model.layers.0.feed_forward.experts.down_proj", &[16, 8192, 5120]),
            ("model.layers.0.block_sparse_moe.input_linear.weight", &[40, 1024, 1536]),
        ],
    );
    check(
        Role::Router,
        &[
            ("model.layers.0.mlp.gate.weight", &[60, 2048]),
            ("model.layers.0.mlp.shared_expert_gate.weight", &[1, 2048]),
            ("model.layers.0.block_sparse_moe.gate.weight", &[8, 4096]),
            ("model.layers.0.feed_forward.router.weight", &[16, 5120]),
            ("model.layers.0.block_sparse_moe.router.layer.weight", &[40, 1536]),
            ("model.layers.0.mlp.gate.wg.weight", &[64, 4096]),
            ("model.layers.3.mlp.gate.weight_1", &[64, 2560]),
        ],
    );
    check(
        Role::Bias,
        &[
            ("model.layers.3.mlp.gate.e_score_correction_bias", &[256]),
            ("model.layers.3.mlp.moe_statics.e_score_correction_bias", &[1, 64]),
            ("model.layers.0.mlp.experts.gate_up_proj_bias", &[32, 5760]),
        ],
    );
    check(
        Role::QuantizationParameter,
        &[
            ("model.layers.3.mlp.experts.0.gate_proj.weight_scale_inv", &[16, 56]),
            ("model.layers.0.mlp.experts.gate_up_proj_scales", &[32, 5760, 90]),
            ("model.layers.0.self_attn.q_proj.qzeros", &[32, 512]),
        ],
    );
    check(Role::OutputHead, &[("model.layers.61.shared_head.head.weight", &[129280, 7168])]);
    check(Role::Embedding, &[("model.layers.61.embed_tokens.weight", &[129280, 7168])]);
}

#[test]
fn other_architectures() {
    check(
        Role::Projection,
        &[
            ("embedding_model.layers.0.self_attn.q_proj.weight", &[4096, 4096]),
            ("model.layers.0.mixer.in_proj.weight", &[5120, 2560]),
            ("model.layers.0.conv.in_proj.weight", &[6144, 2048]),
            ("layers.0.multi_head.q.weight", &[64, 64]),
            ("weight", &[64, 64]),
            ("w", &[64, 64]),
        ],
    );
    check(
        Role::Embedding,
        &[
            ("shared.weight", &[32128, 512]),
            ("emb.weight", &[65536, 768]),
            ("decoder.model.decoder.embed_tokens.0.weight", &[2049, 1024]),
            ("vision_tower.embeddings.patch_embedding.linear.weight", &[1408, 588]),
            ("qformer.query_tokens", &[1, 32, 768]),
            ("vision_encoder.layers.0.attn.rel_pos_h", &[27, 64]),
            ("token_embd.weight", &[32000, 4096]),
        ],
    );
    check(
        Role::OutputHead,
        &[
            ("decoder.lm_heads.0.weight", &[2048, 1024]),
            ("head.weight", &[65536, 768]),
            ("proj_out.weight", &[51865, 384]),
        ],
    );
    check(Role::Bias, &[("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 8])]);
    check(
        Role::Convolution,
        &[
            ("encoder.conv1.weight", &[384, 80, 3]),
            ("model.layers.0.mixer.conv1d.weight", &[5120, 1, 4]),
            ("down.0.conv_in.weight", &[320, 4, 3, 3]),
        ],
    );
    check(
        Role::Recurrence,
        &[("model.layers.0.mixer.A_log", &[5120, 16]), ("blocks.0.att.time_maa_w1", &[768, 160])],
    );
    check(Role::Norm, &[("model.layers.0.self_attn.q_norm.weight", &[64, 128])]);
    check(Role::Vector, &[("blocks.0.att.x_r", &[1, 1, 768]), ("layers.0.gamma", &[768]), ("d", &[5120, 1])]);
    check(Role::Scalar, &[("temperature", &[])]);
    check(Role::Rank(4), &[("visual.merger.proj.weight", &[64, 3, 14, 14])]);
}

/// llama.cpp's names.
#[test]
fn gguf() {
    check(
        Role::Projection,
        &[
            ("blk.0.attn_q.weight", &[4096, 4096]),
            ("blk.0.attn_qkv.weight", &[6144, 4096]),
            ("blk.31.attn_output.weight", &[4096, 4096]),
            ("blk.0.attn_kv_a_mqa.weight", &[576, 7168]),
            ("blk.0.ffn_gate.weight", &[11008, 4096]),
            ("blk.0.ffn_up.weight", &[11008, 4096]),
            ("blk.0.ffn_down.weight", &[4096, 11008]),
            ("blk.0.ffn_up_shexp.weight", &[2048, 7168]),
            ("blk.0.ssm_in.weight", &[5120, 2560]),
        ],
    );
    check(
        Role::StackedProjections,
        &[
            ("blk.3.ffn_gate_exps.weight", &[256, 2048, 7168]),
            ("blk.3.ffn_up_exps.weight", &[256, 2048, 7168]),
            ("blk.3.ffn_down_exps.weight", &[256, 7168, 2048]),
            ("blk.3.ffn_gate_up_exps.weight", &[32, 5760, 2880]),
        ],
    );
    check(
        Role::Router,
        &[("blk.3.ffn_gate_inp.weight", &[256, 7168]), ("blk.3.ffn_gate_inp_shexp.weight", &[1, 2048])],
    );
    check(
        Role::Embedding,
        &[
            ("token_embd.weight", &[128256, 4096]),
            ("position_embd.weight", &[512, 384]),
            ("per_layer_token_embd.weight", &[262144, 8960]),
        ],
    );
    check(Role::OutputHead, &[("output.weight", &[128256, 4096]), ("cls.output.weight", &[2, 384])]);
    check(
        Role::Norm,
        &[
            ("output_norm.weight", &[4096]),
            ("token_embd_norm.weight", &[384]),
            ("blk.0.attn_norm.weight", &[4096]),
            ("blk.0.ffn_norm.weight", &[4096]),
            ("blk.0.attn_q_norm.weight", &[64, 128]),
        ],
    );
    check(
        Role::Bias,
        &[
            ("blk.0.attn_q.bias", &[4096]),
            ("blk.3.exp_probs_b.bias", &[256]),
            ("blk.3.ffn_up_exps.bias", &[32, 2880]),
        ],
    );
    check(Role::Buffer, &[("rope_freqs.weight", &[64])]);
    check(Role::Convolution, &[("blk.0.ssm_conv1d.weight", &[5120, 4])]);
    check(Role::Recurrence, &[("blk.0.ssm_a", &[5120, 16])]);
}

#[test]
fn what_cannot_take_the_encoding_says_so() {
    let code = Family::Ccq206.default_code().unwrap();
    let search = Search { code, quality: Quality::Balanced, method: Method::Search };
    let decide = |shape: &[u64], dtype| {
        let decision = Decision::quantize(search, Reason::Role(role("w", shape)), shape, dtype);
        (decision.encoding() == Encoding::Raw, decision.reason.to_string())
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        assert_eq!(decide(&[64, 64], dtype), (false, "projection".into()));
        assert_eq!(decide(&[2, 64, 64], dtype), (false, "stacked projections".into()));
    }
    let refused = |text: &str| (true, format!("could not take ccq-2.06: {text}"));
    assert_eq!(decide(&[64, 64], Dtype::F8E4M3), refused("F8_E4M3, expected F32, F16 or BF16"));
    assert_eq!(decide(&[64, 64], Dtype::I32), refused("I32, expected F32, F16 or BF16"));
    assert_eq!(decide(&[0, 64], Dtype::F16), refused("it has no weights"));
    assert_eq!(decide(&[], Dtype::F16), refused("it has no dimensions"));
    // A row of 8 weights still takes 16 bytes of codes, a byte of local scales, a super scale and a cluster.
    assert_eq!(decide(&[64, 8], Dtype::F16), refused("1600 bytes instead of 1024"));
    assert_eq!(decide(&[64, 8], Dtype::F32), (false, "projection".into()));
}
