//! Why importance vectors cannot be read, or do not fit the model.

use std::path::PathBuf;

use ccq::format::Dtype;

use crate::error::{Error, byte};

/// Why importance vectors cannot be used. Positions count elements of the named tensor from its first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportanceError {
    /// The file cannot be read, or it is damaged.
    #[error(transparent)]
    Source(#[from] Error),
    /// The file is neither of the two kinds.
    #[error("{}: expected importance vectors: a .safetensors file, or llama.cpp's imatrix in GGUF form", file.display())]
    UnknownInput {
        /// The file.
        file: PathBuf,
    },
    /// llama.cpp's imatrix in its old binary form, which does not say what its sums are sums of.
    #[error("{}: this is an imatrix in llama.cpp's old .dat form, expected the GGUF form; convert it: llama-imatrix --in-file OLD.dat -o NEW.gguf", file.display())]
    OldImatrix {
        /// The file.
        file: PathBuf,
    },
    /// The GGUF file is something else, a model for example.
    #[error("{}: {}general.type is {found:?}, expected \"imatrix\"; name the file that llama-imatrix wrote", file.display(), byte(*at))]
    NotAnImatrix {
        /// The file.
        file: PathBuf,
        /// The byte where its `general.type` is, if it has one.
        at: Option<u64>,
        /// Its `general.type`, if it has one that is text.
        found: Option<String>,
    },
    /// A metadata value of the imatrix has another type.
    #[error("{}: at byte {at}: {key} is no {expected}; write the file again with llama-imatrix", file.display())]
    Metadata {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The file holds no vector.
    #[error("{}: no importance vector in this file; was it written before any data was seen?", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A tensor of the safetensors file is no vector, nor one vector an expert.
    #[error("{}: at byte {at}: tensor {tensor:?} is {dtype} {shape:?}, expected F32, F16 or BF16 of shape [in_features] or [experts, in_features]", file.display())]
    NotAVector {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// An imatrix has only a part of what belongs to a tensor.
    #[error("{}: tensor {tensor:?} has no {missing:?}; the file is damaged, write it again with llama-imatrix", file.display())]
    MissingPart {
        /// The file.
        file: PathBuf,
        /// The tensor, by llama.cpp's name.
        tensor: String,
        /// The ending of the part that is not there.
        missing: &'static str,
    },
    /// An imatrix has neither one count for a tensor nor one for each of its vectors.
    #[error("{}: at byte {at}: tensor {tensor:?} has {found} counts, expected {expected}, one for each vector, or one for all; the file is damaged", file.display())]
    Counts {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor, by llama.cpp's name.
        tensor: String,
        /// Its vectors.
        expected: u64,
        /// Its counts.
        found: u64,
    },
    /// A value is negative, infinite or NaN.
    #[error("{}: at byte {at}: tensor {tensor:?}: value {position} is {found}, expected a finite one of at least 0; calibrate again", file.display())]
    BadValue {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor, by its name in the file.
        tensor: String,
        /// The position of the value.
        position: usize,
        /// The value; for sums over counts that overflow, their quotient.
        found: f32,
    },
    /// The vectors do not fit the tensor of the model.
    #[error("{}: {entry:?} holds {found:?} values, but tensor {tensor:?} needs {experts} of {in_features}; the file was made for another model", file.display())]
    WrongLength {
        /// The file.
        file: PathBuf,
        /// The tensor of the model.
        tensor: String,
        /// Its name in the file.
        entry: String,
        /// The experts of the tensor, 1 for a matrix.
        experts: usize,
        /// Its columns: the expected length of each vector.
        in_features: usize,
        /// Vectors, and the length of each.
        found: [usize; 2],
    },
    /// The imatrix knows fewer experts than the model has.
    #[error("{}: {entry:?} holds {found} experts, but tensor {tensor:?} belongs to expert {expert}, counted from 0; the file was made for another model", file.display())]
    NoExpert {
        /// The file.
        file: PathBuf,
        /// The tensor of the model.
        tensor: String,
        /// Its name in the file.
        entry: String,
        /// The expert that the tensor belongs to.
        expert: usize,
        /// Experts in the file.
        found: usize,
    },
}

impl ImportanceError {
    /// The byte of the file that the error is about, counted from its start; `None` for what lies at no byte, as a
    /// tensor that is missing or a model that the file was not made for.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Source(error) => error.offset(),
            Self::NotAnImatrix { at, .. } => *at,
            Self::Metadata { at, .. }
            | Self::NotAVector { at, .. }
            | Self::Counts { at, .. }
            | Self::BadValue { at, .. } => Some(*at),
            Self::UnknownInput { .. }
            | Self::OldImatrix { .. }
            | Self::Empty { .. }
            | Self::MissingPart { .. }
            | Self::WrongLength { .. }
            | Self::NoExpert { .. } => None,
        }
    }
}
