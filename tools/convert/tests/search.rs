//! `--quality`, `--method` and `--importance`.

mod common;

use std::fs;
use std::path::Path;

use ccq::Container;
use common::{Folder, LAYER0, Run, bf16_tensor, f32_tensor, matrix, run, values, write};

fn convert(input: &Path, out: &Path, args: &[&str]) -> Run {
    let paths = [input.to_str().unwrap(), out.to_str().unwrap(), "--overwrite", "--json"];
    run([&paths[..], args].concat())
}

fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Names and input features of the real layer's matrices.
fn layer0() -> Vec<(String, usize)> {
    let bytes = fs::read(LAYER0).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, tensor)| (name, tensor.shape()[1])).collect()
}

/// Every eighth input channel counts a hundred times.
fn skewed(in_features: usize) -> Vec<f32> {
    (0..in_features).map(|i| if i % 8 == 0 { 100.0 } else { 1.0 }).collect()
}

#[test]
fn a_skewed_importance_lowers_the_weighted_error() {
    let folder = Folder::new();
    let importance = folder.path("importance.safetensors");
    let tensors: Vec<_> =
        layer0().iter().map(|(name, width)| f32_tensor(name, &[*width], &skewed(*width))).collect();
    write(&importance, &tensors);
    let uniform = folder.path("uniform.safetensors");
    let tensors: Vec<_> =
        layer0().iter().map(|(name, width)| f32_tensor(name, &[*width], &vec![3.0; *width])).collect();
    write(&uniform, &tensors);
    let (plain, weighted) = (folder.path("plain.ccq"), folder.path("weighted.ccq"));
    for encoding in ["ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "ccq-5.5", "wint4", "wint8"] {
        let quick = ["--encoding", encoding, "--quality", "fast"];
        let with = |file: &Path, out: &Path| {
            let importance = ["--importance", file.to_str().unwrap()];
            convert(Path::new(LAYER0), out, &[&quick[..], &importance].concat()).ok().json()
        };
        convert(Path::new(LAYER0), &plain, &quick).ok();
        let json = with(&importance, &weighted);
        let total = &json["total"];
        let (error, weighted_error) =
            (number(&total["relative_mse"]), number(&total["weighted_relative_mse"]));
        let before = weighted_mse(&plain);
        assert!(weighted_error < before, "{encoding}: {weighted_error}, without importance {before}");
        assert!((weighted_error / weighted_mse(&weighted) - 1.0).abs() < 1e-4, "{encoding}");
        assert!(error > weighted_error, "{encoding}");
        assert_eq!(json["without_importance"], serde_json::json!([]));

        with(&uniform, &weighted);
        assert_eq!(fs::read(&plain).unwrap(), fs::read(&weighted).unwrap(), "{encoding}: uniform importance");
    }
}

/// The weighted relative error of a container of the real layer, from its own decoded weights.
fn weighted_mse(path: &Path) -> f64 {
    let source = fs::read(LAYER0).unwrap();
    let source = safetensors::SafeTensors::deserialize(&source).unwrap();
    let container = Container::open(path).unwrap();
    let (mut error, mut energy) = (0.0, 0.0);
    for tensor in container.tensors() {
        let matrix = tensor.matrix().unwrap();
        let mut decoded = vec![0.0; matrix.rows() * matrix.in_features()];
        tensor.decode_rows_into(0..matrix.rows(), &mut decoded).unwrap();
        let mut weights = Vec::new();
        let bytes = source.tensor(tensor.info().name()).unwrap();
        ccq_import::decode_f32(tensor.info().dtype(), bytes.data(), &mut weights).unwrap();
        let importance = skewed(matrix.in_features());
        for ((weight, decoded), importance) in weights.iter().zip(&decoded).zip(importance.iter().cycle()) {
            error += f64::from(weight - decoded).powi(2) * f64::from(*importance);
            energy += f64::from(*weight).powi(2) * f64::from(*importance);
        }
    }
    error / energy
}

