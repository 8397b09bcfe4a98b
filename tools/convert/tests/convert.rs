//! Source models to containers.

mod common;

use std::fs;
use std::path::Path;

use ccq::Container;
use ccq::format::{Encoding, Value};
use common::{Folder, LAYER0, Source, bf16_tensor, f32_tensor, matrix, run, values, write};
use safetensors::tensor::Dtype;

/// The bounds on the relative mean squared error of the real layer that the quantizer has to meet.
const BOUNDS: [(&str, f64); 7] = [
    ("ccq-2.06", 0.118),
    ("ccq-2.5", 0.112),
    ("ccq-2.75", 0.094),
    ("ccq-3.31", 0.036),
    ("wint4", 0.0096),
    ("ccq-5.5", 0.0023),
    ("wint8", 0.00013),
];

#[test]
fn the_real_layer_in_every_encoding() {
    let folder = Folder::new();
    let source = fs::read(LAYER0).unwrap();
    let source = safetensors::SafeTensors::deserialize(&source).unwrap();
    for (encoding, bound) in BOUNDS {
        let out = folder.path(&format!("{encoding}.ccq"));
        let args = [LAYER0, out.to_str().unwrap(), "--encoding", encoding, "--json"];
        let json = run(args).ok().json();
        let container = Container::open(&out).unwrap();
        container.verify().unwrap();
        let (mut squared_error, mut energy) = (0.0, 0.0);
        for tensor in container.tensors() {
            let info = tensor.info();
            assert_eq!(info.encoding().to_string(), encoding);
            let matrix = tensor.matrix().unwrap();
            let mut decoded = vec![0.0; matrix.rows() * matrix.in_features()];
            tensor.decode_rows_into(0..matrix.rows(), &mut decoded).unwrap();
            let mut weights = Vec::new();
            let bytes = source.tensor(info.name()).unwrap();
            ccq_import::decode_f32(info.dtype(), bytes.data(), &mut weights).unwrap();
            for (weight, decoded) in weights.iter().zip(&decoded) {
                squared_error += f64::from(weight - decoded).powi(2);
                energy += f64::from(*weight).powi(2);
            }
        }
        let error = squared_error / energy;
        assert!(error <= bound, "{encoding}: {error}");
        let total = &json["total"];
        let reported = total["relative_mse"].as_f64().unwrap();
        assert!((reported / error - 1.0).abs() < 1e-4, "{encoding}: {reported} is not {error}");
        assert_eq!((&total["tensors"], &total["quantized"]), (&6.into(), &6.into()));
        assert_eq!(total["bytes_out"], fs::metadata(&out).unwrap().len());
        assert_eq!(total["parameters"], 1_769_472);
    }
}

#[test]
fn other_encodings_and_groups() {
    let folder = Folder::new();
    let model = folder.path("m.safetensors");
    write(&model, &[matrix("a.weight", 16, 256), matrix("b.weight", 3, 100)]);
    let out = folder.path("out.ccq");
    for (args, expected) in [
        (&["--encoding", "int2"][..], "int2"),
        (&["--encoding", "wint8", "--group-size", "64"], "wint8 g64"),
        (&["--encoding", "wint4", "--group-size", "channel"], "wint4 per channel"),
        (&["--group-size", "32"], "ccq-2.06 g32"),
        (&["--encoding", "ccq-2.5", "--group-size", "128"], "ccq-2.5 g128"),
        (&["--encoding", "ccq-3.31", "--group-size", "32"], "ccq-3.31 g32"),
        (&["--encoding", "ccq-3.31", "--group-size", "128"], "ccq-3.31 g128"),
        (&["--encoding", "ccq-5.5", "--group-size", "32"], "ccq-5.5 g32"),
        (&["--encoding", "ccq-5.5", "--group-size", "128"], "ccq-5.5 g128"),
        (&["--encoding", "raw"], "raw"),
    ] {
        let out = out.to_str().unwrap();
        run([&[model.to_str().unwrap(), out, "--overwrite"], args].concat()).ok();
        let container = Container::open(out).unwrap();
        container.verify().unwrap();
        for tensor in container.tensors() {
            assert_eq!(tensor.info().encoding().to_string(), expected);
        }
    }
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let folder = Folder::new();
    let model = folder.path("m.safetensors");
    write(&model, &[matrix("a.weight", 65, 500), matrix("layers.0.b.weight", 7, 256), matrix("norm", 1, 9)]);
    for encoding in ["ccq-2.06", "ccq-2.5", "wint4"] {
        let files: Vec<_> = ["1", "2", "3"]
            .iter()
            .map(|threads| {
                let out = folder.path(&format!("{encoding}-{threads}.ccq"));
                let args = [
                    model.to_str().unwrap(),
                    out.to_str().unwrap(),
                    "--encoding",
                    encoding,
                    "--threads",
                    threads,
                ];
                run(args).ok();
                fs::read(out).unwrap()
            })
            .collect();
        assert!(files.iter().all(|file| *file == files[0]), "{encoding}");
    }
}

