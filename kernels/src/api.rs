//! The driver's functions that this package calls, and what they return.
//!
//! cudarc loads the library and has the driver's types. Its functions are not called: they return the driver's
//! codes as a Rust enum, and a driver newer than the enum returns codes that it has not, which is undefined
//! behaviour, and they panic where one is missing. Here codes are integers, and every function is
//! looked up before any is called.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUresult,
    CUstream,
};

use crate::{Error, Memory};

/// What a function of the driver returns: 0, or why not.
pub(crate) type Code = c_int;

const SUCCESS: Code = CUresult::CUDA_SUCCESS as Code;
const OUT_OF_MEMORY: Code = CUresult::CUDA_ERROR_OUT_OF_MEMORY as Code;
/// What the stub library of a toolkit answers.
pub(crate) const STUB_LIBRARY: Code = CUresult::CUDA_ERROR_STUB_LIBRARY as Code;
pub(crate) const NO_DEVICE: Code = CUresult::CUDA_ERROR_NO_DEVICE as Code;

/// Declares a table of functions: each is a field of its name, of type `unsafe extern "C" fn(...) -> Code`.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($name:ident($($argument:ty),*);)* }) => {
        $(#[$doc])*
        #[allow(non_snake_case)] // the driver's own names
        pub(crate) struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> Code,)*
        }

        impl $table {
            /// Looks every function up.
            ///
            /// # Errors
            /// [`Error::MissingSymbol`].
            #[allow(non_snake_case)]
            fn load() -> Result<Self, Error> {
                // SAFETY: whoever calls has found the library (`Api::get`), so that this does not panic.
                let library = unsafe { sys::culib() };
                $(
                    // SAFETY: the functions of that name have these arguments, after the driver's documentation,
                    // and return an integer.
                    let $name = *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                        .map_err(|_| Error::MissingSymbol { symbol: stringify!($name) })?;
                )*
                Ok(Self { $($name,)* })
            }
        }
    };
}

functions! {
    /// What every use of a device needs.
    Api {
        cuInit(c_uint);
        cuDriverGetVersion(*mut c_int);
        cuDeviceGetCount(*mut c_int);
        cuDeviceGet(*mut CUdevice, c_int);
        cuDeviceGetName(*mut c_char, c_int, CUdevice);
        cuDeviceGetAttribute(*mut c_int, c_int, CUdevice);
        cuDeviceTotalMem_v2(*mut usize, CUdevice);
        cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
        cuDevicePrimaryCtxRelease_v2(CUdevice);
        cuCtxSetCurrent(CUcontext);
        cuStreamCreate(*mut CUstream, c_uint);
        cuStreamSynchronize(CUstream);
        cuStreamDestroy_v2(CUstream);
        cuEventCreate(*mut CUevent, c_uint);
        cuEventRecord(CUevent, CUstream);
        cuEventElapsedTime(*mut f32, CUevent, CUevent);
        cuEventDestroy_v2(CUevent);
        cuMemAlloc_v2(*mut CUdeviceptr, usize);
        cuMemFree_v2(CUdeviceptr);
        cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
        cuMemFreeHost(*mut c_void);
        cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
        cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
        cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
        cuModuleLoadData(*mut CUmodule, *const c_void);
        cuModuleUnload(CUmodule);
        cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
        cuLaunchKernel(
            CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
            *mut *mut c_void
        );
        cuGetErrorName(c_int, *mut *const c_char);
    }
}

functions! {
    /// What replaying work needs; drivers before CUDA 11.4 lack some of it.
    GraphApi {
        cuStreamBeginCapture_v2(CUstream, c_int);
        cuStreamEndCapture(CUstream, *mut CUgraph);
        cuGraphInstantiateWithFlags(*mut CUgraphExec, CUgraph, c_ulonglong);
        cuGraphDestroy(CUgraph);
        cuGraphLaunch(CUgraphExec, CUstream);
        cuGraphExecDestroy(CUgraphExec);
    }
}

impl Api {
    /// The functions, looked up when this is first called and the library is there.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::MissingSymbol`].
    pub fn get() -> Result<&'static Self, Error> {
        static API: OnceLock<Api> = OnceLock::new();
        // SAFETY: loading the system's driver runs its initialisers, as any program that uses CUDA does.
        if API.get().is_none() && !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        get_or_load(&API, Self::load)
    }

    /// An error unless the call succeeded.
    pub fn check(&self, call: &'static str, code: Code) -> Result<(), Error> {
        self.check_memory(call, code, Memory::Device, 0)
    }

    /// [`Api::check`] for a call that allocates so many bytes.
    pub fn check_memory(
        &self,
        call: &'static str,
        code: Code,
        memory: Memory,
        bytes: usize,
    ) -> Result<(), Error> {
        match code {
            SUCCESS => Ok(()),
            OUT_OF_MEMORY => Err(Error::OutOfMemory { memory, bytes }),
            code => Err(Error::Driver { call, code, name: self.error_name(code) }),
        }
    }

    /// The driver's name for an error.
    fn error_name(&self, code: Code) -> String {
        let mut name = std::ptr::null();
        // SAFETY: the pointer is to a live one; any code may be asked for.
        let found = unsafe { (self.cuGetErrorName)(code, &mut name) };
        if found != SUCCESS || name.is_null() {
            return "unknown".into();
        }
        // SAFETY: a name that was found is a constant of the driver, zero-terminated.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

impl GraphApi {
    /// The functions, looked up when this is first called: by whoever has an [`Api`].
    ///
    /// # Errors
    /// [`Error::MissingSymbol`].
    pub fn get(_: &Api) -> Result<&'static Self, Error> {
        static API: OnceLock<GraphApi> = OnceLock::new();
        get_or_load(&API, Self::load)
    }
}

fn get_or_load<T>(
    slot: &'static OnceLock<T>,
    load: impl FnOnce() -> Result<T, Error>,
) -> Result<&'static T, Error> {
    if let Some(found) = slot.get() {
        return Ok(found);
    }
    let found = load()?;
    Ok(slot.get_or_init(|| found))
}
