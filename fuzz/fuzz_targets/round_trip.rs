//! Any finite weights can be quantized, written, read and verified; what is decoded is what the quantizer made of
//! them, finite, and no worse than zeros.
#![no_main]

use ccq::codec::Matrix;
use ccq::{Container, Limits};
use ccq_fuzz::{Weights, container, decode};
use ccq_quantize::ErrorStats;

libfuzzer_sys::fuzz_target!(|weights: Weights| {
    let Some(matrix) = weights.quantize() else { return };
    let made = Matrix::new(matrix.code, matrix.rows, matrix.in_features, matrix.planes());
    let file = container(&matrix);
    let read = Container::from_bytes(&file, &Limits::DEFAULT).expect("what the writer wrote");
    read.verify().expect("what the quantizer made");
    let decoded = decode(&read.tensor("w").and_then(|tensor| tensor.matrix()).expect("the matrix"));
    assert!(decoded.iter().all(|weight| weight.is_finite()));
    assert_eq!(decoded, decode(&made.expect("planes of the code")));
    let stats = ErrorStats::of_rows(&weights.values(), &decoded, weights.in_features());
    assert!(stats.squared_error <= stats.energy * (1.0 + 1e-6), "{stats:?}");
});
