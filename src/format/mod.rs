//! The container: bytes <-> typed views. Normative text: spec/format.md.
//!
//! [`Index`] parses the front of a file; everything it accepts is well-formed, so that what it returns cannot
//! fail any more. It needs no payload: a reader over HTTP ranges or `pread` uses it as it is.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod cursor;
mod dtype;
mod encoding;
mod error;
mod index;
pub mod layout;
mod limits;
mod metadata;
mod name;
mod records;
pub mod verify;
#[cfg(feature = "std")]
mod write;

pub use dtype::{Dtype, element_count};
pub use encoding::Encoding;
pub use error::{
    EncodingFault, Error, Feature, LayoutFault, MagicHint, MetadataFault, NameFault, Place, ShapeFault,
    ShardFault,
};
pub use index::{BlobInfo, Index, Plane, Section, Shard, TensorInfo};
pub use layout::{PlaneKind, SectionKind};
pub use limits::Limits;
pub use metadata::{KNOWN_STRING_KEYS, Metadata, Value};
#[cfg(feature = "std")]
pub use write::{Contents, Fnv128, Layout, TensorSpec, WriteError, Writer, seal};
