//! Exit codes.

use std::process::{ExitCode, Termination};

/// How a tool ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// Something failed while running: a file could not be read or written, memory ran out.
    Runtime,
    /// The command line asks for what the tool does not do.
    Usage,
    /// An input file is not what its format says.
    InvalidFile,
    /// A measured error is above the threshold asked for.
    ThresholdExceeded,
    /// The GPU asked for is not there, or failed.
    Device,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Runtime => 1,
            Self::Usage => 2,
            Self::InvalidFile => 3,
            Self::ThresholdExceeded => 4,
            Self::Device => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// `fn main() -> Exit`
impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
