#![cfg_attr(not(feature = "std"), no_std)]
//! placeholder
extern crate alloc;
#[cfg(test)] extern crate std;
pub mod code;
pub mod format;
