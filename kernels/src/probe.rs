//! Whether there is a driver, and which devices it has. Nothing here panics: what is missing is an error.

use std::ffi::c_int;

use cudarc::driver::sys::{CUdevice, CUdevice_attribute};

use crate::Error;
use crate::api::{self, Api};

/// The oldest driver whose PTX compiler takes the kernels (PTX ISA 7.0), as the driver states versions.
const OLDEST_DRIVER: i32 = 11_000;
/// The compute capability the PTX is written for.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);

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
    /// Bytes of its last-level cache; 0 where the driver does not tell.
    pub l2_cache: usize,
    /// The driver's version: 1000 times the major plus 10 times the minor one.
    pub driver_version: i32,
}

/// That the driver is there, has every function of [`Api`], and was initialised. Only [`Driver::get`] makes one.
#[derive(Clone, Copy)]
pub(crate) struct Driver {
    api: &'static Api,
    version: i32,
}

impl Driver {
    /// Loads and initialises the driver.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::MissingSymbol`], [`Error::DriverTooOld`], [`Error::NoDevice`],
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn get() -> Result<Self, Error> {
        let api = Api::get()?;
        // SAFETY: takes no pointers.
        match unsafe { (api.cuInit)(0) } {
            api::NO_DEVICE => return Err(Error::NoDevice),
            api::STUB_LIBRARY => return Err(Error::NoDriver),
            code => api.check("cuInit", code)?,
        }
        let mut version = 0;
        // SAFETY: the pointer is to a live integer.
        api.check("cuDriverGetVersion", unsafe { (api.cuDriverGetVersion)(&mut version) })?;
        if version < OLDEST_DRIVER {
            return Err(Error::DriverTooOld { found: version, needed: OLDEST_DRIVER });
        }
        Ok(Self { api, version })
    }

    /// Its functions.
    pub fn api(self) -> &'static Api {
        self.api
    }

    /// How many devices there are; at least one.
    pub fn count(self) -> Result<usize, Error> {
        let mut count = 0;
        // SAFETY: the driver is initialised, and the pointer is to a live integer.
        match unsafe { (self.api.cuDeviceGetCount)(&mut count) } {
            api::NO_DEVICE => return Err(Error::NoDevice),
            code => self.api.check("cuDeviceGetCount", code)?,
        }
        usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Error::NoDevice)
    }

    /// The driver's handle and a description of a device, however old it is.
    pub fn device(self, ordinal: usize) -> Result<(CUdevice, DeviceInfo), Error> {
        let Self { api, version } = self;
        let count = self.count()?;
        let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number = number.ok_or(Error::NoSuchDevice { ordinal, count })?;
        let mut device = 0;
        let mut name = [0; 256];
        let mut memory = 0;
        // SAFETY: the driver is initialised, the number is one of its devices', the pointers are to live
        // variables, and the name's length is passed.
        unsafe {
            api.check("cuDeviceGet", (api.cuDeviceGet)(&mut device, number))?;
            let code = (api.cuDeviceGetName)(name.as_mut_ptr(), name.len() as c_int, device);
            api.check("cuDeviceGetName", code)?;
            api.check("cuDeviceTotalMem", (api.cuDeviceTotalMem_v2)(&mut memory, device))?;
        }
        let attribute = |attribute: CUdevice_attribute| {
            let mut value = 0;
            // SAFETY: as above.
            let code = unsafe { (api.cuDeviceGetAttribute)(&mut value, attribute as c_int, device) };
            api.check("cuDeviceGetAttribute", code).map(|()| value)
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let l2_cache = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).unwrap_or(0);
        let name: Vec<u8> = name.into_iter().take_while(|&c| c != 0).map(|c| c as u8).collect();
        let info = DeviceInfo {
            ordinal,
            name: String::from_utf8_lossy(&name).into_owned(),
            compute_capability: (major, minor),
            memory,
            l2_cache: usize::try_from(l2_cache).unwrap_or(0),
            driver_version: version,
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
