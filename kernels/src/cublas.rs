//! Dense bf16 products by NVIDIA's cuBLAS, which is loaded where it is found: what a bench compares with.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::Arc;

use ccq::codec::Matrix;
use libloading::Library;

use crate::driver::{Context, DeviceMemory, Pinned, Stream};
use crate::operation::{Activations, Args};
use crate::plan::{Element, Plan};
use crate::stream::{Launcher, Repeated, download, upload};
use crate::{Device, Error, Memory};

/// The libraries known to have the functions below, the newest first.
const LIBRARIES: [&str; 2] = if cfg!(windows) {
    ["cublas64_13.dll", "cublas64_12.dll"]
} else {
    ["libcublas.so.13", "libcublas.so.12"]
};

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type SetStream = unsafe extern "C" fn(Handle, *mut c_void) -> c_int;
/// Handle, operations of A and B, m, n, k, alpha, A with its type and leading dimension, B, beta, C, compute type,
/// algorithm.
type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// `CUBLAS_OP_N`, `CUBLAS_OP_T`: as it is, transposed.
const AS_IS: c_int = 0;
const TRANSPOSED: c_int = 1;
/// `CUDA_R_16BF`
const BF16: c_int = 14;
/// `CUBLAS_COMPUTE_32F`
const COMPUTE_F32: c_int = 68;
/// `CUBLAS_GEMM_DEFAULT`: the library chooses.
const ANY_ALGORITHM: c_int = -1;
/// `CUBLAS_STATUS_ALLOC_FAILED`
const ALLOC_FAILED: c_int = 3;

/// cuBLAS on a device.
pub struct Cublas<'d> {
    device: &'d Device,
    context: &'d Arc<Context>,
    library: &'static str,
    handle: Handle,
    destroy: Destroy,
    set_stream: SetStream,
    gemm: GemmEx,
}

impl<'d> Cublas<'d> {
    /// Loads the newest library that works with this driver.
    pub(crate) fn new(device: &'d Device, context: &'d Arc<Context>) -> Result<Self, Error> {
        let mut why = format!("{} do not load", LIBRARIES.join(" and "));
        for name in LIBRARIES {
            match Self::load(device, context, name) {
                Ok(found) => return Ok(found),
                Err(Error::NoCublas { .. }) => {}
                Err(error) => why = format!("{name}: {error}"),
            }
        }
        Err(Error::NoCublas { why })
    }

    fn load(device: &'d Device, context: &'d Arc<Context>, library: &'static str) -> Result<Self, Error> {
        context.enter()?;
        let absent = |_| Error::NoCublas { why: format!("{library} does not load") };
        // SAFETY: loading NVIDIA's library runs its initialisers, as any program that uses it does.
        let loaded = unsafe { Library::new(library) }.map_err(absent)?;
        // SAFETY: the functions of these names have these types in both versions, after NVIDIA's documentation.
        let (create, destroy, set_stream, gemm) = unsafe {
            (
                *loaded.get::<Create>(b"cublasCreate_v2\0").map_err(absent)?,
                *loaded.get::<Destroy>(b"cublasDestroy_v2\0").map_err(absent)?,
                *loaded.get::<SetStream>(b"cublasSetStream_v2\0").map_err(absent)?,
                *loaded.get::<GemmEx>(b"cublasGemmEx\0").map_err(absent)?,
            )
        };
        mem::forget(loaded); // its functions are called, and it may have threads of its own
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is this thread's.
        check("cublasCreate", unsafe { create(&mut handle) })?;
        Ok(Self { device, context, library, handle, destroy, set_stream, gemm })
    }

