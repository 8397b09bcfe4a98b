//! The command line.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, builder::RangedU64ValueParser};

use crate::bench::{BENCH_HELP, BenchArgs};
use crate::device::Choice;

const EXAMPLES: &str = "\
Examples:
  ccq-verify model.ccq
      structure, every checksum, paddings and scales
  ccq-verify model-00001-of-00003.ccq
      all files of the model, found by any of them
  ccq-verify model.ccq --source path/to/model
      the same, then the error of every tensor against a model folder
  ccq-verify layer.ccq --source layer.safetensors --max-error 0.12 --json
      one JSON object; exit code 4 if the quantized tensors together are worse
  ccq-verify model.ccq --source path/to/model --device cuda:0
      the errors computed on a GPU, which without --device is taken where there is one
  ccq-verify model.ccq --source path/to/model --html report.html
      also as a page to look at: errors by layer, sizes, a table to sort
  ccq-verify list model.ccq
      what is in the file, from its index alone
  ccq-verify bench model.ccq
      how fast its layers are decoded and multiplied

A file that is named `list` or `bench` is given as ./list or ./bench.

Speeds (Gweights/s, GB/s of stored bytes read) are those of decoding alone, from memory to memory: on a GPU the time of \
its kernels, to the source's element type; else that of all threads, to f32. Reading files, copying to a GPU and \
comparing are left out. Tensors are decoded once, and small ones from a cache: `bench` measures.

Exit codes:
  0    the file is valid, and agrees with the source where one is given
  1    something could not be read, or the file disagrees with the source
  2    the command line is wrong
  3    the file, or the source, is damaged or not of its format
  4    the relative MSE of the quantized tensors exceeds --max-error
  5    the GPU asked for with --device is not there, or failed
  130  interrupted";

const LIST_EXAMPLES: &str = "\
Examples:
  ccq-verify list model.ccq
  ccq-verify list model.ccq --json | jq -r '.tensors[].name'
  ccq-verify list model.ccq --sha256 > model.sha256

Only the front of the file is read: a download that has just begun, or one with a damaged payload, is listed. Of a \
model in several files this one alone is, and with --sha256 digested: repeat the command for the others.";

/// Checks a .ccq file: structure, checksums, and with --source the error of every tensor
#[derive(Debug, Parser)]
#[command(
    name = "ccq-verify",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// What to do instead of checking.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to check.
    #[command(flatten)]
    pub check: CheckArgs,
}

/// What the tool does besides checking.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List tensors, metadata and blobs; reads the index alone
    #[command(after_help = LIST_EXAMPLES)]
    List(ListArgs),
    /// Time decoding and multiplying, of a file's layers or of random weights
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
}

/// Arguments of the check.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The container to check; of a model in several files any one
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// The model it was made from: a .safetensors file, its index, a .gguf file or a model folder
    #[arg(long, value_name = "INPUT")]
    pub source: Option<PathBuf>,
    /// Print one JSON object; what is undefined is null
    #[arg(long)]
    pub json: bool,
    /// Write the report as a page for a browser, in one file
    #[arg(long, value_name = "PAGE")]
    pub html: Option<PathBuf>,
    /// Replace an existing PAGE
    #[arg(long, requires = "html")]
    pub overwrite: bool,
    /// Exit with code 4 if the relative MSE of the quantized tensors together exceeds X
    #[arg(long, value_name = "X", requires = "source", allow_negative_numbers = true, value_parser = max_error)]
    pub max_error: Option<f64>,
    /// Where to compute errors: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", requires = "source")]
    pub device: Choice,
    /// Write the model's own files, such as its configuration, below DIR instead of checking; replaces nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["source", "json", "html", "max_error"])]
    pub extract_blobs: Option<PathBuf>,
    /// Threads to use [default: all cores]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: Option<usize>,
    /// Show no progress and no notes on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

impl CheckArgs {
    /// The container; the parser sees to it that there is one.
    pub fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(""))
    }
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// The container to list
    pub file: PathBuf,
    /// Print the SHA-256 of the front and of every plane instead, to be signed; reads the whole file
    #[arg(long)]
    pub sha256: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn max_error(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a finite number that is not negative, such as 0.12".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn commands_are_commands_unless_they_are_paths() {
        let args = Args::try_parse_from(["ccq-verify", "list", "a.ccq"]).unwrap();
        assert!(matches!(args.command, Some(Command::List(list)) if list.file == Path::new("a.ccq")));
        let args = Args::try_parse_from(["ccq-verify", "./list"]).unwrap();
        assert_eq!((args.command.is_none(), args.check.file()), (true, Path::new("./list")));
        let args = Args::try_parse_from(["ccq-verify", "bench"]).unwrap();
        assert!(matches!(args.command, Some(Command::Bench(bench)) if bench.file.is_none()));
        let args = Args::try_parse_from(["ccq-verify", "./bench"]).unwrap();
        assert!(args.command.is_none());
        assert!(Args::try_parse_from(["ccq-verify"]).is_err());
        assert!(Args::try_parse_from(["ccq-verify", "list"]).is_err());
        assert!(Args::try_parse_from(["ccq-verify", "--source", "b", "list", "a.ccq"]).is_err());
    }

    #[test]
    fn thresholds_are_finite_and_not_negative() {
        for (text, value) in [("0", 0.0), ("0.12", 0.12), ("1e-3", 1e-3)] {
            assert_eq!(max_error(text), Ok(value));
        }
        for text in ["-1", "nan", "inf", "", "0,1", "-1e-9"] {
            assert!(max_error(text).is_err(), "{text}");
        }
    }
}
