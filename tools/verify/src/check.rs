//! The check: payload first, then, where there is a source, tensor by tensor against it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ccq::Container;
use ccq::format::Encoding;
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

/// Checks the container, writes the report and names what is wrong.
///
/// # Errors
/// Where there can be no report.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let file = args.file();
    failure::open(file)?;
    let container = Container::open(file).map_err(|error| Failure::container(file, &error))?;
    // The source is read the way the container was made from it.
    let turned = transposed(container.index().metadata());
    let open = |path| Model::open_with(path, &Transpose::Exactly(&turned));
    let source = args.source.as_deref().map(open).transpose();
    let source = source.map_err(|error| Failure::source(&error))?;
    let page = args.html.as_deref().map(|path| {
        let files = source.iter().flat_map(Model::input_files).map(PathBuf::as_path);
        Page::create(path, args.overwrite, files.chain(args.source.as_deref()).chain([file]))
    });
    let page = page.transpose()?;
    let gpu = source.as_ref().map(|_| Gpu::open(args.device, args.quiet)).transpose()?;
    let pool = ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Failure::runtime(format!("starting threads: {error}")))?;

    let progress = if args.json || args.quiet {
        Progress::hidden()
    } else {
        Progress::new(work(&container, source.as_ref()))
    };
    let mut report = Report::new(file, args.source.as_deref(), container.index());
    pool.install(|| {
        check_payload(&container, &mut report, &progress)?;
        match (&source, gpu) {
            (Some(source), Some(gpu)) if report.problems.is_empty() => {
                check_against(&container, source, gpu, args.max_error, &mut report, &progress)
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
fn work(container: &Container<'_>, source: Option<&Model>) -> u64 {
    let payload = container.index().planes().iter().map(|plane| plane.len);
    let weights = source.into_iter().flat_map(|source| {
        let shared = source.tensors().iter().filter(|tensor| container.tensor(&tensor.name).is_some());
        shared.map(SourceTensor::byte_len)
    });
    payload.chain(weights).fold(0, u64::saturating_add)
}

/// Checksums in parallel, with paddings and values beside them.
fn check_payload(container: &Container<'_>, report: &mut Report, progress: &Progress) -> Result<(), Failure> {
    let chunks: Vec<_> = container.chunks().collect();
    let checksums = || {
        let check = |chunk: &ccq::format::verify::Chunk<'_>| {
            if interrupted() {
                return Err(Failure::Interrupted);
            }
            progress.work_on(chunk.name);
            let found = chunk.verify();
            progress.advance(chunk.bytes.len() as u64);
            Ok(found.err())
        };
        chunks.par_iter().map(check).collect::<Result<Vec<_>, _>>()
    };
    let parts: Vec<_> = container.value_checks().collect();
    let values = || -> Vec<_> { parts.par_iter().filter_map(|part| part.verify().err()).collect() };
    let (checksums, values) = rayon::join(checksums, values);
    let damaged: Vec<_> = checksums?.into_iter().flatten().collect();
    report.checksums = Checksums { checked: chunks.len() as u64, damaged: damaged.len() as u64 };
    report.problems.extend(damaged.iter().chain(&values).map(Problem::damaged));
    Ok(())
}

/// Compares every tensor with the source's, in order of their names.
fn check_against(
    container: &Container<'_>,
    source: &Model,
    mut gpu: Gpu,
    max_error: Option<f64>,
    report: &mut Report,
    progress: &Progress,
) -> Result<(), Failure> {
    let mut pooled = ErrorStats::default();
    let mut by_encoding = BTreeMap::<_, ErrorStats>::new();
    let mut speeds = BTreeMap::<_, Speed>::new();
    let found = gpu.device().map(|device| Machine::gpu(device.info()));
    let mut mismatches = Vec::new();
    let mut undefined = Vec::new();
    for (tensor, row) in container.tensors().zip(&mut report.tensors) {
        let name = tensor.info().name();
        progress.work_on(name);
        let quantized = tensor.info().encoding() != Encoding::Raw;
        let outcome = match source.tensor(name) {
            Some(found) => compare(&tensor, &Source { model: source, tensor: found }, &mut gpu, progress)?,
            None => Outcome { mismatches: vec!["is not in the source".into()], ..Outcome::default() },
        };
        let Outcome { figures, decode, stats, note, mismatches: found } = outcome;
        mismatches.extend(found.iter().map(|message| Problem::of(Kind::Mismatch, name, message)));
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
            undefined.extend(undefined_error(row, stats.as_ref()));
        }
    }
    // A shard holds a part of its model.
    if container.index().shard().count == 1 {
        let missing = source.tensors().iter().filter(|tensor| container.tensor(&tensor.name).is_none());
        mismatches.extend(missing.map(|SourceTensor { name, .. }| {
            Problem::of(Kind::Mismatch, name, "is in the source, but not in the file")
        }));
    }
    let served = report.tensors.iter().any(|row| row.decoded_on == Some("cuda"));
    report.device = Some(found.filter(|_| served).unwrap_or_else(Machine::cpu));
    report.total.relative_mse = pooled.relative_mse();
    for row in &mut report.encodings {
        row.relative_mse = by_encoding.get(&row.encoding).and_then(ErrorStats::relative_mse);
        row.decode = speeds.get(&row.encoding).copied();
    }
    report.problems.extend(mismatches);
    if let Some(limit) = max_error {
        let exceeding = exceeds(report, limit);
        report.problems.extend(undefined.into_iter().chain(exceeding));
    }
    Ok(())
}

/// A quantized tensor whose error cannot be told meets no limit, unless it has none at all.
fn undefined_error(row: &TensorReport, stats: Option<&ErrorStats>) -> Option<Problem> {
    let exact = stats.is_some_and(|stats| stats.squared_error == 0.0);
    if row.figures.relative_mse.is_some() || exact {
        return None;
    }
    let why = row.note.as_deref().unwrap_or("it was not compared");
    let message = format!("relative MSE is undefined ({why}), so no --max-error can be met");
    Some(Problem::of(Kind::Threshold, &row.name, &message))
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
    Some(Problem { kind: Kind::Threshold, name: None, message })
}
