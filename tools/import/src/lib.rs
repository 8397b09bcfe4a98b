//! Source models as a stream of named tensors.
//!
//! [`Model::open`] takes a `.safetensors` file, an index (`model.safetensors.index.json`), a `.gguf` file or a
//! model folder, checks everything that can be checked without reading weights, and hands out each tensor's
//! name, shape, dtype and elements: plain ones, FP8 with scales, ggml's blocks, matrices stored the other way
//! round, and FastDeploy's codes, which are handed out as planes as well. [`Importance`] holds what a calibration found each input channel to be worth. Nothing here
//! quantizes, prints or writes.
//!
//! ```no_run
//! let model = ccq_import::Model::open("path/to/model".as_ref())?;
//! let mut weights = Vec::new();
//! for tensor in model.tensors() {
//!     model.decode_f32(tensor, 0..tensor.element_count(), &mut weights)?;
//! }
//! # Ok::<(), ccq_import::Error>(())
//! ```
//!
//! Files are memory-mapped, so a model larger than memory can be read. A file that is cut short by someone
//! else while it is mapped ends the process with a bus error: no reader of a map can prevent that.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::string_slice,
        clippy::todo,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod assemble;
mod carried;
mod config;
mod decode;
mod error;
mod fastdeploy;
mod files;
mod folder;
mod fp8;
mod ggml;
mod gguf;
mod header;
mod importance;
mod index;
mod json;
mod model;
mod place;
mod read;
mod tensor;
mod transpose;

pub use carried::Carried;
pub use decode::{DecodeError, decode_f32, first_non_finite};
pub use error::Error;
pub use fastdeploy::{FastDeployError, is_fastdeploy_layer};
pub use folder::Blob;
pub use fp8::Fp8Error;
pub use gguf::GgufError;
pub use header::NameProblem;
pub use importance::{Calibration, Importance, ImportanceError, Vectors};
pub use model::Model;
pub use tensor::{CodedRows, SourceTensor};
pub use transpose::{TRANSPOSED, Transpose, columns_to_rows, transposed};
