//! The command line, parsed into a task that can be done.

use std::path::{Path, PathBuf};

use ccq::code::{Code, Family};
use ccq::format::Dtype;
use ccq_quantize::{Method, Quality};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::allocate::{Budget, Target};
use crate::merge::MergeArgs;
use crate::options::JobOptions;
use crate::recipe::{Names, Preset, Source, Wish, code};
use crate::source::Reading;

/// The encoding that stores source bytes.
const RAW: &str = "raw";
/// The one format to write besides safetensors.
const FASTDEPLOY: &str = "fastdeploy";
/// What a budget may be spent on, where nothing else is said: all that was the best for some matrix of a real model
/// (docs/allocation.md). `ccq-2.5` and `ccq-2.75` never are: some matrices in `ccq-2.06` and others in `ccq-3.31` have
/// less error at their size. Nor is `ccq-5.5` in groups of 64, which takes no less than in groups of 32.
const CANDIDATES: &str = "int2:channel,int2:128,int2,int2:32,ccq-2.06:128,ccq-2.06,ccq-2.06:32,ccq-3.31:128,ccq-3.31,\
     ccq-3.31:32,wint4:channel,wint4:128,wint4,wint4:32,ccq-5.5:128,ccq-5.5:32,wint8,wint8:128,wint8:64,wint8:32,raw";
/// The first argument that asks for parts to be joined.
const MERGE: &str = "merge";

/// What both directions need.
#[derive(Clone, Debug)]
pub struct Common {
    /// The input.
    pub input: PathBuf,
    /// The output; empty for a dry run that names none.
    pub output: PathBuf,
    /// Threads; `None` for as many as there are cores.
    pub threads: Option<usize>,
    /// Whether an existing output is replaced.
    pub overwrite: bool,
    /// Whether the report is JSON.
    pub json: bool,
    /// How a source model is read.
    pub reading: Reading,
    /// What is about long jobs.
    pub job: JobOptions,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Task {
    /// A source model to a container.
    Convert(Box<Conversion>),
    /// A container to a safetensors file.
    Export {
        /// The dtype of quantized tensors; `None` for that of their source.
        dtype: Option<Dtype>,
    },
    /// A container to a model folder for FastDeploy.
    ToFastDeploy,
    /// Parts of a model to the whole.
    Merge {
        /// The parts, in any order.
        parts: Vec<PathBuf>,
    },
}

/// How a source model becomes a container.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// Which tensor gets which encoding.
    pub wish: Wish,
    /// The file of importance vectors.
    pub importance: Option<PathBuf>,
    /// The budget that encodings are chosen for.
    pub target: Option<Target>,
    /// Where the recipe that is used is written.
    pub write_recipe: Option<PathBuf>,
    /// Whether the plan is all there is to do.
    pub dry_run: bool,
}

impl Conversion {
    /// What another run must agree with to go on with this one, by the names of the options.
    pub fn identity(&self) -> impl Iterator<Item = (String, String)> {
        fn text(given: Option<impl ToString>) -> String {
            given.map_or("not given".into(), |given| given.to_string())
        }
        let list = |patterns: &[String]| {
            let texts: Vec<_> = patterns.iter().map(|pattern| format!("{pattern:?}")).collect();
            if texts.is_empty() { "not given".into() } else { texts.join(" ") }
        };
        let Wish { source, encoding, group_size, quality, method, keep, quantize, .. } = &self.wish;
        let (recipe, preset) = match source {
            Source::Options => (None, None),
            Source::File(path) => (Some(path.display()), None),
            Source::Preset(preset) => (None, Some(preset.name)),
        };
        let group_size = group_size.map(|size| match size {
            0 => "channel".into(),
            size => size.to_string(),
        });
        let options = [
            ("--recipe", text(recipe)),
            ("--preset", text(preset)),
            ("--encoding", text(encoding.map(|family| family.map_or(RAW, Family::name)))),
            ("--group-size", text(group_size)),
            ("--quality", text(quality.map(Quality::name))),
            ("--method", text(method.map(Method::name))),
            ("--keep", list(keep)),
            ("--quantize", list(quantize)),
            ("--importance", text(self.importance.as_ref().map(|file| file.display()))),
            ("--target", text(self.target.as_ref().map(|target| &target.budget))),
            ("--candidates", text(self.target.as_ref().map(Target::list))),
        ];
        options.into_iter().map(|(option, given)| (option.to_owned(), given))
    }
}

