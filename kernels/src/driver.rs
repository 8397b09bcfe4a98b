//! The driver's objects as values that free what they hold when they are dropped.
//!
//! All of them belong to a [`Context`], which they keep alive. Copies and launches are ordered by their
//! [`Stream`]; whoever hands memory to one keeps the memory until the stream was synchronised.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use crate::plan::{LANES, Launch, WARPS};
use crate::{Error, Memory, probe};

/// An error unless the call succeeded.
pub(crate) fn check(call: &'static str, code: sys::CUresult) -> Result<(), Error> {
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(Error::Driver { call, code: code as u32, name: probe::error_name(code) }),
    }
}

/// [`check`] for a call that allocates.
fn check_memory(call: &'static str, code: sys::CUresult, memory: Memory, bytes: usize) -> Result<(), Error> {
    match code {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(Error::OutOfMemory { memory, bytes }),
        code => check(call, code),
    }
}

/// A device's primary context.
#[derive(Debug)]
pub(crate) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be used from any thread, and its handle is never changed.
unsafe impl Send for Context {}
// SAFETY: as above; the driver serialises what needs it.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of a device of an initialised driver.
    pub fn new(device: sys::CUdevice) -> Result<Arc<Self>, Error> {
        let mut context = ptr::null_mut();
        // SAFETY: the device is the driver's own (probe), the pointer is to a live handle.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) };
        check_memory("cuDevicePrimaryCtxRetain", code, Memory::Device, 0)?;
        Ok(Arc::new(Self { device, context }))
    }

    /// Makes it this thread's.
    pub fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained until it is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. A failure leaves nothing to be done.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Kernels compiled by the driver from PTX.
#[derive(Debug)]
pub(crate) struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
}

// SAFETY: modules and functions may be used from any thread of their context.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Compiles PTX; the driver keeps the result in its cache.
    pub fn load(context: &Arc<Context>, ptx: &str) -> Result<Self, Error> {
        context.enter()?;
        let image = CString::new(ptx).expect("checked-in PTX without a zero byte");
        let mut module = ptr::null_mut();
        // SAFETY: a zero-terminated PTX text, which the driver has copied when it returns.
        let code = unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) };
        check_memory("cuModuleLoadData", code, Memory::Device, ptx.len())?;
        Ok(Self { context: context.clone(), module })
    }

    /// Starts a kernel of this module on a stream.
    ///
    /// # Safety
    /// `args` points to the kernel's parameter, and what that points to stays valid until the stream has been
    /// synchronised.
    pub unsafe fn launch(&self, stream: &Stream, launch: &Launch, args: *const c_void) -> Result<(), Error> {
        if launch.blocks == 0 {
            return Ok(());
        }
        let name = CString::new(launch.kernel.as_str()).expect("kernel names have no zero byte");
        let mut function = ptr::null_mut();
        let mut params = [args.cast_mut()];
        // SAFETY: the module is loaded; the driver copies the parameter before it returns, and the caller
        // guarantees its type and what it points to.
        unsafe {
            check(
                "cuModuleGetFunction",
                sys::cuModuleGetFunction(&mut function, self.module, name.as_ptr()),
            )?;
            let code = sys::cuLaunchKernel(
                function,
                launch.blocks,
                1,
                1,
                WARPS * LANES,
                1,
                1,
                launch.shared_bytes,
                stream.stream,
                params.as_mut_ptr(),
                ptr::null_mut(),
            );
            check("cuLaunchKernel", code)
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: loaded once, unloaded once; the streams that ran it were synchronised before (Stream::drop).
        unsafe { sys::cuModuleUnload(self.module) };
    }
}

/// A queue of copies and kernels.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    stream: sys::CUstream,
}

impl Stream {
    /// A new stream, independent of all others.
    pub fn new(context: &Arc<Context>) -> Result<Self, Error> {
        const NON_BLOCKING: u32 = 1;
        context.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is this thread's.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, NON_BLOCKING) })?;
        Ok(Self { context: context.clone(), stream })
    }

    /// Waits until everything queued is done.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }

