//! The command line, parsed into a task that can be done.

use std::path::{Path, PathBuf};

use ccq::code::{Code, Family};
use ccq::format::Dtype;
use ccq_quantize::{Method, Quality};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::policy::{Pattern, Rules};
use crate::search::Search;
use crate::source::Reading;

/// The encoding taken when none is asked for. It is what the format is for: 2.06 bits a weight, with less error
/// than plain integers of that size; whoever needs less error asks for more bits by name.
const DEFAULT: Family = Family::Ccq206;
/// The encoding that stores source bytes.
const RAW: &str = "raw";
/// The one format to write besides safetensors.
const FASTDEPLOY: &str = "fastdeploy";

/// What both directions need.
#[derive(Clone, Debug)]
pub struct Common {
    /// The input.
    pub input: PathBuf,
    /// The output.
    pub output: PathBuf,
    /// Threads; `None` for as many as there are cores.
    pub threads: Option<usize>,
    /// Whether an existing output is replaced.
    pub overwrite: bool,
    /// Whether the report is JSON.
    pub json: bool,
    /// How a source model is read.
    pub reading: Reading,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Task {
    /// A source model to a container.
    Convert {
        /// Which tensor gets which encoding.
        rules: Rules,
        /// How it is quantized; `None` where nothing is.
        search: Option<Search>,
    },
    /// A container to a safetensors file.
    Export {
        /// The dtype of quantized tensors; `None` for that of their source.
        dtype: Option<Dtype>,
    },
    /// A container to a model folder for FastDeploy.
    ToFastDeploy,
}

const LONG_ABOUT: &str = "\
Converts a safetensors or GGUF model to a .ccq file, or a .ccq file back to safetensors.

Projection weights (2-D, and 3-D stacks of them) get the encoding. Embeddings, output heads, norms, biases, \
routers, convolutions and all 1-D tensors stay raw: byte for byte as in the source, or in BF16 where that has FP8 with \
scales, and in F16 where it has quantized blocks. FastDeploy's codes are copied. The report on standard output \
names every tensor with its encoding and the reason.";

const AFTER_HELP: &str = "\
Examples:
  ccq-convert model.safetensors model.ccq
      2.06 bits a weight
  ccq-convert path/to/folder model.ccq --encoding wint4 --group-size 128
      a model folder: its shards, config.json and tokenizer go into one file
  ccq-convert model.safetensors model.ccq --keep '*.down_proj.weight'
      these tensors stay raw
  ccq-convert model.ccq model.safetensors --dtype bf16
      the way back, for any framework that reads safetensors
  ccq-convert model.Q8_0.gguf model.ccq --allow-requantize
      from llama.cpp's format, whose weights have been quantized once already
  ccq-convert model.ccq path/to/new/folder --to fastdeploy
      experts in ccq-2.06 or ccq-2.5 as FastDeploy's WINT2 backend reads them

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 invalid input file, 130 interrupted";

#[derive(Debug, Parser)]
#[command(
    name = "ccq-convert",
    version,
    about = "Converts a safetensors or GGUF model to a .ccq file, or a .ccq file back to safetensors",
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP
)]
struct Args {
    /// A .safetensors file, a .safetensors.index.json, a .gguf file or a model folder; or a .ccq file
    input: PathBuf,

    /// The file to write: .ccq, or .safetensors where INPUT is a .ccq file; a folder with --to
    output: PathBuf,

    /// How projection weights are stored; the number is bits a weight [default: ccq-2.06]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(encoding_names()))]
    encoding: Option<String>,

