//! `bench`: how fast weights are decoded and multiplied, against a copy of memory in the same run.
//!
//! Every row of the table is the median of many runs. Runs take turns on copies of the same weights that
//! together exceed the last-level cache, so that each finds its own in memory and not in a cache.

mod args;
mod machine;
mod operation;
mod paper;
mod report;
mod timing;
mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ccq::Container;
use ccq::code::{Code, Family};
use ccq::codec::Matrix;
use ccq_cli::{Exit, Progress, stdout_width};
use rayon::ThreadPoolBuilder;

use crate::failure::{self, Failure, to_stdout};
pub use args::{BenchArgs, HELP as BENCH_HELP};
use args::{Device, Preset, Shape};
use machine::Machine;
use operation::{Operation, Workspace};
use report::{Report, Row};
use timing::{copy_bandwidth, time};
use weights::{MOST_WEIGHTS, Weights};

/// The operations of a row each, unless a preset names them.
const OPERATIONS: [Operation; 5] = [
    Operation::DequantizeRows,
    Operation::Dequantize,
    Operation::Product { tokens: 1 },
    Operation::Product { tokens: 4 },
    Operation::Product { tokens: 16 },
];

/// Weights to be timed and what is done with them.
struct Job<'a> {
    /// A layer of the file and how many there are like it, or random weights.
    layer: Option<(Matrix<'a>, String, u64)>,
    code: Code,
    shape: Shape,
    operations: &'static [Operation],
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

    fn row(&self, weights: &Weights, operation: Operation) -> Row {
        let Shape { rows, in_features } = self.shape;
        Row {
            name: self.layer.as_ref().map(|(_, name, _)| name.clone()),
            layers: self.layer.as_ref().map(|(.., layers)| *layers),
            encoding: self.code.to_string(),
            rows,
            in_features,
            operation: operation.name(),
            tokens: operation.tokens(),
            stored_bytes: weights.stored_bytes(),
            sets: weights.sets(),
            cold: weights.is_cold(),
            ..Row::default()
        }
    }
}

/// Times and reports.
///
/// # Errors
/// Where there is nothing to report.
pub fn run(args: &BenchArgs) -> Result<Exit, Failure> {
    if let Device::Cuda(_) = args.device {
        return Err(Failure::NoGpu);
    }
    let container = args.file.as_deref().map(open).transpose()?;
    let jobs = match (&container, args.preset) {
        (Some((path, container)), _) => layers(path, container, &args.encodings)?,
        (None, Some(Preset::Paper)) => {
            random(&paper::SHAPES, &args.encodings, &paper::ENCODINGS, &paper::OPERATIONS)?
        }
        (None, None) if args.shapes.is_empty() => {
            random(&[Shape { rows: 4096, in_features: 4096 }], &args.encodings, &Family::ALL, &OPERATIONS)?
        }
        (None, None) => random(&args.shapes, &args.encodings, &Family::ALL, &OPERATIONS)?,
    };
    let pool = ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Failure::runtime(format!("starting threads: {error}")))?;
    let report = pool.install(|| measure(args, &jobs))?;
    to_stdout(|out| {
        if args.json {
            serde_json::to_writer(&mut *out, &report)?;
            std::io::Write::write_all(out, b"\n")
        } else {
            report.write(out, stdout_width())
        }
    })?;
    Ok(Exit::Ok)
}

fn open(path: &Path) -> Result<(&Path, Container<'static>), Failure> {
    failure::open(path)?;
    let container = Container::open(path).map_err(|error| Failure::container(path, &error))?;
    Ok((path, container))
}

/// One job for each encoding and shape that layers of the file have.
fn layers<'a>(
    path: &Path,
    container: &'a Container<'_>,
    encodings: &[Family],
) -> Result<Vec<Job<'a>>, Failure> {
    let mut jobs = BTreeMap::<_, Job<'a>>::new();
    for tensor in container.tensors() {
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
        let job = jobs.entry(key).or_insert_with(|| Job {
            layer: Some((matrix, name.into(), 0)),
            code,
            shape,
            operations: &OPERATIONS,
        });
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
fn random(
    shapes: &[Shape],
    asked: &[Family],
    usual: &[Family],
    operations: &'static [Operation],
) -> Result<Vec<Job<'static>>, Failure> {
    let families = if asked.is_empty() { usual } else { asked };
    let mut jobs = Vec::new();
    for &shape in shapes {
        for family in families {
            let code = family.default_code();
            let code = code.map_err(|error| Failure::runtime(format!("{}: {error}", family.name())))?;
            jobs.push(Job { layer: None, code, shape, operations });
        }
    }
    Ok(jobs)
}

/// Times all jobs in this pool, one after another.
fn measure(args: &BenchArgs, jobs: &[Job<'_>]) -> Result<Report, Failure> {
    let progress = if args.json { Progress::hidden() } else { Progress::new(work(jobs)) };
    let machine = Machine::find();
    let budget = Duration::from_secs_f64(args.seconds);
    progress.work_on("copy");
    let copy = copy_bandwidth(machine.cache, budget)?;
    let mut rows = Vec::new();
    for job in jobs {
        let weights = job.weights(machine.cache)?;
        let mut workspace = Workspace::default();
        for &operation in job.operations {
            progress.work_on(&format!("{} {} {}", job.code, job.shape, operation.name()));
            workspace.prepare(operation, job.shape);
            let timing = time(budget, |run| workspace.run(operation, &weights.set(run)))?;
            let mut row = job.row(&weights, operation);
            row.fill(&timing, copy, operation.written_bytes(job.shape));
            if args.preset == Some(Preset::Paper) {
                row.paper = paper::figures(job.shape, operation);
            }
            rows.push(row);
            progress.advance(weights.stored_bytes());
        }
    }
    progress.finish();
    Ok(Report::new(machine, args.seconds, copy, rows))
}

/// Bytes of weights to be timed.
fn work(jobs: &[Job<'_>]) -> u64 {
    let bytes = |job: &Job<'_>| {
        let sizes = job.code.plane_sizes(job.shape.rows as u64, job.shape.in_features as u64);
        let bytes = sizes.ok().and_then(|sizes| sizes.total()).unwrap_or(0);
        bytes.saturating_mul(job.operations.len() as u64)
    };
    jobs.iter().map(bytes).fold(0, u64::saturating_add)
}
