//! The file and the byte that an element has its value from.

mod common;
#[path = "../../xtask/src/gguf.rs"]
#[allow(dead_code)]
mod gguf;

use std::fs;
use std::path::PathBuf;

use ccq::format::Dtype;
use ccq_import::Model;
use common::{Folder, Tensor, decode, f32s, safetensors, tensor};

const DOWN: &str = "model.layers.0.mlp.experts.down_proj";
const TURNED: &str = r#"{"model_type": "llama4"}"#;
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

/// File and byte of each element of a tensor.
fn places(model: &Model, name: &str) -> Vec<(PathBuf, usize)> {
    let tensor = model.tensor(name).unwrap();
    let place = |element| model.place(tensor, element);
    (0..tensor.element_count()).map(place).map(|(file, at)| (file.into(), at as usize)).collect()
}

fn f32_at((file, at): &(PathBuf, usize)) -> f32 {
    f32::from_le_bytes(fs::read(file).unwrap()[*at..at + 4].try_into().unwrap())
}

/// A model in two files, each of one tensor.
fn two_shards(tensors: [Tensor; 2], config: &str) -> Folder {
    let folder = Folder::new();
    let map = tensors.iter().zip([ONE, TWO]).map(|(tensor, file)| (tensor.name.clone(), file.into()));
    let map: serde_json::Map<_, _> = map.collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    folder.write("model.safetensors.index.json", index.to_string().as_bytes());
    folder.write("config.json", config.as_bytes());
    for (tensor, file) in tensors.into_iter().zip([ONE, TWO]) {
        folder.write(file, &safetensors(&[tensor]));
    }
    folder
}

#[test]
fn plain_elements_are_where_they_are_stored() {
    let count = 3 * 4 * 5;
    let counted = |dtype, size: usize| {
        let bytes = (0..count).flat_map(|at: u32| at.to_le_bytes()[..size].to_vec()).collect();
        tensor(DOWN, dtype, &[3, 4, 5], bytes)
    };
    for (dtype, size) in [(Dtype::F32, 4), (Dtype::F16, 2), (Dtype::Bf16, 2), (Dtype::I8, 1)] {
        for config in ["{}", TURNED] {
            let other = tensor("a", Dtype::U8, &[3], vec![0; 3]);
            let folder = two_shards([other, counted(dtype, size)], config);
            let model = folder.open().unwrap();
            let found = model.tensor(DOWN).unwrap();
            assert_eq!(found.is_transposed(), config == TURNED);
            let elements = model.elements(found, 0..u64::from(count)).unwrap();
            for ((file, at), element) in places(&model, DOWN).iter().zip(elements.chunks_exact(size)) {
                assert_eq!(file, &folder.path(TWO));
                assert_eq!(&fs::read(file).unwrap()[*at..at + size], element, "{dtype} {config}");
            }
        }
    }
}

/// A finite weight is what its scale makes of it; one that is NaN is so by itself.
#[test]
fn fp8_weights_are_where_they_or_their_scales_are() {
    const NAN: u8 = 0x7F;
    let mut weights = vec![0x38; 2 * 3 * 40];
    let broken = [7, 3 * 40 + 2 * 40 + 39];
    broken.iter().for_each(|&at| weights[at] = NAN);
    for config in ["", r#""model_type": "llama4", "#] {
        let block = format!(r#"{{{config}"quantization_config": {{"weight_block_size": [2, 16]}}}}"#);
        let weight = tensor(DOWN, Dtype::F8E4M3, &[2, 3, 40], weights.clone());
        let scales = f32s((0..2 * 2 * 3).map(|at| (at + 1) as f32));
        let scale = tensor(&format!("{DOWN}_scale_inv"), Dtype::F32, &[2, 2, 3], scales);
        let folder = two_shards([weight, scale], &block);
        let model = folder.open().unwrap();
        let decoded = decode(&model, model.tensor(DOWN).unwrap());
        let mut nans = Vec::new();
        let data = fs::read(folder.path(ONE)).unwrap().len() - weights.len();
        for (place, value) in places(&model, DOWN).iter().zip(decoded) {
            if value.is_nan() {
                assert_eq!(place.0, folder.path(ONE));
                nans.push(place.1 - data);
            } else {
                assert_eq!(place.0, folder.path(TWO));
                assert_eq!(f32_at(place), value);
            }
        }
        nans.sort_unstable();
        assert_eq!(nans, broken, "{config}");
    }
}

/// Type number, bytes and weights of a block, and where its scales are.
#[test]
fn blocks_are_where_their_scale_that_is_not_finite_is() {
    let types: [(u32, usize, usize, &[usize]); 5] = [
        (2, 18, 32, &[0]),
        (8, 34, 32, &[0]),
        (12, 144, 256, &[0, 2]),
        (13, 176, 256, &[0, 2]),
        (14, 210, 256, &[208]),
    ];
    for (kind, size, weights, scales) in types {
        for &scale in scales {
            let mut data = vec![0x11; 3 * size];
            data[size + scale..][..2].copy_from_slice(&[0, 0xFC]);
            let bytes = gguf::Gguf::new("llama").tensor("a", &[3 * weights as u64], kind, data).bytes();
            let folder = Folder::new();
            folder.write("m.gguf", &bytes);
            let model = Model::open(&folder.path("m.gguf")).unwrap();
            let start = bytes.windows(4).position(|bytes| bytes == [0x11; 4]).unwrap();
            let expected = [start, start + size + scale, start + 2 * size];
            let decoded = decode(&model, model.tensor("a").unwrap());
            for (at, ((_, place), value)) in places(&model, "a").into_iter().zip(decoded).enumerate() {
                let block = at / weights;
                assert_eq!((place, value.is_finite()), (expected[block], block != 1), "{kind} {at}");
            }
        }
    }
}
