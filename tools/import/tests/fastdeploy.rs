//! FastDeploy's CCQ tensors.

mod common;

use std::collections::BTreeMap;

use ccq::code::{Cluster, Family};
use ccq::codec::Matrix;
use ccq::format::Dtype;
use ccq_import::{Error, FastDeployError, is_fastdeploy_layer};
use common::{Folder, Tensor, bytes, check_ranges, decode, f32s, names, safetensors, tensor};
use half::{bf16, f16};
use proptest::prelude::*;

const BASE: &str = "ernie.layers.7.mlp.experts.3.down_proj";

/// A layer in WINT2: `[K/4, N]` codes and the rest, with parameters like the released ones.
fn wint2(base: &str, rows: u64, in_features: u64, super_dtype: Dtype) -> Vec<Tensor> {
    let groups = in_features / 64;
    let count = |shape: &[u64]| shape.iter().product::<u64>() as usize;
    let mut scales = bytes(count(&[groups.div_ceil(2), rows]), 2);
    if groups % 2 == 1 {
        let last = scales.len() - rows as usize;
        scales[last..].iter_mut().for_each(|byte| *byte &= 0xF0);
    }
    let name = |end: &str| format!("{base}.{end}");
    vec![
        tensor(
            &name("quant_weight"),
            Dtype::U8,
            &[in_features / 4, rows],
            bytes(count(&[in_features / 4, rows]), 1),
        ),
        tensor(&name("weight_scale"), Dtype::U8, &[groups.div_ceil(2), rows], scales),
        super_scales(base, rows, super_dtype),
        tensor(&name("code_scale"), Dtype::F32, &[rows], f32s((0..rows).map(|at| 118.3 + at as f32 * 0.71))),
        tensor(&name("code_zp"), Dtype::F32, &[rows], f32s((0..rows).map(|at| 1100.7 - at as f32 * 3.3))),
    ]
}

fn wint25(base: &str, rows: u64, in_features: u64) -> Vec<Tensor> {
    let words = in_features / 64 * 10;
    let codes = bytes((words * rows * 2) as usize, 3);
    let codes = tensor(&format!("{base}.quant_weight"), Dtype::U16, &[words, rows], codes);
    vec![codes, super_scales(base, rows, Dtype::Bf16)]
}

fn super_scales(base: &str, rows: u64, dtype: Dtype) -> Tensor {
    let values: Vec<f32> = (0..rows).map(|at| (at as f32 - 2.5) * 1.7e-4).collect();
    let bytes = match dtype {
        Dtype::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        _ => f32s(values),
    };
    tensor(&format!("{base}.super_scales"), dtype, &[rows], bytes)
}

fn f32_at(tensor: &Tensor, at: usize) -> f32 {
    let size = (tensor.dtype.bits() / 8) as usize;
    let mut out = Vec::new();
    ccq_import::decode_f32(tensor.dtype, &tensor.bytes[at * size..][..size], &mut out).unwrap();
    out[0]
}

