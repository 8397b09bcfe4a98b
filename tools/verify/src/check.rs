//! The check: payload first, then, where there is a source, tensor by tensor against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ccq::format::Encoding;
use ccq::format::verify::{Chunk, ValueCheck};
use ccq::{Container, Set};
use ccq_cli::{Exit, Progress, interrupted, printable};
use ccq_import::{Model, SourceTensor, Transpose, transposed};
use ccq_quantize::ErrorStats;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;

use crate::args::CheckArgs;
use crate::compare::{Gpu, Outcome, Source, Speed, compare};
use crate::failure::{self, Failure, print};
use crate::html::Page;
use crate::machine::Machine;
use crate::problem::{self, Kind, Problem};
use crate::report::{Checksums, Report, TensorReport, significant};

/// Checks the model, all files of it, writes the report and names what is wrong.
///
/// # Errors
/// Where there can be no report.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let file = args.file();
    let model = failure::open_set(file)?;
    // The source is read the way the container was made from it.
    let turned = model.metadata().map(transposed).unwrap_or_default();
    let open = |path| Model::open_with(path, &Transpose::Exactly(&turned));
    let source = args.source.as_deref().map(open).transpose();
    let source = source.map_err(|error| Failure::source(&error))?;
    let page = args.html.as_deref().map(|path| {
        let files = source.iter().flat_map(Model::input_files).map(PathBuf::as_path);
        let files = files.chain(args.source.as_deref()).chain(model.files().map(|(path, _)| path));
        Page::create(path, args.overwrite, files)
    });
    let page = page.transpose()?;
    let gpu = source.as_ref().map(|_| Gpu::open(args.device, args.quiet)).transpose()?;
    let pool = ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Failure::runtime(format!("starting threads: {error}")))?;

    let progress = if args.json || args.quiet {
        Progress::hidden()
    } else {
        Progress::new(work(&model, source.as_ref()))
    };
    let mut report = Report::new(file, args.source.as_deref(), &model);
    pool.install(|| {
        check_payload(&model, &mut report, &progress)?;
        match (&source, gpu) {
            (Some(source), Some(gpu)) if report.problems.is_empty() => {
                check_against(&model, source, gpu, args, &mut report, &progress)
            }
            _ => Ok(()),
        }
    })?;
    progress.finish();

    page.map_or(Ok(()), |page| page.write(&report))?;
    print(args.json, || &report, |out, columns| report.write(out, columns))?;
    problem::name_all(file, args.source.as_deref(), &report.problems);
    Ok(problem::exit(&report.problems))
}

/// Bytes to be read.
fn work(model: &Set, source: Option<&Model>) -> u64 {
    let planes = model.files().flat_map(|(_, container)| container.index().planes());
    let payload = planes.map(|plane| plane.len);
    let weights = source.into_iter().flat_map(|source| {
        let shared = source.tensors().iter().filter(|tensor| model.tensor(&tensor.name).is_some());
        shared.map(SourceTensor::byte_len)
    });
    payload.chain(weights).fold(0, u64::saturating_add)
}

/// Checksums in parallel, with paddings and values beside them.
fn check_payload(model: &Set, report: &mut Report, progress: &Progress) -> Result<(), Failure> {
    let chunks: Vec<_> = in_files(model, Container::chunks).collect();
    let checksums = || {
        let check = |(file, chunk): &(&Path, Chunk<'_>)| {
            if interrupted() {
                return Err(Failure::Interrupted);
            }
            progress.work_on(chunk.name);
            let found = chunk.verify();
            progress.advance(chunk.bytes.len() as u64);
            Ok(found.err().map(|error| Problem::damaged(file, &error)))
        };
        chunks.par_iter().map(check).collect::<Result<Vec<_>, _>>()
    };
    let parts: Vec<_> = in_files(model, Container::value_checks).collect();
    let check_values = |(file, part): &(&Path, ValueCheck<'_>)| {
        part.verify().err().map(|error| Problem::damaged(file, &error))
    };
    let values = || -> Vec<_> { parts.par_iter().filter_map(check_values).collect() };
    let (checksums, values) = rayon::join(checksums, values);
    let damaged: Vec<_> = checksums?.into_iter().flatten().collect();
    report.checksums = Checksums { checked: chunks.len() as u64, damaged: damaged.len() as u64 };
    report.problems.extend(damaged.into_iter().chain(values));
    Ok(())
}

/// The parts of every file, each with the file's path.
fn in_files<'a, Parts: Iterator>(
    model: &'a Set,
    parts: impl Fn(&'a Container<'static>) -> Parts,
) -> impl Iterator<Item = (&'a Path, Parts::Item)> {
    model.files().flat_map(move |(path, container)| parts(container).map(move |part| (path, part)))
}

