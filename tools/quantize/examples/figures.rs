//! Error and speed of the quantizer, encoding by encoding.
//!
//! ```text
//! cargo run --release -p ccq-quantize --example figures -- [--quality fast|balanced|best] [--method search|paper]
//!     [--threads N] [--runs N] [--json] gauss|FILE.safetensors [ENCODING[:GROUP] ...]
//! ```
//!
//! `gauss` is 256 x 4096 N(0, 1) values with seed 1; of a file, the two-dimensional `encoder.layer.*` weights,
//! pooled. One thread unless told otherwise; times are the shortest of the runs (1) of each matrix, in-process,
//! allocations included; decoding is row by row into one buffer, three times a run. With `--json`, one object a row.
#![allow(clippy::print_stdout, missing_docs)]

use ccq::code::{Code, Family};
use ccq::codec::Matrix;
use ccq_quantize::{ErrorStats, Method, Options, Quality, gaussian, quantize};
use std::error::Error;
use std::time::Instant;

/// A row-major matrix and the length of its rows.
type Weights = (Vec<f32>, usize);

/// What the command line asks for.
struct Arguments {
    quality: Quality,
    method: Method,
    threads: usize,
    runs: usize,
    json: bool,
    source: String,
    names: Vec<String>,
}

/// One row of the table.
struct Figures {
    stats: ErrorStats,
    bpw: f64,
    quantize_seconds: f64,
    decode_seconds: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let source = &arguments.source;
    let matrices = if source == "gauss" { vec![(gaussian(1, 256 * 4096), 4096)] } else { read(source)? };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    let (quality, method) = (arguments.quality.name(), arguments.method.name());
    if !arguments.json {
        println!("{source}: {} matrices, {} threads, {quality}, {method}", matrices.len(), arguments.threads);
        println!(
            "{:12} {:>9} {:>8} {:>10} {:>10}",
            "encoding", "rel. MSE", "bpw", "Mweights/s", "Gdecoded/s"
        );
    }
    for name in &arguments.names {
        let code = parse(name)?;
        let figures = pool.install(|| measure(&arguments, code, &matrices))?;
        let weights = figures.stats.weights as f64;
        let mse = figures.stats.relative_mse().unwrap_or(f64::NAN);
        let (speed, decode) =
            (weights / figures.quantize_seconds / 1e6, weights / figures.decode_seconds / 1e9);
        let group = code.group_size().unwrap_or(0);
        let encoding = code.family().map_or("other", Family::name);
        if arguments.json {
            println!(
                "{{\"encoding\": \"{encoding}\", \"group\": {group}, \"quality\": \"{quality}\", \
                 \"method\": \"{method}\", \"data\": {source:?}, \"threads\": {}, \"relative_mse\": {mse:e}, \
                 \"bpw\": {}, \"quantize_mweights_per_s\": {speed}, \"decode_gweights_per_s\": {decode}}}",
                arguments.threads, figures.bpw,
            );
        } else {
            println!("{name:12} {mse:9.6} {:8.4} {speed:10.2} {decode:10.3}", figures.bpw);
        }
    }
    Ok(())
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut found = Self {
            quality: Quality::default(),
            method: Method::default(),
            threads: 1,
            runs: 1,
            json: false,
            source: "gauss".to_owned(),
            names: Family::ALL.iter().map(|family| family.name().to_owned()).collect(),
        };
        let mut plain = Vec::new();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} of what?"));
            match argument.as_str() {
                "--quality" => found.quality = Quality::from_name(&value()?).ok_or("unknown quality")?,
                "--method" => found.method = Method::from_name(&value()?).ok_or("unknown method")?,
                "--threads" => found.threads = value()?.parse()?,
                "--runs" => found.runs = value()?.parse()?,
                "--json" => found.json = true,
                option if option.starts_with("--") => return Err(format!("unknown option {option}").into()),
                _ => plain.push(argument),
            }
        }
        let mut plain = plain.into_iter();
        found.source = plain.next().unwrap_or(found.source);
        let names: Vec<String> = plain.collect();
        if !names.is_empty() {
            found.names = names;
        }
        Ok(found)
    }
}

/// Quantizes and decodes every matrix.
fn measure(arguments: &Arguments, code: Code, matrices: &[Weights]) -> Result<Figures, String> {
    let options = Options::new(code).with_quality(arguments.quality).with_method(arguments.method);
    let code = options.result_code();
    let mut figures =
        Figures { stats: ErrorStats::default(), bpw: 0.0, quantize_seconds: 0.0, decode_seconds: 0.0 };
    let mut bytes = 0;
    for (weights, in_features) in matrices {
        let rows = weights.len() / in_features;
        let (mut quantizing, mut decoding) = (f64::INFINITY, f64::INFINITY);
        let mut decoded = vec![0.0; weights.len()];
        for _ in 0..arguments.runs.max(1) {
            let start = Instant::now();
            let matrix = quantize(weights, *in_features, &options).map_err(|error| error.to_string())?;
            quantizing = quantizing.min(start.elapsed().as_secs_f64());
            let matrix =
                Matrix::new(code, rows, *in_features, matrix.planes()).map_err(|error| error.to_string())?;
            matrix.decode_rows_into(0..rows, &mut decoded).map_err(|error| error.to_string())?;
            for _ in 0..3 {
                decoding = decoding.min(time_decoding(&matrix).map_err(|error| error.to_string())?);
            }
        }
        figures.quantize_seconds += quantizing;
        figures.decode_seconds += decoding;
        let sizes = code.plane_sizes(rows as u64, *in_features as u64).map_err(|error| error.to_string())?;
        bytes += sizes.total().unwrap_or(0);
        figures.stats.merge(&ErrorStats::of_rows(weights, &decoded, *in_features));
    }
    figures.bpw = 8.0 * bytes as f64 / figures.stats.weights as f64;
    Ok(figures)
}

/// Seconds to decode a matrix row by row into one buffer.
fn time_decoding(matrix: &Matrix<'_>) -> Result<f64, ccq::codec::SizeError> {
    let mut row = vec![0.0; matrix.in_features()];
    let start = Instant::now();
    for i in 0..matrix.rows() {
        matrix.decode_rows_into(i..i + 1, std::hint::black_box(&mut row))?;
    }
    Ok(start.elapsed().as_secs_f64())
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
