//! The errors that must hold, on Gaussian weights and on a real layer, through the codec that readers use.
#![allow(missing_docs)]

use ccq::code::Family;
use ccq::codec::Matrix;
use ccq_quantize::{ErrorStats, Options, gaussian, quantize};

/// Quantizes with the family's default group, decodes, compares what the quantizer believed with the truth.
fn error(family: Family, weights: &[f32], in_features: usize) -> ErrorStats {
    let code = family.default_code().unwrap();
    let matrix = quantize(weights, in_features, &Options::new(code)).unwrap();
    let rows = weights.len() / in_features;
    let mut decoded = vec![0.0; weights.len()];
    let planes = Matrix::new(code, rows, in_features, matrix.planes()).unwrap();
    planes.decode_rows_into(0..rows, &mut decoded).unwrap();
    let stats = ErrorStats::of_rows(weights, &decoded, in_features);
    let difference = (matrix.squared_error - stats.squared_error).abs();
    assert!(difference < 1e-4 * stats.squared_error, "{family:?}: believed {}", matrix.squared_error);
    stats
}

fn check(family: Family, stats: &ErrorStats, most: f64) {
    let mse = stats.relative_mse().unwrap();
    assert!(mse <= most, "{family:?}: relative MSE {mse}, at most {most}");
}

#[test]
fn gaussian_weights() {
    let weights = gaussian(1, 256 * 4096);
    for (family, most) in [
        (Family::Ccq206, 0.1040),
        (Family::Ccq25, 0.0935),
        (Family::Ccq275, 0.0772),
        (Family::Wint4, 0.0082),
        (Family::Wint8, 0.000_08),
        (Family::Int2, 0.125),
    ] {
        check(family, &error(family, &weights, 4096), most);
    }
}

#[test]
fn real_layer() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/all-minilm-l6-v2-layer0.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let matrices: Vec<(Vec<f32>, usize)> = file
        .tensors()
        .into_iter()
        .map(|(_, view)| {
            let halves = view.data().chunks_exact(2);
            let weights = halves.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            (weights, view.shape()[1])
        })
        .collect();
    assert_eq!(matrices.len(), 6);
    for (family, most) in [
        (Family::Ccq206, 0.1085),
        (Family::Ccq25, 0.1015),
        (Family::Ccq275, 0.0868),
        (Family::Wint4, 0.0089),
        (Family::Wint8, 0.000_128),
        (Family::Int2, 0.128),
    ] {
        let mut total = ErrorStats::default();
        for (weights, in_features) in &matrices {
            total.merge(&error(family, weights, *in_features));
        }
        check(family, &total, most);
    }
}