/// A stack with a vector for each expert is the experts one by one.
#[test]
fn each_expert_has_its_importance() {
    let folder = Folder::new();
    let (model, alone) = (folder.path("m.safetensors"), folder.path("alone.safetensors"));
    let weights = values(3 * 8 * 128, 5);
    write(&model, &[bf16_tensor("experts.up_proj", &[3, 8, 128], &weights), matrix("b.weight", 8, 128)]);
    write(&alone, &[bf16_tensor("experts.up_proj", &[8, 128], &weights[8 * 128..2 * 8 * 128])]);
    let vectors: Vec<f32> =
        (0..3u8).flat_map(|e| skewed(128).into_iter().map(move |h| h.powi(e.into()))).collect();
    let (stacked, one) = (folder.path("i.safetensors"), folder.path("one.safetensors"));
    write(&stacked, &[f32_tensor("experts.up_proj", &[3, 128], &vectors)]);
    write(&one, &[f32_tensor("experts.up_proj", &[128], &vectors[128..256])]);
    let (out, out_alone) = (folder.path("out.ccq"), folder.path("alone.ccq"));
    let json = convert(&model, &out, &["--importance", stacked.to_str().unwrap()]).ok().json();
    assert_eq!(json["without_importance"], serde_json::json!(["b.weight"]));
    assert!(json["tensors"][0]["weighted_relative_mse"].is_null());
    assert!(number(&json["tensors"][1]["weighted_relative_mse"]) > 0.0);
    convert(&alone, &out_alone, &["--importance", one.to_str().unwrap()]).ok();
    let (out, out_alone) = (Container::open(out).unwrap(), Container::open(out_alone).unwrap());
    let rows = |container: &Container<'_>, rows: std::ops::Range<usize>| {
        let mut decoded = vec![0.0; rows.len() * 128];
        container.tensor("experts.up_proj").unwrap().decode_rows_into(rows, &mut decoded).unwrap();
        decoded
    };
    assert_eq!(rows(&out, 8..16), rows(&out_alone, 0..8));
    out.verify().unwrap();
}

#[test]
fn importance_of_another_model_is_refused() {
    let folder = Folder::new();
    let (model, file, out) =
        (folder.path("m.safetensors"), folder.path("i.safetensors"), folder.path("o.ccq"));
    write(&model, &[matrix("a.weight", 8, 64)]);
    let with = |file: &Path| convert(&model, &out, &["--importance", file.to_str().unwrap()]);
    write(&file, &[f32_tensor("b.weight", &[64], &[1.0; 64]), f32_tensor("c.weight", &[1], &[1.0])]);
    with(&file).failed(3, &["i.safetensors", "\"b.weight\"", "1 other", "no tensor of the model"]);
    write(&file, &[f32_tensor("a.weight", &[63], &[1.0; 63])]);
    with(&file).failed(3, &["i.safetensors", "\"a.weight\"", "63", "64"]);
    write(&file, &[f32_tensor("a.weight", &[64], &[-1.0; 64])]);
    with(&file).failed(3, &["i.safetensors", "\"a.weight\"", "-1"]);
    with(&folder.path("none.gguf")).failed(1, &["none.gguf"]);
    fs::write(&file, "hello").unwrap();
    with(&file).failed(3, &["i.safetensors"]);
    assert!(!out.exists());
}

#[test]
fn qualities_and_the_papers_method() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(&model, &[matrix("a.weight", 32, 512)]);
    for encoding in ["ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "ccq-5.5", "wint4", "int2"] {
        let error = |args: &[&str]| {
            let json = convert(&model, &out, &[&["--encoding", encoding], args].concat()).ok().json();
            Container::open(&out).unwrap().verify().unwrap();
            number(&json["total"]["relative_mse"])
        };
        let [fast, balanced, best] =
            ["fast", "balanced", "best"].map(|quality| error(&["--quality", quality]));
        assert!(best <= balanced && balanced <= fast, "{encoding}: {fast} {balanced} {best}");
        assert!(error(&["--method", "paper"]) > fast, "{encoding}");
        assert_eq!(error(&[]), balanced);
    }
}