/// Compares every tensor with the source's, in order of their names.
fn check_against(
    model: &Set,
    source: &Model,
    mut gpu: Gpu,
    args: &CheckArgs,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut pooled = ErrorStats::default();
    let mut by_encoding = BTreeMap::<_, ErrorStats>::new();
    let mut speeds = BTreeMap::<_, Speed>::new();
    let found = gpu.device().map(|device| Machine::gpu(device.info()));
    let mut mismatches = Vec::new();
    let mut undefined = Vec::new();
    for (tensor, row) in model.tensors().zip(&mut report.tensors) {
        let name = tensor.info().name();
        progress.work_on(name);
        let quantized = tensor.info().encoding() != Encoding::Raw;
        let outcome = match source.tensor(name) {
            Some(found) => compare(&tensor, &Source { model: source, tensor: found }, &mut gpu, progress)?,
            None => Outcome { mismatches: vec!["is not in the source".into()], ..Outcome::default() },
        };
        let Outcome { figures, decode, stats, note, mismatches: found } = outcome;
        let problem = |message: &String| Problem::of(Kind::Mismatch, file_of(model, name), name, message);
        mismatches.extend(found.iter().map(problem));
        (row.figures, row.note) = (figures, note);
        if let Some((speed, device)) = decode {
            (row.decode, row.decoded_on) = (Some(speed), Some(device));
            speeds.entry(row.encoding.clone()).or_default().add(&speed);
            report.total.decode.get_or_insert_default().add(&speed);
        }
        if let Some(stats) = &stats {
            by_encoding.entry(row.encoding.clone()).or_default().merge(stats);
        }
        if quantized {
            stats.iter().for_each(|stats| pooled.merge(stats));
            undefined.extend(undefined_error(model, row, stats.as_ref()));
        }
    }
    // The other parts of a job have the rest.
    if report.part.is_none() {
        let missing = source.tensors().iter().filter(|tensor| model.tensor(&tensor.name).is_none());
        let file = if report.files.len() > 1 { "files" } else { "file" };
        let message = format!("is in the source, but not in the {file}");
        mismatches.extend(
            missing.map(|SourceTensor { name, .. }| Problem::of(Kind::Mismatch, args.file(), name, &message)),
        );
    }
    let served = report.tensors.iter().any(|row| row.decoded_on == Some("cuda"));
    report.device = Some(found.filter(|_| served).unwrap_or_else(Machine::cpu));
    report.total.relative_mse = pooled.relative_mse();
    for row in &mut report.encodings {
        row.relative_mse = by_encoding.get(&row.encoding).and_then(ErrorStats::relative_mse);
        row.decode = speeds.get(&row.encoding).copied();
    }
    report.problems.extend(mismatches);
    if let Some(limit) = args.max_error {
        let exceeding = exceeds(report, limit);
        report.problems.extend(undefined.into_iter().chain(exceeding));
    }
    Ok(())
}

/// A quantized tensor whose error cannot be told meets no limit, unless it has none at all.
fn undefined_error(model: &Set, row: &TensorReport, stats: Option<&ErrorStats>) -> Option<Problem> {
    let exact = stats.is_some_and(|stats| stats.squared_error == 0.0);
    if row.figures.relative_mse.is_some() || exact {
        return None;
    }
    let why = row.note.as_deref().unwrap_or("it was not compared");
    let message = format!("relative MSE is undefined ({why}), so no --max-error can be met");
    Some(Problem::of(Kind::Threshold, file_of(model, &row.name), &row.name, &message))
}

/// The file that a tensor is in.
fn file_of<'a>(model: &'a Set, tensor: &str) -> &'a Path {
    let mut files = model.files().filter(|(_, container)| container.tensor(tensor).is_some());
    files.next().map_or(Path::new(""), |(path, _)| path)
}

/// Says that the quantized tensors together exceed the limit, and which of them are the worst.
fn exceeds(report: &Report, limit: f64) -> Option<Problem> {
    /// Tensors named.
    const WORST: usize = 3;
    let total = report.total.relative_mse.filter(|&mse| mse > limit)?;
    let mut worst: Vec<_> =
        report.tensors.iter().filter_map(|row| Some((row.figures.relative_mse?, &row.name))).collect();
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst: Vec<_> = worst
        .iter()
        .take(WORST)
        .map(|(mse, name)| format!("`{}` {}", printable(name), significant(Some(*mse))))
        .collect();
    let message = format!(
        "relative MSE {} of the quantized tensors together exceeds --max-error {limit} (worst: {}): take a larger \
         encoding, or keep the worst raw",
        significant(Some(total)),
        worst.join(", ")
    );
    Some(Problem { kind: Kind::Threshold, file: report.file.clone(), name: None, message })
}
