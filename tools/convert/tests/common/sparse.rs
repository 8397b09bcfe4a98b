//! Models of which only the shapes matter: headers, and holes where the weights would be.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

/// A model folder of safetensors shards with an index; all tensors are BF16 zeros that take no space.
pub fn write(folder: &Path, tensors: &[(String, Vec<u64>)], shard_count: usize) {
    fs::create_dir(folder).unwrap();
    let mut weight_map = String::new();
    for (number, tensors) in tensors.chunks(tensors.len().div_ceil(shard_count)).enumerate() {
        let shard = format!("model-{:05}-of-{shard_count:05}.safetensors", number + 1);
        let mut header = String::from("{");
        let mut end = 0;
        for (name, shape) in tensors {
            let start = end;
            end += shape.iter().product::<u64>() * 2;
            write!(
                header,
                r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}},"#
            )
            .unwrap();
            write!(weight_map, "\"{name}\":\"{shard}\",").unwrap();
        }
        header.pop();
        header.push('}');
        let mut file = File::create(folder.join(&shard)).unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.set_len(8 + header.len() as u64 + end).unwrap();
    }
    weight_map.pop();
    let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{weight_map}}}}}");
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
}

/// ERNIE-4.5-300B-A47B: 54 layers, the first three dense, then 64 experts each.
pub fn ernie() -> Vec<(String, Vec<u64>)> {
    const HIDDEN: u64 = 8192;
    let mut model = Model::new(HIDDEN, 103_424);
    for layer in 0..54 {
        for (name, out) in [("q", HIDDEN), ("k", 1024), ("v", 1024)] {
            model.add(&format!("layers.{layer}.self_attn.{name}_proj.weight"), &[out, HIDDEN]);
        }
        model.add(&format!("layers.{layer}.self_attn.o_proj.weight"), &[HIDDEN, HIDDEN]);
        model.norms(layer);
        if layer < 3 {
            model.mlp(&format!("layers.{layer}.mlp"), 28_672);
            continue;
        }
        model.add(&format!("layers.{layer}.mlp.gate.weight"), &[64, HIDDEN]);
        model.add(&format!("layers.{layer}.mlp.moe_statics.e_score_correction_bias"), &[1, 64]);
        for expert in 0..64 {
            model.mlp(&format!("layers.{layer}.mlp.experts.{expert}"), 3584);
        }
    }
    model.tensors
}

/// DeepSeek-V3: 61 layers, the first three dense, then 256 experts and a shared one each, latent attention.
pub fn deepseek() -> Vec<(String, Vec<u64>)> {
    const HIDDEN: u64 = 7168;
    let mut model = Model::new(HIDDEN, 129_280);
    for layer in 0..61 {
        for (name, shape) in [
            ("q_a_proj", [1536, HIDDEN]),
            ("q_b_proj", [24_576, 1536]),
            ("kv_a_proj_with_mqa", [576, HIDDEN]),
            ("kv_b_proj", [32_768, 512]),
            ("o_proj", [HIDDEN, 16_384]),
        ] {
            model.add(&format!("layers.{layer}.self_attn.{name}.weight"), &shape);
        }
        model.add(&format!("layers.{layer}.self_attn.q_a_layernorm.weight"), &[1536]);
        model.add(&format!("layers.{layer}.self_attn.kv_a_layernorm.weight"), &[512]);
        model.norms(layer);
        if layer < 3 {
            model.mlp(&format!("layers.{layer}.mlp"), 18_432);
            continue;
        }
        model.add(&format!("layers.{layer}.mlp.gate.weight"), &[256, HIDDEN]);
        model.add(&format!("layers.{layer}.mlp.gate.e_score_correction_bias"), &[256]);
        model.mlp(&format!("layers.{layer}.mlp.shared_experts"), 2048);
        for expert in 0..256 {
            model.mlp(&format!("layers.{layer}.mlp.experts.{expert}"), 2048);
        }
    }
    model.tensors
}

struct Model {
    hidden: u64,
    tensors: Vec<(String, Vec<u64>)>,
}

impl Model {
    fn new(hidden: u64, vocabulary: u64) -> Self {
        let embedding = vec![vocabulary, hidden];
        let tensors = vec![
            ("model.embed_tokens.weight".into(), embedding.clone()),
            ("lm_head.weight".into(), embedding),
            ("model.norm.weight".into(), vec![hidden]),
        ];
        Self { hidden, tensors }
    }

    fn add(&mut self, name: &str, shape: &[u64]) {
        self.tensors.push((format!("model.{name}"), shape.into()));
    }

    fn norms(&mut self, layer: u64) {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            self.add(&format!("layers.{layer}.{name}.weight"), &[self.hidden]);
        }
    }

    fn mlp(&mut self, name: &str, intermediate: u64) {
        for (part, shape) in [
            ("gate", [intermediate, self.hidden]),
            ("up", [intermediate, self.hidden]),
            ("down", [self.hidden, intermediate]),
        ] {
            self.add(&format!("{name}.{part}_proj.weight"), &shape);
        }
    }
}
