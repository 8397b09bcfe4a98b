//! `bench`: how fast weights are decoded and multiplied, against what memory takes for as many bytes in the same run.
//!
//! Every row of the table is the median of many runs. They take turns on copies of the same weights that
//! together exceed the last-level cache, so that each finds its own in memory and not in a cache.

// Sizes of buffers that memory holds.
#![allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]

mod args;
mod cpu;
mod gpu;
mod operation;
mod paper;
mod report;
mod timing;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ccq::Set;
use ccq::code::{Code, Family};
use ccq::codec::Matrix;
use ccq_cli::{Exit, Progress};
use ccq_cuda::Element;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::failure::{self, Failure, print};
use crate::machine::Machine;
pub use args::{BenchArgs, HELP as BENCH_HELP};
use args::{Preset, Shape};
use cpu::Cpu;
use gpu::Gpu;
use operation::Operation;
use report::{Report, Row};
use timing::Timing;
use weights::{MOST_WEIGHTS, Weights};

/// A device to be timed.
trait Bench {
    /// What it is.
    fn machine(&self) -> &Machine;
    /// What is timed, unless a preset says.
    fn operations(&self) -> &'static [Operation];
    /// Bytes of the cache that copies of weights in the host's memory have to exceed.
    fn copies_exceed(&self) -> u64;
    /// Bytes read plus bytes written a second by a copy of its memory.
    fn copy_bandwidth(&mut self, budget: Duration) -> Result<f64, Failure>;
    /// Times an operation.
    fn measure(
        &mut self,
        operation: Operation,
        shape: Shape,
        weights: &Weights,
        budget: Duration,
    ) -> Result<Measured, Failure>;
    /// What to know when reading the figures.
    fn notes(&self) -> Vec<String>;
}

/// What was timed, and how.
struct Measured {
    timing: Timing,
    /// Of the weights written, or of the vectors multiplied.
    element: Element,
    /// Copies that took turns, and whether what they read and write exceeds the cache.
    sets: usize,
    cold: bool,
    /// Of what the memory has to do for it, and of one thread, in turns with it.
    memory_seconds: Option<f64>,
    single_seconds: Option<f64>,
    /// Of the dense product.
    cublas_seconds: Option<f64>,
}

/// Weights to be timed.
struct Job<'a> {
    /// A layer of the file and how many there are like it, or random weights.
    layer: Option<(Matrix<'a>, String, u64)>,
    code: Code,
    shape: Shape,
}

impl Job<'_> {
    /// Writes the weights to memory of their own.
    fn weights(&self, cache: u64) -> Result<Weights, Failure> {
        let Shape { rows, in_features } = self.shape;
        let weights = match &self.layer {
            Some((matrix, ..)) => Weights::copy(matrix, rows, cache),
            None => Weights::random(self.code, rows, in_features, cache),
        };
        weights.map_err(|error| Failure::runtime(format!("{} {}: {error}", self.code, self.shape)))
    }

    fn row(&self, weights: &Weights, operation: Operation, measured: &Measured) -> Row {
        let Shape { rows, in_features } = self.shape;
        Row {
            name: self.layer.as_ref().map(|(_, name, _)| name.clone()),
            layers: self.layer.as_ref().map(|(.., layers)| *layers),
            encoding: self.code.to_string(),
            rows,
            in_features,
            operation: operation.name(),
            element: element_name(measured.element),
            tokens: operation.tokens(),
            stored_bytes: weights.stored_bytes(),
            sets: measured.sets,
            cold: measured.cold,
            memory_operation: measured.memory_seconds.map(|_| operation.memory_name()),
            memory_seconds: measured.memory_seconds,
            single_seconds: measured.single_seconds,
            cublas_seconds: measured.cublas_seconds,
            ..Row::default()
        }
    }
}

const fn element_name(element: Element) -> &'static str {
    match element {
        Element::F32 => "f32",
        Element::F16 => "f16",
        Element::Bf16 => "bf16",
    }
}

/// Times and reports.
///
/// # Errors
/// Where there is nothing to report.
pub fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    let model = args.file.as_deref().map(|path| Ok((path, failure::open_set(path)?))).transpose()?;
    let jobs = match (&model, args.preset) {
        (Some((path, model)), _) => layers(path, model, &args.encodings)?,
        (None, Some(Preset::Paper)) => random(&paper::SHAPES, &args.encodings, &paper::ENCODINGS)?,
        (None, None) if args.shapes.is_empty() => {
            random(&[Shape { rows: 4096, in_features: 4096 }], &args.encodings, &Family::ALL)?
        }
        (None, None) => random(&args.shapes, &args.encodings, &Family::ALL)?,
    };
    let device = args.device.open(false)?;
    let pool = threads(args.threads.unwrap_or(0))?;
    let single = (pool.current_num_threads() > 1).then(|| threads(1)).transpose()?;
    let report = match &device {
        Some(device) => measure(args, &jobs, &mut Gpu::new(device, args.device)),
        None => pool.install(|| measure(args, &jobs, &mut Cpu::new(single))),
    }?;
    print(args.json, || &report, |out, columns| report.write(out, columns))?;
    Ok(Exit::Ok)
}