    /// Weights that share a scale: 32, 64, 128, or one scale a channel [default: 64; wint8: channel]
    #[arg(
        long,
        value_name = "N",
        value_parser = PossibleValuesParser::new(["32", "64", "128", "channel"])
            .map(|size| size.parse::<u32>().unwrap_or(0))
    )]
    group_size: Option<u32>,

    /// How hard to search for the least error: time against error [default: balanced]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Quality::ALL.map(Quality::name)))]
    quality: Option<String>,

    /// `search` for the least error, or `paper` for its section 3 to the letter, to compare [default: search]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Method::ALL.map(Method::name)))]
    method: Option<String>,

    /// What errors in each input channel count: a .safetensors file with one vector under each tensor's name, or
    /// llama.cpp's imatrix.gguf
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,

    /// Keep tensors raw whose names match; * and ? are wildcards; can be repeated
    #[arg(long, value_name = "PATTERN")]
    keep: Vec<String>,

    /// Quantize tensors whose names match, whatever they look like; --keep comes first; can be repeated
    #[arg(long, value_name = "PATTERN")]
    quantize: Vec<String>,

    /// Turn matrices round whose names match and which the model stores as [.., in, out], besides those of the model
    /// types that are known for it; can be repeated
    #[arg(long, value_name = "PATTERN")]
    transpose: Vec<String>,

    /// Quantize weights again that a GGUF file has quantized already
    #[arg(long)]
    allow_requantize: bool,

    /// The way back to another format than safetensors: `fastdeploy`, a model folder for its WINT2 backend
    #[arg(long, value_name = "FORMAT", value_parser = [FASTDEPLOY])]
    to: Option<String>,

    /// The way back: the dtype of quantized tensors, rounded to nearest even [default: the source's]
    #[arg(long, value_name = "DTYPE", value_parser = ["f32", "f16", "bf16"])]
    dtype: Option<String>,

    /// Threads to use [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Replace an existing output
    #[arg(long)]
    overwrite: bool,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Parses the process's command line.
///
/// # Errors
/// What clap has to print: an error, the help or the version.
pub fn parse() -> Result<(Common, Task), clap::Error> {
    parse_from(std::env::args_os())
}

fn parse_from<T: Into<std::ffi::OsString> + Clone>(
    args: impl IntoIterator<Item = T>,
) -> Result<(Common, Task), clap::Error> {
    let mut command = Args::command();
    let args = command.try_get_matches_from_mut(args).and_then(|matches| Args::from_arg_matches(&matches))?;
    args.task().map_err(|(kind, message)| command.error(kind, message))
}

fn encoding_names() -> impl Iterator<Item = &'static str> {
    Family::ALL.into_iter().map(Family::name).chain([RAW])
}

type Refusal = (ErrorKind, String);

impl Args {
    fn task(self) -> Result<(Common, Task), Refusal> {
        let container_in = has_extension(&self.input, "ccq");
        let task = if self.to.is_some() {
            self.to_fastdeploy(container_in)?
        } else if has_extension(&self.output, "ccq") {
            if container_in {
                let message = "INPUT and OUTPUT are both .ccq: start from the source model";
                return Err((ErrorKind::ValueValidation, message.into()));
            }
            self.refuse(&[("--dtype <DTYPE>", self.dtype.is_some())], "applies to the way back only")?;
            let search = self.search()?;
            Task::Convert { rules: self.rules(search.as_ref()), search }
        } else if has_extension(&self.output, "safetensors") {
            if !container_in {
                let message = "OUTPUT is a .safetensors file: INPUT must be a .ccq file";
                return Err((ErrorKind::ValueValidation, message.into()));
            }
            self.refuse_conversion()?;
            Task::Export { dtype: self.dtype.as_deref().and_then(dtype) }
        } else {
            let expected = if container_in { ".safetensors" } else { ".ccq" };
            let message = format!("OUTPUT {:?} must end in {expected}", self.output);
            return Err((ErrorKind::ValueValidation, message));
        };
        let transpose = self.transpose.iter().map(|text| Pattern::new(text)).collect();
        let reading = Reading { transpose, allow_requantize: self.allow_requantize };
        let Self { input, output, overwrite, json, .. } = self;
        let threads = self.threads.map(usize::from);
        Ok((Common { input, output, threads, overwrite, json, reading }, task))
    }

