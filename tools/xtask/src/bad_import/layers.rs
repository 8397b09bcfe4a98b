//! Layers that lie in several tensors: FP8 with scales, FastDeploy's codes.

use super::safetensors::tensors;
use super::{Case, folder, non_finite, open, read, taken};
use crate::gguf::f32s;

type Tensor = (&'static str, &'static str, &'static [u64], Vec<u8>);

pub fn cases() -> Vec<Case> {
    [fp8(), fastdeploy()].into_iter().flatten().collect()
}

fn fp8() -> Vec<Case> {
    let weights = || ("w", "F8_E4M3", &[2u64, 2][..], vec![0x38; 4]);
    let scales = |name, shape: &'static [u64], values: &[f32]| (name, "F32", shape, f32s(values));
    let inverse = |shape, values: &[f32]| scales("w_scale_inv", shape, values);
    let with = |name: &str, expected, scale: Tensor| open(name, expected, tensors(&[weights(), scale]));
    let value = |name: &str, bytes: [u8; 4]| {
        read(name, "Fp8{Value}", tensors(&[weights(), ("w_scale", "F32", &[1], bytes.into())]))
    };
    let config = br#"{"quantization_config":{"weight_block_size":[0,128]}}"#.to_vec();
    vec![
        open(
            "fp8-two-scales.safetensors",
            "Fp8{TwoScales}",
            tensors(&[weights(), inverse(&[1], &[1.0]), scales("w_scale", &[1], &[1.0])]),
        ),
        with("fp8-scale-dtype.safetensors", "Fp8{Dtype}", ("w_scale", "I32", &[1], vec![0; 4])),
        with("fp8-scale-shape.safetensors", "Fp8{Shape}", inverse(&[3], &[1.0; 3])),
        with("fp8-scale-none.safetensors", "Fp8{Shape}", inverse(&[0], &[])),
        with("fp8-scale-blocks.safetensors", "Fp8{Shape}", inverse(&[2, 3], &[1.0; 6])),
        folder(
            "fp8-block-of-zero",
            "Fp8{Shape}",
            &[
                ("config.json", config),
                ("model.safetensors", tensors(&[weights(), inverse(&[2, 2], &[1.0; 4])])),
            ],
        ),
        open("fp8-leftover.safetensors", "Fp8{Leftover}", tensors(&[inverse(&[1], &[1.0])])),
        open(
            "fp8-leftover-of-bf16.safetensors",
            "Fp8{Leftover}",
            tensors(&[("w", "BF16", &[1, 2], vec![0; 4]), inverse(&[1], &[1.0])]),
        ),
        value("fp8-scale-nan.safetensors", f32::NAN.to_le_bytes()),
        value("fp8-scale-infinite.safetensors", f32::NEG_INFINITY.to_le_bytes()),
        non_finite(
            "fp8-weight-nan.safetensors",
            "a.up_proj.weight",
            f32::NAN,
            0,
            &[0x7F],
            tensors(&[
                ("a.up_proj.weight", "F8_E4M3", &[2, 64], vec![0x7F; 128]),
                ("a.up_proj.weight_scale", "F32", &[1], f32s(&[1.0])),
            ]),
        ),
        non_finite(
            "fp8-product-infinite.safetensors",
            "a.up_proj.weight",
            f32::INFINITY,
            0,
            &f32::MAX.to_le_bytes(),
            tensors(&[
                ("a.up_proj.weight", "F8_E4M3", &[2, 64], vec![0x7E; 128]),
                ("a.up_proj.weight_scale", "F32", &[2], f32s(&[f32::MAX, 1.0])),
            ]),
        ),
        taken(
            "fp8-scale-zero.safetensors",
            tensors(&[
                ("a.up_proj.weight", "F8_E4M3", &[2, 64], vec![0x38; 128]),
                ("a.up_proj.weight_scale", "F32", &[1], f32s(&[0.0])),
            ]),
        ),
        taken(
            "fp8-no-scale.safetensors",
            tensors(&[("a.up_proj.weight", "F8_E4M3", &[2, 64], vec![0x38; 128])]),
        ),
        with("fp8-scale-e8m0-nan.safetensors", "Fp8{Value}", ("w_scale", "F8_E8M0", &[1], vec![0xFF]))
            .when_read(),
    ]
}

impl Case {
    fn when_read(self) -> Self {
        Self { phase: "read", ..self }
    }
}

const BASE: &str = "layers.3.mlp.experts.0.up_gate_proj";

/// A layer of one group and two channels, `weight` beside it, changed by whoever calls.
fn layer(change: impl FnOnce(&mut Vec<(&'static str, &'static str, Vec<u64>, Vec<u8>)>)) -> Vec<u8> {
    let mut parts = vec![
        (".quant_weight", "U8", vec![16, 2], vec![0x5A; 32]),
        (".weight_scale", "U8", vec![1, 2], vec![0x50; 2]),
        (".super_scales", "F32", vec![2], f32s(&[0.5; 2])),
        (".code_scale", "F32", vec![2], f32s(&[1.5; 2])),
        (".code_zp", "F32", vec![2], f32s(&[0.25; 2])),
    ];
    change(&mut parts);
    let names: Vec<_> = parts.iter().map(|part| format!("{BASE}{}", part.0)).collect();
    let list: Vec<_> = parts
        .iter()
        .zip(&names)
        .map(|((_, dtype, shape, bytes), name)| (name.as_str(), *dtype, &shape[..], bytes.clone()))
        .collect();
    tensors(&list)
}

fn fastdeploy() -> Vec<Case> {
    let missing =
        |name: &str, at: usize| open(name, "FastDeploy{MissingPart}", layer(|parts| drop(parts.remove(at))));
    let part = |name: &str, at: usize, dtype, shape: Vec<u64>, bytes| {
        let file = layer(|parts| parts[at] = (parts[at].0, dtype, shape, vec![0; bytes]));
        open(name, "FastDeploy{Part}", file)
    };
    let value = |name: &str, at: usize, value: f32| {
        read(name, "FastDeploy{NonFinite}", layer(|parts| parts[at].3 = f32s(&[1.0, value])))
    };
    vec![
        missing("fastdeploy-no-quant-weight.safetensors", 0),
        missing("fastdeploy-no-weight-scale.safetensors", 1),
        missing("fastdeploy-no-super-scales.safetensors", 2),
        missing("fastdeploy-no-code-scale.safetensors", 3),
        missing("fastdeploy-no-code-zp.safetensors", 4),
        part("fastdeploy-quant-weight-rank.safetensors", 0, "U8", vec![32], 32),
        part("fastdeploy-quant-weight-empty.safetensors", 0, "U8", vec![0, 2], 0),
        part("fastdeploy-quant-weight-half-a-group.safetensors", 0, "U8", vec![8, 2], 16),
        part("fastdeploy-weight-scale-shape.safetensors", 1, "U8", vec![2, 2], 4),
        part("fastdeploy-super-scales-dtype.safetensors", 2, "I32", vec![2], 8),
        part("fastdeploy-super-scales-shape.safetensors", 2, "F32", vec![1], 4),
        part("fastdeploy-code-scale-dtype.safetensors", 3, "F16", vec![2], 4),
        part("fastdeploy-code-zp-shape.safetensors", 4, "F32", vec![1, 2], 8),
        open(
            "fastdeploy-name-taken.safetensors",
            "FastDeploy{NameTaken}",
            layer(|parts| parts.push((".weight", "F32", vec![2, 64], vec![0; 512]))),
        ),
        read(
            "fastdeploy-padding.safetensors",
            "FastDeploy{Padding}",
            layer(|parts| parts[1].3 = vec![0x50, 0x51]),
        ),
        taken("fastdeploy-codes-of-another-kernel.safetensors", layer(|parts| parts[0].1 = "I8")),
        value("fastdeploy-super-scale-nan.safetensors", 2, f32::NAN),
        value("fastdeploy-code-scale-infinite.safetensors", 3, f32::INFINITY),
        value("fastdeploy-code-zp-nan.safetensors", 4, f32::NAN),
    ]
}
