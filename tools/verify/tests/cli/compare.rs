//! The file against its source.

use std::path::Path;
use std::slice::from_ref;

use ccq::code::Family;
use ccq::format::Dtype;
use serde_json::{Value, json};

use crate::fixture::{Folder, Tensor, tensors};

const AGAINST: [&str; 5] = ["model.ccq", "--source", "source.safetensors", "--device", "cpu"];

/// Compares two models of these tensors.
fn compare(ours: &[Tensor], theirs: &[Tensor], more: &[&str]) -> crate::fixture::Run {
    let folder = Folder::new();
    folder.container("model.ccq", ours);
    folder.source("source.safetensors", theirs);
    folder.run(&[&AGAINST, more].concat())
}

fn tensor<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tensors = report["tensors"].as_array().unwrap();
    tensors.iter().find(|tensor| tensor["name"] == name).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_report_has_the_promised_fields() {
    let folder = Folder::model();
    let run = folder.run(&[&AGAINST[..], &["--json"]].concat()).expect(0, &[]);
    assert_eq!(run.out.lines().count(), 1);
    assert_eq!(run.err, "");
    let report = run.json();
    assert_eq!(report["file"], "model.ccq");
    assert_eq!(report["format_version"], "1.0");
    assert_eq!(report["problems"], json!([]));
    let total = &report["total"];
    let parameters = 5 * 64 + 3 + 6 * 100 + 2 * 3 * 64 + 500 * 256 + 2 * 64;
    let bytes = folder.read("model.ccq").len() as u64;
    assert_eq!(total["parameters"], parameters);
    assert_eq!(total["bytes"], bytes);
    assert!((number(&total["bpw"]) - bytes as f64 * 8.0 / f64::from(parameters)).abs() < 1e-12);

    let names: Vec<_> =
        report["tensors"].as_array().unwrap().iter().map(|tensor| tensor["name"].clone()).collect();
    assert_eq!(names, tensors().into_iter().map(|tensor| json!(tensor.name)).collect::<Vec<_>>());
    let figures = ["relative_mse", "snr_db", "max_abs_error", "cosine"];
    for tensor in report["tensors"].as_array().unwrap() {
        for key in ["shape", "encoding", "bpw"].iter().chain(&figures) {
            assert!(tensor.get(key).is_some(), "{key} in {tensor}");
        }
    }
    for (name, least, most) in
        [("layer.0.weight", 0.05, 0.2), ("layer.10.weight", 0.04, 0.15), (&tensors()[5].name, 1e-6, 1e-3)]
    {
        let tensor = tensor(&report, name);
        let mse = number(&tensor["relative_mse"]);
        assert!((least..most).contains(&mse), "{tensor}");
        assert!((number(&tensor["snr_db"]) + 10.0 * mse.log10()).abs() < 1e-9, "{tensor}");
        assert!(number(&tensor["cosine"]) > 0.9 && number(&tensor["max_abs_error"]) > 0.0, "{tensor}");
    }
    let embedding = tensor(&report, "a.embedding");
    assert_eq!((number(&embedding["relative_mse"]), number(&embedding["max_abs_error"])), (0.0, 0.0));
    assert!(embedding["snr_db"].is_null() && number(&embedding["cosine"]) > 0.999_999);
    assert_eq!(embedding["encoding"], "raw");
    assert_eq!(embedding["bpw"], 32.0);
    let counts = tensor(&report, "b.counts");
    assert_eq!((number(&counts["relative_mse"]), &counts["cosine"]), (0.0, &Value::Null));
    let empty = tensor(&report, "c.empty");
    assert_eq!((&empty["bpw"], &empty["shape"]), (&Value::Null, &json!([0, 4])));
    let zero = tensor(&report, "zero");
    assert_eq!((&zero["relative_mse"], number(&zero["max_abs_error"])), (&Value::Null, 0.0));
}

#[test]
fn the_total_pools_the_quantized_tensors() {
    let weights =
        [Tensor::f32("a", &[8, 64], Some(Family::Wint4)), Tensor::f32("bc", &[8, 64], Some(Family::Int2))];
    let raw = Tensor::f32("raw", &[1000], None);
    let with = |tensors: &[Tensor]| {
        let total = compare(tensors, tensors, &["--json"]).expect(0, &[]).json()["total"].clone();
        number(&total["relative_mse"])
    };
    let (both, with_raw) = (with(&weights), with(&[&weights[..], from_ref(&raw)].concat()));
    assert_eq!(both, with_raw);
    let (first, second) = (with(&weights[..1]), with(&weights[1..]));
    assert!(first < both && both < second, "{first} {both} {second}");
    let report = compare(from_ref(&raw), from_ref(&raw), &["--json"]).expect(0, &[]).json();
    assert!(report["total"]["relative_mse"].is_null());
}

#[test]
fn threads_do_not_change_the_figures() {
    let folder = Folder::model();
    let run = |threads| {
        let mut report =
            folder.run(&[&AGAINST[..], &["--json", "--threads", threads]].concat()).expect(0, &[]).json();
        without_speeds(&mut report);
        report
    };
    assert_eq!(run("1"), run("3"));
}

