#![allow(clippy::print_stdout)] // an example
//! Hands the planes of every quantized tensor to a GPU: what to copy, and the record that a kernel needs to decode it.
//! `Device` stands for the calls of your device's interface, so that the example needs none. The package `ccq-cuda`
//! has kernels that take such a record.
//!
//!     cargo run --release -p ccq --example gpu -- model.ccq

use std::num::TryFromIntError;

use ccq::code::{Cluster, LocalScale, MAX_STATES};
use ccq::codec::Matrix;
use ccq::{Access, OpenOptions};

/// A matrix as a kernel sees it: addresses on the device and integers.
#[allow(dead_code)] // a kernel reads them
#[derive(Debug)]
#[repr(C)]
struct Record {
    code: u64,
    local_scale: u64,
    super_scale: u64,
    cluster: u64,
    row_stride: u64,
    rows: u32,
    in_features: u32,
    group_size: u32,
    words_per_group: u32,
    word_bits: u32,
    states: u32,
    /// 0 none, 1 embedded in a group's last word, 2 nibbles, 3 signed bytes.
    scale_placement: u32,
    scale_bits: u32,
    /// 0 none, 1 q8, 2 f32.
    cluster_kind: u32,
    /// State i of a word is `(word >> shift[i]) & mask[i]`, minus half of `mask[i] + 1`.
    shift: [u32; MAX_STATES],
    mask: [u32; MAX_STATES],
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: gpu FILE.ccq")?;
    // From front to back, once: the system reads ahead while the device copies.
    let model = OpenOptions::map().access(Access::Sequential).open(path)?;
    let mut device = Device::default();
    for tensor in model.tensors() {
        if let Some(matrix) = tensor.matrix() {
            println!("{}: {:?}", tensor.info().name(), record(&matrix, &mut device)?);
        }
    }
    println!("{} bytes on the device", device.used);
    Ok(())
}

/// Copies the planes and describes them.
fn record(matrix: &Matrix<'_>, device: &mut Device) -> Result<Record, TryFromIntError> {
    let (code, planes) = (matrix.code(), matrix.planes());
    let (scale_placement, scale_bits) = match code.local_scale() {
        LocalScale::None => (0, 0),
        LocalScale::Embedded { bits } => (1, bits.into()),
        LocalScale::Nibble => (2, 4),
        LocalScale::Signed8 => (3, 8),
    };
    let cluster_kind = match code.cluster() {
        None => 0,
        Some(Cluster::Q8) => 1,
        Some(Cluster::F32) => 2,
    };
    Ok(Record {
        code: device.upload(planes.code), // rows begin at multiples of 16 bytes: whole vector loads
        local_scale: device.upload(planes.local_scale),
        super_scale: device.upload(planes.super_scale),
        cluster: device.upload(planes.cluster),
        row_stride: matrix.row_stride() as u64,
        rows: matrix.rows().try_into()?,
        in_features: matrix.in_features().try_into()?,
        group_size: code.group_size().unwrap_or(matrix.in_features()).try_into()?,
        words_per_group: code.words_per_group(matrix.in_features()).try_into()?,
        word_bits: code.word_bits(),
        states: code.states_per_word().try_into()?,
        scale_placement,
        scale_bits,
        cluster_kind,
        shift: code.states().map(|state| state.shift),
        mask: code.states().map(|state| state.mask),
    })
}

/// In place of a device: counts what it is given and makes up addresses.
#[derive(Default)]
struct Device {
    used: u64,
}

impl Device {
    /// `cudaMemcpy`, `wgpu::Queue::write_buffer` or the like: host pointer and length in, device address out.
    fn upload(&mut self, plane: &[u8]) -> u64 {
        let address = self.used.next_multiple_of(256);
        println!("  {} bytes from {:p} to {address:#x}", plane.len(), plane.as_ptr());
        self.used = address + plane.len() as u64;
        address
    }
}
