//! The relative error of each free tensor under each of its options.

use ccq_cli::{Progress, interrupted};
use ccq_import::{Importance, Model, SourceTensor, Vectors};
use ccq_quantize::{ErrorStats, Quality};
use rayon::prelude::*;

use super::Free;
use crate::error::Error;
use crate::recipe::How;
use crate::search::{Search, Shape, refused, size, vectors};

/// Weights of a tensor that are measured, about, in whole rows, unless all of them are. That is all of a small
/// matrix, where a few rows with outliers may make up much of the error.
const SAMPLE: u64 = 1 << 19;
/// Weights that are measured at a time, about.
const BLOCK: u64 = 1 << 20;

/// Fills in the errors and the weight of every free tensor.
///
/// A tensor's weight is the sum over its weights of their input features' importance, with importance one where
/// there is no file; where the file knows nothing of a tensor, its weights count as much as the others do on
/// average. The error of an option is its relative error, importance included, times that weight.
///
/// # Errors
/// Those of reading and quantizing.
pub(super) fn measure(
    model: &Model,
    free: &mut [Free<'_>],
    importance: Option<&Importance>,
) -> Result<(), Error> {
    let progress = Progress::new(free.iter().map(|free| free.tensor.byte_len()).sum());
    let measured: Vec<Result<Measured, Error>> = free
        .par_iter()
        .map(|free| {
            progress.work_on(&free.tensor.name);
            let measured = Measured::of(model, free, importance);
            progress.advance(free.tensor.byte_len());
            measured
        })
        .collect();
    progress.finish();
    let measured = measured.into_iter().collect::<Result<Vec<_>, _>>()?;
    let known =
        measured.iter().zip(free.iter()).filter_map(|(measured, free)| Some((measured.weight?, free)));
    let (weight, parameters) = known.fold((0.0, 0u64), |(weight, parameters), (more, free)| {
        (weight + more, parameters.saturating_add(free.tensor.element_count()))
    });
    let usual = if parameters > 0 && weight > 0.0 { weight / parameters as f64 } else { 1.0 };
    for (free, measured) in free.iter_mut().zip(measured) {
        free.weight = measured.weight.unwrap_or(usual * free.tensor.element_count() as f64);
        for (choice, error) in free.choices.iter_mut().zip(measured.errors) {
            choice.error = error * free.weight;
        }
    }
    Ok(())
}

/// The weight and the errors of every free tensor as text, to the bit.
pub(super) fn note(free: &[Free<'_>]) -> String {
    let of = |free: &Free<'_>| {
        let errors = free.choices.iter().map(|choice| choice.error);
        std::iter::once(free.weight)
            .chain(errors)
            .map(|number| format!("{:x}", number.to_bits()))
            .collect::<Vec<_>>()
    };
    free.iter().map(|free| of(free).join(",")).collect::<Vec<_>>().join(" ")
}

/// Fills in what [`note`] wrote of the same tensors and options; false where it is not of them.
pub(super) fn recall(free: &mut [Free<'_>], text: &str) -> bool {
    let number = |text: &str| {
        u64::from_str_radix(text, 16).ok().map(f64::from_bits).filter(|n| n.is_finite() && *n >= 0.0)
    };
    let tensor = |text: &str| text.split(',').map(number).collect::<Option<Vec<f64>>>();
    let Some(tensors) = text.split(' ').map(tensor).collect::<Option<Vec<_>>>() else { return false };
    let fits =
        |(free, numbers): (&Free<'_>, &Vec<f64>)| numbers.len() == free.choices.len().saturating_add(1);
    if tensors.len() != free.len() || !free.iter().zip(&tensors).all(fits) {
        return false;
    }
    for (free, numbers) in free.iter_mut().zip(tensors) {
        let mut numbers = numbers.into_iter();
        free.weight = numbers.next().unwrap_or(0.0);
        for (choice, error) in free.choices.iter_mut().zip(numbers) {
            choice.error = error;
        }
    }
    true
}

/// What was measured of a tensor.
struct Measured {
    /// The relative error of each option.
    errors: Vec<f64>,
    /// The sum of the importances of its weights, if there are any.
    weight: Option<f64>,
}

impl Measured {
    fn of(model: &Model, free: &Free<'_>, importance: Option<&Importance>) -> Result<Self, Error> {
        let tensor = free.tensor;
        let vectors = importance.map(|importance| vectors(importance, tensor)).transpose()?.flatten();
        let error = |how: &How| match how {
            How::Quantize(search) => {
                let sample = Sample::new(tensor, search.quality == Quality::Best);
                sample.error(model, tensor, search, vectors.as_ref())
            }
            How::Raw | How::Choose { .. } => Ok(0.0),
        };
        let errors = free.options.iter().map(error).collect::<Result<_, _>>()?;
        let shape = Shape::of(&tensor.shape);
        let weight = vectors.map(|vectors| {
            let of_row = |expert| vectors.of(size(expert)).iter().map(|&h| f64::from(h)).sum::<f64>();
            (0..shape.experts).map(|expert| of_row(expert) * shape.rows as f64).sum()
        });
        Ok(Self { errors, weight })
    }
}

/// Rows of a tensor, as many of each matrix of a stack.
struct Sample {
    shape: Shape,
    /// Where each row is in the tensor.
    rows: Vec<u64>,
}

impl Sample {
    fn new(tensor: &SourceTensor, all: bool) -> Self {
        let Shape { experts, rows, in_features } = Shape::of(&tensor.shape);
        let sampled = SAMPLE.checked_div(experts.saturating_mul(in_features)).unwrap_or(SAMPLE);
        let count = if all { rows } else { sampled.clamp(1, rows.max(1)) };
        let start_of = |part: u64| part.saturating_mul(rows).checked_div(count).unwrap_or(0);
        let of = |expert: u64| {
            (0..count).map(move |part| {
                // A row from each of `count` equal parts, never the same place in all of them: rows of a head or
                // of an interleaved layout repeat at regular distances.
                let (start, end) = (start_of(part), start_of(part.saturating_add(1)));
                let number = expert.saturating_mul(count).saturating_add(part);
                let within = scattered(number).checked_rem(end.saturating_sub(start)).unwrap_or(0);
                expert.saturating_mul(rows).saturating_add(start).saturating_add(within)
            })
        };
        let rows = (0..experts).flat_map(of).collect();
        Self { shape: Shape { experts, rows: count, in_features }, rows }
    }

    /// The relative error of these rows, block by block.
    fn error(
        &self,
        model: &Model,
        tensor: &SourceTensor,
        search: &Search,
        vectors: Option<&Vectors>,
    ) -> Result<f64, Error> {
        let width = self.shape.in_features.max(1);
        let of_each = vectors.is_some_and(|vectors| !vectors.is_shared());
        let matrix = if of_each { size(self.shape.rows) } else { self.rows.len() };
        let (mut error, mut energy) = (0.0, 0.0);
        let mut weights = Vec::new();
        for (expert, rows) in self.rows.chunks(matrix.max(1)).enumerate() {
            let importance = vectors.map(|vectors| vectors.of(expert));
            for block in rows.chunks(size(BLOCK.checked_div(width).unwrap_or(1).max(1))) {
                read(model, tensor, block, width, &mut weights)?;
                let row_of = |row: usize| block.get(row).copied().unwrap_or(0);
                let matrix = search
                    .quantize(&weights, size(width), importance, &|_| !interrupted())
                    .map_err(|error| refused(error, model, tensor, row_of))?;
                error += matrix.weighted_squared_error;
                energy += match importance {
                    None => ErrorStats::of_rows(&weights, &weights, size(width)),
                    Some(importance) => {
                        ErrorStats::of_rows_weighted(&weights, &weights, size(width), importance)
                    }
                }
                .energy;
            }
        }
        Ok(if energy > 0.0 { error / energy } else { 0.0 })
    }
}

fn read(
    model: &Model,
    tensor: &SourceTensor,
    rows: &[u64],
    width: u64,
    weights: &mut Vec<f32>,
) -> Result<(), Error> {
    let mut row_weights = Vec::new();
    weights.clear();
    for &row in rows {
        let start = row.saturating_mul(width);
        model.decode_f32(tensor, start..start.saturating_add(width), &mut row_weights)?;
        weights.extend_from_slice(&row_weights);
    }
    Ok(())
}

/// A number that looks random and is the same every time (the finalizer of SplitMix64).
fn scattered(number: u64) -> u64 {
    let mut x = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
