#![allow(clippy::print_stdout)] // an example
//! Reads one tensor, whatever its encoding.
//!
//!     cargo run --release -p ccq --example tensor -- model.ccq model.layers.0.mlp.down_proj.weight

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tensor FILE.ccq NAME".into());
    };
    let model = ccq::Container::open(path)?;
    let tensor = model.tensor(&name).ok_or("no such tensor: `list` shows their names")?;
    if let Some(matrix) = tensor.matrix() {
        // Quantized: rows decode to f32, as many at a time as there is memory for.
        let mut row = vec![0.0; matrix.in_features()];
        for i in 0..matrix.rows() {
            matrix.decode_rows_into(i..i + 1, &mut row)?;
            let largest = row.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
            println!("row {i} begins {:?}, largest {largest}", &row[..row.len().min(4)]);
        }
    } else if let Some(bytes) = tensor.raw() {
        // Raw: the bytes of the source, floats without a copy where that is what they are.
        println!("{} bytes of {}", bytes.len(), tensor.info().dtype());
        if let (ccq::format::Dtype::F32, Some(values)) = (tensor.info().dtype(), ccq::planes::as_f32s(bytes))
        {
            println!("which begin {:?}", &values[..values.len().min(4)]);
        }
    }
    Ok(())
}
