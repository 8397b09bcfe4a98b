//! Reader, writer and codec of `.ccq` files: large language models at 2 to 4 bits a weight.
//!
//! ```
//! # fn main() -> Result<(), ccq::Error> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/ccq-2.06.ccq");
//! let model = ccq::Container::open(path)?; // O(index); the payload is read when it is used
//! for tensor in model.tensors() {
//!     println!("{} {:?} {}", tensor.info().name(), tensor.info().shape(), tensor.info().encoding());
//!     if let Some(matrix) = tensor.matrix() {
//!         let mut row = vec![0.0; matrix.in_features()];
//!         matrix.decode_rows_into(0..1, &mut row).expect("every matrix has a first row");
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! A file is a front, which [`Index`] parses, and a payload of planes that the front points to:
//!
//! ```text
//! +--------+----------+-------+---------+----------+-----------+------------------------------+
//! | header | sections | index | strings | metadata | checksums | payload: planes, then blobs  |
//! +--------+----------+-------+---------+----------+-----------+------------------------------+
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`code`] | how the bits of a word become states: integers only |
//! | [`mod@format`] | bytes of a file <-> typed views; no floating point |
//! | [`codec`] | packed planes <-> f32; no files |
//! | [`planes`] | stored planes as typed slices, without a copy |
//! | this one | joins them: [`Container`], [`Set`] of several files, [`Tensor`], [`OpenOptions`], [`Output`] |
//!
//! Features: `std` (writing, opening by path) and `mmap` (on top of it) are on by default. Without them the crate
//! is `no_std` with `alloc`: [`Container::from_bytes`] and [`Index::parse`] remain.
//!
//! The format is specified in `spec/format.md`, to which error messages and comments refer by clause.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
#[cfg(all(test, not(feature = "std")))]
extern crate std;

pub mod code;
pub mod codec;
mod container;
pub mod format;
mod messages;
#[cfg(feature = "mmap")]
mod mmap;
mod open;
#[cfg(feature = "std")]
mod output;
pub mod planes;
#[cfg(feature = "std")]
mod set;

pub use container::{Container, Tensor};
pub use format::{Error, Index, Limits};
#[cfg(feature = "std")]
pub use open::{Access, OpenOptions};
#[cfg(feature = "std")]
pub use output::{Output, OutputError};
#[cfg(feature = "std")]
pub use set::{Set, SetError, shard_path};
