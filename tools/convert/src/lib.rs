//! `ccq-convert`: safetensors and GGUF models to `.ccq` files, and back.
//!
//! ```text
//! args -> plan (headers only: every tensor's encoding and reason) -> job (quantizes and writes) -> report
//!         recipe and policy decide                     search: how       export: the way back
//!         allocate fills in what a budget decides      dry_run: the plan is the report
//!         part: some of the tensors                    merge: parts to one model
//!         split: what goes to which file
//! ```
//!
//! A job goes by blocks (blocks) through threads (pipeline) in bounded memory (memory) to files (files), and notes
//! what is done (journal) for whoever goes on with it (identity: only if it is the same job).

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod allocate;
mod args;
mod blocks;
mod dry_run;
mod error;
mod export;
mod files;
mod identity;
mod job;
#[doc(hidden)]
pub mod journal;
mod memory;
mod merge;
mod options;
mod output;
mod part;
mod pipeline;
mod plan;
mod policy;
#[doc(hidden)]
pub mod recipe;
#[doc(hidden)]
pub mod report;
mod rounding;
mod search;
mod source;
mod split;

use std::io::{self, Write};
use std::path::Path;

use args::{Common, Task};
use ccq_cli::{Exit, printable};
use error::Error;

/// Does what the command line asks for.
pub fn main() -> Exit {
    let (common, task) = match args::parse() {
        Ok(parsed) => parsed,
        Err(answer) => {
            // A reader that went away before the help did is no failure.
            drop(answer.print());
            return if answer.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    // Without the handler, Ctrl-C still ends the tool; only the unfinished file stays.
    drop(ccq_cli::catch_interrupts());
    match run(&common, &task) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let prefix = if error.exit() == Exit::Interrupted { "" } else { "error: " };
            let text = error.to_string();
            // Names from files must not forge lines; those of the message are its own.
            let lines: Vec<_> = text.split('\n').map(printable).collect();
            drop(writeln!(io::stderr(), "{prefix}{}", lines.join("\n")));
            error.exit()
        }
    }
}

/// Does the task on a pool of the threads asked for, and prints its report.
fn run(common: &Common, task: &Task) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(common.threads.unwrap_or(0)).build()?;
    let report = match task {
        Task::Convert(conversion) if conversion.dry_run => {
            let report = dry_run::dry_run(common, conversion, &pool)?;
            return show(common.json, Path::new(""), |out, form| match form {
                Form::Json => report.write_json(out),
                Form::Table(columns) => report.write_table(out, columns),
            });
        }
        // Its own threads read and write beside those of the pool.
        Task::Convert(conversion) => job::convert(common, conversion, &pool)?,
        Task::Export { dtype } => pool.install(|| export::export(common, *dtype))?,
        Task::ToFastDeploy => pool.install(|| export::fastdeploy::export(common))?,
        Task::Merge { parts } => merge::merge(common, parts)?,
    };
    show(common.json, &common.output, |out, form| match form {
        Form::Json => report.write_json(out),
        Form::Table(columns) => report.write_table(out, columns),
    })
}

/// How a report is printed.
enum Form {
    Json,
    /// In at most so many columns.
    Table(Option<usize>),
}

/// Prints a report on what is now in `written`.
fn show(
    json: bool,
    written: &Path,
    write: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>, Form) -> io::Result<()>,
) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let form = if json { Form::Json } else { Form::Table(ccq_cli::stdout_width()) };
    match write(&mut out, form).and_then(|()| out.flush()) {
        // Whoever reads has seen enough; the work is done.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown.map_err(|source| Error::Report { output: written.into(), source }),
    }
}
