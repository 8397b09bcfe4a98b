//! `ccq-convert merge`: the parts of a job, converted one by one, into the file or files that one run writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ccq::Container;
use ccq::format::{Contents, TensorSpec, Value};
use ccq_cli::Progress;
use clap::Parser;

use crate::args::Common;
use crate::blocks::{Block, Item, blocks};
use crate::error::{Error, MergeFault};
use crate::files::Files;
use crate::job::tensors;
use crate::options::{JobOptions, Part};
use crate::output::{self, check_input, check_interrupt};
use crate::part::{KEY, PartId};
use crate::report::{Report, Row};
use crate::source::Reading;
use crate::split::{self, FilePlan};

const AFTER_HELP: &str = "\
Examples:
  ccq-convert merge part-*.ccq model.ccq
  ccq-convert merge part-*.ccq model.ccq --split-max-size 50GB

The parts are those that --part 1/N to --part N/N wrote, in any order. The result has the same bytes as one run \
without --part. Parts are checked while they are read; none is removed.

A model that is named `merge` is given as ./merge.";

/// Join the parts of a job into the same bytes as one run
#[derive(Debug, Parser)]
#[command(name = "ccq-convert merge", version, after_help = AFTER_HELP)]
pub struct MergeArgs {
    /// The parts, in any order, and the .ccq file to write
    #[arg(required = true, num_args = 2.., value_names = ["PART", "OUTPUT"])]
    files: Vec<PathBuf>,

    /// Write several files of at most this size, such as 50GB: OUTPUT-00001-of-0000N.ccq
    #[arg(long, value_name = "SIZE", value_parser = ccq_cli::parse_bytes)]
    split_max_size: Option<u64>,

    /// Replace an existing output
    #[arg(long)]
    overwrite: bool,

    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,

    /// Show no progress on standard error
    #[arg(short, long)]
    quiet: bool,
}

impl MergeArgs {
    /// The parts, and where to put what they make.
    pub fn into_task(mut self) -> (Common, Vec<PathBuf>) {
        // The parser sees to it that there are two.
        let output = self.files.pop().unwrap_or_default();
        let job =
            JobOptions { split_max_size: self.split_max_size, quiet: self.quiet, ..JobOptions::default() };
        let input = self.files.first().cloned().unwrap_or_default();
        let (overwrite, json) = (self.overwrite, self.json);
        let reading = Reading::default();
        (Common { input, output, threads: None, overwrite, json, reading, job }, self.files)
    }
}

/// Joins parts.
///
/// # Errors
/// `Container` for a file that is none or is damaged, `Merge` for one that is not the part that is due, and those
/// of the output. Nothing is left behind then.
pub fn merge(common: &Common, parts: &[PathBuf]) -> Result<Report, Error> {
    let start = Instant::now();
    let parts = open(parts)?;
    let contents = contents(&parts)?;
    let files = split::files(contents, common.job.split_max_size, &common.output, &common.input)?;
    let inputs: Vec<_> = parts.iter().map(|part| part.path.clone()).collect();
    output::check(common, files.iter().map(|file| &file.path), &inputs)?;

    let mut report = Report::new(common);
    report.total.bytes_in = parts.iter().map(|part| part.container.index().file_len()).sum();
    report.total.bytes_out = files.iter().map(FilePlan::len).sum();
    report.files = files.iter().map(|file| file.path.display().to_string()).collect();
    report.blobs = parts.iter().flat_map(|part| part.container.blobs()).map(|blob| blob.0.into()).collect();
    let progress = match common.job.quiet {
        true => Progress::hidden(),
        false => Progress::new(blocks(&files).map(|block| block.stored()).sum()),
    };
    let mut written = Files::create(&files, common, false)?;
    let mut checks: Vec<_> = parts.iter().map(|part| part.container.chunks().peekable()).collect();
    let names = Names::of(&files);
    let mut copied = Vec::new();
    for block in blocks(&files) {
        check_interrupt()?;
        let Some((name, source)) = source(&parts, &names, &block) else { continue };
        if copied.is_empty() {
            progress.work_on(name);
            copied = vec![0; block.lens.len()];
            // The chunks of a part come in the order of its tensors.
            if let (Some(part), Some(chunks)) = (parts.get(source.part), checks.get_mut(source.part)) {
                let invalid = |source| Error::Container { file: part.path.clone(), source };
                while let Some(chunk) = chunks.next_if(|chunk| chunk.name == name) {
                    chunk.verify().map_err(invalid)?;
                }
            }
        }
        let mut runs = Vec::new();
        for ((plane, len), start) in source.planes.iter().zip(&block.lens).zip(&mut copied) {
            let end = len.saturating_add(*start);
            let range = usize::try_from(*start).ok().zip(usize::try_from(end).ok());
            runs.push(range.and_then(|(start, end)| plane.get(start..end)).unwrap_or_default());
            *start = end;
        }
        written.write(&block, name, &runs)?;
        progress.advance(block.stored());
        if block.last {
            copied.clear();
        }
    }
    for info in tensors(&files) {
        let part = parts.iter().find(|part| part.container.index().tensor(info.name()).is_some());
        let reason = part.map_or(String::new(), |part| format!("part {}", part.id.part));
        report.add(Row::new(&info, info.dtype(), info.stored_bytes(), &reason), None);
    }
    check_interrupt()?;
    written.finish()?;
    written.commit()?;
    progress.finish();
    report.finish(start.elapsed());
    Ok(report)
}