const LONG_ABOUT: &str = "\
Converts a safetensors or GGUF model to a .ccq file, or a .ccq file back to safetensors.

Projection weights (2-D, and 3-D stacks of them) get the encoding. Embeddings, output heads, norms, biases, \
routers, convolutions and all 1-D tensors stay raw: byte for byte as in the source, or in BF16 where that has FP8 with \
scales, and in F16 where it has quantized blocks. FastDeploy's codes are copied. The report on standard output \
names every tensor with its encoding and the reason.

Tensors are told apart by a recipe (--recipe, --preset), or by what a budget allows (--target-bpw, --target-size).";

const AFTER_HELP: &str = "\
Examples:
  ccq-convert model.safetensors model.ccq
      2.06 bits a weight
  ccq-convert path/to/folder model.ccq --encoding wint4 --group-size 128
      a model folder: its shards, config.json and tokenizer go into one file
  ccq-convert model.safetensors model.ccq --keep '*.down_proj.weight'
      these tensors stay raw
  ccq-convert path/to/folder --preset ernie-w4w2 --dry-run
      how large each tensor would be, from the headers alone
  ccq-convert model.safetensors model.ccq --target-bpw 3 --write-recipe mix.toml
      the encodings with the least error at that size, and a recipe to use again
  ccq-convert path/to/folder model.ccq --split-max-size 50GB --resume
      several files; the same command goes on with a job that was stopped
  ccq-convert path/to/folder part-3.ccq --part 3/16
      one of 16 parts, each converted by a process of its own; to join them:
  ccq-convert merge part-*.ccq model.ccq
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
    #[arg(required_unless_present = "dry_run")]
    output: Option<PathBuf>,

    /// How projection weights that no rule names are stored; the number is bits a weight [default: ccq-2.06]
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

    /// Which tensors get which encoding: a TOML file of rules, or a .ccq file, for the recipe it was made with
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    recipe: Option<PathBuf>,

    /// A recipe that comes with the tool
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Preset::ALL.map(|preset| preset.name)))]
    preset: Option<String>,

    /// Choose the encodings of projections that no rule names for the least error in a file of at most so many
    /// bits a parameter
    #[arg(long, value_name = "BPW", conflicts_with = "target_size", value_parser = bits)]
    target_bpw: Option<f64>,

    /// The same for a file of at most this size, such as 89GiB, 500MB or a number of bytes
    #[arg(long, value_name = "SIZE", value_parser = ccq_cli::parse_bytes)]
    target_size: Option<u64>,

    /// What to choose from, such as ccq-2.06,ccq-3.31:32,wint4:128,wint8:channel,raw
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = candidate)]
    candidates: Vec<Option<Code>>,

    /// Write the recipe that is used to a .toml file, complete and in its shortest form
    #[arg(long, value_name = "FILE")]
    write_recipe: Option<PathBuf>,

    /// Report every tensor's encoding and size, and what the job needs, and write nothing
    #[arg(long)]
    dry_run: bool,
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

    #[command(flatten)]
    job: JobOptions,
}

/// Parses the process's command line.
///
/// # Errors
/// What clap has to print: an error, the help or the version.
pub fn parse() -> Result<(Common, Task), clap::Error> {
    parse_from(std::env::args_os())
}