#[test]
fn a_model_folder_with_shards_and_its_own_files() {
    let folder = Folder::new();
    let model = folder.path("model");
    fs::create_dir(&model).unwrap();
    write(
        &model.join("model-00001-of-00002.safetensors"),
        &[
            matrix("model.embed_tokens.weight", 40, 64),
            matrix("model.layers.0.mlp.gate.weight", 4, 64),
            bf16_tensor("model.layers.0.mlp.experts.up_proj", &[4, 32, 64], &values(4 * 32 * 64, 7)),
        ],
    );
    write(
        &model.join("model-00002-of-00002.safetensors"),
        &[f32_tensor("model.norm.weight", &[64], &values(64, 8)), matrix("lm_head.weight", 40, 64)],
    );
    let index = r#"{"metadata": {"total_size": 1}, "weight_map": {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.layers.0.mlp.gate.weight": "model-00001-of-00002.safetensors",
        "model.layers.0.mlp.experts.up_proj": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors"}}"#;
    fs::write(model.join("model.safetensors.index.json"), index).unwrap();
    fs::write(model.join("config.json"), "{\"a\": 1}\r\n").unwrap();
    fs::write(model.join("tokenizer.json"), [0u8, 255, 13, 10]).unwrap();
    fs::write(model.join("README.md"), "hello").unwrap();

    let out = folder.path("out.ccq");
    let done = run([&model, &out]).ok();
    for said in ["stacked projections", "embedding", "router", "output head", "norm", "README.md"] {
        assert!(done.stdout().contains(said), "{said}: {}", done.stdout());
    }
    let container = Container::open(&out).unwrap();
    container.verify().unwrap();
    let encodings: Vec<_> = container
        .tensors()
        .map(|tensor| (tensor.info().name().to_owned(), tensor.info().encoding() != Encoding::Raw))
        .collect();
    assert_eq!(
        encodings,
        [
            ("lm_head.weight".into(), false),
            ("model.embed_tokens.weight".into(), false),
            ("model.layers.0.mlp.experts.up_proj".into(), true),
            ("model.layers.0.mlp.gate.weight".into(), false),
            ("model.norm.weight".into(), false),
        ]
    );
    let source = matrix("lm_head.weight", 40, 64);
    assert_eq!(container.tensor("lm_head.weight").unwrap().raw(), Some(&source.bytes[..]));
    let blobs: Vec<_> = container.blobs().collect();
    assert_eq!(blobs, [("config.json", &b"{\"a\": 1}\r\n"[..]), ("tokenizer.json", &[0, 255, 13, 10])]);
    let metadata = container.index().metadata();
    assert_eq!(metadata.get("safetensors.format"), Some(Value::String("pt")));
    let producer = concat!("ccq-convert ", env!("CARGO_PKG_VERSION"));
    assert_eq!(metadata.get("ccq.producer"), Some(Value::String(producer)));
}