    fn to_fastdeploy(&self, container_in: bool) -> Result<Task, Refusal> {
        if !container_in {
            let message = "--to fastdeploy writes a folder from a .ccq file: INPUT must be one";
            return Err((ErrorKind::ValueValidation, message.into()));
        }
        if ["ccq", "safetensors", "gguf"].iter().any(|extension| has_extension(&self.output, extension)) {
            let message = format!(
                "--to fastdeploy writes a folder, but OUTPUT {:?} is called like a file",
                self.output
            );
            return Err((ErrorKind::ValueValidation, message));
        }
        self.refuse_conversion()?;
        let given = [("--dtype <DTYPE>", self.dtype.is_some()), ("--overwrite", self.overwrite)];
        self.refuse(&given, "does not go with --to fastdeploy")?;
        Ok(Task::ToFastDeploy)
    }

    /// Refuses what says how a source becomes a container.
    fn refuse_conversion(&self) -> Result<(), Refusal> {
        let given = [
            ("--encoding <NAME>", self.encoding.is_some()),
            ("--group-size <N>", self.group_size.is_some()),
            ("--quality <NAME>", self.quality.is_some()),
            ("--method <NAME>", self.method.is_some()),
            ("--importance <FILE>", self.importance.is_some()),
            ("--keep <PATTERN>", !self.keep.is_empty()),
            ("--quantize <PATTERN>", !self.quantize.is_empty()),
            ("--transpose <PATTERN>", !self.transpose.is_empty()),
            ("--allow-requantize", self.allow_requantize),
        ];
        self.refuse(&given, "does not apply to a .ccq input")
    }

    fn refuse(&self, given: &[(&str, bool)], why: &str) -> Result<(), Refusal> {
        match given.iter().find(|option| option.1) {
            Some((option, _)) => Err((ErrorKind::ArgumentConflict, format!("{option} {why}"))),
            None => Ok(()),
        }
    }

    /// The search asked for, or `None` for `--encoding raw`.
    fn search(&self) -> Result<Option<Search>, Refusal> {
        if self.encoding.as_deref() == Some(RAW) {
            let given = [
                ("--group-size <N>", self.group_size.is_some()),
                ("--quality <NAME>", self.quality.is_some()),
                ("--method <NAME>", self.method.is_some()),
                ("--importance <FILE>", self.importance.is_some()),
                ("--quantize <PATTERN>", !self.quantize.is_empty()),
            ];
            self.refuse(&given, "does not go with --encoding raw")?;
            return Ok(None);
        }
        let method = self.method.as_deref().and_then(Method::from_name).unwrap_or_default();
        if method == Method::Paper {
            let given = [
                ("--quality <NAME>", self.quality.is_some()),
                ("--importance <FILE>", self.importance.is_some()),
            ];
            self.refuse(&given, "does not go with --method paper, which knows nothing of it")?;
        }
        Ok(Some(Search {
            code: code(
                self.encoding.as_deref().and_then(Family::from_name).unwrap_or(DEFAULT),
                self.group_size,
            )?,
            quality: self.quality.as_deref().and_then(Quality::from_name).unwrap_or_default(),
            method,
            importance: self.importance.clone(),
        }))
    }

    fn rules(&self, search: Option<&Search>) -> Rules {
        let patterns = |given: &[String]| given.iter().map(|text| Pattern::new(text)).collect();
        let code = search.map(Search::result_code);
        Rules { code, keep: patterns(&self.keep), quantize: patterns(&self.quantize) }
    }
}

