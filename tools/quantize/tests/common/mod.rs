//! The real layer, and what readers make of a quantized matrix.
#![allow(missing_docs, dead_code)]

use ccq::codec::Matrix;
use ccq_quantize::QuantizedMatrix;

/// The matrices of the layer in testdata, each with the length of its rows.
pub fn layer() -> Vec<(Vec<f32>, usize)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/all-minilm-l6-v2-layer0.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    tensors.sort_by(|x, y| x.0.cmp(&y.0));
    let matrices: Vec<(Vec<f32>, usize)> = tensors
        .into_iter()
        .map(|(_, view)| {
            let halves = view.data().chunks_exact(2);
            let weights = halves.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            (weights, view.shape()[1])
        })
        .collect();
    assert_eq!(matrices.len(), 6);
    matrices
}

/// The decoded weights.
pub fn decode(matrix: &QuantizedMatrix) -> Vec<f32> {
    let mut decoded = vec![f32::NAN; matrix.rows * matrix.in_features];
    Matrix::new(matrix.code, matrix.rows, matrix.in_features, matrix.planes())
        .unwrap()
        .decode_rows_into(0..matrix.rows, &mut decoded)
        .unwrap();
    decoded
}
