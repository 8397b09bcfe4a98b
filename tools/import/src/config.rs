//! What config.json says about how the weights are stored.

use serde_json::Value;

/// The parts of config.json that matter here; a file that is no JSON says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// `model_type`, of the model and of its text model.
    pub model_types: Vec<String>,
    /// `hidden_size`, of the text model where there is one.
    pub hidden_size: Option<u64>,
    /// `quantization_config.weight_block_size`: rows and columns under one scale.
    pub weight_block_size: Option<[u64; 2]>,
}

impl Config {
    pub(crate) fn parse(json: &[u8]) -> Self {
        let root: Value = serde_json::from_slice(json).unwrap_or_default();
        let text = root.get("text_config").or_else(|| root.get("llm_config"));
        // The text model first: it has the weights in question.
        let get = |key: &'static str| text.into_iter().chain([&root]).filter_map(move |value| value.get(key));
        let block = get("quantization_config").find_map(|config| {
            match config.get("weight_block_size")?.as_array()?.as_slice() {
                [rows, columns] => Some([rows.as_u64()?, columns.as_u64()?]),
                _ => None,
            }
        });
        Self {
            model_types: get("model_type").filter_map(Value::as_str).map(String::from).collect(),
            hidden_size: get("hidden_size").find_map(Value::as_u64),
            weight_block_size: block,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_found() {
        let config = Config::parse(
            br#"{"model_type": "llama4", "text_config": {"model_type": "llama4_text", "hidden_size": 5120},
                 "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]}}"#,
        );
        assert_eq!(config.model_types, ["llama4_text", "llama4"]);
        assert_eq!((config.hidden_size, config.weight_block_size), (Some(5120), Some([128, 64])));
        for other in [&b"config.json"[..], b"", b"[]", b"{\"hidden_size\": -1, \"model_type\": 3}"] {
            assert_eq!(Config::parse(other), Config::default());
        }
        let odd = br#"{"quantization_config": {"weight_block_size": [128]}}"#;
        assert_eq!(Config::parse(odd).weight_block_size, None);
    }
}
