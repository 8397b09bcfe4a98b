//! Using everything of an open container.

use std::ops::Range;

use ccq::codec::{Activations, Matrix, local_scale};
use ccq::format::{Encoding, Error};
use ccq::{Container, Limits};
use half::{bf16, f16};

/// Opens bytes and, if they are accepted, uses everything: no call may panic, whatever the bytes.
///
/// # Errors
/// What the reader says.
pub fn exercise(bytes: &[u8]) -> Result<(), Error> {
    let container = Container::from_bytes(bytes, &Limits::DEFAULT)?;
    let index = container.index();
    assert_eq!(index.file_len(), bytes.len() as u64);
    for tensor in container.tensors() {
        let info = tensor.info();
        assert!(index.tensor(info.name()).is_some());
        assert_eq!(tensor.matrix().is_some(), info.encoding() != Encoding::Raw);
        let Some(matrix) = tensor.matrix() else { continue };
        if matrix.in_features() < 1 << 16 {
            let rows = matrix.rows();
            decode_and_multiply(&matrix, 0..rows.min(4));
            decode_and_multiply(&matrix, rows.saturating_sub(4)..rows);
        }
    }
    index.metadata().iter().for_each(|(key, _)| assert!(index.metadata().get(key).is_some()));
    container.blobs().for_each(|(name, blob)| assert_eq!(container.blob(name), Some(blob)));
    container.verify()
}

/// Decodes rows to every type, and multiplies them: the products are those of the decoded weights.
fn decode_and_multiply(matrix: &Matrix<'_>, rows: Range<usize>) {
    let in_features = matrix.in_features();
    let mut weights = vec![0.0f32; rows.len() * in_features];
    matrix.decode_rows_into(rows.clone(), &mut weights).expect("rows of the matrix");
    let mut halves = vec![f16::ZERO; weights.len()];
    matrix.decode_rows_as(rows.clone(), &mut halves).expect("rows of the matrix");
    let mut narrow = vec![bf16::ZERO; weights.len()];
    matrix.decode_rows_as(rows.clone(), &mut narrow).expect("rows of the matrix");
    for ((weight, half), narrow) in weights.iter().zip(halves).zip(narrow) {
        let same = f16::from_f32(*weight) == half && bf16::from_f32(*weight) == narrow;
        assert!(same || weight.is_nan() && half.is_nan() && narrow.is_nan());
    }

    // Whole numbers up to 127 in every group of 64: rounding them to bytes changes none.
    let x: Vec<f32> =
        (0..in_features).map(|at| if at % 64 == 0 { 127.0 } else { (at % 255) as f32 - 127.0 }).collect();
    let (mut y, mut rounded) = (vec![0.0; rows.len()], vec![0.0; rows.len()]);
    matrix.matvec_rows(rows.clone(), &x, &mut y).expect("a vector and room for the products");
    let activations = Activations::new(&x, in_features);
    matrix
        .matvec_int8_rows(rows.clone(), &activations, &mut rounded)
        .expect("a vector and room for the products");
    let products = y.into_iter().zip(rounded);
    for ((row, weights), products) in rows.zip(weights.chunks_exact(in_features)).zip(products) {
        check_products(matrix, row, weights, &x, products);
    }
}

/// The product in f32 and the one of bytes are as close to that of the decoded weights as documented.
fn check_products(matrix: &Matrix<'_>, row: usize, weights: &[f32], x: &[f32], (y, rounded): (f32, f32)) {
    let (code, planes) = (matrix.code(), matrix.row(row).expect("a row of the matrix"));
    let super_scale = planes.super_scale.first_chunk().map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
    let widest = code.segments().iter().map(|segment| 1u32 << segment.state_bits).max().unwrap_or(1);
    let group_size = code.group_size().unwrap_or(weights.len());
    let [mut sum, mut size, mut most] = [0.0; 3];
    for (group, (weights, x)) in weights.chunks(group_size).zip(x.chunks(group_size)).enumerate() {
        let local = local_scale(code, code.words_per_group(weights.len()), &planes, group);
        let step = f64::from(local) * f64::from(super_scale);
        for (&weight, &x) in weights.iter().zip(x) {
            let term = f64::from(weight) * f64::from(x);
            sum += term;
            size += term.abs();
            most += step.abs() * f64::from(widest) * f64::from(x.abs());
        }
    }
    // Where scales or sums leave the range of normal numbers, it shows in which order they were taken.
    if size > 1e-20 && most < 1e20 {
        assert!((f64::from(y) - sum).abs() <= size / f64::from(1 << 20), "{y} for {sum}");
        assert!((f64::from(rounded) - sum).abs() <= most / f64::from(1 << 18), "{rounded} for {sum}");
    }
}