    /// The library's name.
    pub fn library(&self) -> &'static str {
        self.library
    }

    /// Decodes a matrix to bf16 on the device, `sets` times, and multiplies bf16 activations with each in turn.
    ///
    /// # Errors
    /// [`Error::Activations`], [`Error::Bytes`], [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`],
    /// [`Error::Cublas`].
    pub fn product(
        &self,
        matrix: &Matrix<'_>,
        activations: Activations<'_>,
        sets: usize,
    ) -> Result<DenseProduct<'_>, Error> {
        let (rows, in_features, tokens) = (matrix.rows(), matrix.in_features(), activations.tokens);
        if activations.element != Element::Bf16 {
            return Err(Error::Activations);
        }
        let expected = tokens * in_features * 2;
        if activations.bytes.len() != expected {
            let found = activations.bytes.len();
            return Err(Error::Bytes { what: "activations", expected, found });
        }
        let too_large = |_| Error::TooLarge { rows, in_features };
        let [m, n, k] = [rows, tokens, in_features].map(c_int::try_from);
        let size = [m.map_err(too_large)?, n.map_err(too_large)?, k.map_err(too_large)?];

        let stream = Stream::new(self.context)?;
        let weights = self.dense(matrix, sets.max(1), &stream)?;
        let x = DeviceMemory::new(self.context, expected)?;
        let mut pinned = Pinned::new(self.context, expected)?;
        pinned.bytes_mut()[..expected].copy_from_slice(activations.bytes);
        upload(&stream, &pinned, &x, expected)?;
        let y = DeviceMemory::new(self.context, rows * tokens * 2)?;
        let repeated = Repeated::new(self.context, |stream| {
            weights.iter().try_for_each(|weights| self.multiply(stream, size, [weights, &x, &y]))
        })?;
        Ok(DenseProduct { repeated, _weights: weights, _x: x, y, values: rows * tokens, _cublas: self })
    }

    /// A matrix in bf16, in several places of the device's memory.
    fn dense(&self, matrix: &Matrix<'_>, sets: usize, stream: &Stream) -> Result<Vec<DeviceMemory>, Error> {
        let plan = Plan::new(matrix.code(), matrix.rows(), matrix.in_features())?;
        let planes = DeviceMemory::new(self.context, plan.layout.bytes)?;
        let mut pinned = Pinned::new(self.context, plan.layout.bytes)?;
        plan.layout.fill(&matrix.planes(), pinned.bytes_mut());
        upload(stream, &pinned, &planes, plan.layout.bytes)?;
        let decode = |_| {
            let dense = DeviceMemory::new(self.context, matrix.rows() * matrix.in_features() * 2)?;
            let (launch, args) = plan.at(planes.address()).dequantize(Element::Bf16, dense.address());
            let started = self.device.start(stream, &launch, &Args::Dequantize(args));
            stream.synchronize()?; // before the memory can go
            started.map(|()| dense)
        };
        (0..sets).map(decode).collect()
    }

    /// Queues `y = W x`: rows, tokens and in_features; W, x and y.
    ///
    /// W, row by row, is to cuBLAS its transpose, column by column.
    fn multiply(
        &self,
        stream: &Stream,
        [m, n, k]: [c_int; 3],
        [weights, x, y]: [&DeviceMemory; 3],
    ) -> Result<(), Error> {
        let (one, zero) = (1.0f32, 0.0f32);
        let pointer = |memory: &DeviceMemory| memory.address() as usize as *mut c_void;
        // SAFETY: the handle and the stream are alive and of one context; the factors are read before the call
        // returns; the matrices have these sizes, and whoever launches keeps them (`DenseProduct`).
        unsafe {
            check("cublasSetStream", (self.set_stream)(self.handle, stream.handle().cast()))?;
            let code = (self.gemm)(
                self.handle,
                TRANSPOSED,
                AS_IS,
                m,
                n,
                k,
                ptr::from_ref(&one).cast(),
                pointer(weights),
                BF16,
                k,
                pointer(x),
                BF16,
                k,
                ptr::from_ref(&zero).cast(),
                pointer(y),
                BF16,
                m,
                COMPUTE_F32,
                ANY_ALGORITHM,
            );
            check("cublasGemmEx", code)
        }
    }
}

impl Drop for Cublas<'_> {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: created once, destroyed once; its products, which borrow it, are gone.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// A dense product, to be done again and again on copies of the matrix in turn.
pub struct DenseProduct<'c> {
    // Dropped in this order: the stream's work ends before its memory goes.
    repeated: Repeated,
    _weights: Vec<DeviceMemory>,
    _x: DeviceMemory,
    y: DeviceMemory,
    values: usize,
    _cublas: &'c Cublas<'c>, // has the workspace
}

impl DenseProduct<'_> {
    /// Multiplies with every copy; returns the milliseconds that it took together, as `Residents::launch` does.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn launch(&self) -> Result<f64, Error> {
        // SAFETY: the matrices and the library's workspace live as long as `repeated`.
        unsafe { self.repeated.launch() }
    }

    /// The product: value `t * rows + r` is token t's with row r.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn finish(self) -> Result<Vec<f32>, Error> {
        let output = download(self.repeated.stream(), &self.y, 0, self.values * 2)?;
        let values = output.bytes().as_chunks::<2>().0.iter().take(self.values);
        Ok(values.map(|&[low, high]| f32::from_bits(u32::from_le_bytes([0, 0, low, high]))).collect())
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), Error> {
    match code {
        0 => Ok(()),
        ALLOC_FAILED => Err(Error::OutOfMemory { memory: Memory::Device, bytes: 0 }),
        code => Err(Error::Cublas { call, code }),
    }
}