/// Takes away what differs from run to run.
fn without_speeds(report: &mut Value) {
    report["device"]["threads"] = Value::Null;
    report["total"]["decode"] = Value::Null;
    for list in ["tensors", "encodings"] {
        report[list].as_array_mut().unwrap().iter_mut().for_each(|row| row["decode"] = Value::Null);
    }
}

/// Quantized tensors have the speed of decoding them, encodings and the file that of theirs one after another.
#[test]
fn speeds_are_those_of_the_quantized_tensors() {
    let report = Folder::model().run(&[&AGAINST[..], &["--json"]].concat()).expect(0, &[]).json();
    assert_eq!((&report["device"]["kind"], &report["device"]["ordinal"]), (&json!("cpu"), &Value::Null));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
    let mut seconds = 0.0;
    for tensor in report["tensors"].as_array().unwrap() {
        let speed = &tensor["decode"];
        assert_eq!(speed.is_null(), tensor["encoding"] == "raw", "{tensor}");
        assert_eq!(speed.is_null(), tensor["decoded_on"].is_null());
        if !speed.is_null() {
            let shape = tensor["shape"].as_array().unwrap();
            let weights: f64 = shape.iter().map(number).product();
            near(number(&speed["weights_per_second"]) * number(&speed["seconds"]), weights);
            near(
                number(&speed["stored_bytes_per_second"]) * number(&speed["seconds"]),
                number(&tensor["bytes"]),
            );
            seconds += number(&speed["seconds"]);
        }
    }
    near(number(&report["total"]["decode"]["seconds"]), seconds);
    let encodings = report["encodings"].as_array().unwrap();
    let of_encodings = encodings.iter().filter_map(|encoding| encoding["decode"]["seconds"].as_f64());
    near(of_encodings.sum(), seconds);
    let wide = Folder::model().command(&AGAINST).env("COLUMNS", "300").output().unwrap();
    assert!(String::from_utf8(wide.stdout).unwrap().contains("Gweights/s  "));
}

#[test]
fn the_table_shows_the_figures() {
    let run = Folder::model().run(&AGAINST).expect(
        0,
        &[
            "relative MSE",
            "SNR dB",
            "max |error|",
            "cosine",
            "all zero in the source",
            "as the source",
            "\ndecoding: ",
            "\nstored bytes read: ",
            "100%",
        ],
    );
    assert!(run.out.lines().any(|line| line.starts_with("total")), "{}", run.out);
}

#[test]
fn the_threshold_is_for_all_quantized_tensors_together() {
    let folder = Folder::model();
    let with = |limit: &str| folder.run(&[&AGAINST[..], &["--max-error", limit]].concat());
    let json = folder.run(&[&AGAINST[..], &["--json"]].concat()).expect(0, &[]).json();
    let total = number(&json["total"]["relative_mse"]);
    // A tensor worse than the limit is no failure as long as all together are not.
    let worst = number(&tensor(&json, "layer.0.weight")["relative_mse"]);
    assert!(worst > total * 1.01);
    with(&(total * 1.01).to_string()).expect(0, &[]);
    let texts = ["error: model.ccq: relative MSE ", "worst: `layer.", "--max-error 0"];
    with("0").expect(4, &texts);
    with(&(total * 0.99).to_string()).expect(4, &texts);
    let json = folder.run(&[&AGAINST[..], &["--max-error", "0", "--json"]].concat()).expect(4, &[]).json();
    assert_eq!(json["problems"][0]["kind"], "threshold");
}

#[test]
fn raw_bytes_that_differ_are_named() {
    let mut other = tensors();
    other[0].bytes[4 * 65..4 * 66].copy_from_slice(&0.5f32.to_le_bytes());
    other[1].bytes[8] = 9;
    let texts = [
        "error: model.ccq: tensor `a.embedding`: raw bytes differ first at [1, 1]: ",
        "but the source has 0.5",
        "tensor `b.counts`: raw bytes differ first at [1]: byte 0x07, but the source has byte 0x09",
        "2 disagreements with the source",
    ];
    compare(&tensors(), &other, &[]).expect(1, &texts);
    let report = compare(&tensors(), &other, &["--json"]).expect(1, &[]).json();
    assert!(number(&tensor(&report, "a.embedding")["relative_mse"]) > 0.0);
    assert!(tensor(&report, "b.counts")["relative_mse"].is_null());
    assert_eq!(report["problems"][0]["kind"], "mismatch");
}

#[test]
fn missing_and_superfluous_tensors_are_named_after_the_full_report() {
    let all = tensors();
    let run = compare(&all[1..], &all[..6], &[]).expect(
        1,
        &[
            "tensor `zero`: is not in the source",
            "hint: is source.safetensors the model that model.ccq was made from",
            "tensor `a.embedding`: is in the source, but not in the file",
            "all 13 checksums match",
            "layer.0.weight",
        ],
    );
    assert!(run.out.contains("relative MSE"), "{run:#?}");
}