#[test]
fn wint2_is_read_without_loss() {
    for (rows, in_features, super_dtype) in
        [(5, 128, Dtype::Bf16), (70, 192, Dtype::F16), (1, 64, Dtype::F32), (33, 4 * 256, Dtype::Bf16)]
    {
        let parts = wint2(BASE, rows, in_features, super_dtype);
        let other = tensor("ernie.norm.weight", Dtype::Bf16, &[2], vec![0; 4]);
        let folder = Folder::model(&[parts.clone(), vec![other]].concat(), "{}");
        let model = folder.open().unwrap();
        assert_eq!(names(&model), [&format!("{BASE}.weight"), "ernie.norm.weight"]);
        let found = &model.tensors()[0];
        assert_eq!((found.dtype, found.shape.as_slice()), (super_dtype, &[rows, in_features][..]));
        let code = found.code().unwrap();
        assert_eq!((code.to_string(), code.cluster()), ("ccq-2.06".into(), Some(Cluster::F32)));
        assert_eq!(found.quantized_as(), None);

        let planes = model.planes(found, 0..rows).unwrap();
        let (n, words, groups) = (rows as usize, in_features as usize / 4, in_features as usize / 64);
        let decoded = decode(&model, found);
        for row in 0..n {
            for word in 0..words {
                assert_eq!(planes.words[row * words + word], parts[0].bytes[word * n + row]);
            }
            for pair in 0..groups.div_ceil(2) {
                assert_eq!(
                    planes.local_scale[row * groups.div_ceil(2) + pair],
                    parts[1].bytes[pair * n + row]
                );
            }
            // FastDeploy's formula, of which the fused and the plain form agree on these.
            let (super_scale, code_scale, zp) =
                (f32_at(&parts[2], row), f32_at(&parts[3], row), f32_at(&parts[4], row));
            for column in 0..in_features as usize {
                let q = f32::from(parts[0].bytes[column / 4 * n + row]);
                let code = q.mul_add(code_scale, zp + 0.5).floor() as i32;
                let state = (code >> (9 - 3 * (column % 4)) & 0x3F) - 32;
                let scales = parts[1].bytes[column / 128 * n + row];
                let local = if column / 64 % 2 == 0 { scales >> 4 } else { scales & 0xF };
                let expected = state as f32 * (f32::from(local) * super_scale);
                assert_eq!(decoded[row * in_features as usize + column].to_bits(), expected.to_bits());
            }
        }
        check_ranges(&model, found);
    }
}

#[test]
fn wint25_is_read_without_loss() {
    let (rows, in_features) = (9, 192);
    let base = "ernie.layers.7.mlp.experts.10.up_gate_proj";
    let parts = wint25(base, rows, in_features);
    let folder = Folder::model(&parts, "{}");
    let model = folder.open().unwrap();
    let found = &model.tensors()[0];
    assert_eq!((found.name.as_str(), found.dtype), (&*format!("{base}.weight"), Dtype::Bf16));
    assert_eq!(found.code(), Family::Ccq25.code(64).ok());
    let decoded = decode(&model, found);
    let word = |row: usize, at: usize| {
        let place = (at * rows as usize + row) * 2;
        u16::from_le_bytes([parts[0].bytes[place], parts[0].bytes[place + 1]])
    };
    for row in 0..rows as usize {
        for column in 0..in_features as usize {
            let (group, place) = (column / 64, column % 64);
            let local = f32::from(word(row, group * 10 + 9) & 0x1FFF);
            let shift = [13, 11, 9, 6, 4, 2, 0][place % 7];
            let state = i32::from(word(row, group * 10 + place / 7) >> shift & 7) - 4;
            let expected = state as f32 * (local * f32_at(&parts[1], row));
            assert_eq!(decoded[row * in_features as usize + column].to_bits(), expected.to_bits());
        }
    }
    check_ranges(&model, found);
}

/// Any rows' planes are those rows of all planes, and a matrix of the container's own sort.
#[test]
fn planes_come_in_any_blocks_of_rows() {
    for parts in [wint2(BASE, 70, 192, Dtype::Bf16), wint25(BASE, 70, 192)] {
        let folder = Folder::model(&parts, "{}");
        let model = folder.open().unwrap();
        let found = &model.tensors()[0];
        let all = model.planes(found, 0..70).unwrap();
        Matrix::new(all.code, 70, 192, all.planes()).unwrap();
        for rows in [0..1, 3..3, 5..69, 69..70, 0..70] {
            let part = model.planes(found, rows.clone()).unwrap();
            let (start, end) = (rows.start as usize, rows.end as usize);
            let planes = [
                (&part.words, &all.words),
                (&part.local_scale, &all.local_scale),
                (&part.super_scale, &all.super_scale),
                (&part.cluster, &all.cluster),
            ];
            for (part, all) in planes {
                assert_eq!(**part, all[start * (all.len() / 70)..end * (all.len() / 70)], "{rows:?}");
            }
        }
        assert!(matches!(model.planes(found, 0..71), Err(Error::Elements { .. })));
        assert!(matches!(model.planes(found, u64::MAX..u64::MAX), Err(Error::Elements { .. })));
    }
    let folder = Folder::model(&[tensor("a.weight", Dtype::F32, &[1, 1], f32s([1.0]))], "{}");
    let model = folder.open().unwrap();
    assert!(matches!(model.planes(&model.tensors()[0], 0..1), Err(Error::NotCoded { .. })));
}

