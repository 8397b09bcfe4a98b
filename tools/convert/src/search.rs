//! How a tensor is quantized: the search asked for, and what the importance file knows of it.

use std::path::Path;

use ccq::code::Code;
use ccq_import::{Importance, Model, SourceTensor, Vectors};
use ccq_quantize::{Method, Options, Quality, QuantizedMatrix, quantize_with};

use crate::error::Error;

/// What a recipe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// The code asked for; [`Search::result_code`] is what is stored.
    pub code: Code,
    /// How hard to search.
    pub quality: Quality,
    /// Which quantizer.
    pub method: Method,
}

impl Search {
    /// The code that comes out: the paper's method stores a cluster's parameters as f32.
    pub fn result_code(&self) -> Code {
        self.options().result_code()
    }

    /// The quantizer's options, without importance.
    pub fn options(&self) -> Options<'_> {
        Options::new(self.code).with_quality(self.quality).with_method(self.method)
    }

    /// Quantizes a tensor: matrix by matrix where a stack has a vector for each, otherwise all rows at once.
    ///
    /// # Errors
    /// Those of the quantizer, with rows counted over the whole tensor.
    pub fn quantize(
        &self,
        weights: &[f32],
        shape: &Shape,
        vectors: Option<&Vectors>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<QuantizedMatrix, ccq_quantize::Error> {
        let Shape { experts, rows, in_features } = *shape;
        let experts = if vectors.is_some_and(|vectors| !vectors.is_shared()) { experts } else { 1 };
        let stride = weights.len() / experts.max(1);
        let mut whole: Option<QuantizedMatrix> = None;
        for (expert, weights) in weights.chunks_exact(stride.max(1)).enumerate() {
            let importance = vectors.map(|vectors| vectors.of(expert));
            let options = self.options().with_importance(importance);
            let part =
                quantize_with(weights, in_features, &options, progress).map_err(|error| match error {
                    ccq_quantize::Error::NonFinite { row, column, value } => {
                        ccq_quantize::Error::NonFinite { row: row + expert * rows, column, value }
                    }
                    other => other,
                })?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => append(whole, part),
            }
        }
        whole.ok_or(ccq_quantize::Error::Shape { weights: weights.len(), in_features })
    }
}

/// A tensor as a stack of matrices.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Matrices: 1 unless there are three dimensions.
    pub experts: usize,
    /// Rows of each.
    pub rows: usize,
    /// Weights of a row.
    pub in_features: usize,
}

impl Shape {
    /// The shape of a tensor whose elements fit this machine's memory.
    pub fn of(tensor: &SourceTensor) -> Self {
        let size = |dimension: u64| usize::try_from(dimension).unwrap_or(0);
        let product = |dimensions: &[u64]| dimensions.iter().copied().map(size).product();
        match tensor.shape.as_slice() {
            [stack @ .., rows, in_features] => {
                Self { experts: product(stack), rows: size(*rows), in_features: size(*in_features) }
            }
            [in_features] => Self { experts: 1, rows: 1, in_features: size(*in_features) },
            [] => Self { experts: 0, rows: 0, in_features: 0 },
        }
    }
}

/// Adds the rows of the next matrix: every plane is rows after rows.
fn append(whole: &mut QuantizedMatrix, part: QuantizedMatrix) {
    whole.rows += part.rows;
    whole.code_plane.extend(part.code_plane);
    whole.local_scale.extend(part.local_scale);
    whole.super_scale.extend(part.super_scale);
    whole.cluster.extend(part.cluster);
    whole.squared_error += part.squared_error;
    whole.weighted_squared_error += part.weighted_squared_error;
}

/// Opens the importance file and checks it against the model.
///
/// # Errors
/// `Importance`; `UnknownImportance` for a name that no tensor of the model has.
pub fn open_importance(file: Option<&Path>, model: &Model) -> Result<Option<Importance>, Error> {
    let Some(file) = file else { return Ok(None) };
    let importance = Importance::open(file)?;
    let names = model.tensors().iter().map(|tensor| tensor.name.as_str());
    if let [first, others @ ..] = importance.unknown(names).as_slice() {
        let (name, others) = (first.clone(), others.len());
        return Err(Error::UnknownImportance { file: file.into(), name, others });
    }
    Ok(Some(importance))
}

/// The importance of a tensor's input features.
///
/// # Errors
/// `Importance`.
pub fn vectors(importance: &Importance, tensor: &SourceTensor) -> Result<Option<Vectors>, Error> {
    let Shape { experts, in_features, .. } = Shape::of(tensor);
    Ok(importance.get(&tensor.name, experts, in_features)?)
}
