//! Matrices that are stored the other way round.

mod common;

use std::collections::BTreeSet;

use ccq::format::Dtype;
use ccq_import::{Carried, Error, Model, TRANSPOSED, Transpose};
use common::{Folder, bytes, check_ranges, decode, f32s, tensor};

const UP: &str = "model.layers.0.mlp.experts.gate_up_proj";
const DOWN: &str = "model.layers.0.mlp.experts.down_proj";

/// Row-major values that say where they are stored.
fn counted(shape: &[u64]) -> Vec<u8> {
    f32s((0..shape.iter().product()).map(|at: u64| at as f32))
}

#[test]
fn experts_of_known_models_are_turned() {
    let tensors = [
        tensor(UP, Dtype::F32, &[3, 8, 20], counted(&[3, 8, 20])),
        tensor(DOWN, Dtype::F32, &[3, 10, 8], counted(&[3, 10, 8])),
        tensor("model.layers.0.mlp.experts.gate_up_proj_bias", Dtype::F32, &[3, 20], counted(&[3, 20])),
        tensor("model.embed_tokens.weight", Dtype::F32, &[5, 8], counted(&[5, 8])),
    ];
    for config in [
        r#"{"model_type": "gpt_oss", "hidden_size": 8}"#,
        r#"{"model_type": "llama4", "text_config": {"model_type": "llama4_text", "hidden_size": 8}}"#,
    ] {
        let folder = Folder::model(&tensors, config);
        let model = folder.open().unwrap();
        let turned = Carried::String(format!("{DOWN}\n{UP}"));
        assert_eq!(model.metadata()[TRANSPOSED], turned);
        for (name, rows, columns) in [(UP, 20, 8), (DOWN, 8, 10)] {
            let found = model.tensor(name).unwrap();
            assert_eq!(found.shape, [3, rows, columns]);
            let decoded = decode(&model, found);
            for (at, &value) in decoded.iter().enumerate() {
                let at = at as u64;
                let (expert, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
                assert_eq!(value as u64, (expert * columns + column) * rows + row, "{name} {at}");
            }
            check_ranges(&model, found);
        }
        assert!(!model.tensor("model.embed_tokens.weight").unwrap().is_transposed());
    }
    let as_rows = Folder::model(&tensors, r#"{"model_type": "qwen3_moe", "hidden_size": 8}"#);
    let model = as_rows.open().unwrap();
    assert!(model.tensors().iter().all(|tensor| !tensor.is_transposed()));
    assert!(!model.metadata().contains_key(TRANSPOSED));
}

#[test]
fn gpt2_is_turned() {
    let (attn, wte) = ("h.0.attn.c_attn.weight", "wte.weight");
    let tensors =
        [tensor(attn, Dtype::F16, &[4, 12], bytes(96, 1)), tensor(wte, Dtype::F16, &[4, 12], bytes(96, 2))];
    let folder = Folder::model(&tensors, r#"{"model_type": "gpt2"}"#);
    let model = folder.open().unwrap();
    let found = model.tensor(attn).unwrap();
    assert_eq!((found.shape.as_slice(), found.is_transposed()), (&[12, 4][..], true));
    let elements = model.elements(found, 0..48).unwrap();
    for row in 0..12 {
        for column in 0..4 {
            let stored = (column * 12 + row) * 2;
            assert_eq!(elements[(row * 4 + column) * 2..][..2], tensors[0].bytes[stored..][..2]);
        }
    }
    assert!(!model.tensor(wte).unwrap().is_transposed());
    // A file by itself has no config.json: it says what is in it.
    let file = Model::open(&folder.path("model.safetensors")).unwrap();
    assert!(!file.tensor(attn).unwrap().is_transposed());
}

#[test]
fn names_can_be_given() {
    let tensors = [
        tensor("a.weight", Dtype::U8, &[2, 3], vec![1, 2, 3, 4, 5, 6]),
        tensor("b.weight", Dtype::U8, &[2, 3], vec![1, 2, 3, 4, 5, 6]),
        tensor("c.bias", Dtype::U8, &[3], vec![1, 2, 3]),
        tensor("d.weight", Dtype::F4, &[2, 2], vec![1, 2]),
        tensor("e.weight", Dtype::U8, &[0, 3], vec![]),
    ];
    let folder = Folder::model(&tensors, "{}");
    let open =
        |names: &[&str]| Model::open_with(folder.0.path(), &Transpose::Rule(&|name| names.contains(&name)));
    let model = open(&["a.weight", "e.weight"]).unwrap();
    assert_eq!(*model.elements(model.tensor("a.weight").unwrap(), 0..6).unwrap(), [1, 4, 2, 5, 3, 6]);
    assert_eq!(*model.elements(model.tensor("b.weight").unwrap(), 0..6).unwrap(), [1, 2, 3, 4, 5, 6]);
    let empty = model.tensor("e.weight").unwrap();
    assert_eq!((empty.shape.as_slice(), model.elements(empty, 0..0).unwrap().len()), (&[3, 0][..], 0));
    for name in ["c.bias", "d.weight"] {
        let error = open(&[name]).unwrap_err();
        assert!(matches!(&error, Error::CannotTranspose { tensor, .. } if tensor == name), "{error}");
    }
    // A container's word counts, not the rule.
    let none = BTreeSet::new();
    let gpt2 = Folder::model(
        &[tensor("h.0.mlp.c_fc.weight", Dtype::U8, &[1, 2], vec![1, 2])],
        r#"{"model_type":"gpt2"}"#,
    );
    let model = Model::open_with(gpt2.0.path(), &Transpose::Exactly(&none)).unwrap();
    assert_eq!(model.tensors()[0].shape, [1, 2]);
    let one = BTreeSet::from(["b.weight".to_string()]);
    let model = Model::open_with(folder.0.path(), &Transpose::Exactly(&one)).unwrap();
    assert_eq!(model.tensor("b.weight").unwrap().shape, [3, 2]);
}
