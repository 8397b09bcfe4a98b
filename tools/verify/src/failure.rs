//! What ends the tool before it has a report.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::Path;

use ccq_cli::{Exit, printable};

/// Why there is no report.
#[derive(Debug)]
pub enum Failure {
    /// Something that failed, in words that name the file, and the exit code it deserves.
    Failed(Exit, String),
    /// A GPU was asked for.
    NoGpu,
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

    /// A source that could not be opened or read.
    pub fn source(error: &ccq_import::Error) -> Self {
        match error {
            ccq_import::Error::Io { file, source } => Self::io(file, source),
            error => Self::Failed(Exit::InvalidFile, error.to_string()),
        }
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
            Self::NoGpu => {
                say("error: this build has no GPU support yet: use --device cpu");
                Exit::Runtime
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

/// Writes to standard output. A reader that has gone, such as `head`, wants no more and is no failure.
///
/// # Errors
/// A [`Failure`] when the output cannot be written.
pub fn to_stdout(
    write: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}
