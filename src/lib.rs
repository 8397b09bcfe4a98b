//! Reader, writer and codec of `.ccq` files: large language models at 2 to 4 bits a weight.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;
#[cfg(all(test, not(feature = "std")))]
extern crate std;

pub mod code;
pub mod codec;
mod container;
pub mod format;
#[cfg(feature = "mmap")]
mod mmap;
#[cfg(feature = "std")]
mod output;

pub use container::{Container, Tensor};
pub use format::{Error, Index, Limits};
#[cfg(feature = "std")]
pub use output::{Output, OutputError};
