//! Opens, verifies and decodes a container without the standard library. Built, not run: `std` would bring a panic
//! handler of its own, and two of them are an error of the compiler.
#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::ptr;

use ccq::{Container, Limits};

/// Decodes the first row of the first quantized tensor into `out`; 0 where all went well.
///
/// # Safety
/// `file` points to `len` bytes, `out` to as many floats as a row has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn decode_first_row(file: *const u8, len: usize, out: *mut f32) -> i32 {
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(file, len) };
    let Ok(container) = Container::from_bytes(bytes, &Limits::DEFAULT) else { return 1 };
    if container.verify().is_err() {
        return 2;
    }
    let Some(matrix) = container.tensors().find_map(|tensor| tensor.matrix()) else { return 3 };
    // SAFETY: the caller's promise.
    let out = unsafe { core::slice::from_raw_parts_mut(out, matrix.in_features()) };
    i32::from(matrix.decode_rows_into(0..1, out).is_err())
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// A megabyte that is handed out once: enough to build with.
struct Arena(UnsafeCell<([u8; 1 << 20], usize)>);

// SAFETY: a program of one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static ARENA: Arena = Arena(UnsafeCell::new(([0; 1 << 20], 0)));

// SAFETY: every block lies inside the arena, aligned, and overlaps no other.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a program of one thread, and no reference outlives this call.
        let (memory, used) = unsafe { &mut *self.0.get() };
        let address = memory.as_mut_ptr() as usize;
        let start = (address + *used).next_multiple_of(layout.align()) - address;
        match memory.get_mut(start..start + layout.size()) {
            Some(block) => {
                *used = start + layout.size();
                block.as_mut_ptr()
            }
            None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