pub fn parse_from<T: Into<std::ffi::OsString> + Clone>(
    args: impl IntoIterator<Item = T>,
) -> Result<(Common, Task), clap::Error> {
    let args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
    if args.get(1).is_some_and(|arg| arg == MERGE) {
        let mut merge = args;
        merge.remove(1);
        let (common, parts) = MergeArgs::try_parse_from(merge)?.into_task();
        if !has_extension(&common.output, "ccq") {
            let message = format!("OUTPUT {:?} must end in .ccq", common.output);
            return Err(MergeArgs::command().error(ErrorKind::ValueValidation, message));
        }
        return Ok((common, Task::Merge { parts }));
    }
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
        let value = |message: String| (ErrorKind::ValueValidation, message);
        let ends_in = |extension| self.output.as_ref().is_some_and(|output| has_extension(output, extension));
        let task = if self.to.is_some() {
            self.to_fastdeploy(container_in)?
        } else if ends_in("ccq") || (self.output.is_none() && !container_in) {
            if container_in {
                return Err(value("INPUT and OUTPUT are both .ccq: start from the source model".into()));
            }
            self.refuse(&[("--dtype <DTYPE>", self.dtype.is_some())], "applies to the way back only")?;
            Task::Convert(Box::new(self.conversion()?))
        } else if container_in && (ends_in("safetensors") || self.output.is_none()) {
            self.refuse(&self.of_conversions(), "does not apply to a .ccq input")?;
            Task::Export { dtype: self.dtype.as_deref().and_then(dtype) }
        } else if ends_in("safetensors") {
            return Err(value("OUTPUT is a .safetensors file: INPUT must be a .ccq file".into()));
        } else {
            let expected = if container_in { ".safetensors" } else { ".ccq" };
            let output = self.output.unwrap_or_default();
            return Err(value(format!("OUTPUT {output:?} must end in {expected}")));
        };
        let transpose = Names::new(self.transpose.clone());
        let reading = Reading { transpose, allow_requantize: self.allow_requantize };
        let Self { input, output, overwrite, json, job, .. } = self;
        let threads = self.threads.map(usize::from);
        let output = output.unwrap_or_default();
        Ok((Common { input, output, threads, overwrite, json, reading, job }, task))
    }

    fn to_fastdeploy(&self, container_in: bool) -> Result<Task, Refusal> {
        let value = |message: String| (ErrorKind::ValueValidation, message);
        if !container_in {
            return Err(value("--to fastdeploy writes a folder from a .ccq file: INPUT must be one".into()));
        }
        self.refuse(&self.of_conversions(), "does not apply to a .ccq input")?;
        let output = self.output.clone().unwrap_or_default();
        if ["ccq", "safetensors", "gguf"].iter().any(|extension| has_extension(&output, extension)) {
            let message =
                format!("--to fastdeploy writes a folder, but OUTPUT {output:?} is called like a file");
            return Err(value(message));
        }
        let given = [("--dtype <DTYPE>", self.dtype.is_some()), ("--overwrite", self.overwrite)];
        self.refuse(&given, "does not go with --to fastdeploy")?;
        Ok(Task::ToFastDeploy)
    }

    /// The options that the way back knows nothing of, and whether they are given.
    fn of_conversions(&self) -> [(&'static str, bool); 20] {
        [
            ("--encoding <NAME>", self.encoding.is_some()),
            ("--group-size <N>", self.group_size.is_some()),
            ("--quality <NAME>", self.quality.is_some()),
            ("--method <NAME>", self.method.is_some()),
            ("--importance <FILE>", self.importance.is_some()),
            ("--keep <PATTERN>", !self.keep.is_empty()),
            ("--quantize <PATTERN>", !self.quantize.is_empty()),
            ("--recipe <FILE>", self.recipe.is_some()),
            ("--preset <NAME>", self.preset.is_some()),
            ("--target-bpw <BPW>", self.target_bpw.is_some()),
            ("--target-size <SIZE>", self.target_size.is_some()),
            ("--candidates <LIST>", !self.candidates.is_empty()),
            ("--write-recipe <FILE>", self.write_recipe.is_some()),
            ("--dry-run", self.dry_run),
            ("--transpose <PATTERN>", !self.transpose.is_empty()),
            ("--allow-requantize", self.allow_requantize),
            ("--max-memory <SIZE>", self.job.max_memory.is_some()),
            ("--resume", self.job.resume),
            ("--split-max-size <SIZE>", self.job.split_max_size.is_some()),
            ("--part <I/N>", self.job.part.is_some()),
        ]
    }

    fn refuse(&self, given: &[(&str, bool)], why: &str) -> Result<(), Refusal> {
        match given.iter().find(|option| option.1) {
            Some((option, _)) => Err((ErrorKind::ArgumentConflict, format!("{option} {why}"))),
            None => Ok(()),
        }
    }

    fn conversion(&self) -> Result<Conversion, Refusal> {
        let method = self.method.as_deref().and_then(Method::from_name);
        let quality = self.quality.as_deref().and_then(Quality::from_name);
        if method == Some(Method::Paper) {
            let given =
                [("--quality <NAME>", quality.is_some()), ("--importance <FILE>", self.importance.is_some())];
            self.refuse(&given, "does not go with --method paper, which knows nothing of it")?;
        }
        let target = self.target()?;
        let source = match (&self.recipe, self.preset.as_deref().and_then(Preset::from_name)) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(preset)) => Source::Preset(preset),
            (None, None) => Source::Options,
        };
        let encoding = self.encoding.as_deref().map(Family::from_name);
        if matches!((&source, encoding), (Source::Options, Some(None))) {
            let given = [
                ("--quality <NAME>", quality.is_some()),
                ("--method <NAME>", method.is_some()),
                ("--importance <FILE>", self.importance.is_some()),
            ];
            self.refuse(&given, "does not go with --encoding raw")?;
        }
        match (encoding, target.is_some()) {
            (Some(None), _) => {
                let given = [
                    ("--group-size <N>", self.group_size.is_some()),
                    ("--quantize <PATTERN>", !self.quantize.is_empty()),
                ];
                self.refuse(&given, "does not go with --encoding raw")?;
            }
            (Some(Some(family)), _) => _ = family_code(family, self.group_size)?,
            (None, false) if matches!(source, Source::Options) => {
                _ = family_code(Family::Ccq206, self.group_size)?;
            }
            (None, _) => {}
        }
        if let Some(file) = self.write_recipe.as_ref().filter(|file| !has_extension(file, "toml")) {
            return Err((ErrorKind::ValueValidation, format!("--write-recipe {file:?} must end in .toml")));
        }
        let wish = Wish {
            source,
            encoding,
            group_size: self.group_size,
            quality,
            method,
            keep: self.keep.clone(),
            quantize: self.quantize.clone(),
            choose: target.is_some(),
        };
        let (importance, write_recipe) = (self.importance.clone(), self.write_recipe.clone());
        Ok(Conversion { wish, importance, target, write_recipe, dry_run: self.dry_run })
    }

    fn target(&self) -> Result<Option<Target>, Refusal> {
        let budget = match (self.target_bpw, self.target_size) {
            (Some(bits), _) => Budget::Bpw(bits),
            (None, Some(bytes)) => Budget::Size(bytes),
            (None, None) => {
                let given = [("--candidates <LIST>", !self.candidates.is_empty())];
                self.refuse(&given, "goes with --target-bpw or --target-size only")?;
                return Ok(None);
            }
        };
        let given =
            [("--encoding <NAME>", self.encoding.is_some()), ("--group-size <N>", self.group_size.is_some())];
        self.refuse(&given, "does not go with a target; --candidates says what to choose from")?;
        let mut candidates = self.candidates.clone();
        if candidates.is_empty() {
            candidates = CANDIDATES.split(',').filter_map(|name| candidate(name).ok()).collect();
        }
        Ok(Some(Target { budget, candidates }))
    }
}