    /// Queues a copy of the first `bytes` bytes to the device.
    ///
    /// # Safety
    /// Both outlive the copy, and the host's bytes do not change until the stream was synchronised.
    pub unsafe fn upload(&self, from: &Pinned, to: &DeviceMemory, bytes: usize) -> Result<(), Error> {
        assert!(bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        // SAFETY: within both buffers (above); the caller keeps them.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address, from.memory.cast(), bytes, self.stream) };
        check("cuMemcpyHtoDAsync", code)
    }

    /// Queues a copy of `bytes` bytes, from `offset` of the device's memory on, to the front of the host's.
    ///
    /// # Safety
    /// Both outlive the copy, and the host's bytes are not looked at until the stream was synchronised.
    pub unsafe fn download(
        &self,
        from: &DeviceMemory,
        offset: usize,
        to: &mut Pinned,
        bytes: usize,
    ) -> Result<(), Error> {
        assert!(offset + bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        let source = from.address + offset as u64;
        // SAFETY: within both buffers (above); the caller keeps them.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(to.memory.cast(), source, bytes, self.stream) };
        check("cuMemcpyDtoHAsync", code)
    }

    /// Queues a copy of the first `bytes` bytes within the device. Both keep until the stream was synchronised:
    /// freeing waits for it.
    pub fn copy(&self, from: &DeviceMemory, to: &DeviceMemory, bytes: usize) -> Result<(), Error> {
        assert!(bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        // SAFETY: within both buffers (above), which nothing on the host reads; freeing either waits.
        let code = unsafe { sys::cuMemcpyDtoDAsync_v2(to.address, from.address, bytes, self.stream) };
        check("cuMemcpyDtoDAsync", code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.enter();
        let _ = self.synchronize();
        // SAFETY: created once, destroyed once.
        unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

/// A point in a stream's queue, and when it was reached.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

impl Event {
    /// A new event.
    pub fn new(context: &Arc<Context>) -> Result<Self, Error> {
        context.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is this thread's.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, 0) })?;
        Ok(Self { context: context.clone(), event })
    }

    /// Marks the end of what the stream has queued.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.event, stream.stream) })
    }

    /// Milliseconds from this event to a later one, once both were reached.
    pub fn milliseconds_until(&self, end: &Self) -> Result<f32, Error> {
        let mut time = 0.0;
        // SAFETY: both are alive, the pointer is to a live float.
        check("cuEventElapsedTime", unsafe { sys::cuEventElapsedTime(&mut time, self.event, end.event) })?;
        Ok(time)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: created once, destroyed once.
        unsafe { sys::cuEventDestroy_v2(self.event) };
    }
}

/// Memory of the device, at a multiple of 256 bytes.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// Allocates at least one byte.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        context.enter()?;
        let bytes = bytes.max(1);
        let mut address = 0;
        // SAFETY: the pointer is to a live address; the context is this thread's.
        let code = unsafe { sys::cuMemAlloc_v2(&mut address, bytes) };
        check_memory("cuMemAlloc", code, Memory::Device, bytes)?;
        Ok(Self { context: context.clone(), address, bytes })
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated once, freed once; the driver waits for kernels that use it.
        unsafe { sys::cuMemFree_v2(self.address) };
    }
}

/// Page-locked memory of the host, zeroed at first.
#[derive(Debug)]
pub(crate) struct Pinned {
    context: Arc<Context>,
    memory: *mut u8,
    bytes: usize,
}

impl Pinned {
    /// Allocates at least one byte.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        context.enter()?;
        let bytes = bytes.max(1);
        let mut memory = ptr::null_mut();
        // SAFETY: the pointer is to a live pointer; the context is this thread's.
        let code = unsafe { sys::cuMemHostAlloc(&mut memory, bytes, 0) };
        check_memory("cuMemHostAlloc", code, Memory::Pinned, bytes)?;
        let memory = memory.cast::<u8>();
        // SAFETY: as many bytes were just allocated.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Self { context: context.clone(), memory, bytes })
    }

    /// The bytes. The caller has synchronised the stream that last copied to them.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this length and initialised in `new`; freed when `self` is dropped.
        unsafe { std::slice::from_raw_parts(self.memory, self.bytes) }
    }

    /// The bytes, to be changed. The caller has synchronised the stream that last copied from or to them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated once, freed once; its streams were synchronised (stream.rs drops them first).
        unsafe { sys::cuMemFreeHost(self.memory.cast()) };
    }
}
