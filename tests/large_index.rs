//! A container of a hundred thousand tensors opens in memory proportional to its index. How long it takes is not
//! asserted; `cargo xtask bench-open` measures it.
#![cfg(feature = "std")]

#[path = "common/peak.rs"]
mod peak;

use std::io::Cursor;

use ccq::format::{Contents, Dtype, Encoding, Layout, TensorSpec, Writer};
use ccq::{Container, Limits};

const TENSORS: usize = 100_000;
/// Bytes that opening may hold for every byte of the front.
const RATIO: usize = 2;

fn name(i: usize) -> String {
    format!("model.layers.{}.mlp.experts.{}.down_proj.weight", i / 256, i % 256)
}

fn large_file() -> Vec<u8> {
    let spec =
        |i| TensorSpec { name: name(i), shape: vec![0, 4096], dtype: Dtype::Bf16, encoding: Encoding::Raw };
    let contents = Contents { tensors: (0..TENSORS).map(spec).collect(), ..Contents::default() };
    let mut writer = Writer::new(Cursor::new(Vec::new()), Layout::new(contents).unwrap()).unwrap();
    while let Some(name) = writer.next_name().map(String::from) {
        writer.write(&name, &[&[]]).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn opening_takes_memory_in_proportion_to_the_index() {
    let file = large_file();
    let (container, memory) = peak::measure(|| {
        Container::from_bytes(&file, &Limits::DEFAULT).map(|container| container.tensors().len())
    });
    assert_eq!(container.unwrap(), TENSORS);
    assert!(memory <= RATIO * file.len(), "{memory} bytes for a front of {}", file.len());

    let container = Container::from_bytes(&file, &Limits::DEFAULT).unwrap();
    container.verify().unwrap();
    for i in (0..TENSORS).step_by(997) {
        assert_eq!(container.tensor(&name(i)).unwrap().info().shape(), [0, 4096]);
    }
}

/// Damage in the last record costs no more than opening does.
#[test]
fn a_fault_at_the_end_takes_no_more() {
    let mut file = large_file();
    let last = 4096 + (TENSORS - 1) * 64 + 38;
    file[last] = 0xFF;
    ccq::format::seal(&mut file);
    let (error, memory) = peak::measure(|| Container::from_bytes(&file, &Limits::DEFAULT).unwrap_err());
    assert!(matches!(error, ccq::Error::UnsupportedFeature { .. }), "{error}");
    assert!(memory <= RATIO * file.len(), "{memory} bytes for a front of {}", file.len());
}
