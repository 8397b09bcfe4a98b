//! What both directions do around their work: the input that must be there, the output that may not be written
//! over, warnings, and a sink that Ctrl-C reaches.

use std::ffi::{OsStr, OsString};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ccq::format::WriteError;
use ccq::{Output, OutputError};
use ccq_cli::{Progress, interrupted, printable};

use crate::args::Common;
use crate::error::Error;
use crate::journal;

/// Warnings about single tensors go to standard error up to this many; the report names them all.
const WARNINGS_SHOWN: usize = 20;

/// Checks that there is an input, and looks for a better name if there is none.
///
/// # Errors
/// `NoInput`.
pub fn check_input(input: &Path) -> Result<(), Error> {
    match input.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Ok(()), // whoever opens it says more
    }
    let folder = input.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = folder.read_dir().ok().into_iter().flatten().flatten();
    let models = entries.map(|entry| entry.path()).filter(|path| {
        let extension = path.extension().and_then(OsStr::to_str);
        matches!(extension, Some("safetensors" | "gguf" | "ccq"))
    });
    Err(Error::NoInput { input: input.into(), other: models.min() })
}

/// Creates the unfinished output, none of whose names may be an input's: links are followed.
///
/// # Errors
/// Those of [`check`]; `OutputExists`, `Output`.
pub fn create<P: AsRef<Path>>(common: &Common, inputs: &[P]) -> Result<Output, Error> {
    check(common, [&common.output], inputs)?;
    Output::create(&common.output, common.overwrite).map_err(refused)
}

/// Checks that outputs can be created, none of whose names may be an input's: links are followed.
///
/// # Errors
/// `OutputIsInput`, `OutputIsFolder`, `NoFolder`, `OutputExists`.
pub fn check<'a, P: AsRef<Path>>(
    common: &Common,
    outputs: impl IntoIterator<Item = &'a PathBuf>,
    inputs: &[P],
) -> Result<(), Error> {
    let journal = journal::path(&common.output);
    for output in outputs {
        for name in [output.clone(), partial(output), journal.clone()] {
            for input in inputs.iter().map(AsRef::as_ref) {
                if same_file::is_same_file(&name, input).unwrap_or(false) {
                    return Err(Error::OutputIsInput { output: name, input: input.into() });
                }
            }
        }
        if output.is_dir() {
            return Err(Error::OutputIsFolder { output: output.clone() });
        }
        check_folder(output)?;
    }
    Ok(())
}

/// Checks that no output would have to be replaced that may not be; a job that is gone on with may be done.
///
/// # Errors
/// `OutputExists`.
pub fn check_new(common: &Common) -> Result<(), Error> {
    let taken = !common.overwrite && !common.job.resume && common.output.symlink_metadata().is_ok();
    if taken { Err(Error::OutputExists { output: common.output.clone() }) } else { Ok(()) }
}

/// `OUTPUT.partial`
pub fn partial(output: &Path) -> PathBuf {
    let mut partial = OsString::from(output);
    partial.push(".partial");
    partial.into()
}

/// The command line of this process, with `--resume`, for a shell.
pub fn resume_command() -> String {
    let mut args: Vec<_> = std::env::args().map(|arg| quoted(&arg)).collect();
    if !args.iter().any(|arg| arg == "--resume") {
        args.push("--resume".into());
    }
    args.join(" ")
}

/// An argument as a POSIX shell takes it.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    match !arg.is_empty() && arg.chars().all(plain) {
        true => arg.into(),
        false => format!("'{}'", arg.replace('\'', "'\\''")),
    }
}

/// Checks that the folder that an output is to lie in exists.
///
/// # Errors
/// `NoFolder`.
pub fn check_folder(output: &Path) -> Result<(), Error> {
    match output.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        Some(folder) => Err(Error::NoFolder { folder: folder.into() }),
        None => Ok(()),
    }
}

/// Gives the output its name, unless Ctrl-C came first.
///
/// # Errors
/// `Interrupted`, `OutputExists`, `Output`.
pub fn commit(output: Output) -> Result<(), Error> {
    check_interrupt()?;
    output.commit().map_err(refused)
}

/// Writes the first warnings to standard error.
pub fn show_warnings(warnings: &[String], progress: &Progress) {
    for warning in warnings.iter().take(WARNINGS_SHOWN) {
        progress.line(&format!("warning: {}", printable(warning)));
    }
    if let more @ 1.. = warnings.len().saturating_sub(WARNINGS_SHOWN) {
        progress.line(&format!("warning: {more} more of these; the report names them"));
    }
}

/// The error of a failed write: Ctrl-C ends the sink, too.
pub fn failed(common: &Common) -> impl Fn(WriteError) -> Error {
    let output = common.output.clone();
    move |source| {
        if interrupted() { Error::Interrupted } else { Error::Write { output: output.clone(), source } }
    }
}

/// # Errors
/// `Interrupted` after Ctrl-C.
pub fn check_interrupt() -> Result<(), Error> {
    if interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// The tool's own words for what its options can help with.
pub fn refused(error: OutputError) -> Error {
    match error {
        OutputError::Exists { path } => Error::OutputExists { output: path },
        other => Error::Output(other),
    }
}

/// A sink that fails after Ctrl-C.
#[derive(Debug)]
pub struct Interruptible<W>(pub W);

impl<W: Write> Write for Interruptible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if interrupted() {
            // Not `ErrorKind::Interrupted`, after which writers try again.
            return Err(io::Error::other("interrupted"));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Seek> Seek for Interruptible<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_survive_a_shell() {
        for (arg, expected) in [
            ("--keep", "--keep"),
            ("a b", "'a b'"),
            ("*.down_proj.weight", "'*.down_proj.weight'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("path/to/モデル.ccq", "path/to/モデル.ccq"),
        ] {
            assert_eq!(quoted(arg), expected);
        }
    }
}