/// A part, opened.
struct Opened {
    path: PathBuf,
    container: Container<'static>,
    id: PartId,
}

/// Opens all parts of one job, and orders them.
fn open(paths: &[PathBuf]) -> Result<Vec<Opened>, Error> {
    let mut parts = paths.iter().map(|path| open_one(path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = parts.first().map(|part| (part.path.clone(), part.id.clone())) else {
        return Ok(parts);
    };
    let (first, id) = first;
    let refused = |file: &Path, fault| Err(Error::Merge { file: file.into(), fault });
    for part in &parts {
        if (&part.id.job, part.id.part.count) != (&id.job, id.part.count) {
            return refused(&part.path, MergeFault::OtherJob { first });
        }
    }
    parts.sort_by_key(|part| part.id.part.number);
    for pair in parts.windows(2) {
        if let [a, b] = pair
            && a.id.part == b.id.part
        {
            return refused(&b.path, MergeFault::Twice { part: a.id.part, other: a.path.clone() });
        }
    }
    let there = |number: &u32| parts.iter().any(|part| part.id.part.number == *number);
    match (1..=id.part.count).find(|number| !there(number)) {
        None => Ok(parts),
        Some(number) => {
            let count = usize::try_from(id.part.count).unwrap_or(usize::MAX);
            let others = count.saturating_sub(parts.len()).saturating_sub(1);
            let part = Part { number, ..id.part };
            refused(&first, MergeFault::Missing { part, others })
        }
    }
}

fn open_one(path: &Path) -> Result<Opened, Error> {
    check_input(path)?;
    let invalid = |source| Error::Container { file: path.into(), source };
    let container = Container::open(path).map_err(invalid)?;
    let id = match container.index().metadata().get(KEY) {
        Some(Value::String(text)) => PartId::parse(text),
        _ => None,
    };
    match id {
        Some(id) => Ok(Opened { path: path.into(), container, id }),
        None => Err(Error::Merge { file: path.into(), fault: MergeFault::NoPart }),
    }
}

/// What the parts hold together.
fn contents(parts: &[Opened]) -> Result<Contents<'_>, Error> {
    let mut tensors: BTreeMap<&str, (TensorSpec, &Path)> = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    for part in parts {
        for info in part.container.index().tensors() {
            let spec = TensorSpec {
                name: info.name().into(),
                shape: info.shape().into(),
                dtype: info.dtype(),
                encoding: info.encoding(),
            };
            if let Some((_, other)) = tensors.insert(info.name(), (spec, &part.path)) {
                let fault = MergeFault::Tensor { tensor: info.name().into(), other: other.into() };
                return Err(Error::Merge { file: part.path.clone(), fault });
            }
        }
        blobs.extend(part.container.index().blobs().map(|blob| (blob.name.to_owned(), blob.plane.len)));
    }
    let metadata = parts.iter().flat_map(|part| part.container.index().metadata().iter());
    Ok(Contents {
        tensors: tensors.into_values().map(|tensor| tensor.0).collect(),
        blobs,
        metadata: metadata.filter(|(key, _)| *key != KEY).collect(),
        shard: None,
    })
}

/// Where a tensor or a blob comes from.
struct Copied<'a> {
    part: usize,
    planes: Vec<&'a [u8]>,
}

/// What blocks belong to, by [`Item`].
struct Names<'a> {
    tensors: Vec<&'a str>,
    blobs: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(files: &'a [FilePlan]) -> Self {
        let blobs = files.iter().flat_map(|file| file.layout.index().blobs());
        Self {
            tensors: tensors(files).map(|tensor| tensor.name()).collect(),
            blobs: blobs.map(|b| b.name).collect(),
        }
    }
}

/// The name of what a block belongs to, and where that comes from.
fn source<'a>(parts: &'a [Opened], names: &Names<'a>, block: &Block) -> Option<(&'a str, Copied<'a>)> {
    let (name, is_tensor) = match block.item {
        Item::Tensor(at) => (*names.tensors.get(at)?, true),
        Item::Blob(at) => (*names.blobs.get(at)?, false),
    };
    let planes = |container: &'a Container<'static>| {
        if !is_tensor {
            return Some(vec![container.blob(name)?]);
        }
        let tensor = container.tensor(name)?;
        Some(tensor.info().planes().iter().map(|plane| tensor.plane(plane.kind)).collect())
    };
    let found = parts.iter().enumerate().find_map(|(part, opened)| Some((part, planes(&opened.container)?)));
    found.map(|(part, planes)| (name, Copied { part, planes }))
}
