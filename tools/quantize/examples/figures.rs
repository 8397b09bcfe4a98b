//! Error and speed of the quantizer, encoding by encoding, on one thread.
//!
//! ```text
//! cargo run --release -p ccq-quantize --example figures -- gauss|FILE.safetensors [ENCODING[:GROUP] ...]
//! ```
//!
//! `gauss` is 256 x 4096 N(0, 1) values with seed 1; of a file, the two-dimensional `encoder.layer.*` weights,
//! pooled.
#![allow(clippy::print_stdout, missing_docs)]

use ccq::code::{Code, Family};
use ccq::codec::Matrix;
use ccq_quantize::{ErrorStats, Options, gaussian, quantize};
use std::error::Error;
use std::time::Instant;

/// A row-major matrix and the length of its rows.
type Weights = (Vec<f32>, usize);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let source = arguments.first().map_or("gauss", String::as_str);
    let matrices = if source == "gauss" { vec![(gaussian(1, 256 * 4096), 4096)] } else { read(source)? };
    let mut names: Vec<String> = arguments.iter().skip(1).cloned().collect();
    if names.is_empty() {
        names = Family::ALL.iter().map(|family| family.name().to_owned()).collect();
    }
    println!("{source}: {} matrices", matrices.len());
    println!("{:12} {:>9} {:>8} {:>10}", "encoding", "rel. MSE", "bpw", "Mweights/s");
    for name in names {
        let code = parse(&name)?;
        let mut total = ErrorStats::default();
        let (mut seconds, mut bytes) = (0.0, 0);
        for (weights, in_features) in &matrices {
            let start = Instant::now();
            let matrix = one_thread(|| quantize(weights, *in_features, &Options::new(code)))?;
            seconds += start.elapsed().as_secs_f64();
            let rows = weights.len() / in_features;
            bytes += code.plane_sizes(rows as u64, *in_features as u64)?.total().unwrap_or(0);
            let mut decoded = vec![0.0; weights.len()];
            Matrix::new(code, rows, *in_features, matrix.planes())?
                .decode_rows_into(0..rows, &mut decoded)?;
            total.merge(&ErrorStats::of_rows(weights, &decoded, *in_features));
        }
        println!(
            "{:12} {:9.6} {:8.4} {:10.2}",
            name,
            total.relative_mse().unwrap_or(f64::NAN),
            8.0 * bytes as f64 / total.weights as f64,
            total.weights as f64 / seconds / 1e6,
        );
    }
    Ok(())
}

fn one_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(run),
        Err(_) => run(),
    }
}

fn parse(name: &str) -> Result<Code, Box<dyn Error>> {
    let (family, group) = name.split_once(':').unwrap_or((name, ""));
    let family = Family::from_name(family).ok_or("unknown encoding")?;
    Ok(if group.is_empty() { family.default_code() } else { family.code(group.parse()?) }?)
}

/// The two-dimensional encoder weights of a file.
fn read(path: &str) -> Result<Vec<Weights>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let mut found: Vec<_> = file
        .tensors()
        .into_iter()
        .filter(|(name, view)| {
            name.contains("encoder.layer.") && name.ends_with(".weight") && view.shape().len() == 2
        })
        .collect();
    found.sort_by(|x, y| x.0.cmp(&y.0));
    found
        .into_iter()
        .map(|(name, view)| {
            let weights = match view.dtype() {
                safetensors::Dtype::F32 => view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                safetensors::Dtype::F16 => view
                    .data()
                    .chunks_exact(2)
                    .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                other => return Err(format!("{name}: {other:?}").into()),
            };
            Ok((weights, view.shape()[1]))
        })
        .collect()
}