fn code(family: Family, group_size: Option<u32>) -> Result<Code, Refusal> {
    let code = match group_size {
        Some(size) => family.code(size),
        None => family.default_code(),
    };
    code.map_err(|_| {
        let per_channel = Family::ALL.into_iter().filter(|family| family.code(0).is_ok());
        let names: Vec<_> = per_channel.map(Family::name).collect();
        let message = format!(
            "{} takes --group-size 32, 64 or 128; one scale a channel is for {}",
            family.name(),
            names.join(", ")
        );
        (ErrorKind::ArgumentConflict, message)
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    Dtype::from_name(&name.to_ascii_uppercase())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Common, Task), clap::Error> {
        parse_from(format!("ccq-convert {line}").split(' ').map(String::from))
    }

    fn code_of(line: &str) -> String {
        match parsed(line).unwrap().1 {
            Task::Convert { rules, .. } => rules.code.map_or(RAW.into(), |code| code.to_string()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn encodings_take_their_usual_groups() {
        assert_eq!(code_of("in out.ccq"), "ccq-2.06");
        for name in encoding_names() {
            assert_eq!(code_of(&format!("in out.ccq --encoding {name}")), name);
        }
        assert_eq!(code_of("in out.ccq --encoding wint8 --group-size 64"), "wint8 g64");
        assert_eq!(code_of("in out.ccq --encoding wint4 --group-size channel"), "wint4 per channel");
        assert_eq!(code_of("in out.CCQ --group-size 128"), "ccq-2.06 g128");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (line, expected) in [
            ("in", "OUTPUT"),
            ("in out", "must end in .ccq"),
            ("in.ccq out", "must end in .safetensors"),
            ("in.ccq out.ccq", "both .ccq"),
            ("in out.safetensors", "INPUT must be a .ccq file"),
            ("in out.ccq --encoding ccq-2.6", "ccq-2.06"),
            ("in out.ccq --group-size 48", "possible values: 32, 64, 128, channel"),
            ("in out.ccq --group-size channel", "wint4, wint8, int2"),
            ("in out.ccq --encoding raw --group-size 64", "--group-size <N> does not go with --encoding raw"),
            ("in out.ccq --encoding raw --quantize x", "does not go with --encoding raw"),
            ("in out.ccq --encoding raw --quality best", "does not go with --encoding raw"),
            ("in out.ccq --method paper --quality best", "--quality <NAME> does not go with --method paper"),
            (
                "in out.ccq --method paper --importance x",
                "--importance <FILE> does not go with --method paper",
            ),
            ("in out.ccq --quality slow", "possible values: fast, balanced, best"),
            ("in.ccq out.safetensors --quality best", "--quality <NAME> does not apply to a .ccq input"),
            ("in out.ccq --dtype f32", "--dtype <DTYPE> applies to the way back only"),
            ("in out.ccq --threads 0", "--threads"),
            ("in out.ccq --threads 1025", "--threads"),
            ("in.ccq out.safetensors --dtype f64", "possible values: f32, f16, bf16"),
            ("in.ccq out.safetensors --encoding raw", "--encoding <NAME> does not apply to a .ccq input"),
            ("in.ccq out.safetensors --group-size 64", "--group-size <N> does not apply"),
            ("in.ccq out.safetensors --keep x", "--keep <PATTERN> does not apply"),
            ("in.ccq out.safetensors --allow-requantize", "--allow-requantize does not apply"),
            ("in.ccq out.safetensors --transpose x", "--transpose <PATTERN> does not apply"),
            ("in out --to fastdeploy", "INPUT must be one"),
            ("in.ccq out.safetensors --to fastdeploy", "is called like a file"),
            ("in.ccq out --to fastdeploy --overwrite", "--overwrite does not go with --to fastdeploy"),
            ("in.ccq out --to fastdeploy --quality best", "--quality <NAME> does not apply to a .ccq input"),
            ("in.ccq out --to paddle", "possible values: fastdeploy"),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_way_back_takes_a_dtype() {
        for (line, expected) in [("", None), (" --dtype bf16", Some(Dtype::Bf16))] {
            let (common, task) = parsed(&format!("in.ccq out.safetensors --threads 3{line}")).unwrap();
            assert_eq!(common.threads, Some(3));
            assert!(matches!(task, Task::Export { dtype } if dtype == expected));
        }
    }
}
