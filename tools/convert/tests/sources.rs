//! Sources that are more than plain tensors: FP8 with scales, GGUF, matrices stored the other way round.

mod common;

use std::fs;

use ccq::Container;
use ccq::format::{Dtype as Ours, Value};
use common::{Folder, Run, Source, f32_tensor, matrix, tool, values, write};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

fn convert(folder: &Folder, args: &[&str]) -> Run {
    Run(tool().current_dir(folder.0.path()).args(args).output().unwrap())
}

fn folder_of(tensors: &[Source], config: &str) -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("model")).unwrap();
    write(&folder.path("model/model.safetensors"), tensors);
    fs::write(folder.path("model/config.json"), config).unwrap();
    folder
}

#[test]
fn fp8_weights_become_bf16_or_codes_and_their_scales_go() {
    let fp8 = |name: &str| Source {
        name: name.into(),
        dtype: Dtype::F8_E4M3,
        shape: vec![130, 256],
        bytes: (0..130 * 256).map(|at| (at * 37 % 251) as u8 & 0xBE).collect(),
    };
    let scale = |name: &str| f32_tensor(name, &[2, 2], &[0.01, 0.02, 0.03, 0.04]);
    let tensors = [
        fp8("l.0.q_proj.weight"),
        scale("l.0.q_proj.weight_scale_inv"),
        fp8("lm_head.weight"),
        scale("lm_head.weight_scale_inv"),
    ];
    let folder = folder_of(&tensors, r#"{"quantization_config": {"weight_block_size": [128, 128]}}"#);
    let json = convert(&folder, &["model", "out.ccq", "--encoding", "wint8", "--json"]).ok().json();
    assert!(json["total"]["relative_mse"].as_f64().unwrap() < 1e-3);
    let container = Container::open(folder.path("out.ccq")).unwrap();
    let found: Vec<_> = container
        .tensors()
        .map(|tensor| {
            (tensor.info().name().to_owned(), tensor.info().encoding().to_string(), tensor.info().dtype())
        })
        .collect();
    let expected = [("l.0.q_proj.weight", "wint8"), ("lm_head.weight", "raw")];
    assert_eq!(found, expected.map(|(name, encoding)| (name.into(), encoding.into(), Ours::Bf16)));
    // The importer's own decoder, which its tests compare with the formats' definitions.
    let model = ccq_import::Model::open(&folder.path("model")).unwrap();
    let head = model.tensor("lm_head.weight").unwrap();
    let raw = container.tensor("lm_head.weight").unwrap().raw().unwrap();
    assert!(*model.elements(head, 0..head.element_count()).unwrap() == *raw);
}

/// Of a matrix in one shard with its scales in another, the byte and the file are those of what is wrong.
#[test]
fn what_is_not_finite_is_named_with_its_shard() {
    let name = "l.0.experts.down_proj";
    let convert_model = |weights: Vec<u8>, scales: [f32; 2]| {
        let folder = folder_of(&[], r#"{"model_type": "llama4"}"#);
        fs::remove_file(folder.path("model/model.safetensors")).unwrap();
        let weights =
            Source { name: name.into(), dtype: Dtype::F8_E4M3, shape: vec![2, 64, 4], bytes: weights };
        let scales = f32_tensor(&format!("{name}_scale"), &[2], &scales);
        let map = serde_json::json!({"weight_map": {&weights.name: "a.safetensors", &scales.name: "b.safetensors"}});
        fs::write(folder.path("model/model.safetensors.index.json"), map.to_string()).unwrap();
        write(&folder.path("model/a.safetensors"), &[weights]);
        write(&folder.path("model/b.safetensors"), &[scales]);
        let length = |file: &str| fs::metadata(folder.path(file)).unwrap().len() as usize;
        let ends = [length("model/a.safetensors"), length("model/b.safetensors")];
        (convert(&folder, &["model", "out.ccq"]), ends)
    };
    // Matrix 1, stored row 5, stored column 3.
    let at = (64 + 5) * 4 + 3;
    let mut weights = vec![0x38; 2 * 64 * 4];
    weights[at] = 0xFF;
    let (done, [end, _]) = convert_model(weights.clone(), [1.0, 1.0]);
    let place = end - weights.len() + at;
    let said = [
        &format!("model/a.safetensors: at byte {place}: tensor {name:?}: ")[..],
        "matrix [1], row 3, column 5",
    ];
    done.failed(1, &said);

    weights[at] = 0x7E;
    let (done, [_, end]) = convert_model(weights, [1.0, 1e38]);
    let place = end - 4;
    let said = [
        &format!("model/b.safetensors: at byte {place}: tensor {name:?}: inf ")[..],
        "matrix [1], row 3, column 5",
        "repair the model, or leave the tensor as it is",
    ];
    done.failed(1, &said);
}

/// A GGUF file of a Q8_0 matrix, an F32 one and a norm.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let q8_0: Vec<u8> = (0..64 * 2)
        .flat_map(|block| [0x00, 0x2C].into_iter().chain((0..32).map(move |at| (block * 7 + at * 11) as u8)))
        .collect();
    let plain: Vec<u8> = values(64 * 64, 1).iter().flat_map(|value| value.to_le_bytes()).collect();
    let norm: Vec<u8> = values(64, 2).iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &4u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    bytes.extend([text("general.architecture"), 8u32.to_le_bytes().into(), text("gpt-oss")].concat());
    let mut data = Vec::new();
    for (name, dimensions, kind, content) in [
        ("blk.0.attn_q.weight", &[64u64, 64][..], 8u32, &q8_0),
        ("blk.0.attn_k.weight", &[64, 64], 0, &plain),
        ("token_embd.weight", &[64, 64], 8, &q8_0),
        ("output_norm.weight", &[64], 0, &norm),
    ] {
        bytes.extend(text(name));
        bytes.extend((dimensions.len() as u32).to_le_bytes());
        bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
        bytes.extend([&kind.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
        data.extend(content);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    [bytes, data].concat()
}

#[test]
fn gguf_is_quantized_again_only_when_asked() {
    let folder = Folder::new();
    fs::write(folder.path("model.gguf"), gguf()).unwrap();
    let said = [r#"tensor "blk.0.attn_q.weight" is quantized already (Q8_0);"#, "--allow-requantize"];
    convert(&folder, &["model.gguf", "out.ccq"]).failed(2, &said);
    let all = ["model.gguf", "out.ccq", "--quantize", "*.weight"];
    convert(&folder, &all).failed(2, &["is quantized already (Q8_0), and so is 1 more;"]);
    assert_eq!(folder.names(), ["model.gguf"]);

    // What was not quantized yet, and what stays as it is, needs no leave.
    convert(&folder, &["model.gguf", "kept.ccq", "--keep", "blk.0.attn_q.weight"]).ok();
    convert(&folder, &["model.gguf", "raw.ccq", "--encoding", "raw"]).ok();
    let json = convert(&folder, &["model.gguf", "out.ccq", "--allow-requantize", "--json"]).ok().json();
    assert_eq!((&json["total"]["quantized"], &json["total"]["tensors"]), (&2.into(), &4.into()));
    assert_eq!(json["blobs"], serde_json::json!(["gguf.header"]));
    let container = Container::open(folder.path("out.ccq")).unwrap();
    container.verify().unwrap();
    assert_eq!(container.index().metadata().get("gguf.general.architecture"), Some(Value::String("gpt-oss")));
    let header = container.blob("gguf.header").unwrap();
    let text = |text: &str| header.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(gguf().starts_with(header) && text("general.architecture") && text("output_norm.weight"));
    let shape = |name: &str| container.tensor(name).unwrap().info().shape().to_vec();
    assert_eq!((shape("blk.0.attn_q.weight"), shape("output_norm.weight")), (vec![64, 64], vec![64]));
    let embedding = container.tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.info().dtype(), embedding.raw().unwrap().len()), (Ours::F16, 64 * 64 * 2));
}

/// GPT-2's layers are `[in, out]`: the container has rows of output channels, the way back has them as they were.
#[test]
fn turned_matrices_come_back_as_they_were() {
    let names = ["h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "wte.weight", "x.down_proj"];
    let shapes: [&[usize]; 4] = [&[64, 192], &[200, 64], &[100, 64], &[3, 70, 20]];
    let tensors: Vec<_> = names
        .iter()
        .zip(shapes)
        .map(|(name, shape)| f32_tensor(name, shape, &values(shape.iter().product(), name.len() as u64)))
        .collect();
    let folder = folder_of(&tensors, r#"{"model_type": "gpt2"}"#);
    let turn = ["--transpose", "x.*"];
    convert(&folder, &[&["model", "raw.ccq", "--encoding", "raw"], &turn[..]].concat()).ok();
    convert(&folder, &["raw.ccq", "raw.safetensors"]).ok();
    let bytes = fs::read(folder.path("raw.safetensors")).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    for source in &tensors {
        let out = found.tensor(&source.name).unwrap();
        assert_eq!((out.shape(), out.dtype()), (&source.shape[..], source.dtype));
        assert!(out.data() == source.bytes, "{}", source.name);
    }

    convert(&folder, &[&["model", "out.ccq", "--encoding", "wint8"], &turn[..]].concat()).ok();
    convert(&folder, &["out.ccq", "out.safetensors"]).ok();
    let container = Container::open(folder.path("out.ccq")).unwrap();
    let turned = format!("{}\n{}\n{}", names[0], names[1], names[3]);
    assert_eq!(container.index().metadata().get("ccq.transposed"), Some(Value::String(&turned)));
    let bytes = fs::read(folder.path("out.safetensors")).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    for (source, name) in tensors.iter().zip(names) {
        let out = found.tensor(name).unwrap();
        assert_eq!(out.shape(), source.shape);
        let Some(matrix) = container.tensor(name).unwrap().matrix() else {
            assert_eq!(out.data(), source.bytes);
            continue;
        };
        let (height, width) = (*source.shape.last().unwrap(), source.shape[source.shape.len() - 2]);
        let stored = container.tensor(name).unwrap().info().shape().to_vec();
        assert_eq!(stored[stored.len() - 2..], [height as u64, width as u64]);
        let mut decoded = vec![0.0; matrix.rows() * width];
        matrix.decode_rows_into(0..matrix.rows(), &mut decoded).unwrap();
        for (at, value) in out.data().chunks(4).enumerate() {
            let (expert, column, row) = (at / (width * height), at / height % width, at % height);
            assert_eq!(*value, decoded[(expert * height + row) * width + column].to_le_bytes());
        }
    }
}

#[test]
fn patterns_that_turn_nothing_are_refused() {
    let folder = folder_of(&[matrix("a.weight", 64, 64), f32_tensor("a.bias", &[64], &[0.0; 64])], "{}");
    let said = [r#"--transpose "b.*" matches no tensor"#];
    convert(&folder, &["model", "out.ccq", "--transpose", "b.*"]).failed(2, &said);
    let said = [r#"tensor "a.bias" (F32 [64]) cannot be transposed"#];
    convert(&folder, &["model", "out.ccq", "--transpose", "a.*"]).failed(3, &said);
    assert_eq!(folder.names(), ["model"]);
}
