//! CUDA kernels of ccq: decode, score and multiply quantized matrices on an NVIDIA GPU.
//!
//! The package builds, and its tests pass, on machines without CUDA: the driver is looked for when a program
//! runs, and its absence is [`Error::NoDriver`].
//!
//! ```
//! use ccq_cuda::{Device, Error, Selector};
//!
//! match Device::open(Selector::Any) {
//!     Ok(device) => println!("decoding on {}", device.info().name),
//!     Err(error) if error.is_absence() => println!("decoding on the CPU: {error}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! | module | what it knows |
//! |---|---|
//! | [`plan`] | which kernel, with which arguments, for which matrix; no device |
//! | `walk` | how the tensor cores' kernels walk a row |
//! | [`operation`] | what blocks of rows carry to a device and back; no device |
//! | `api` | the driver's functions and their codes |
//! | `probe` | whether there is a driver, and which devices it has |
//! | `driver` | memory, streams, modules, graphs: what is freed when it is dropped |
//! | `stream` | a matrix in blocks of rows through two pinned buffers, copies beside kernels |
//! | `device` | [`Device`]: the operations |
//! | `cublas` | [`Cublas`]: dense products, for benches to compare with |
//!
//! The kernels are in `cu/`, compiled to PTX in `ptx/`, which this library carries and the driver compiles.
#![allow(unsafe_code)] // the driver's interface is a C one; every block says who guarantees what

mod api;
mod cublas;
mod device;
mod driver;
mod error;
mod moe;
pub mod operation;
pub mod plan;
mod probe;
mod stream;
mod walk;

pub use cublas::{Cublas, DenseProduct};
pub use device::{Device, ErrorSums, Residents, Selector};
pub use error::{Error, Memory};
pub use operation::{Activations, Routing, Source};
pub use plan::Element;
pub use probe::DeviceInfo;
