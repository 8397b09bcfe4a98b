//! `ccq-verify`: checks a `.ccq` model, alone or against what it was made from; times its decoding.

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

mod args;
mod bench;
mod check;
mod compare;
mod device;
mod digest;
mod extract;
mod failure;
mod html;
mod list;
mod machine;
mod problem;
mod report;

use ccq_cli::Exit;
use clap::Parser;

use args::{Args, Command};

fn main() -> Exit {
    // Without the handler Ctrl-C ends the tool at once, which is as good.
    let _ = ccq_cli::catch_interrupts();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // `--help` and `--version` come this way too; nobody can be told that the output is gone.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let done = match &args.command {
        Some(Command::List(args)) if args.sha256 => digest::run(&args.file, args.json),
        Some(Command::List(args)) => list::run(args),
        Some(Command::Bench(args)) => bench::run(args),
        None => match &args.check.extract_blobs {
            Some(folder) => extract::run(args.check.file(), folder),
            None => check::run(&args.check),
        },
    };
    done.unwrap_or_else(|failure| failure.report())
}
