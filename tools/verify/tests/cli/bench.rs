//! Speeds: of tiny weights, for almost no time.

use ccq::code::Family;
use serde_json::json;

use crate::fixture::{Folder, Tensor, tensors};

const QUICK: [&str; 4] = ["--seconds", "0.01", "--device", "cpu"];

fn quick(args: &[&'static str]) -> Vec<&'static str> {
    [&["bench"][..], args, &QUICK].concat()
}

#[test]
fn random_weights_are_timed() {
    let folder = Folder::new();
    let args = quick(&["--shape", "16x256", "--encoding", "ccq-2.06", "wint4", "--threads", "1"]);
    let run = folder.run(&args).expect(
        0,
        &[
            "1 thread,",
            "copy of memory: ",
            "16x256",
            "ccq-2.06",
            "wint4",
            "f32 row by row",
            "bf16 row by row",
            "f16 to memory",
            "of read or fill",
            "M = 16",
            "x in 8 bits, M = 1",
        ],
    );
    assert_eq!(run.out.matches("16x256").count(), 20, "{run:#?}");
    assert!(!run.out.contains("over 1 thread"), "{run:#?}");
    assert!(!run.out.contains("H20") && !run.out.contains("NaN") && !run.out.contains("inf"), "{run:#?}");

    let args =
        quick(&["--shape", "8x64", "--shape", "4x100", "--encoding", "ccq-2.5", "--threads", "2", "--json"]);
    let run = folder.run(&args).expect(0, &[]);
    assert_eq!(run.err, "");
    let report = run.json();
    assert_eq!((&report["device"]["kind"], &report["seconds"]), (&json!("cpu"), &json!(0.01)));
    let copy = report["copy_bytes_per_second"].as_f64().unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 20);
    let kinds: Vec<_> =
        results.iter().map(|row| [&row["operation"], &row["element"], &row["tokens"]]).collect();
    let due = |operation: &str| {
        ["f32", "f16", "bf16"].map(|element| [json!(operation), json!(element), json!(null)])
    };
    let products = [("product", 1), ("product", 4), ("product", 16), ("int8_product", 1)]
        .map(|(operation, tokens)| [json!(operation), json!("f32"), json!(tokens)]);
    let due = [&due("dequantize_rows")[..], &due("dequantize"), &products].concat();
    assert!(
        kinds.into_iter().zip(due.iter().cycle()).all(|(kind, due)| kind == due.each_ref()),
        "{results:#?}"
    );
    for row in results {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
        let (seconds, stored) = (number("median_seconds"), number("stored_bytes"));
        let weights = number("rows") * number("in_features");
        let size = if row["element"] == "f32" { 4.0 } else { 2.0 };
        let (written, memory) =
            if row["operation"] == "dequantize" { (weights * size, "fill") } else { (0.0, "read") };
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b} in {row}");
        near(number("weights_per_second"), weights / seconds);
        near(number("stored_bytes_per_second"), stored / seconds);
        near(number("copy_share"), (stored + written) / seconds / copy);
        near(number("memory_share"), number("memory_seconds") / seconds);
        assert!(row["memory_operation"] == memory && number("memory_seconds") > 0.0, "{row}");
        assert!(number("single_seconds") > 0.0, "{row}");
        assert!(number("runs") >= 3.0 && number("sets") >= 1.0 && row["cold"].is_boolean(), "{row}");
        assert_eq!(row["cublas_seconds"], json!(null));
        assert!(row["name"].is_null() && row["layers"].is_null() && row["paper"].is_null());
    }
}

#[test]
fn the_layers_of_a_file_are_timed() {
    let folder = Folder::model();
    folder
        .run(&quick(&["model.ccq"]))
        .expect(0, &["layer.0.weight", "layer.10.weight", "6x100", "500x256", "wint8"]);
    let report = folder.run(&quick(&["model.ccq", "--encoding", "ccq-2.75", "--json"])).expect(0, &[]).json();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 10);
    for row in results {
        assert_eq!((&row["name"], &row["layers"]), (&json!("layer.10.weight"), &json!(1)));
        assert_eq!((&row["rows"], &row["in_features"]), (&json!(6), &json!(64)));
    }

    let alike = ["a", "b", "c"].map(|name| Tensor::f32(name, &[4, 64], Some(Family::Wint4)));
    folder.container("alike.ccq", &alike);
    let report = folder.run(&quick(&["alike.ccq", "--json"])).expect(0, &[]).json();
    assert_eq!(report["results"].as_array().unwrap().len(), 10);
    assert_eq!((&report["results"][0]["name"], &report["results"][0]["layers"]), (&json!("a"), &json!(3)));

    let raw: Vec<_> = tensors().into_iter().filter(|tensor| tensor.code.is_none()).collect();
    folder.container("raw.ccq", &raw);
    folder.run(&quick(&["raw.ccq"])).expect(1, &["error: raw.ccq: has no quantized tensors"]);
    folder.run(&quick(&["model.ccq", "--encoding", "int2"])).expect(1, &["has no tensors of the --encoding"]);
    folder.run(&quick(&["source.safetensors"])).expect(3, &["not a .ccq file"]);
    folder.run(&quick(&["none.ccq"])).expect(1, &["none.ccq", "check the path"]);
}

/// One encoding, since the shapes are the paper's own.
#[test]
fn the_papers_figures_stand_beside() {
    let folder = Folder::new();
    let args = quick(&["--preset", "paper", "--encoding", "int2", "--json"]);
    let report = folder.run(&args).expect(0, &[]).json();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 8);
    assert!(results.iter().all(|row| row["paper"]["card"] == "NVIDIA H20"));
    let row = results.iter().find(|row| row["rows"] == 8192 && row["tokens"] == 4).unwrap();
    let millis = |key: &str| (row["paper"][key].as_f64().unwrap() * 1e6).round();
    assert_eq!(["ccq_seconds", "wint2_seconds", "vptq_seconds"].map(millis), [104.0, 76.0, 641.0]);
    assert!(report["notes"][0].as_str().unwrap().contains("NVIDIA H20"));
}

#[test]
fn the_command_line_is_checked() {
    let folder = Folder::model();
    let wrong: [&[&str]; 13] = [
        &["--shape", "8192"],
        &["--shape", "0x64"],
        &["--shape", "99999x99999"],
        &["--encoding", "fp8"],
        &["--encoding", "wint4", "model.ccq"],
        &["--device", "tpu"],
        &["--threads", "0"],
        &["--seconds", "0"],
        &["--seconds", "-1"],
        &["--preset", "other"],
        &["model.ccq", "--shape", "8x64"],
        &["model.ccq", "--preset", "paper"],
        &["--preset", "paper", "--shape", "8x64"],
    ];
    for args in wrong {
        let run = folder.run(&[&["bench"], args].concat()).expect(2, &["error: "]);
        assert_eq!(run.out, "", "{args:?}");
    }
    folder
        .run(&["bench", "--help"])
        .expect(0, &["Examples:", "JSON:", "copy_share", "memory_share", "--preset"]);
    let run = folder.command(&quick(&["--shape", "8x64"])).env("COLUMNS", "40").output().unwrap();
    let out = String::from_utf8(run.stdout).unwrap();
    assert!(out.contains("GB/s: "), "{out}");
}