#[test]
fn other_shapes_and_dtypes_are_named() {
    let (ours, mut theirs) = (tensors(), tensors());
    theirs[0] = theirs[0].clone().bf16();
    theirs[3].shape = vec![100, 6];
    theirs[5] = theirs[5].clone().bf16();
    let texts = [
        "tensor `a.embedding`: made from F32, but the source has BF16",
        "tensor `layer.0.weight`: shape [6, 100], but the source has [100, 6]",
        "made from F32, but the source has BF16",
    ];
    let report = compare(&ours, &theirs, &["--json"]).expect(1, &texts).json();
    // What can be compared is.
    assert!(number(&tensor(&report, "a.embedding")["relative_mse"]) < 1e-4);
    assert!(tensor(&report, "layer.0.weight")["relative_mse"].is_null());
    assert!(number(&tensor(&report, &tensors()[5].name)["relative_mse"]) < 1e-3);
}

#[test]
fn sources_that_are_not_finite_have_no_figures() {
    let mut theirs = tensors();
    theirs[4].bytes[4 * 70..4 * 71].copy_from_slice(&f32::NAN.to_le_bytes());
    let run = compare(&tensors(), &theirs, &[]).expect(0, &["the source has NaN at [0, 1, 6]: no figures"]);
    assert!(run.err.starts_with("100%"), "{run:#?}");
    let report = compare(&tensors(), &theirs, &["--json"]).expect(0, &[]).json();
    assert!(tensor(&report, "layer.10.weight")["max_abs_error"].is_null());
    assert!(number(&report["total"]["relative_mse"]) > 0.0);
    let texts = ["tensor `layer.10.weight`: relative MSE is undefined"];
    compare(&tensors(), &theirs, &["--max-error", "0.5"]).expect(4, &texts);

    let masked = Tensor::of("mask", &[2], None, &[0.0, f32::NEG_INFINITY]);
    let report = compare(from_ref(&masked), from_ref(&masked), &["--json"]).expect(0, &[]).json();
    assert!(report["tensors"][0]["relative_mse"].is_null());
    assert_eq!(report["tensors"][0]["note"], "the source has -inf at [1], and so has the file: no figures");
}

#[test]
fn folders_are_sources() {
    let folder = Folder::model();
    std::fs::create_dir(folder.path("model")).unwrap();
    std::fs::rename(folder.path("source.safetensors"), folder.path("model/model.safetensors")).unwrap();
    folder.run(&["model.ccq", "--source", "model"]).expect(0, &["as the source"]);
}

/// The real layer, in f16.
#[test]
fn a_real_layer_is_within_its_bounds() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/all-minilm-l6-v2-layer0.safetensors");
    let source = ccq_import::Model::open(&path).unwrap();
    let tensors: Vec<_> = source
        .tensors()
        .iter()
        .map(|tensor| Tensor {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.iter().map(|&dimension| dimension as usize).collect(),
            bytes: source.elements(tensor, 0..tensor.element_count()).unwrap().into_owned(),
            code: (tensor.shape.len() == 2).then(|| Family::Wint8.default_code().unwrap()),
            planes: None,
        })
        .collect();
    assert!(tensors.iter().all(|tensor| tensor.dtype == Dtype::F16));
    let folder = Folder::new();
    folder.container("layer.ccq", &tensors);
    let args = ["layer.ccq", "--source", path.to_str().unwrap(), "--max-error", "0.001", "--json"];
    let report = folder.run(&args).expect(0, &[]).json();
    let mse = number(&report["total"]["relative_mse"]);
    assert!((1e-6..=0.00013).contains(&mse), "{mse}");
}

/// A matrix that the source has the other way round is compared with the source's transpose.
#[test]
fn turned_matrices_are_compared_as_the_container_has_them() {
    let (rows, columns) = (70, 128);
    let theirs = Tensor::f32("h.0.attn.c_attn.weight", &[columns, rows], None);
    let elements: Vec<&[u8]> = theirs.bytes.chunks(4).collect();
    let turned = (0..rows * columns).flat_map(|at| elements[at % columns * rows + at / columns]);
    let mut ours = Tensor { shape: vec![rows, columns], bytes: turned.copied().collect(), ..theirs.clone() };
    for code in [None, Family::Wint8.default_code().ok()] {
        ours.code = code;
        let folder = Folder::new();
        folder.source("source.safetensors", from_ref(&theirs));
        folder.container_with("model.ccq", from_ref(&ours), &[("ccq.transposed", &ours.name)]);
        let report = folder.run(&[&AGAINST[..], &["--json"]].concat()).expect(0, &[]).json();
        assert!(number(&tensor(&report, &ours.name)["relative_mse"]) < 1e-3);
        // Without the container's word, nothing is turned.
        folder.container("model.ccq", from_ref(&ours));
        folder.run(&AGAINST).expect(1, &["shape [70, 128], but the source has [128, 70]"]);
    }
}
