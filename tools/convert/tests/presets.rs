//! Presets on the shapes of the models they are for.

mod common;

use std::time::{Duration, Instant};

use common::{Folder, run, sparse};

/// The dry run's JSON, and the time it took.
fn dry_run(tensors: &[(String, Vec<u64>)], preset: &str) -> (serde_json::Value, Duration) {
    let folder = Folder::new();
    let model = folder.path("model");
    sparse::write(&model, tensors, 16);
    let start = Instant::now();
    let done = run([model.to_str().unwrap(), "--preset", preset, "--dry-run", "--json"]).ok();
    let elapsed = start.elapsed();
    assert_eq!(folder.names(), ["model"]);
    (done.json(), elapsed)
}

/// How many tensors whose names contain `part` have each encoding, sorted.
fn encodings(json: &serde_json::Value, part: &str) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for tensor in json["tensors"].as_array().unwrap() {
        if tensor["name"].as_str().unwrap().contains(part) {
            *counts.entry(tensor["encoding"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    counts.into_iter().collect()
}

#[test]
fn ernie_takes_as_much_as_the_paper_says() {
    let (json, elapsed) = dry_run(&sparse::ernie(), "ernie-w4w2");
    let total = &json["total"];
    let (bytes, parameters) = (total["bytes"].as_f64().unwrap(), total["parameters"].as_u64().unwrap());
    assert!((299e9..301e9).contains(&(parameters as f64)), "{parameters}");
    let gib = bytes / f64::from(1 << 30);
    assert!((gib / 89.0 - 1.0).abs() < 0.05, "{gib} GiB");
    assert_eq!(total["bpw"].as_f64().unwrap(), bytes * 8.0 / parameters as f64);
    let of_all_layers =
        |wanted: &[(&str, usize)]| wanted.iter().map(|&(e, n)| (e.into(), n)).collect::<Vec<_>>();
    assert_eq!(
        encodings(&json, ".experts."),
        of_all_layers(&[("ccq-2.06", 47 * 192), ("wint4 per channel", 4 * 192)])
    );
    assert_eq!(encodings(&json, ".layers.6.mlp.experts."), of_all_layers(&[("wint4 per channel", 192)]));
    assert_eq!(encodings(&json, ".layers.7.mlp.experts."), of_all_layers(&[("ccq-2.06", 192)]));
    assert_eq!(encodings(&json, "self_attn"), of_all_layers(&[("wint8", 4 * 54)]));
    assert_eq!(encodings(&json, ".layers.2.mlp."), of_all_layers(&[("wint8", 3)]));
    assert_eq!(encodings(&json, "mlp.gate.weight"), of_all_layers(&[("raw", 51)]));
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
}

#[test]
fn deepseek_is_planned_in_seconds() {
    let (json, elapsed) = dry_run(&sparse::deepseek(), "deepseek-moe");
    let total = &json["total"];
    let gb = total["bytes"].as_f64().unwrap() / 1e9;
    // The paper's table has 184 GB for the same mix.
    assert!((gb / 184.0 - 1.0).abs() < 0.05, "{gb} GB");
    assert!((670e9..672e9).contains(&total["parameters"].as_f64().unwrap()));
    assert_eq!(encodings(&json, ".shared_experts."), [("wint8".into(), 58 * 3)]);
    assert_eq!(encodings(&json, ".experts."), [("ccq-2.06".into(), 58 * 256 * 3)]);
    assert!(elapsed < Duration::from_secs(30), "{elapsed:?}");
}
