//! Why a conversion failed, and the exit code that says so.

use std::io;
use std::path::PathBuf;

use ccq::OutputError;
use ccq::format::{Dtype, WriteError};
use ccq_cli::{Exit, bytes};
use ccq_import::ImportanceError;

use crate::export::fastdeploy::Unfit;
use crate::options::Part;
use crate::recipe::{Fault, RecipeError};

/// Everything that ends the tool after the command line was understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pattern selects no tensor.
    #[error("{option} {pattern:?} matches no tensor of {}; its names look like {example:?}", input.display())]
    NoMatch {
        /// `--transpose`.
        option: &'static str,
        /// The pattern.
        pattern: String,
        /// The input.
        input: PathBuf,
        /// The first tensor.
        example: String,
    },
    /// The recipe cannot be understood, or does not fit the model.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The budget is less than the model can take.
    #[error(
        "{}: {target} is {}, but the smallest file of these candidates has {} ({:.3} bpw), {} of it in tensors that \
         are not to be chosen for: ask for more, give smaller --candidates, or name such tensors with --quantize",
        input.display(), bytes(*budget), bytes(*least), least_bpw, bytes(*fixed)
    )]
    Budget {
        /// The input.
        input: PathBuf,
        /// What was asked for.
        target: String,
        /// The same in bytes.
        budget: u64,
        /// Bytes of the smallest file.
        least: u64,
        /// The same in bits a parameter.
        least_bpw: f64,
        /// Bytes of the tensors there is no choice for.
        fixed: u64,
    },
    /// There is nothing to choose for the budget.
    #[error("{}: {target} has nothing to choose: no projection is left to it; rules name all of them", input.display())]
    NothingToChoose {
        /// The input.
        input: PathBuf,
        /// What was asked for.
        target: String,
    },
    /// There is no input.
    #[error(
        "{}: no such file or folder; {}",
        input.display(),
        other.as_ref().map_or("check the path".into(), |other| format!("there is {}", other.display()))
    )]
    NoInput {
        /// The input.
        input: PathBuf,
        /// A model in the same folder.
        other: Option<PathBuf>,
    },
    /// The source model cannot be read.
    #[error(transparent)]
    Import(#[from] ccq_import::Error),
    /// The importance file cannot be read, or does not fit the model.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// The importance file names a tensor that the model does not have.
    #[error(
        "{}: {name:?}{} no tensor of the model; the file was made for another model",
        file.display(),
        match others { 0 => " is".into(), 1 => " and 1 other name are".into(), n => format!(" and {n} other names are") }
    )]
    UnknownImportance {
        /// The importance file.
        file: PathBuf,
        /// The first such name.
        name: String,
        /// How many more there are.
        others: usize,
    },
    /// Weights that another format has quantized would be quantized again.
    #[error(
        "{}: tensor {tensor:?} is quantized already ({encoding}){}; to do it again adds errors to errors: start from the original weights, or give --allow-requantize",
        input.display(),
        match others { 0 => String::new(), 1 => ", and so is 1 more".into(), n => format!(", and so are {n} more") }
    )]
    Requantize {
        /// The input.
        input: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// What it is quantized as.
        encoding: &'static str,
        /// How many more there are.
        others: usize,
    },
    /// A set of containers cannot be read.
    #[error(transparent)]
    Set(#[from] ccq::SetError),
    /// A container cannot be read.
    #[error("{}: {source}", file.display())]
    Container {
        /// The container.
        file: PathBuf,
        /// Why not.
        source: ccq::Error,
    },
    /// The container holds a part of a model.
    #[error("{}: part {part} of a model; join the parts with `ccq-convert merge`", file.display())]
    IsPart {
        /// The container.
        file: PathBuf,
        /// Which part.
        part: String,
    },
    /// A file cannot be merged with the others.
    #[error("{}: {fault}", file.display())]
    Merge {
        /// The file.
        file: PathBuf,
        /// Why not.
        fault: MergeFault,
    },
    /// The container has a tensor whose name means something else in a safetensors file.
    #[error("{}: tensor {tensor:?}: a safetensors file cannot have a tensor of this name", file.display())]
    ReservedName {
        /// The container.
        file: PathBuf,
        /// The tensor.
        tensor: &'static str,
    },
    /// The model holds something that a container cannot.
    #[error("{}: this model does not fit the container format: {source}", input.display())]
    Layout {
        /// The input.
        input: PathBuf,
        /// Why not.
        source: ccq::Error,
    },
    /// An input file cannot be looked at.
    #[error("{}: {source}", file.display())]
    Input {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An input file is not as long as it was.
    #[error(
        "{}: changed while it was read: {expected} bytes at first, now {found}; nothing was left behind",
        file.display()
    )]
    InputChanged {
        /// The file.
        file: PathBuf,
        /// Its length when the job began.
        expected: u64,
        /// Its length now.
        found: u64,
    },
    /// The model does not go into files of the size asked for.
    #[error(
        "--split-max-size {most}: {}; allow larger files",
        if *too_many { format!("the model takes more than {files} files") }
        else { format!("tensor {tensor:?} alone takes a file of {needed} bytes") }
    )]
    Split {
        /// Bytes a file may have.
        most: u64,
        /// The tensor that does not fit.
        tensor: String,
        /// Bytes that a file with it alone has.
        needed: u64,
        /// Files there may be.
        files: usize,
        /// Whether all tensors fit, but there are too many files.
        too_many: bool,
    },
    /// Not even one block at a time fits.
    #[error(
        "--max-memory {limit}: this job needs at least {needed} bytes ({}); give it more, or fewer --threads",
        ccq_cli::bytes(*needed)
    )]
    Memory {
        /// Bytes allowed.
        limit: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// There is an unfinished job of this output.
    #[error(
        "{}.partial: an unfinished job; give --resume to go on with it, or --overwrite to start anew",
        output.display()
    )]
    Unfinished {
        /// The output.
        output: PathBuf,
    },
    /// The unfinished job is another one.
    #[error(
        "{}.partial: an unfinished job with another {what}: {was}, now {is}; give --overwrite in place of --resume to start anew",
        output.display()
    )]
    OtherJob {
        /// The output.
        output: PathBuf,
        /// What differs: an option, an input file, the plan.
        what: String,
        /// What it was.
        was: String,
        /// What it is now.
        is: String,
    },
    /// The job ended early and can be gone on with.
    #[error("{source}\nwhat is done is kept; go on with:\n  {command}")]
    Stopped {
        /// Why it ended.
        source: Box<Error>,
        /// What to type.
        command: String,
    },
    /// The output is one of the inputs.
    #[error("{}: is the input {}; choose another output", output.display(), input.display())]
    OutputIsInput {
        /// The output, or the unfinished file beside it.
        output: PathBuf,
        /// The input it is.
        input: PathBuf,
    },
    /// The output names a folder.
    #[error("{}: is a folder; name a file in it", output.display())]
    OutputIsFolder {
        /// The output.
        output: PathBuf,
    },
    /// The output's folder does not exist.
    #[error("{}: no such folder; create it first", folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// The output exists.
    #[error("{}: exists; choose another name, or give --overwrite to replace it", output.display())]
    OutputExists {
        /// The output.
        output: PathBuf,
    },
    /// The folder to be written exists.
    #[error("{}: exists; remove it, or choose another name for the folder", output.display())]
    FolderExists {
        /// The output.
        output: PathBuf,
    },
    /// FastDeploy has no place for a tensor.
    #[error("{}: tensor {tensor:?} cannot be stored the way FastDeploy does: {why}", file.display())]
    Unfit {
        /// The container.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why not.
        why: Unfit,
    },
    /// The output cannot be created, or not be given its name.
    #[error(transparent)]
    Output(OutputError),
    /// The output cannot be written.
    #[error("{}: {source}", output.display())]
    Write {
        /// The output.
        output: PathBuf,
        /// Why not.
        source: WriteError,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{}: at byte {at}: tensor {tensor:?}: {value} at {position}, expected finite weights; repair the model, or leave the tensor as it is with --keep '{tensor}'",
        file.display()
    )]
    NonFinite {
        /// The source file.
        file: PathBuf,
        /// The byte of the file that the value comes from ([`ccq_import::Model::place`]).
        at: u64,
        /// The tensor.
        tensor: String,
        /// Where in the tensor.
        position: Position,
        /// NaN or an infinity.
        value: f32,
    },
    /// The quantizer refused for another reason.
    #[error("{}: tensor {tensor:?}: {source}; leave it as it is with --keep '{tensor}'", file.display())]
    Quantize {
        /// The source file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why.
        source: ccq_quantize::Error,
    },
    /// A decoded weight is too large for the dtype it should be rounded to.
    #[error("{}: tensor {tensor:?}: {value:e} at {position} overflows {dtype}; write {advice}", file.display())]
    Overflow {
        /// The container.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where in the tensor.
        position: Position,
        /// The decoded weight.
        value: f32,
        /// The dtype asked for.
        dtype: Dtype,
        /// What to do instead.
        advice: &'static str,
    },
    /// The threads cannot be started.
    #[error("cannot start the threads: {0}; try fewer with --threads")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The work is done, the report cannot be printed.
    #[error("{}the report cannot be printed: standard output: {source}", match output.as_os_str().is_empty() {
        true => String::new(),
        false => format!("{} is written, but ", output.display()),
    })]
    Report {
        /// The output; empty for a dry run.
        output: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The exit code: 1 runtime, 2 usage, 3 invalid file, 130 interrupted.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Recipe(RecipeError { fault, .. }) => match **fault {
                Fault::Io(_) => Exit::Runtime,
                Fault::Container(_) => Exit::InvalidFile,
                _ => Exit::Usage,
            },
            Self::NoMatch { .. }
            | Self::Requantize { .. }
            | Self::Budget { .. }
            | Self::NothingToChoose { .. }
            | Self::Import(ccq_import::Error::UnknownInput { .. })
            | Self::Importance(ImportanceError::UnknownInput { .. }) => Exit::Usage,
            Self::Import(ccq_import::Error::Io { .. })
            | Self::Importance(ImportanceError::Source(ccq_import::Error::Io { .. }))
            | Self::Container { source: ccq::Error::Io(_), .. }
            | Self::Set(ccq::SetError { source: ccq::Error::Io(_), .. }) => Exit::Runtime,
            Self::Import(_)
            | Self::Importance(_)
            | Self::UnknownImportance { .. }
            | Self::Set(_)
            | Self::Container { .. } => Exit::InvalidFile,
            Self::Merge { .. } | Self::IsPart { .. } => Exit::InvalidFile,
            Self::Split { .. } | Self::Memory { .. } | Self::OtherJob { .. } | Self::Unfinished { .. } => {
                Exit::Usage
            }
            Self::Interrupted => Exit::Interrupted,
            Self::Stopped { source, .. } => source.exit(),
            _ => Exit::Runtime,
        }
    }
}