fn error_of(tensors: &[Tensor]) -> FastDeployError {
    match Folder::model(tensors, "{}").open() {
        Err(Error::FastDeploy { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_that_do_not_belong_together_are_named() {
    let whole = wint2(BASE, 6, 192, Dtype::Bf16);
    for missing in 0..whole.len() {
        let mut parts = whole.clone();
        let Tensor { name, .. } = parts.remove(missing);
        assert!(
            matches!(error_of(&parts), FastDeployError::MissingPart { tensor, .. } if tensor == name),
            "{name}"
        );
    }
    for (part, dtype, shape) in [
        (0, Dtype::U8, &[47, 6][..]),
        (0, Dtype::U8, &[48, 5]),
        (0, Dtype::U8, &[288]),
        (0, Dtype::U8, &[0, 6]),
        (0, Dtype::U8, &[48, 0]),
        (1, Dtype::U8, &[1, 6]),
        (1, Dtype::U8, &[2, 5]),
        (1, Dtype::I8, &[2, 6]),
        (2, Dtype::F64, &[6]),
        (2, Dtype::Bf16, &[5]),
        (3, Dtype::F16, &[6]),
        (3, Dtype::F32, &[6, 1]),
        (4, Dtype::F32, &[7]),
    ] {
        let mut parts = whole.clone();
        let bytes = vec![0; dtype.tensor_bytes(shape).unwrap() as usize];
        parts[part] = tensor(&parts[part].name, dtype, shape, bytes);
        let error = error_of(&parts);
        assert!(matches!(error, FastDeployError::Part { .. }), "{part} {dtype} {shape:?}: {error}");
    }
    let mut twice = whole.clone();
    twice.push(tensor(&format!("{BASE}.weight"), Dtype::Bf16, &[6, 192], vec![0; 2304]));
    assert!(matches!(error_of(&twice), FastDeployError::NameTaken { .. }));
    let mut missing = wint25(BASE, 6, 192);
    missing[1].name = format!("{BASE}.code_zp");
    assert!(matches!(error_of(&missing), FastDeployError::MissingPart { .. }));
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[test]
fn values_that_no_container_holds_are_named_when_they_are_read() {
    let whole = wint2(BASE, 6, 192, Dtype::Bf16);
    let error = |part: usize, at: usize, bytes: &[u8]| {
        let mut parts = whole.clone();
        parts[part].bytes[at..at + bytes.len()].copy_from_slice(bytes);
        // In a shard of its own, which has nothing else.
        let apart = parts.remove(part);
        let map = parts.iter().map(|part| (&part.name, SHARDS[0])).chain([(&apart.name, SHARDS[1])]);
        let index = serde_json::json!({"weight_map": map.collect::<BTreeMap<_, _>>()});
        let folder = Folder::new();
        folder.write("model.safetensors.index.json", index.to_string().as_bytes());
        folder.write(SHARDS[0], &safetensors(&parts));
        folder.write(SHARDS[1], &safetensors(std::slice::from_ref(&apart)));
        let model = folder.open().unwrap();
        // Channels before it are not concerned.
        model.planes(&model.tensors()[0], 0..4).unwrap();
        match model.planes(&model.tensors()[0], 2..6) {
            Err(error) => {
                let data = folder.path(SHARDS[1]).metadata().unwrap().len() - apart.bytes.len() as u64;
                assert_eq!(error.offset(), Some(data + at as u64), "{error}");
                let Error::FastDeploy { source, file, .. } = error else { panic!("{error}") };
                assert_eq!(file, folder.path(SHARDS[1]));
                source
            }
            Ok(planes) => panic!("{planes:?}"),
        }
    };
    let nibble = error(1, 6 + 4, &[0xA3]);
    assert!(matches!(nibble, FastDeployError::Padding { channel: 4, found: 3, .. }), "{nibble}");
    for (part, at, bytes) in
        [(2, 10, &[0x80, 0x7F][..]), (3, 20, &[0, 0, 0xC0, 0x7F]), (4, 20, &[0, 0, 0x80, 0xFF])]
    {
        let error = error(part, at, bytes);
        assert!(
            matches!(&error, FastDeployError::NonFinite { channel: 5, tensor, .. } if *tensor == whole[part].name)
        );
    }
}

/// What is not FastDeploy's CCQ stays what it is: codes for other kernels, the same endings elsewhere.
#[test]
fn others_stay_as_they_are() {
    let tensors = [
        tensor("a.experts.0.down_proj.quant_weight", Dtype::I8, &[4, 4], vec![1; 16]),
        tensor("a.experts.0.down_proj.weight_scale", Dtype::F32, &[4], vec![0; 16]),
        tensor("b.experts.0.down_proj.quant_weight", Dtype::U8, &[4, 4], vec![1; 16]),
        tensor("b.experts.0.down_proj.weight_scale", Dtype::F32, &[4], vec![0; 16]),
        tensor("c.q_proj.quant_weight", Dtype::U8, &[4, 4], vec![1; 16]),
        tensor("c.q_proj.super_scales", Dtype::F32, &[4], vec![0; 16]),
    ];
    let folder = Folder::model(&tensors, "{}");
    let model = folder.open().unwrap();
    assert_eq!(model.tensors().len(), tensors.len());
    assert!(model.tensors().iter().all(|tensor| tensor.code().is_none()));
    for (name, expected) in [
        (BASE, true),
        ("a.experts.0.up_gate_proj", true),
        ("experts.0.down_proj", false),
        ("a.experts.x.down_proj", false),
        ("a.experts.0.gate_proj", false),
        ("a.experts..down_proj", false),
        ("a.shared_experts.0.down_proj", false),
    ] {
        assert_eq!(is_fastdeploy_layer(name), expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A header with damage opens as something that can be read, or not at all.
    #[test]
    fn damaged_headers_never_panic(damage in prop::collection::vec((0usize..2000, any::<u8>()), 1..4)) {
        let fp8 = [
            tensor("b.weight", Dtype::F8E4M3, &[3, 5], bytes(15, 9)),
            tensor("b.weight_scale_inv", Dtype::F32, &[1, 1], f32s([1.0])),
        ];
        let mut file = safetensors(&[wint2(BASE, 3, 64, Dtype::Bf16), wint25("a.experts.1.up_gate_proj", 2, 64), fp8.into()].concat());
        let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        for (at, value) in damage {
            // Digits and letters lead further than arbitrary bytes.
            file[8 + at % (header - 8)] = b"0123456789UFI[],."[usize::from(value) % 17];
        }
        let folder = Folder::new();
        folder.write("model.safetensors", &file);
        folder.write("config.json", br#"{"model_type": "gpt2"}"#);
        if let Ok(model) = folder.open() {
            let mut out = Vec::new();
            for tensor in model.tensors() {
                let _ = model.decode_f32(tensor, 0..tensor.element_count(), &mut out);
                let _ = model.elements(tensor, 0..tensor.element_count());
                let _ = model.planes(tensor, 0..tensor.shape.first().copied().unwrap_or(0));
            }
        }
    }
}