#[test]
fn what_cannot_take_the_encoding_is_named() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(
        &model,
        &[
            matrix("a.weight", 8, 64),
            Source {
                name: "b.weight".into(),
                dtype: Dtype::F8_E4M3,
                shape: vec![8, 64],
                bytes: vec![1; 512],
            },
            f32_tensor("c.weight", &[0, 64], &[]),
            f32_tensor("d.weight", &[8, 4], &values(32, 3)),
            f32_tensor("scalar", &[], &[1.5]),
        ],
    );
    let done = run([model.as_os_str(), out.as_os_str(), "--json".as_ref()]).ok();
    let json = done.json();
    let warnings = [
        r#"tensor "b.weight" could not take ccq-2.06: F8_E4M3, expected F32, F16 or BF16"#,
        r#"tensor "c.weight" could not take ccq-2.06: it has no weights"#,
        r#"tensor "d.weight" could not take ccq-2.06: 200 bytes instead of 128"#,
    ];
    assert_eq!(json["warnings"], serde_json::json!(warnings));
    for warning in warnings {
        assert!(done.stderr().contains(&format!("warning: {warning}\n")), "{}", done.stderr());
    }
    assert_eq!((&json["total"]["tensors"], &json["total"]["quantized"]), (&5.into(), &1.into()));
    assert_eq!(json["tensors"][2]["bpw"], serde_json::Value::Null);
    assert_eq!(json["tensors"][4]["reason"], "scalar");
    Container::open(&out).unwrap().verify().unwrap();

    let table = run([model.as_os_str(), out.as_os_str(), "--overwrite".as_ref()]).ok().stdout();
    assert!(table.contains("(3 could not take the encoding)"), "{table}");
}

#[test]
fn patterns_keep_and_force() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    let mut broken = values(8 * 64, 1);
    broken[3 * 64 + 5] = f32::NAN;
    write(
        &model,
        &[
            f32_tensor("layers.0.bad.weight", &[8, 64], &broken),
            matrix("layers.0.good.weight", 8, 64),
            matrix("lm_head.weight", 8, 64),
        ],
    );
    let at = place_of(&model, &f32::NAN.to_le_bytes());
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    run([model, out]).failed(
        1,
        &[
            "\"layers.0.bad.weight\"",
            &format!("m.safetensors: at byte {at}: tensor "),
            "NaN at row 3, column 5",
            "--keep 'layers.0.bad.weight'",
        ],
    );
    assert_eq!(folder.names(), ["m.safetensors"]);
    run([model, out, "--keep", "*.bad.*", "--quantize", "lm_head.*"]).ok();
    let container = Container::open(out).unwrap();
    let encodings: Vec<_> = container.tensors().map(|tensor| tensor.info().encoding().to_string()).collect();
    assert_eq!(encodings, ["raw", "ccq-2.06", "ccq-2.06"]);
    for option in ["--keep", "--quantize"] {
        let said = [option, "\"*.bade.*\" matches no tensor", "layers.0.bad.weight"];
        run([model, out, "--overwrite", option, "*.bade.*"]).failed(2, &said);
    }
}

#[test]
fn an_infinity_in_a_stack_is_placed() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    let mut stack = values(3 * 8 * 64, 1);
    stack[(2 * 8 + 1) * 64 + 63] = f32::NEG_INFINITY;
    write(&model, &[f32_tensor("experts", &[3, 8, 64], &stack)]);
    let at = place_of(&model, &f32::NEG_INFINITY.to_le_bytes());
    let said = ["-inf at matrix [2], row 1, column 63", &format!(": at byte {at}: ")];
    run([&model, &out]).failed(1, &said);
}

/// Where a file has these bytes for the first time.
fn place_of(file: &Path, bytes: &[u8]) -> usize {
    fs::read(file).unwrap().windows(bytes.len()).position(|found| found == bytes).unwrap()
}
