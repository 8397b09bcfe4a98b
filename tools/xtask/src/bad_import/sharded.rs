//! Folders, and shards that disagree with their index.

use super::safetensors::{file, tensors};
use super::{Case, folder, open};

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

fn shard(names: &[&str]) -> Vec<u8> {
    let entries: Vec<_> = names.iter().map(|name| (*name, "U8", &[1u64][..], vec![1])).collect();
    tensors(&entries)
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().map(|(tensor, shard)| format!(r#""{tensor}":"{shard}""#)).collect();
    format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(",")).into()
}

pub fn cases() -> Vec<Case> {
    let with = |name, expected, map: &[(&str, &str)], first: &[&str], second: &[&str]| {
        folder(name, expected, &[(INDEX, index(map)), (FIRST, shard(first)), (SECOND, shard(second))])
    };
    let both = [("a", FIRST), ("b", SECOND)];
    let alone = |name: &str, expected, text: &str| {
        open(&format!("{name}.safetensors.index.json"), expected, text.into())
    };
    vec![
        with("index-promises-too-much", "MissingTensor", &[both[0], both[1], ("c", FIRST)], &["a"], &["b"]),
        with("index-forgets-a-tensor", "UnlistedTensor", &both, &["a", "c"], &["b"]),
        with("index-misplaces", "MisplacedTensor", &both, &["b"], &["a"]),
        with("index-two-shards-one-tensor", "TensorInTwoShards", &both, &["a"], &["a", "b"]),
        with("index-forgets-a-shard", "UnlistedShard", &both[..1], &["a"], &["b"]),
        with("index-damaged-shard", "Gap", &both, &["a", "a2"], &["b"]).patched(),
        folder("index-missing-shard", "MissingShard", &[(INDEX, index(&both)), (FIRST, shard(&["a"]))]),
        alone("index-not-json", "Index", "weights"),
        alone("index-empty", "Index", ""),
        alone("index-cut", "Index", r#"{"weight_map":{"a":"x.safe"#),
        alone("index-map-twice", "Index", r#"{"weight_map":{},"weight_map":{}}"#),
        alone("index-deep", "Index", &(r#"{"weight_map":{"a":"#.to_owned() + &"[".repeat(4000))),
        open("index-not-utf8.safetensors.index.json", "Index", b"{\"weight_map\":{\"\xff\":\"\"}}".into()),
        alone("index-without-map", "Index", r#"{"metadata":{"total_size":0}}"#),
        alone("index-map-of-numbers", "Index", r#"{"weight_map":{"a":1}}"#),
        alone(
            "index-entry-twice",
            "DuplicateIndexEntry",
            r#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#,
        ),
        alone("index-absolute", "BadShardName", r#"{"weight_map":{"a":"/etc/x.safetensors"}}"#),
        alone("index-parent", "BadShardName", r#"{"weight_map":{"a":"../x.safetensors"}}"#),
        alone("index-backslash", "BadShardName", r#"{"weight_map":{"a":"..\\x.safetensors"}}"#),
        alone("index-drive", "BadShardName", r#"{"weight_map":{"a":"c:x.safetensors"}}"#),
        alone("index-nul", "BadShardName", r#"{"weight_map":{"a":"x\u0000.safetensors"}}"#),
        alone("index-other-file", "BadShardName", r#"{"weight_map":{"a":"pytorch_model.bin"}}"#),
        Case {
            phase: "taken",
            ..folder(
                "config-not-json",
                "",
                &[("config.json", b"\xff".into()), ("model.safetensors", shard(&["a"]))],
            )
        },
        folder("no-weights", "NoWeights", &[("config.json", b"{}".to_vec())]),
        folder(
            "ambiguous",
            "AmbiguousWeights",
            &[("a.safetensors", file("{}", b"")), ("b.safetensors", file("{}", b""))],
        ),
        folder(
            "ambiguous-index",
            "AmbiguousWeights",
            &[(INDEX, index(&both[..1])), (FIRST, shard(&["a"])), ("model.safetensors", shard(&["a"]))],
        ),
    ]
}

impl Case {
    /// The first shard's second tensor begins where its first does.
    fn patched(mut self) -> Self {
        for (_, bytes) in &mut self.files {
            if let Some(at) = bytes.windows(5).position(|window| window == b"[1,2]") {
                bytes[at..at + 5].copy_from_slice(b"[0,1]");
            }
        }
        self
    }
}
