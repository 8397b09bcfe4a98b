#![allow(clippy::print_stdout)] // an example
//! Lists a container and decodes the first row of every quantized tensor: what an engine that embeds the reader
//! does first.
//!
//!     cargo run --release --example read -- model.ccq

use ccq::Container;
use ccq::format::{Encoding, PlaneKind};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: read FILE.ccq")?;
    let model = Container::open(path)?;
    for tensor in model.tensors() {
        let info = tensor.info();
        print!("{} {:?} {}", info.name(), info.shape(), info.encoding());
        match (info.encoding(), tensor.matrix()) {
            (Encoding::Coded(code), Some(matrix)) => {
                // The planes as they lie in the file, for a kernel of your own.
                let packed = tensor.plane(PlaneKind::Code);
                let mut row = vec![0.0; matrix.in_features()];
                matrix.decode_rows_into(0..1, &mut row)?;
                println!(
                    " {} bytes of {}-bit words, row 0 begins {:?}",
                    packed.len(),
                    code.word_bits(),
                    &row[..row.len().min(4)]
                );
            }
            _ => println!(" {} bytes of {}", tensor.raw().map_or(0, <[u8]>::len), info.dtype()),
        }
    }
    Ok(())
}
