//! Compiles a kernel file for the CPU, and launches kernels in it.
#![allow(unsafe_code)] // loading a library and calling it

pub mod case;
mod compile;

use std::ffi::c_void;
use std::mem::ManuallyDrop;

use ccq_cuda::operation::Args;
use ccq_cuda::plan::{LANES, Launch, WARPS};
use compile::compile;
use libloading::{Library, Symbol};

/// The shim's `struct Launch`.
#[repr(C)]
struct SimLaunch {
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    falling: u32,
}

/// The kernels of one file.
pub struct Simulator(ManuallyDrop<Library>);

impl Simulator {
    /// Compiles `cu/NAME.cu`, once a name.
    pub fn new(name: &str) -> Self {
        let library = compile(&format!("cu/{name}.cu"), &format!("ccq-sim-{name}.so"), &[]);
        // SAFETY: the library was built above from this package's sources and has no initialisers. It is never
        // unloaded: threads that ran its kernels own fibers of it until they end.
        let library = unsafe { Library::new(&library) }.expect("a library that was just built");
        Self(ManuallyDrop::new(library))
    }

    /// Runs a kernel to its end, the lanes of a warp taking turns in rising or in falling order.
    pub fn launch(&self, launch: &Launch, args: &Args, falling: bool) {
        type Kernel = unsafe extern "C" fn(*const c_void, *const SimLaunch);
        // SAFETY: every kernel has this signature in the simulator (CCQ_KERNEL in sim/shim.hpp).
        let kernel: Symbol<'_, Kernel> =
            unsafe { self.0.get(launch.kernel.as_bytes()) }.expect("a known kernel");
        let sim = SimLaunch {
            blocks: launch.blocks,
            threads: WARPS * LANES,
            shared_bytes: launch.shared_bytes,
            falling: falling.into(),
        };
        // SAFETY: a plan pairs each kernel with its own arguments; the tests keep the memory they point to.
        unsafe { kernel(args.as_ptr(), &sim) }
    }
}

/// Bytes between guards, at a chosen distance from a 256-byte boundary.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

/// Bytes of a guard before and behind.
const MARGIN: usize = 64;

impl Aligned {
    /// `len` bytes, `misaligned` past a 256-byte boundary, all of them and the guards filled with `value`.
    pub fn new(len: usize, misaligned: usize, value: u8) -> Self {
        let memory = vec![value; len + misaligned + 2 * MARGIN + 256];
        let first = memory.as_ptr().addr() + MARGIN;
        let start = MARGIN + first.next_multiple_of(256) - first + misaligned;
        Self { memory, start, len }
    }

    /// Where the bytes are.
    pub fn address(&self) -> u64 {
        self.bytes().as_ptr().expose_provenance() as u64
    }

    /// Where the bytes are, for a kernel that writes them.
    pub fn address_mut(&mut self) -> u64 {
        self.bytes_mut().as_mut_ptr().expose_provenance() as u64
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Whether the memory around the bytes still has this value.
    pub fn guards_are(&self, value: u8) -> bool {
        let (before, after) = (&self.memory[..self.start], &self.memory[self.start + self.len..]);
        before.iter().chain(after).all(|&byte| byte == value)
    }
}
