//! FP8 weights with scales.

mod common;

use ccq::format::Dtype;
use ccq_import::{Error, Fp8Error};
use common::{Folder, Tensor, bytes, check_ranges, decode, f32s, names, tensor};
use half::{bf16, f16};

/// The value of a byte, by the formats' definitions, independently of the importer's table.
fn value(format: Dtype, byte: u8) -> f32 {
    let (mantissa_bits, bias) = if format == Dtype::F8E4M3 { (3, 7) } else { (2, 15) };
    let exponent = i32::from((byte & 0x7F) >> mantissa_bits);
    let mantissa = i32::from(byte & ((1 << mantissa_bits) - 1));
    let magnitude = match exponent {
        0 => mantissa as f32 * 2f32.powi(1 - bias - mantissa_bits),
        _ => (mantissa + (1 << mantissa_bits)) as f32 * 2f32.powi(exponent - bias - mantissa_bits),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Weights of every finite byte.
fn weights(format: Dtype, count: usize, seed: u64) -> Vec<u8> {
    let finite = |byte: &u8| match format {
        Dtype::F8E4M3 => byte & 0x7F != 0x7F,
        _ => byte & 0x7C != 0x7C,
    };
    (seed..).flat_map(|seed| bytes(1024, seed)).filter(finite).take(count).collect()
}

fn scales(count: usize) -> Vec<f32> {
    (0..count).map(|at| (at as f32 * 0.37 - 1.1) * 1e-2).collect()
}

/// The model's one tensor is the product of weights and scales.
#[track_caller]
fn check(weight: &Tensor, scale: &Tensor, config: &str, scale_of: impl Fn(usize) -> f32) {
    let folder = Folder::model(&[weight.clone(), scale.clone()], config);
    let model = folder.open().unwrap();
    assert_eq!(names(&model), [weight.name.as_str()]);
    let found = &model.tensors()[0];
    assert_eq!((found.dtype, &found.shape), (Dtype::Bf16, &weight.shape));
    assert_eq!((found.quantized_as(), found.code()), (None, None));
    let expected: Vec<f32> =
        weight.bytes.iter().enumerate().map(|(at, &byte)| value(weight.dtype, byte) * scale_of(at)).collect();
    let decoded = decode(&model, found);
    for (at, (a, b)) in decoded.iter().zip(&expected).enumerate() {
        assert_eq!(a.to_bits(), b.to_bits(), "{at}: {a} {b}");
    }
    let rounded: Vec<u8> = expected.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    assert_eq!(*model.elements(found, 0..found.element_count()).unwrap(), rounded);
    check_ranges(&model, found);
}

#[test]
fn blocks_of_deepseek_with_ragged_edges() {
    for format in [Dtype::F8E4M3, Dtype::F8E5M2] {
        for config in ["{}", r#"{"quantization_config": {"weight_block_size": [128, 128]}}"#] {
            let weight = tensor("a.weight", format, &[200, 300], weights(format, 200 * 300, 1));
            let values = scales(6);
            let scale = tensor("a.weight_scale_inv", Dtype::F32, &[2, 3], f32s(values.clone()));
            check(&weight, &scale, config, |at| values[at / 300 / 128 * 3 + at % 300 / 128]);
        }
    }
}

#[test]
fn other_blocks() {
    let format = Dtype::F8E4M3;
    let values = scales(8);
    let scale = tensor("a.weight_scale_inv", Dtype::F32, &[2, 4], f32s(values.clone()));
    let weight = tensor("a.weight", format, &[10, 25], weights(format, 250, 2));
    let config = r#"{"quantization_config": {"weight_block_size": [7, 8]}}"#;
    check(&weight, &scale, config, |at| values[at / 25 / 7 * 4 + at % 25 / 8]);
    // Without a word in config.json, the power of two that the shapes allow.
    let weight = tensor("a.weight", format, &[60, 128], weights(format, 60 * 128, 3));
    check(&weight, &scale, "{}", |at| values[at / 128 / 32 * 4 + at % 128 / 32]);
}

#[test]
fn one_scale_a_channel_or_for_all() {
    let format = Dtype::F8E4M3;
    let weight = tensor("a.weight", format, &[5, 12], weights(format, 60, 4));
    let values = scales(5);
    for (dtype, stored) in [
        (Dtype::F32, f32s(values.clone())),
        (Dtype::Bf16, values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
        (Dtype::F16, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
    ] {
        let read = |value: f32| match dtype {
            Dtype::Bf16 => bf16::from_f32(value).to_f32(),
            Dtype::F16 => f16::from_f32(value).to_f32(),
            _ => value,
        };
        for shape in [&[5][..], &[5, 1]] {
            let scale = tensor("a.weight_scale", dtype, shape, stored.clone());
            check(&weight, &scale, "{}", |at| read(values[at / 12]));
        }
    }
    for shape in [&[][..], &[1], &[1, 1]] {
        let scale = tensor("a.weight_scale", Dtype::F32, shape, f32s([0.3]));
        check(&weight, &scale, "{}", |_| 0.3);
    }
    let powers = tensor("a.weight_scale", Dtype::F8E8M0, &[5], vec![120, 121, 127, 128, 0]);
    check(&weight, &powers, "{}", |at| 2f32.powi([-7, -6, 0, 1, -127][at / 12]));
}

#[test]
fn stacks_of_experts() {
    let format = Dtype::F8E4M3;
    let weight = tensor("mlp.experts.down_proj", format, &[3, 40, 36], weights(format, 3 * 40 * 36, 5));
    let values = scales(120);
    let one = |shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        tensor("mlp.experts.down_proj_scale", Dtype::F32, shape, f32s(values[..count].iter().copied()))
    };
    check(&weight, &one(&[3]), "{}", |at| values[at / (40 * 36)]);
    check(&weight, &one(&[3, 40]), "{}", |at| values[at / 36]);
    check(&weight, &one(&[3, 40, 1]), "{}", |at| values[at / 36]);
    check(&weight, &one(&[3, 2, 2]), "{}", |at| {
        values[at / (40 * 36) * 4 + at / 36 % 40 / 32 * 2 + at % 36 / 32]
    });
    // Stored the other way round: a scale a column of the file is one a row of the view.
    let config = r#"{"model_type": "gpt_oss", "hidden_size": 36}"#;
    let folder = Folder::model(&[weight.clone(), one(&[3, 1, 36])], config);
    let model = folder.open().unwrap();
    let found = &model.tensors()[0];
    assert_eq!((found.is_transposed(), found.shape.as_slice()), (true, &[3, 36, 40][..]));
    let decoded = decode(&model, found);
    for (at, decoded) in decoded.iter().enumerate() {
        let (expert, row, column) = (at / (36 * 40), at / 40 % 36, at % 40);
        let stored = value(format, weight.bytes[(expert * 40 + column) * 36 + row]);
        assert_eq!(decoded.to_bits(), (stored * values[expert * 36 + row]).to_bits());
    }
    check_ranges(&model, found);
}

#[test]
fn what_does_not_fit_is_refused() {
    let format = Dtype::F8E4M3;
    let weight = tensor("a.weight", format, &[64, 64], weights(format, 64 * 64, 6));
    let error = |tensors: &[Tensor], config: &str| {
        let error = Folder::model(tensors, config).open().unwrap_err();
        assert!(error.to_string().contains("model.safetensors: "), "{error}");
        match error {
            Error::Fp8 { source, .. } => *source,
            other => panic!("{other}"),
        }
    };
    let scale = |name: &str, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        tensor(name, Dtype::F32, shape, f32s(scales(count)))
    };
    for (shape, config) in [
        (&[3, 3][..], "{}"),
        (&[63], "{}"),
        (&[64, 64, 1], "{}"),
        (&[0], "{}"),
        (&[2, 2], r#"{"quantization_config": {"weight_block_size": [64, 64]}}"#),
        (&[2, 2], r#"{"quantization_config": {"weight_block_size": [0, 32]}}"#),
    ] {
        let found = error(&[weight.clone(), scale("a.weight_scale_inv", shape)], config);
        assert!(
            matches!(&found, Fp8Error::Shape { tensor, found, .. } if tensor == "a.weight" && found == shape)
        );
    }
    let two = [weight.clone(), scale("a.weight_scale_inv", &[1]), scale("a.weight_scale", &[1])];
    assert!(matches!(error(&two, "{}"), Fp8Error::TwoScales { .. }));
    let integers = tensor("a.weight_scale", Dtype::I32, &[1], vec![0; 4]);
    assert!(matches!(error(&[weight, integers], "{}"), Fp8Error::Dtype { found: Dtype::I32, .. }));
    let left = error(&[scale("a.weight_scale_inv", &[1])], "{}");
    assert!(matches!(left, Fp8Error::Leftover { weights, .. } if weights == "a.weight"));
    let bf16 = tensor("a.weight", Dtype::Bf16, &[1, 1], vec![0; 2]);
    assert!(matches!(error(&[bf16, scale("a.weight_scale_inv", &[1])], "{}"), Fp8Error::Leftover { .. }));
}

#[test]
fn scales_that_are_not_finite_are_named_when_they_are_read() {
    let format = Dtype::F8E4M3;
    for bad in [f32::NAN, f32::INFINITY] {
        let weight = tensor("a.weight", format, &[2, 4], vec![0x38; 8]);
        let scale = tensor("a.weight_scale", Dtype::F32, &[2], f32s([1.0, bad]));
        let folder = Folder::model(&[weight, scale], "{}");
        let model = folder.open().unwrap();
        let mut out = Vec::new();
        model.decode_f32(&model.tensors()[0], 0..4, &mut out).unwrap();
        assert_eq!(out, [1.0; 4]);
        let error = model.decode_f32(&model.tensors()[0], 0..5, &mut out).unwrap_err();
        assert!(error.to_string().contains(r#"scales "a.weight_scale": "#), "{error}");
        assert!(
            matches!(error, Error::Fp8 { source, .. } if matches!(*source, Fp8Error::Value { position: 1, .. }))
        );
    }
}

/// Products beyond BF16 are exact in f32, and have no place among the tensor's elements.
#[test]
fn a_product_that_overflows_the_dtype_on_record_is_refused() {
    let weight = tensor("a.weight", Dtype::F8E4M3, &[1, 2], vec![0x38, 0x7E]);
    let scale = tensor("a.weight_scale", Dtype::F32, &[1], f32s([f32::MAX / 448.0]));
    let folder = Folder::model(&[weight, scale], "{}");
    let model = folder.open().unwrap();
    let found = &model.tensors()[0];
    assert!(decode(&model, found)[1] > 3.39e38);
    let error = model.elements(found, 0..2).unwrap_err();
    assert!(matches!(error, Error::Overflow { element: 1, dtype: Dtype::Bf16, .. }), "{error}");
    assert_eq!(error.offset(), Some(byte_of(&folder, 2)), "{error}");
}

/// Of a view that is turned round, the scale is that of the element as it is stored.
#[test]
fn an_overflow_is_where_its_scale_is_stored() {
    let name = "model.layers.0.mlp.experts.down_proj";
    // Matrix 1, stored row 2, stored column 1.
    let mut bytes = vec![0; 2 * 3 * 4];
    bytes[(3 + 2) * 4 + 1] = 0x7E;
    let weight = tensor(name, Dtype::F8E4M3, &[2, 3, 4], bytes);
    let scale = tensor(&format!("{name}_scale"), Dtype::F32, &[2, 3], f32s([f32::MAX / 448.0; 6]));
    let folder = Folder::model(&[weight, scale], r#"{"model_type":"llama4"}"#);
    let model = folder.open().unwrap();
    let found = &model.tensors()[0];
    assert_eq!(found.shape, [2, 4, 3]);
    let error = model.elements(found, 5..24).unwrap_err();
    assert!(matches!(error, Error::Overflow { element: 17, .. }), "{error}");
    assert_eq!(error.offset(), Some(byte_of(&folder, 2 * 3 * 4 + (3 + 2) * 4)), "{error}");
}

/// The byte of the model's file that has a byte of its data.
fn byte_of(folder: &Folder, at: u64) -> u64 {
    let file = std::fs::read(folder.path("model.safetensors")).unwrap();
    8 + u64::from_le_bytes(file[..8].try_into().unwrap()) + at
}

/// Tensors that look similar and are something else stay what they are.
#[test]
fn others_stay_as_they_are() {
    let tensors = [
        tensor("a.weight", Dtype::F8E4M3, &[2, 2], vec![0x38; 4]),
        tensor("b.input_scale", Dtype::F32, &[], f32s([1.0])),
        tensor("b.weight", Dtype::F8E5M2, &[2, 2], vec![0x3C; 4]),
        tensor("b.weight_scale", Dtype::F32, &[], f32s([2.0])),
        tensor("c.weight", Dtype::U8, &[2, 2], vec![1; 4]),
        tensor("c.weight_scale", Dtype::F8E4M3, &[2, 1], vec![0x38; 2]),
        tensor("c.weight_scale_2", Dtype::F32, &[], f32s([1.0])),
    ];
    let folder = Folder::model(&tensors, "{}");
    let model = folder.open().unwrap();
    let expected =
        ["a.weight", "b.input_scale", "b.weight", "c.weight", "c.weight_scale", "c.weight_scale_2"];
    assert_eq!(names(&model), expected);
    let dtypes: Vec<_> = model.tensors().iter().map(|tensor| tensor.dtype).collect();
    assert_eq!(dtypes[..4], [Dtype::F8E4M3, Dtype::F32, Dtype::Bf16, Dtype::U8]);
    let mut out = Vec::new();
    let error = model.decode_f32(&model.tensors()[0], 0..4, &mut out).unwrap_err();
    assert!(matches!(error, Error::Decode { .. }), "{error}");
}

/// Scales in another shard than their weights.
#[test]
fn scales_are_found_in_any_shard() {
    let folder = Folder::new();
    let [one, two] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    folder.write(one, &common::safetensors(&[tensor("a.weight", Dtype::F8E4M3, &[1, 2], vec![0x38; 2])]));
    folder
        .write(two, &common::safetensors(&[tensor("a.weight_scale_inv", Dtype::F32, &[1, 1], f32s([3.0]))]));
    let map = format!(r#"{{"weight_map": {{"a.weight": "{one}", "a.weight_scale_inv": "{two}"}}}}"#);
    folder.write("model.safetensors.index.json", map.as_bytes());
    let model = folder.open().unwrap();
    assert_eq!(decode(&model, &model.tensors()[0]), [3.0; 2]);
    assert!(model.file(&model.tensors()[0]).ends_with(one));
}
