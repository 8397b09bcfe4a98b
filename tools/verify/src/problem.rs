//! What a finished check found wrong.

use std::path::Path;

use ccq_cli::Exit;
use serde::Serialize;

use crate::failure::say;

/// Problems written to standard error; a report has them all.
const MOST: usize = 20;

/// The kinds of problems; of several, the first one here decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The payload is not what its checksums and its format say.
    Damaged,
    /// The file and the source are not of the same model.
    Mismatch,
    /// The quantized tensors are worse than asked for.
    Threshold,
}

/// Something wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Of which kind.
    pub kind: Kind,
    /// The file it is in, or the one that the tool was given.
    pub file: String,
    /// Tensor or blob.
    pub name: Option<String>,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl Problem {
    /// A problem of a tensor; the message gets its name.
    pub fn of(kind: Kind, file: &Path, tensor: &str, message: &str) -> Self {
        let message = format!("tensor `{tensor}`: {message}");
        Self { kind, file: file.display().to_string(), name: Some(tensor.into()), message }
    }

    /// What is wrong with the payload of a file.
    pub fn damaged(file: &Path, error: &ccq::Error) -> Self {
        let name = match error {
            ccq::Error::PayloadChecksum { at, .. }
            | ccq::Error::Padding { at, .. }
            | ccq::Error::NonFinite { at, .. } => Some(at.name.clone()),
            _ => None,
        };
        let message = format!("{error}: fetch or convert the file again");
        Self { kind: Kind::Damaged, file: file.display().to_string(), name, message }
    }
}

/// The exit code that the problems deserve.
pub fn exit(problems: &[Problem]) -> Exit {
    match problems.iter().map(|problem| problem.kind).min() {
        None => Exit::Ok,
        Some(Kind::Damaged) => Exit::InvalidFile,
        Some(Kind::Mismatch) => Exit::Runtime,
        Some(Kind::Threshold) => Exit::ThresholdExceeded,
    }
}

/// Names the problems on standard error.
pub fn name_all(file: &Path, source: Option<&Path>, problems: &[Problem]) {
    for problem in problems.iter().take(MOST) {
        say(&format!("error: {}: {}", problem.file, problem.message));
    }
    if let Some(more @ 1..) = problems.len().checked_sub(MOST) {
        say(&format!("error: {}: {more} more problems; --json names all of them", file.display()));
    }
    let mismatch = problems.iter().any(|problem| problem.kind == Kind::Mismatch);
    if let (Some(source), true) = (source, mismatch) {
        let (source, file) = (source.display(), file.display());
        say(&format!("hint: is {source} the model that {file} was made from, in the same revision?"));
    }
}
