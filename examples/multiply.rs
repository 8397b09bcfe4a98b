#![allow(clippy::print_stdout)] // an example
//! Multiplies every quantized matrix with a vector of ones.
//!
//!     cargo run --release -p ccq --example multiply -- model.ccq

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: multiply FILE.ccq")?;
    let model = ccq::Container::open(path)?;
    for tensor in model.tensors() {
        let Some(matrix) = tensor.matrix() else { continue };
        let x = vec![1.0; matrix.in_features()];
        let mut y = vec![0.0; matrix.rows()];
        matrix.matvec(&x, &mut y)?;
        println!("{}: y begins {:?}", tensor.info().name(), &y[..y.len().min(4)]);
    }
    Ok(())
}