impl Error {
    /// Whether the same command may succeed another time, so that what is done is worth keeping.
    pub fn can_be_resumed(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Write { source: WriteError::Io(_), .. }
                | Self::Output(_)
                | Self::OutputExists { .. }
                | Self::Input { .. }
                | Self::Import(ccq_import::Error::Io { .. })
        )
    }
}

/// Why a file cannot be merged with the others.
#[derive(Debug)]
pub enum MergeFault {
    /// It is no part.
    NoPart,
    /// It is a part of another job.
    OtherJob {
        /// The file that it does not go with.
        first: PathBuf,
    },
    /// It is the same part as another file.
    Twice {
        /// Which part.
        part: Part,
        /// The other file.
        other: PathBuf,
    },
    /// A part is not there.
    Missing {
        /// The first that is missing.
        part: Part,
        /// How many more there are.
        others: usize,
    },
    /// It has a tensor that another part has.
    Tensor {
        /// The tensor.
        tensor: String,
        /// The other file.
        other: PathBuf,
    },
}

impl std::fmt::Display for MergeFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPart => f.write_str("is no part of a model; write parts with --part I/N"),
            Self::OtherJob { first } => write!(
                f,
                "is a part of another job than {}: of another model, or written with other options or another number of parts",
                first.display()
            ),
            Self::Twice { part, other } => write!(f, "is part {part}, which {} is too", other.display()),
            Self::Missing { part, others } => {
                write!(f, "part {part} is missing")?;
                match others {
                    0 => f.write_str(""),
                    others => write!(f, ", and {others} more"),
                }?;
                f.write_str("; convert it, and name all parts")
            }
            Self::Tensor { tensor, other } => {
                write!(f, "holds tensor {tensor:?}, which {} holds too", other.display())
            }
        }
    }
}

