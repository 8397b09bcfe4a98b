//! Source models as a stream of named tensors.
//!
//! [`Model::open`] takes a `.safetensors` file, an index (`model.safetensors.index.json`) or a model folder,
//! checks everything that can be checked without reading weights, and hands out each tensor's name, shape,
//! dtype and bytes. [`Importance`] holds what a calibration found each input channel to be worth. Nothing here
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
        clippy::unwrap_used
    )
)]

mod decode;
mod error;
mod files;
mod folder;
mod gguf;
mod header;
mod importance;
mod index;
mod model;

pub use decode::{DecodeError, decode_f32, first_non_finite};
pub use error::{Error, NameProblem};
pub use folder::Blob;
pub use gguf::GgufError;
pub use importance::{Calibration, Importance, ImportanceError, Vectors};
pub use model::{Model, SourceTensor};
