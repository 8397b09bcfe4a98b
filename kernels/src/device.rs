//! A device, and the operations on it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use ccq::codec::Matrix;

use crate::Error;
use crate::cublas::Cublas;
use crate::driver::{Context, DeviceMemory, Event, Module, Stream};
use crate::operation::{
    Activations, Args, Dequantize, Gemv, KernelFile, MoeGemv, Operation, Routing, Source, SquaredError,
};
use crate::plan::{Element, Launch, RowError};
use crate::probe::{self, DeviceInfo, Driver};
use crate::stream::{self, Launcher, Milliseconds, Pool};

const DEQUANTIZE: &str = include_str!("../ptx/dequantize.ptx");
const SQUARED_ERROR: &str = include_str!("../ptx/squared_error.ptx");
const GEMV: &str = include_str!("../ptx/gemv.ptx");
const MOE_GEMV: &str = include_str!("../ptx/moe_gemv.ptx");

/// Which device to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The first one that the kernels run on.
    Any,
    /// The one of that number.
    Ordinal(usize),
}

/// How far a matrix is from its source: the sums of its rows, added in row order, and so the same on every
/// device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSums {
    /// Number of weights.
    pub weights: u64,
    /// The sums.
    pub sums: RowError,
    /// Milliseconds from the start to the end of each block's kernel, added up; copies are not counted.
    pub kernel_milliseconds: f64,
    /// The same of `dequantize` alone: the blocks' planes, on the device already, to the source's element type.
    pub decode_milliseconds: f64,
}

/// An opened device. The kernels of an operation are compiled by the driver when it is first used.
pub struct Device {
    info: DeviceInfo,
    // Dropped in this order: nothing runs any more when kernels go.
    pool: Pool,
    dequantize: OnceLock<Module>,
    squared_error: OnceLock<Module>,
    gemv: OnceLock<Module>,
    moe_gemv: OnceLock<Module>,
    context: Arc<Context>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Device {
    /// The devices of this machine, also those too old for the kernels.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::MissingSymbol`], [`Error::DriverTooOld`], [`Error::NoDevice`] or
    /// [`Error::Driver`].
    pub fn probe() -> Result<Vec<DeviceInfo>, Error> {
        let driver = Driver::get()?;
        (0..driver.count()?).map(|ordinal| driver.device(ordinal).map(|(_, info)| info)).collect()
    }

    /// Opens a device.
    ///
    /// # Errors
    /// As [`Device::probe`], [`Error::NoSuchDevice`], [`Error::ComputeCapability`], [`Error::OutOfMemory`].
    pub fn open(selector: Selector) -> Result<Self, Error> {
        let driver = Driver::get()?;
        let (device, info) = match selector {
            Selector::Ordinal(ordinal) => driver.device(ordinal)?,
            Selector::Any => first_usable(driver)?,
        };
        probe::usable(&info)?;
        let context = Context::new(driver.api(), device)?;
        let [dequantize, squared_error, gemv, moe_gemv] = [const { OnceLock::new() }; 4];
        Ok(Self { info, pool: Pool::default(), dequantize, squared_error, gemv, moe_gemv, context })
    }

    /// What was opened.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Decodes rows into `out`, `in_features` elements a row, little-endian; returns the milliseconds that the
    /// kernels took. f32 is bit-exact with [`ccq::codec::portable`]; f16 and bf16 are its values rounded to
    /// nearest even.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Bytes`], [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn dequantize(
        &self,
        matrix: &Matrix<'_>,
        rows: Range<usize>,
        element: Element,
        out: &mut [u8],
    ) -> Result<f64, Error> {
        let mut operation = Dequantize::new(matrix, rows, element, out)?;
        Ok(self.run(&mut operation)?.operation)
    }

    /// Decodes a matrix and compares it with its source in one pass. Decodes it once more, to time that alone.
    ///
    /// # Errors
    /// As [`Device::dequantize`].
    pub fn squared_error(&self, matrix: &Matrix<'_>, source: Source<'_>) -> Result<ErrorSums, Error> {
        let mut operation = SquaredError::new(matrix, source)?;
        let took = self.run(&mut operation)?;
        Ok(ErrorSums {
            weights: matrix.rows() as u64 * matrix.in_features() as u64,
            sums: operation.sums(),
            kernel_milliseconds: took.operation,
            decode_milliseconds: took.afterwards,
        })
    }

    /// Multiplies activations with the matrix's rows: `out[t * rows + r]` is token t's product with row r,
    /// accumulated in f32. Returns the milliseconds that the kernels took.
    ///
    /// # Errors
    /// As [`Device::dequantize`], [`Error::Tokens`], [`Error::Activations`].
    pub fn gemv(
        &self,
        matrix: &Matrix<'_>,
        activations: Activations<'_>,
        out: &mut [f32],
    ) -> Result<f64, Error> {
        let mut operation = Gemv::new(matrix, activations, out)?;
        Ok(self.run(&mut operation)?.operation)
    }

    /// Multiplies every token with its own experts, out of a stack of them: `out[p * rows + r]` is the product of
    /// row r, of `rows`, of expert `routing.chosen[p]` with its token. Returns the milliseconds that the kernels
    /// took.
    ///
    /// # Errors
    /// As [`Device::gemv`], [`Error::Experts`], [`Error::NoSuchExpert`], [`Error::Routing`].
    pub fn moe_gemv(
        &self,
        matrix: &Matrix<'_>,
        routing: Routing<'_>,
        activations: Activations<'_>,
        out: &mut [f32],
    ) -> Result<f64, Error> {
        let mut operation = MoeGemv::new(matrix, routing, activations, out)?;
        Ok(self.run(&mut operation)?.operation)
    }

