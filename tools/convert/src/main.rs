//! `ccq-convert`: safetensors and GGUF models to `.ccq` files, and back.
//!
//! ```text
//! args -> plan (headers only: every tensor's encoding and reason) -> job (quantizes and writes) -> report
//!         policy decides                               search: how       export: the way back
//! ```

mod args;
mod error;
mod export;
mod job;
mod output;
mod plan;
mod policy;
mod report;
mod rounding;
mod search;
mod source;

use std::io::{self, Write};

use args::{Common, Task};
use ccq_cli::{Exit, printable};
use error::Error;
use report::Report;

fn main() -> Exit {
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
    match run(&common, &task).and_then(|report| show(&report, common.json)) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let prefix = if matches!(error, Error::Interrupted) { "" } else { "error: " };
            drop(writeln!(io::stderr(), "{prefix}{}", printable(&error.to_string())));
            error.exit()
        }
    }
}

/// Does the task on a pool of the threads asked for.
fn run(common: &Common, task: &Task) -> Result<Report, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(common.threads.unwrap_or(0)).build()?;
    pool.install(|| match task {
        Task::Convert { rules, search } => job::convert(common, rules, search.as_ref()),
        Task::Export { dtype } => export::export(common, *dtype),
        Task::ToFastDeploy => export::fastdeploy::export(common),
    })
}

/// Prints the report.
fn show(report: &Report, json: bool) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let shown = if json {
        report.write_json(&mut out)
    } else {
        report.write_table(&mut out, ccq_cli::stdout_width())
    };
    match shown.and_then(|()| out.flush()) {
        // Whoever reads has seen enough; the file is written.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown.map_err(|source| Error::Report { output: report.output.clone(), source }),
    }
}
