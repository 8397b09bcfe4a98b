//! Whether there is a driver, and which devices it has. Nothing here panics: cudarc does when libcuda or one of
//! its functions is missing, so every function this package calls is looked up before cudarc is used.

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdevice_attribute};

use crate::Error;
use crate::driver::check;

/// The oldest driver whose PTX compiler takes the kernels (PTX ISA 7.0), as the driver states versions.
const OLDEST_DRIVER: i32 = 11_000;
/// The compute capability the PTX is written for.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

/// Every function of the driver that this package calls.
const SYMBOLS: [&str; 29] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
    "cuGetErrorName",
];

/// A device of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number.
    pub ordinal: usize,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Its compute capability, major and minor.
    pub compute_capability: (i32, i32),
    /// Bytes of its memory.
    pub memory: usize,
    /// The driver's version: 1000 times the major plus 10 times the minor one.
    pub driver_version: i32,
}

/// That the driver is there, has every function of [`SYMBOLS`], and was initialised. Only [`Driver::get`] makes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    version: i32,
}

impl Driver {
    /// Loads and initialises the driver.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::MissingSymbol`], [`Error::DriverTooOld`], [`Error::NoDevice`] or
    /// [`Error::Driver`].
    pub fn get() -> Result<Self, Error> {
        static FOUND: OnceLock<Option<&'static str>> = OnceLock::new();
        // SAFETY: loading the system's driver runs its initialisers, as any program that uses CUDA does.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        if let Some(symbol) = *FOUND.get_or_init(missing_symbol) {
            return Err(Error::MissingSymbol { symbol });
        }
        // SAFETY: the function is there (above), and takes no pointers.
        match unsafe { sys::cuInit(0) } {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(Error::NoDevice),
            // What the stub library of a toolkit answers.
            sys::CUresult::CUDA_ERROR_STUB_LIBRARY => return Err(Error::NoDriver),
            code => check("cuInit", code)?,
        }
        let mut version = 0;
        // SAFETY: the pointer is to a live integer.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
        if version < OLDEST_DRIVER {
            return Err(Error::DriverTooOld { found: version, needed: OLDEST_DRIVER });
        }
        Ok(Self { version })
    }

    /// How many devices there are; at least one.
    pub fn count(self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: the driver is initialised, and the pointer is to a live integer.
        match unsafe { sys::cuDeviceGetCount(&mut count) } {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(Error::NoDevice),
            code => check("cuDeviceGetCount", code)?,
        }
        usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Error::NoDevice)
    }

    /// The driver's handle and a description of a device, however old it is.
    pub fn device(self, ordinal: usize) -> Result<(sys::CUdevice, DeviceInfo), Error> {
        let count = self.count()?;
        let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number = number.ok_or(Error::NoSuchDevice { ordinal, count })?;
        let mut device = 0;
        let mut name = [0; 256];
        let mut memory = 0;
        // SAFETY: the driver is initialised, the number is one of its devices', the pointers are to live
        // variables, and the name's length is passed.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, number))?;
            check("cuDeviceGetName", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device))?;
            check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&mut memory, device))?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })
                .map(|()| value)
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let name: Vec<u8> = name.into_iter().take_while(|&c| c != 0).map(|c| c as u8).collect();
        let info = DeviceInfo {
            ordinal,
            name: String::from_utf8_lossy(&name).into_owned(),
            compute_capability: (major, minor),
            memory,
            driver_version: self.version,
        };
        Ok((device, info))
    }
}

/// Whether the kernels run on a device.
pub(crate) fn usable(info: &DeviceInfo) -> Result<(), Error> {
    if info.compute_capability >= OLDEST_CAPABILITY {
        return Ok(());
    }
    Err(Error::ComputeCapability {
        ordinal: info.ordinal,
        name: info.name.clone(),
        found: info.compute_capability,
    })
}

/// The first function that the driver lacks.
fn missing_symbol() -> Option<&'static str> {
    // SAFETY: the library was found to load, so that this does not panic.
    let library = unsafe { sys::culib() };
    SYMBOLS.into_iter().find(|symbol| {
        // SAFETY: the symbol is looked up and not called; any address will do.
        unsafe { library.get::<*const c_void>(symbol.as_bytes()) }.is_err()
    })
}

/// The driver's name for an error.
pub(crate) fn error_name(code: sys::CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: errors come from calls of the driver, whose functions were all found; the name is a constant of it.
    unsafe {
        match sys::cuGetErrorName(code, &mut name) {
            sys::CUresult::CUDA_SUCCESS if !name.is_null() => {
                CStr::from_ptr(name).to_string_lossy().into_owned()
            }
            _ => "unknown".into(),
        }
    }
}