/// So many threads, 0 for as many as there are cores.
fn threads(count: usize) -> Result<ThreadPool, Failure> {
    let pool = ThreadPoolBuilder::new().num_threads(count).build();
    pool.map_err(|error| Failure::runtime(format!("starting threads: {error}")))
}

/// One job for each encoding and shape that layers of the model have.
fn layers<'a>(path: &Path, model: &'a Set, encodings: &[Family]) -> Result<Vec<Job<'a>>, Failure> {
    let mut jobs = BTreeMap::<_, Job<'a>>::new();
    for tensor in model.tensors() {
        let Some(matrix) = tensor.matrix() else { continue };
        let code = *matrix.code();
        if !encodings.is_empty() && !code.family().is_some_and(|family| encodings.contains(&family)) {
            continue;
        }
        let in_features = matrix.in_features();
        // Of stacks that are too large, the first rows.
        let rows = matrix.rows().min((MOST_WEIGHTS / in_features.max(1)).max(1));
        let shape = Shape { rows, in_features };
        let key =
            (code.to_string(), shape, code.cluster().is_some_and(|kind| kind == ccq::code::Cluster::F32));
        let name = tensor.info().name();
        let job =
            jobs.entry(key).or_insert_with(|| Job { layer: Some((matrix, name.into(), 0)), code, shape });
        if let Some((.., layers)) = &mut job.layer {
            *layers += 1;
        }
    }
    if jobs.is_empty() {
        let which =
            if encodings.is_empty() { "quantized tensors" } else { "tensors of the --encoding asked for" };
        return Err(Failure::runtime(format!("{}: has no {which}", path.display())));
    }
    Ok(jobs.into_values().collect())
}

/// Jobs on random weights: every shape in every encoding.
fn random(shapes: &[Shape], asked: &[Family], usual: &[Family]) -> Result<Vec<Job<'static>>, Failure> {
    let families = if asked.is_empty() { usual } else { asked };
    let mut jobs = Vec::new();
    for &shape in shapes {
        for family in families {
            let code = family.default_code();
            let code = code.map_err(|error| Failure::runtime(format!("{}: {error}", family.name())))?;
            jobs.push(Job { layer: None, code, shape });
        }
    }
    Ok(jobs)
}

/// Times all jobs, one after another.
fn measure(args: &BenchArgs, jobs: &[Job<'_>], bench: &mut dyn Bench) -> Result<Report, Failure> {
    let operations = match args.preset {
        Some(Preset::Paper) => &paper::OPERATIONS,
        None => bench.operations(),
    };
    let work = work(jobs).saturating_mul(operations.len() as u64);
    let progress = if args.json { Progress::hidden() } else { Progress::new(work) };
    let budget = Duration::from_secs_f64(args.seconds);
    progress.work_on("copy");
    let copy = bench.copy_bandwidth(budget)?;
    let mut rows = Vec::new();
    for job in jobs {
        let weights = job.weights(bench.copies_exceed())?;
        for &operation in operations {
            progress.work_on(&format!("{} {} {}", job.code, job.shape, operation.name()));
            let measured = bench.measure(operation, job.shape, &weights, budget)?;
            let mut row = job.row(&weights, operation, &measured);
            row.fill(&measured.timing, copy, operation.written_bytes(job.shape));
            if args.preset == Some(Preset::Paper) {
                row.paper = paper::figures(job.shape, operation);
            }
            rows.push(row);
            progress.advance(weights.stored_bytes());
        }
    }
    progress.finish();
    Ok(Report::new(bench.machine().clone(), args.seconds, copy, bench.notes(), rows))
}

/// Bytes of weights to be timed.
fn work(jobs: &[Job<'_>]) -> u64 {
    let bytes = |job: &Job<'_>| {
        let sizes = job.code.plane_sizes(job.shape.rows as u64, job.shape.in_features as u64);
        sizes.ok().and_then(|sizes| sizes.total()).unwrap_or(0)
    };
    jobs.iter().map(bytes).fold(0, u64::saturating_add)
}
