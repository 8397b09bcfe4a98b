//! How a tensor is quantized: the search asked for, and what the importance file knows of it.

use std::path::Path;

use ccq::code::Code;
use ccq_import::{Importance, Model, SourceTensor, Vectors};
use ccq_quantize::{Method, Options, Quality, QuantizedMatrix, quantize_with};

use crate::error::{Error, Position};

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
    fn options(&self) -> Options<'_> {
        Options::new(self.code).with_quality(self.quality).with_method(self.method)
    }

    /// Quantizes rows of one matrix.
    ///
    /// # Errors
    /// Those of the quantizer.
    pub fn quantize(
        &self,
        weights: &[f32],
        in_features: usize,
        importance: Option<&[f32]>,
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<QuantizedMatrix, ccq_quantize::Error> {
        quantize_with(weights, in_features, &self.options().with_importance(importance), progress)
    }
}

/// A tensor as a stack of matrices.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Matrices: 1 unless there are three dimensions.
    pub experts: u64,
    /// Rows of each.
    pub rows: u64,
    /// Weights of a row.
    pub in_features: u64,
}

impl Shape {
    /// The last two dimensions, and the product of those before them.
    pub fn of(shape: &[u64]) -> Self {
        match shape {
            [stack @ .., rows, in_features] => {
                Self { experts: stack.iter().product(), rows: *rows, in_features: *in_features }
            }
            [in_features] => Self { experts: 1, rows: 1, in_features: *in_features },
            [] => Self { experts: 0, rows: 0, in_features: 0 },
        }
    }

    /// Which row of the stack an element is in.
    pub fn row(&self, element: u64) -> u64 {
        element.checked_div(self.in_features).unwrap_or(0)
    }

    /// Which matrix a row of the stack is in.
    pub fn expert(&self, row: u64) -> u64 {
        row.checked_div(self.rows).unwrap_or(0)
    }
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
    let Shape { experts, in_features, .. } = Shape::of(&tensor.shape);
    Ok(importance.get(&tensor.name, size(experts), size(in_features))?)
}

/// The quantizer's error, with what it is about; `row_of` knows where a row is in the tensor.
pub fn refused(
    error: ccq_quantize::Error,
    model: &Model,
    tensor: &SourceTensor,
    row_of: impl Fn(usize) -> u64,
) -> Error {
    let name = tensor.name.clone();
    match error {
        ccq_quantize::Error::Cancelled => Error::Interrupted,
        ccq_quantize::Error::NonFinite { row, column, value } => {
            let (row, column) = (row_of(row), column as u64);
            let row_start = row.saturating_mul(Shape::of(&tensor.shape).in_features);
            let (file, at) = model.place(tensor, row_start.saturating_add(column));
            let position = Position::new(&tensor.shape, row, column);
            Error::NonFinite { file: file.into(), at, tensor: name, position, value }
        }
        source => Error::Quantize { file: model.file(tensor).into(), tensor: name, source },
    }
}

/// A count of things in memory; what is larger than this machine's memory is in none of its files.
pub fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
