//! The driver's objects as values that free what they hold when they are dropped.
//!
//! All of them belong to a [`Context`], which they keep alive. Copies and launches are ordered by their
//! [`Stream`]; whoever hands memory to one keeps the memory until the stream was synchronised.

use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;

use crate::api::{Api, GraphApi};
use crate::plan::{LANES, Launch, WARPS};
use crate::{Error, Memory};

/// A device's primary context.
pub(crate) struct Context {
    api: &'static Api,
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be used from any thread, and its handle is never changed.
unsafe impl Send for Context {}
// SAFETY: as above; the driver serialises what needs it.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the primary context of a device of an initialised driver.
    pub fn new(api: &'static Api, device: sys::CUdevice) -> Result<Arc<Self>, Error> {
        let mut context = ptr::null_mut();
        // SAFETY: the device is the driver's own (probe), the pointer is to a live handle.
        let code = unsafe { (api.cuDevicePrimaryCtxRetain)(&mut context, device) };
        api.check("cuDevicePrimaryCtxRetain", code)?;
        Ok(Arc::new(Self { api, device, context }))
    }

    /// The driver's functions.
    pub fn api(&self) -> &'static Api {
        self.api
    }

    /// Makes it this thread's; returns the driver's functions.
    pub fn enter(&self) -> Result<&'static Api, Error> {
        // SAFETY: the context is retained until it is dropped.
        self.api.check("cuCtxSetCurrent", unsafe { (self.api.cuCtxSetCurrent)(self.context) })?;
        Ok(self.api)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. A failure leaves nothing to be done.
        unsafe { (self.api.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

/// Kernels compiled by the driver from PTX.
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
        let api = context.enter()?;
        let image = CString::new(ptx).expect("checked-in PTX without a zero byte");
        let mut module = ptr::null_mut();
        // SAFETY: a zero-terminated PTX text, which the driver has copied when it returns.
        let code = unsafe { (api.cuModuleLoadData)(&mut module, image.as_ptr().cast()) };
        api.check_memory("cuModuleLoadData", code, Memory::Device, ptx.len())?;
        Ok(Self { context: context.clone(), module })
    }

    /// A kernel of this module, which the driver loads when it is first asked for.
    pub fn function(&self, launch: &Launch) -> Result<sys::CUfunction, Error> {
        let api = self.context.api();
        let name = CString::new(launch.kernel.as_str()).expect("kernel names have no zero byte");
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, the pointer is to a live handle, the name ends in a zero byte.
        let code = unsafe { (api.cuModuleGetFunction)(&mut function, self.module, name.as_ptr()) };
        api.check("cuModuleGetFunction", code)?;
        Ok(function)
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
        let api = self.context.api();
        let function = self.function(launch)?;
        let mut params = [args.cast_mut()];
        // SAFETY: the module is loaded; the driver copies the parameter before it returns, and the caller
        // guarantees its type and what it points to.
        unsafe {
            let code = (api.cuLaunchKernel)(
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
            api.check("cuLaunchKernel", code)
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.enter();
        let api = self.context.api();
        // SAFETY: loaded once, unloaded once; the streams that ran it were synchronised before (Stream::drop).
        unsafe { (api.cuModuleUnload)(self.module) };
    }
}

/// A queue of copies and kernels.
pub(crate) struct Stream {
    context: Arc<Context>,
    stream: sys::CUstream,
}

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Stream {}

impl Stream {
    /// A new stream, independent of all others.
    pub fn new(context: &Arc<Context>) -> Result<Self, Error> {
        const NON_BLOCKING: u32 = 1;
        let api = context.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is this thread's.
        api.check("cuStreamCreate", unsafe { (api.cuStreamCreate)(&mut stream, NON_BLOCKING) })?;
        Ok(Self { context: context.clone(), stream })
    }

    /// The driver's handle, valid as long as `self` is.
    pub fn handle(&self) -> sys::CUstream {
        self.stream
    }

    /// The context it is in.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits until everything queued is done.
    pub fn synchronize(&self) -> Result<(), Error> {
        let api = self.context.api();
        // SAFETY: the stream is alive.
        api.check("cuStreamSynchronize", unsafe { (api.cuStreamSynchronize)(self.stream) })
    }

    /// Queues a copy of the first `bytes` bytes to the device.
    ///
    /// # Safety
    /// Both outlive the copy, and the host's bytes do not change until the stream was synchronised.
    pub unsafe fn upload(&self, from: &Pinned, to: &DeviceMemory, bytes: usize) -> Result<(), Error> {
        let api = self.context.api();
        assert!(bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        // SAFETY: within both buffers (above); the caller keeps them.
        let code = unsafe { (api.cuMemcpyHtoDAsync_v2)(to.address, from.memory.cast(), bytes, self.stream) };
        api.check("cuMemcpyHtoDAsync", code)
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
        let api = self.context.api();
        assert!(offset + bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        let source = from.address + offset as u64;
        // SAFETY: within both buffers (above); the caller keeps them.
        let code = unsafe { (api.cuMemcpyDtoHAsync_v2)(to.memory.cast(), source, bytes, self.stream) };
        api.check("cuMemcpyDtoHAsync", code)
    }

    /// Queues a copy of the first `bytes` bytes within the device. Both keep until the stream was synchronised:
    /// freeing waits for it.
    pub fn copy(&self, from: &DeviceMemory, to: &DeviceMemory, bytes: usize) -> Result<(), Error> {
        let api = self.context.api();
        assert!(bytes <= from.bytes && bytes <= to.bytes, "a copy within both buffers");
        // SAFETY: within both buffers (above), which nothing on the host reads; freeing either waits.
        let code = unsafe { (api.cuMemcpyDtoDAsync_v2)(to.address, from.address, bytes, self.stream) };
        api.check("cuMemcpyDtoDAsync", code)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.enter();
        let api = self.context.api();
        let _ = self.synchronize();
        // SAFETY: created once, destroyed once.
        unsafe { (api.cuStreamDestroy_v2)(self.stream) };
    }
}

/// Work that a stream was given once, to be done again and again.
pub(crate) struct Graph {
    context: Arc<Context>,
    functions: &'static GraphApi,
    graph: sys::CUgraphExec,
}

impl Graph {
    /// Records what `queue` queues on the stream; nothing of it is done before [`Graph::launch`].
    ///
    /// # Errors
    /// [`Error::MissingSymbol`] for old drivers, those of `queue` and of the driver.
    pub fn record(stream: &Stream, queue: impl FnOnce() -> Result<(), Error>) -> Result<Self, Error> {
        const RELAXED: c_int = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED as c_int;
        let context = &stream.context;
        let api = context.enter()?;
        let functions = GraphApi::get(api)?;
        let mut recorded = ptr::null_mut();
        // SAFETY: the stream is alive.
        let code = unsafe { (functions.cuStreamBeginCapture_v2)(stream.stream, RELAXED) };
        api.check("cuStreamBeginCapture", code)?;
        let queued = queue();
        // SAFETY: the stream records since the call above, and the pointer is to a live handle.
        let code = unsafe { (functions.cuStreamEndCapture)(stream.stream, &mut recorded) };
        let recording = queued.and_then(|()| api.check("cuStreamEndCapture", code));
        let mut graph = ptr::null_mut();
        let done = recording.and_then(|()| {
            // SAFETY: the graph was just recorded, and the pointer is to a live handle.
            let code = unsafe { (functions.cuGraphInstantiateWithFlags)(&mut graph, recorded, 0) };
            api.check("cuGraphInstantiate", code)
        });
        if !recorded.is_null() {
            // SAFETY: recorded once, destroyed once; what was instantiated does not need it.
            unsafe { (functions.cuGraphDestroy)(recorded) };
        }
        done?;
        Ok(Self { context: context.clone(), functions, graph })
    }

    /// Queues the work.
    ///
    /// # Safety
    /// What the work uses stays valid until the stream has been synchronised.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: both are alive; the caller keeps the rest.
        let code = unsafe { (self.functions.cuGraphLaunch)(self.graph, stream.stream) };
        self.context.api().check("cuGraphLaunch", code)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: instantiated once, destroyed once; the driver waits for what runs.
        unsafe { (self.functions.cuGraphExecDestroy)(self.graph) };
    }
}

/// A point in a stream's queue, and when it was reached.
pub(crate) struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Event {}

impl Event {
    /// A new event.
    pub fn new(context: &Arc<Context>) -> Result<Self, Error> {
        let api = context.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context is this thread's.
        api.check("cuEventCreate", unsafe { (api.cuEventCreate)(&mut event, 0) })?;
        Ok(Self { context: context.clone(), event })
    }

    /// Marks the end of what the stream has queued.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        let api = self.context.api();
        // SAFETY: both are alive.
        api.check("cuEventRecord", unsafe { (api.cuEventRecord)(self.event, stream.stream) })
    }

    /// Milliseconds from this event to a later one, once both were reached.
    pub fn milliseconds_until(&self, end: &Self) -> Result<f32, Error> {
        let api = self.context.api();
        let mut time = 0.0;
        // SAFETY: both are alive, the pointer is to a live float.
        api.check("cuEventElapsedTime", unsafe {
            (api.cuEventElapsedTime)(&mut time, self.event, end.event)
        })?;
        Ok(time)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.enter();
        let api = self.context.api();
        // SAFETY: created once, destroyed once.
        unsafe { (api.cuEventDestroy_v2)(self.event) };
    }
}

/// Memory of the device, at a multiple of 256 bytes.
pub(crate) struct DeviceMemory {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// Allocates at least one byte.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        let api = context.enter()?;
        let bytes = bytes.max(1);
        let mut address = 0;
        // SAFETY: the pointer is to a live address; the context is this thread's.
        let code = unsafe { (api.cuMemAlloc_v2)(&mut address, bytes) };
        api.check_memory("cuMemAlloc", code, Memory::Device, bytes)?;
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
        let api = self.context.api();
        // SAFETY: allocated once, freed once; the driver waits for kernels that use it.
        unsafe { (api.cuMemFree_v2)(self.address) };
    }
}

/// Page-locked memory of the host, zeroed at first.
pub(crate) struct Pinned {
    context: Arc<Context>,
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: page-locked memory is reached, and freed, from any thread of its context; whoever has `self` owns it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Allocates at least one byte.
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        let api = context.enter()?;
        let bytes = bytes.max(1);
        let mut memory = ptr::null_mut();
        // SAFETY: the pointer is to a live pointer; the context is this thread's.
        let code = unsafe { (api.cuMemHostAlloc)(&mut memory, bytes, 0) };
        api.check_memory("cuMemHostAlloc", code, Memory::Pinned, bytes)?;
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
        let api = self.context.api();
        // SAFETY: allocated once, freed once; its streams were synchronised (stream.rs drops them first).
        unsafe { (api.cuMemFreeHost)(self.memory.cast()) };
    }
}
