//! Why an operation on the GPU failed, and what to do about it.

use ccq::codec::SizeError;

/// Kinds of memory that can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The card's.
    Device,
    /// Page-locked memory of the host.
    Pinned,
}

/// Why an operation on the GPU failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no CUDA driver.
    #[error("no CUDA driver: install NVIDIA's driver (libcuda.so.1), or use the CPU")]
    NoDriver,
    /// The driver lacks a function.
    #[error("the CUDA driver lacks {symbol}: install a newer one, or use the CPU")]
    MissingSymbol {
        /// The function.
        symbol: &'static str,
    },
    /// The driver is older than the kernels' PTX.
    #[error("the CUDA driver serves CUDA {}.{}, expected {}.{} or later: update it, or use the CPU",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10)]
    DriverTooOld {
        /// What the driver says: 1000 times the major plus 10 times the minor version.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// The driver has no device.
    #[error("no CUDA device: the driver is there but finds no GPU (is one hidden by CUDA_VISIBLE_DEVICES?)")]
    NoDevice,
    /// The device asked for does not exist.
    #[error("no CUDA device {ordinal}: there are {count}, from 0 on")]
    NoSuchDevice {
        /// The device asked for.
        ordinal: usize,
        /// Devices there are.
        count: usize,
    },
    /// The device is too old.
    #[error("{name} (CUDA device {ordinal}) has compute capability {}.{}, expected 8.0 or later: use another device \
             or the CPU", found.0, found.1)]
    ComputeCapability {
        /// The device.
        ordinal: usize,
        /// Its name.
        name: String,
        /// What it has.
        found: (i32, i32),
    },
    /// Memory ran out.
    #[error("out of {} memory{}; free some, or use the CPU",
        match memory { Memory::Device => "the GPU's", Memory::Pinned => "page-locked" },
        if *bytes > 0 { format!(": {bytes} bytes were asked for") } else { String::new() })]
    OutOfMemory {
        /// Which.
        memory: Memory,
        /// What was asked for; 0 where a call does not say.
        bytes: usize,
    },
    /// A call of the driver failed.
    #[error("{call} failed with CUDA error {code} ({name}): see NVIDIA's list of errors, or use the CPU")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's code, be it one that this library knows or not.
        code: i32,
        /// The driver's name for it.
        name: String,
    },
    /// cuBLAS is not there.
    #[error(
        "{why}: put the folder of libcublas.so.13 or libcublas.so.12 on the loader's path (LD_LIBRARY_PATH)"
    )]
    NoCublas {
        /// What the loader, or the library, said.
        why: String,
    },
    /// A call of cuBLAS failed.
    #[error("{call} failed with cuBLAS status {code}: see NVIDIA's list of statuses")]
    Cublas {
        /// The call.
        call: &'static str,
        /// Its status.
        code: i32,
    },
    /// The matrix is larger than kernels can index.
    #[error("a matrix of {rows} x {in_features} weights is too large for the kernels: use the CPU")]
    TooLarge {
        /// Its rows.
        rows: usize,
        /// Its columns.
        in_features: usize,
    },
    /// Rows or a buffer do not fit the matrix.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Bytes given are not as many as the matrix calls for.
    #[error("{what} of {found} bytes, expected {expected}")]
    Bytes {
        /// Of what.
        what: &'static str,
        /// Bytes due.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Too few or too many tokens.
    #[error("{found} tokens, expected 1 to 16: multiply in several calls")]
    Tokens {
        /// Tokens given.
        found: usize,
    },
    /// A matrix is not a stack of so many experts.
    #[error("a matrix of {rows} rows, expected {experts} experts of the same number of rows")]
    Experts {
        /// Its rows.
        rows: usize,
        /// The experts due.
        experts: usize,
    },
    /// An expert that a token was sent to does not exist.
    #[error("no expert {found}: there are {experts}, from 0 on")]
    NoSuchExpert {
        /// The expert asked for.
        found: u32,
        /// Experts there are.
        experts: usize,
    },
    /// Tokens were not sent to the same number of experts each, one or more.
    #[error("{chosen} experts chosen for {tokens} tokens, expected as many for each, and one at least")]
    Routing {
        /// Experts chosen.
        chosen: usize,
        /// Tokens there are.
        tokens: usize,
    },
    /// Activations of a type that the kernels do not take.
    #[error("f32 activations, expected f16 or bf16: round them first")]
    Activations,
}

impl Error {
    /// Whether the error says that this machine has no usable GPU, so that `auto` falls back to the CPU.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NoDriver
                | Self::MissingSymbol { .. }
                | Self::DriverTooOld { .. }
                | Self::NoDevice
                | Self::ComputeCapability { .. }
        )
    }
}