    /// Uploads the inputs of operations, whole, to launch them in turn again and again.
    ///
    /// # Errors
    /// As [`Device::dequantize`]; the card's memory has to hold all of them. [`Error::MissingSymbol`] where the
    /// driver is older than CUDA 11.4.
    pub fn residents<O: Operation>(
        &self,
        operations: impl IntoIterator<Item = O>,
    ) -> Result<Residents<'_, O>, Error> {
        let inner = stream::Residents::new(&self.context, operations, self)?;
        Ok(Residents { _device: self, inner })
    }

    /// Bytes a second that a copy within the card's memory moves, read and written ones counted: the median of
    /// `rounds` copies of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn copy_bandwidth(&self, bytes: usize, rounds: usize) -> Result<f64, Error> {
        let from = DeviceMemory::new(&self.context, bytes)?;
        let to = DeviceMemory::new(&self.context, bytes)?;
        let stream = Stream::new(&self.context)?; // dropped first: its work ends before the memory goes
        let (begin, end) = (Event::new(&self.context)?, Event::new(&self.context)?);
        let mut times = Vec::new();
        for _ in 0..rounds.max(1) {
            begin.record(&stream)?;
            stream.copy(&from, &to, bytes)?;
            end.record(&stream)?;
            stream.synchronize()?;
            times.push(f64::from(begin.milliseconds_until(&end)?));
        }
        times.sort_by(f64::total_cmp);
        Ok(2.0 * bytes as f64 / (times[times.len() / 2] * 1e-3))
    }

    /// NVIDIA's library of dense products, to compare with.
    ///
    /// # Errors
    /// [`Error::NoCublas`], [`Error::Cublas`].
    pub fn cublas(&self) -> Result<Cublas<'_>, Error> {
        Cublas::new(self, &self.context)
    }

    fn run(&self, operation: &mut dyn Operation) -> Result<Milliseconds, Error> {
        stream::run(&self.context, &self.pool, operation, self)
    }

    /// The kernels of a file, compiled at their first use.
    fn module(&self, file: KernelFile) -> Result<&Module, Error> {
        let (slot, ptx) = match file {
            KernelFile::Dequantize => (&self.dequantize, DEQUANTIZE),
            KernelFile::SquaredError => (&self.squared_error, SQUARED_ERROR),
            KernelFile::Gemv => (&self.gemv, GEMV),
            KernelFile::MoeGemv => (&self.moe_gemv, MOE_GEMV),
        };
        if let Some(module) = slot.get() {
            return Ok(module);
        }
        let module = Module::load(&self.context, ptx)?;
        Ok(slot.get_or_init(|| module))
    }
}

impl Launcher for Device {
    fn prepare(&self, launch: &Launch, args: &Args) -> Result<(), Error> {
        self.module(args.file())?.function(launch).map(|_| ())
    }

    fn start(&self, stream: &Stream, launch: &Launch, args: &Args) -> Result<(), Error> {
        let module = self.module(args.file())?;
        // SAFETY: an operation pairs a kernel with its own arguments; what they point to is in the slot's memory
        // on the device, which is kept until the stream was synchronised.
        unsafe { module.launch(stream, launch, args.as_ptr()) }
    }
}

/// Operations whose input stays on the device, to be launched again and again.
pub struct Residents<'d, O> {
    inner: stream::Residents<O>,
    _device: &'d Device, // has the kernels
}

impl<O: Operation> Residents<'_, O> {
    /// Runs the kernels of all operations, one after another, on what was uploaded; returns the milliseconds that
    /// they took together. What takes less than a millisecond is done more often, and the mean returned.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn launch(&self) -> Result<f64, Error> {
        self.inner.launch()
    }

    /// Takes the outputs of the last launch, and gives the operations back.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Driver`].
    pub fn finish(self) -> Result<Vec<O>, Error> {
        self.inner.finish()
    }
}

fn first_usable(driver: Driver) -> Result<(i32, DeviceInfo), Error> {
    let mut refused = Error::NoDevice;
    for ordinal in 0..driver.count()? {
        let (device, info) = driver.device(ordinal)?;
        match probe::usable(&info) {
            Ok(()) => return Ok((device, info)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{DequantizeArgs, GemvArgs, MoeGemvArgs, SquaredErrorArgs};

    #[test]
    fn threads_share_a_device() {
        fn shared<T: Send + Sync>() {}
        shared::<Device>();
    }

    /// The compiler of the kernels and the one of this library agree on the size of every parameter.
    #[test]
    fn parameters_have_the_size_that_kernels_expect() {
        for (ptx, bytes) in [
            (DEQUANTIZE, size_of::<DequantizeArgs>()),
            (SQUARED_ERROR, size_of::<SquaredErrorArgs>()),
            (GEMV, size_of::<GemvArgs>()),
            (MOE_GEMV, size_of::<MoeGemvArgs>()),
        ] {
            let sizes =
                ptx.split("_param_0[").skip(1).filter_map(|rest| rest.split(']').next()?.parse().ok());
            let sizes: Vec<usize> = sizes.collect();
            assert_eq!(sizes.len(), ptx.matches(".entry ").count());
            assert!(sizes.iter().all(|&size| size == bytes), "{sizes:?}, expected {bytes}");
        }
    }
}
