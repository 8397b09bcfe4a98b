//! The command line of `bench`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ccq::code::Family;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};

use super::weights::MOST_WEIGHTS;
use crate::device::Choice;

/// After the help.
pub const HELP: &str = "\
Examples:
  ccq-verify bench
      random weights, 4096x4096, every encoding
  ccq-verify bench model.ccq
      one layer of each shape and encoding in the file
  ccq-verify bench --shape 8192x8192 --encoding ccq-2.06 wint4 --threads 1 --json
  ccq-verify bench model.ccq --device cuda:0
      on a GPU; without --device the first that serves, the CPU where none does
  ccq-verify bench --preset paper
      the shapes of the paper's table 4, its own figures beside them

A row of the table is the median of many runs, at least 3. Runs take turns on copies of the weights, and of what is \
written to memory, that exceed twice the last-level cache. On the CPU `row by row` decodes into one buffer a thread, \
`to memory` writes the whole matrix, `y = W x` multiplies with M vectors without decoding to memory, in f32 or with \
the vectors rounded to 8 bits. On a GPU \
weights are written as f32, f16 and bf16, the vectors are bf16, and a run replays a CUDA graph of all copies, a \
millisecond at least: its time over their number counts. Beside it, where libcublas.so.13 or .12 is found, cuBLAS \
multiplies bf16 weights of the same shape; `speed-up` is its time over ours.
Gweights/s are weights over time (a product counts them once, whatever M). GB/s are stored bytes over time. `of \
copy` is the bytes read from and written to memory, over time, as a share of what a copy of memory reads and \
writes on the same device in the same run. On the CPU, `of read or fill` is the time of doing nothing but what memory \
must, in turns with the operation, over its own: where that writes to memory, filling as many bytes, else reading the \
same weights; `over 1 thread` is the time of one thread, likewise in turns, over that of all. Rows beyond 2^28 weights of a layer are left out.

JSON: {device: {kind, name, threads, cache_bytes, ordinal, driver}, seconds, copy_bytes_per_second, notes: [text], \
results: [{name, layers, encoding, rows, in_features, operation, element, tokens, stored_bytes, sets, cold, runs, \
median_seconds, weights_per_second, stored_bytes_per_second, copy_share, memory_operation, \
memory_seconds, memory_share, single_seconds, cublas_seconds, paper}]}
  kind                   cpu, or cuda: then threads is null, else ordinal and driver are
  name, layers           the layer of the file and how many it has like it; null for random weights
  operation              dequantize_rows, dequantize or product; tokens is M of a product, else null
  element                type of the weights written or of the vectors: f32, f16 or bf16
  memory_operation       fill or read, null on a GPU, as memory_seconds, its time, and memory_share, of median_seconds
  single_seconds         of one thread; null where no more were asked for, and on a GPU
  sets, cold             copies that took turns; whether they exceed the cache
  paper                  with --preset paper {card, ccq_seconds, wint2_seconds, vptq_seconds}, else null";

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Time the layers of this container, of a model in several files any one [default: random weights]
    #[arg(conflicts_with_all = ["shapes", "preset"])]
    pub file: Option<PathBuf>,
    /// Output channels x input features of random weights; can be repeated [default: 4096x4096]
    #[arg(long = "shape", value_name = "ROWSxFEATURES", conflicts_with = "preset")]
    pub shapes: Vec<Shape>,
    /// Time these encodings [default: all]
    #[arg(long = "encoding", value_name = "NAME", num_args = 1.., value_parser = family())]
    pub encodings: Vec<Family>,
    /// Where to run: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Choice,
    /// Threads to use [default: all cores]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: Option<usize>,
    /// Seconds to spend on each row of the table
    #[arg(long, value_name = "S", default_value = "0.5", allow_negative_numbers = true, value_parser = seconds)]
    pub seconds: f64,
    /// A published comparison: the shapes of the paper's table 4
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Published comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Table 4 of the paper.
    Paper,
}

/// The dimensions of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Output channels.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
}

impl Shape {
    /// Weights, of a shape that was checked.
    pub fn weights(self) -> usize {
        self.rows * self.in_features
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.in_features)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match numbers {
            Some((rows, in_features)) if rows > 0 && in_features > 0 => {
                let weights = usize::checked_mul(rows, in_features);
                match weights.filter(|&weights| weights <= MOST_WEIGHTS) {
                    Some(_) => Ok(Self { rows, in_features }),
                    None => Err(format!("more than {MOST_WEIGHTS} weights")),
                }
            }
            _ => Err("expected output channels x input features, such as 8192x8192".into()),
        }
    }
}

fn family() -> impl TypedValueParser<Value = Family> {
    PossibleValuesParser::new(Family::ALL.map(Family::name))
        .try_map(|name| Family::from_name(&name).ok_or("unknown encoding"))
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 60.0 => Ok(value),
        _ => Err("expected a number above 0, at most 60".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_times_are_checked() {
        assert_eq!("8192x1024".parse(), Ok(Shape { rows: 8192, in_features: 1024 }));
        for text in
            ["", "8192", "0x4", "4x0", "4x4x4", "-1x4", "16385x16384", "18446744073709551615x2", "1 x 2"]
        {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("61").is_err());
        assert_eq!(seconds("0.01"), Ok(0.01));
    }
}