/// A weight's place in a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The leading dimensions' indices; empty for a matrix.
    stack: Vec<u64>,
    row: u64,
    column: u64,
}

impl Position {
    /// The place of `column` in row `row`, rows being counted over all dimensions but the last.
    pub fn new(shape: &[u64], mut row: u64, column: u64) -> Self {
        let mut stack = Vec::new();
        if let [leading @ .., rows, _] = shape {
            let mut matrix;
            (matrix, row) = divided(row, *rows);
            for &dimension in leading.iter().rev() {
                let index;
                (matrix, index) = divided(matrix, dimension);
                stack.insert(0, index);
            }
        }
        Self { stack, row, column }
    }
}

/// Quotient and remainder; nothing is in an empty dimension.
fn divided(index: u64, dimension: u64) -> (u64, u64) {
    (index.checked_div(dimension).unwrap_or(0), index.checked_rem(dimension).unwrap_or(0))
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.stack.is_empty() {
            write!(f, "matrix {:?}, ", self.stack)?;
        }
        write!(f, "row {}, column {}", self.row, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_shape() {
        let text = |shape: &[u64], row, column| Position::new(shape, row, column).to_string();
        assert_eq!(text(&[7], 0, 3), "row 0, column 3");
        assert_eq!(text(&[4, 7], 2, 3), "row 2, column 3");
        assert_eq!(text(&[5, 4, 7], 14, 3), "matrix [3], row 2, column 3");
        assert_eq!(text(&[2, 5, 4, 7], 34, 3), "matrix [1, 3], row 2, column 3");
    }
}
