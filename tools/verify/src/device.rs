//! Where to compute: `--device`.

use std::fmt;
use std::str::FromStr;

use ccq_cuda::{Device, Selector};

use crate::failure::{Failure, say};

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU that serves; the processor where there is none.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU: the first one that serves, or the one of a number.
    Cuda(Option<usize>),
}

impl Choice {
    /// Opens the GPU, or says once why `auto` means the processor: `None`.
    ///
    /// # Errors
    /// A [`Failure`] where a GPU was asked for and cannot be used.
    pub fn open(self, quiet: bool) -> Result<Option<Device>, Failure> {
        let selector = match self {
            Self::Cpu => return Ok(None),
            Self::Auto | Self::Cuda(None) => Selector::Any,
            Self::Cuda(Some(ordinal)) => Selector::Ordinal(ordinal),
        };
        match Device::open(selector) {
            Ok(device) => Ok(Some(device)),
            Err(error) if self == Self::Auto => {
                if !quiet {
                    say(&format!("note: on the CPU: {error}"));
                }
                Ok(None)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// What ends the tool when the GPU fails.
    pub fn failed(self, error: &ccq_cuda::Error) -> Failure {
        Failure::device(&self.to_string(), error)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(None)),
            text => {
                let number =
                    text.strip_prefix("cuda:").filter(|number| number.bytes().all(|c| c.is_ascii_digit()));
                number.and_then(|number| number.parse().ok()).map(|number| Self::Cuda(Some(number)))
            }
        }
        .ok_or("expected auto, cpu, cuda or cuda:N")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_as_they_are_read() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        for text in
            ["", "gpu", "cuda:", "cuda:x", "cuda:+1", "cuda:-1", "cpu:0", "CPU", "cuda:99999999999999999999"]
        {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
