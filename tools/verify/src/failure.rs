//! What ends the tool before it has a report.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::Path;

use ccq::{Set, SetError};
use ccq_cli::{Exit, printable, stdout_width};
use serde::Serialize;

/// Why there is no report.
#[derive(Debug)]
pub enum Failure {
    /// Something that failed, in words that name the file, and the exit code it deserves.
    Failed(Exit, String),
    /// Ctrl-C.
    Interrupted,
}

impl Failure {
    /// A failure that lies with the system.
    pub fn runtime(message: impl Into<String>) -> Self {
        Self::Failed(Exit::Runtime, message.into())
    }

    /// A container that could not be opened.
    pub fn container(path: &Path, error: &ccq::Error) -> Self {
        match error {
            ccq::Error::Io(error) => Self::io(path, error),
            error => Self::Failed(Exit::InvalidFile, format!("{}: {error}", path.display())),
        }
    }

    /// A model that could not be opened, in one file or in several.
    pub fn set(SetError { file, source }: &SetError) -> Self {
        Self::container(file, source)
    }

    /// A source that could not be opened or read.
    pub fn source(error: &ccq_import::Error) -> Self {
        match error {
            ccq_import::Error::Io { file, source } => Self::io(file, source),
            error => Self::Failed(Exit::InvalidFile, error.to_string()),
        }
    }

    /// A GPU that is not there or failed, and how it was asked for.
    pub fn device(device: &str, error: &ccq_cuda::Error) -> Self {
        let remedy = "--device cpu does without a GPU, --device auto where it has to";
        Self::Failed(Exit::Device, format!("--device {device}: {error} ({remedy})"))
    }

    /// A file that the system would not read.
    pub fn io(path: &Path, error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => ": check the path",
            io::ErrorKind::PermissionDenied => ": ask for permission to read it",
            _ => "",
        };
        Self::runtime(format!("{}: {error}{advice}", path.display()))
    }

    /// Says on standard error what happened.
    pub fn report(&self) -> Exit {
        match self {
            Self::Failed(exit, message) => {
                say(&format!("error: {message}"));
                *exit
            }
            Self::Interrupted => {
                say("interrupted");
                Exit::Interrupted
            }
        }
    }
}

/// Writes a line to standard error, printable whatever it quotes; nobody can be told that it is gone.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Opens a regular file; others are refused before `open`, which would wait for the writer of a pipe.
///
/// # Errors
/// A [`Failure`] that names the file.
pub fn open(path: &Path) -> Result<(File, Metadata), Failure> {
    let failed = |error: io::Error| Failure::io(path, &error);
    let found = fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        let what = if found.is_dir() { "a folder" } else { "no regular file" };
        return Err(Failure::runtime(format!("{}: is {what}, expected a .ccq file", path.display())));
    }
    Ok((File::open(path).map_err(failed)?, found))
}

/// Opens the model that a file is, or is a part of.
///
/// # Errors
/// A [`Failure`] that names the file, also one that is missing.
pub fn open_set(path: &Path) -> Result<Set, Failure> {
    open(path)?;
    Set::open(path).map_err(|error| Failure::set(&error))
}

/// Standard output, as reports are written to it.
pub type Stdout = io::BufWriter<io::StdoutLock<'static>>;

/// Prints a report: one JSON object, or tables that fit the terminal's columns. A reader that has gone, such as
/// `head`, wants no more and is no failure.
///
/// # Errors
/// A [`Failure`] when the output cannot be written.
pub fn print<R: Serialize>(
    json: bool,
    report: impl FnOnce() -> R,
    tables: impl FnOnce(&mut Stdout, Option<usize>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = if json {
        serde_json::to_writer(&mut out, &report())
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
    } else {
        tables(&mut out, stdout_width())
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}