fn family_code(family: Family, group_size: Option<u32>) -> Result<Code, Refusal> {
    code(family, group_size).map_err(|fault| (ErrorKind::ArgumentConflict, fault.to_string()))
}

/// `ccq-2.06`, `wint4:128`, `wint4:channel`, `raw`; `None` is raw.
fn candidate(text: &str) -> Result<Option<Code>, String> {
    let (name, size) = match text.split_once(':') {
        None => (text, None),
        Some((name, "channel")) => (name, Some(0)),
        Some((name, size)) => {
            (name, Some(size.parse().ok().filter(|&size| size > 0).ok_or("no such group size")?))
        }
    };
    match Family::from_name(name) {
        Some(family) => code(family, size).map(Some).map_err(|fault| fault.to_string()),
        None if text == RAW => Ok(None),
        None => Err(format!("expected {}", encoding_names().collect::<Vec<_>>().join(", "))),
    }
}

fn bits(text: &str) -> Result<f64, String> {
    let bits = text.parse().map_err(|error| format!("{error}"))?;
    if bits > 0.0 && bits <= 64.0 { Ok(bits) } else { Err("expected more than 0 and at most 64".into()) }
}

fn dtype(name: &str) -> Option<Dtype> {
    Dtype::from_name(&name.to_ascii_uppercase())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests;
