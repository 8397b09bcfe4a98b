//! The container: bytes <-> typed views.
mod dtype;

pub use dtype::{Dtype, element_count};
