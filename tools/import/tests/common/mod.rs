//! Models made here.
#![allow(dead_code)] // every test file uses its own part

use std::path::PathBuf;

use ccq::format::Dtype;
use ccq_import::{Error, Model, SourceTensor};
use tempfile::TempDir;

/// A tensor to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

pub fn tensor(name: &str, dtype: Dtype, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    assert_eq!(dtype.tensor_bytes(shape), Some(bytes.len() as u64), "{name}");
    Tensor { name: name.into(), dtype, shape: shape.into(), bytes }
}

pub fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Seeded bytes.
pub fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// A safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut header = serde_json::Map::new();
    for Tensor { name, dtype, shape, bytes } in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let offsets = [begin, data.len()];
        let entry = serde_json::json!({"dtype": dtype.name(), "shape": shape, "data_offsets": offsets});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], &data].concat()
}

/// A folder of files; it goes when the test ends.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// A model folder of these tensors and this config.json.
    pub fn model(tensors: &[Tensor], config: &str) -> Self {
        let folder = Self::new();
        folder.write("model.safetensors", &safetensors(tensors));
        folder.write("config.json", config.as_bytes());
        folder
    }

    pub fn open(&self) -> Result<Model, Error> {
        Model::open(self.0.path())
    }
}

pub fn names(model: &Model) -> Vec<&str> {
    model.tensors().iter().map(|tensor| tensor.name.as_str()).collect()
}

/// All exact values.
pub fn decode(model: &Model, tensor: &SourceTensor) -> Vec<f32> {
    let mut out = vec![9.0];
    model.decode_f32(tensor, 0..tensor.element_count(), &mut out).unwrap();
    out
}

/// Every way to ask for a part gives that part of the whole, exact and rounded.
pub fn check_ranges(model: &Model, tensor: &SourceTensor) {
    let whole = decode(model, tensor);
    let elements = tensor.element_count();
    let all = model.elements(tensor, 0..elements).unwrap();
    assert_eq!(all.len() as u64, tensor.byte_len());
    let size = tensor.dtype.bits() / 8;
    let width = *tensor.shape.last().unwrap();
    let mut out = Vec::new();
    for start in [0, 1, width - 1, width, width + 1, elements / 2, elements - 1, elements] {
        for len in [0, 1, 2, width, 3 * width + 1, elements] {
            let range = start.min(elements)..(start + len).min(elements);
            model.decode_f32(tensor, range.clone(), &mut out).unwrap();
            let expected = &whole[range.start as usize..range.end as usize];
            assert!(out.iter().map(|v| v.to_bits()).eq(expected.iter().map(|v| v.to_bits())), "{range:?}");
            let part = model.elements(tensor, range.clone()).unwrap();
            assert_eq!(*part, all[(range.start * size) as usize..(range.end * size) as usize], "{range:?}");
        }
    }
    let backwards = std::ops::Range { start: 1, end: 0 };
    for wrong in [0..elements + 1, elements + 1..elements + 1, u64::MAX..u64::MAX, backwards] {
        assert!(matches!(model.elements(tensor, wrong.clone()), Err(Error::Elements { .. })), "{wrong:?}");
        assert!(matches!(model.decode_f32(tensor, wrong, &mut out), Err(Error::Elements { .. })));
    }
}
