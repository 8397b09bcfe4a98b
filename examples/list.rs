#![allow(clippy::print_stdout)] // an example
//! Lists a file: tensors, the model's own files, metadata. Nothing but the index is read, whatever the file's length.
//!
//!     cargo run --release -p ccq --example list -- model.ccq

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: list FILE.ccq")?;
    let model = ccq::Container::open(path)?;
    for tensor in model.tensors() {
        let info = tensor.info();
        let bpw = info.bpw().unwrap_or(0.0);
        println!(
            "{} {:?} {} from {}, {bpw:.3} bpw",
            info.name(),
            info.shape(),
            info.encoding(),
            info.dtype()
        );
    }
    for (name, bytes) in model.blobs() {
        println!("{name} {} bytes", bytes.len());
    }
    for (key, value) in model.index().metadata().iter() {
        println!("{key} = {value:?}");
    }
    Ok(())
}
