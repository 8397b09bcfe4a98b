//! The job: quantizes and writes what the plan says, one tensor at a time in the order of the file.

use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::time::Instant;

use ccq::Output;
use ccq::format::{TensorInfo, Writer};
use ccq_cli::{Progress, interrupted};
use ccq_import::{Importance, Model, SourceTensor, Vectors};
use ccq_quantize::QuantizedMatrix;
use rayon::prelude::*;

use crate::args::{Common, Conversion};
use crate::error::{Error, Position};
use crate::output::{self, Interruptible};
use crate::plan::{Plan, Planned, Prepared, prepare};
use crate::policy::{Action, Decision};
use crate::report::{Report, Row, TensorError};
use crate::search::{Search, Shape, vectors};
use crate::source;

/// Converts a source model to a container.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then.
pub fn convert(common: &Common, conversion: &Conversion) -> Result<Report, Error> {
    let start = Instant::now();
    output::check_input(&common.input)?;
    let model = source::open(common)?;
    let output = output::create(common, model.input_files())?;
    let Prepared { plan, importance, outcome, warnings } = prepare(&model, conversion, common)?;
    let mut report = Report::new(common);
    report.total.bytes_in = model.input_files().iter().map(|file| file_len(file)).sum();
    report.total.bytes_out = plan.layout.index().file_len();
    report.blobs = plan.blobs.iter().map(|blob| blob.name.clone()).collect();
    report.left_out = model.ignored_files().iter().filter_map(|file| file_name(file)).collect();
    (report.target, report.warnings) = (outcome, warnings);
    if importance.is_some() {
        report.expect_importance();
    }

    let source_bytes = plan.tensors.iter().map(|tensor| tensor.source.byte_len()).sum();
    let progress = Progress::new(source_bytes);
    output::show_warnings(&report.warnings, &progress);
    write(common, &model, &plan, importance.as_ref(), &output, &progress, &mut report)?;
    output::commit(output)?;
    progress.finish();
    report.finish(start.elapsed());
    Ok(report)
}

/// Writes everything but the output's name.
fn write(
    common: &Common,
    model: &Model,
    plan: &Plan<'_>,
    importance: Option<&Importance>,
    output: &Output,
    progress: &Progress,
    report: &mut Report,
) -> Result<(), Error> {
    let failed = output::failed(common);
    let sink = BufWriter::new(Interruptible(output.file()));
    let writer = Writer::new(sink, plan.layout.clone()).map_err(&failed)?;
    let mut job = Job { common, model, importance, progress, writer, weights: Vec::new() };
    for (planned, info) in plan.tensors.iter().zip(plan.layout.index().tensors()) {
        let error = job.write_tensor(planned.source, &planned.decision)?;
        report.add(Row::new(&info, info.dtype(), info.stored_bytes(), &planned.decision.reason), error);
    }
    for blob in plan.blobs {
        progress.work_on(&blob.name);
        job.writer.write(&blob.name, &[&blob.read()?]).map_err(&failed)?;
    }
    job.writer.finish().map_err(&failed)?;
    Ok(())
}

/// What is needed from tensor to tensor.
struct Job<'a, W> {
    common: &'a Common,
    model: &'a Model,
    importance: Option<&'a Importance>,
    progress: &'a Progress,
    writer: Writer<W>,
    weights: Vec<f32>,
}

impl<W: Write + Seek> Job<'_, W> {
    fn write_tensor(
        &mut self,
        source: &SourceTensor,
        decision: &Decision,
    ) -> Result<Option<TensorError>, Error> {
        output::check_interrupt()?;
        self.progress.work_on(&source.name);
        let failed = output::failed(self.common);
        match &decision.action {
            Action::Copy(_) => {
                let rows = self.model.planes(source, source::rows(source))?;
                self.writer.write(&source.name, &source::in_file_order(&rows.planes())).map_err(failed)?;
                self.progress.advance(source.byte_len());
                Ok(None)
            }
            Action::Quantize(search) => {
                let vectors = match self.importance {
                    Some(importance) => vectors(importance, source)?,
                    None => None,
                };
                let matrix = self.quantize(source, search, vectors.as_ref())?;
                let planes = source::in_file_order(&matrix.planes());
                self.writer.write(&source.name, &planes).map_err(failed)?;
                let shape = Shape::of(source);
                let energy = |vectors| energy(&self.weights, &shape, vectors);
                let weighted = vectors.as_ref().map(|v| (matrix.weighted_squared_error, energy(Some(v))));
                Ok(Some(TensorError { squared_error: matrix.squared_error, energy: energy(None), weighted }))
            }
            Action::Raw => {
                let bytes = self.model.elements(source, 0..source.element_count())?;
                self.writer.write(&source.name, &[&bytes]).map_err(failed)?;
                self.progress.advance(bytes.len() as u64);
                Ok(None)
            }
        }
    }

    fn quantize(
        &mut self,
        source: &SourceTensor,
        search: &Search,
        vectors: Option<&Vectors>,
    ) -> Result<QuantizedMatrix, Error> {
        let shape = Shape::of(source);
        let row_bytes = shape.in_features as u64 * source.dtype.bits() / 8;
        self.model.decode_f32(source, 0..source.element_count(), &mut self.weights)?;
        let progress = |rows: usize| {
            self.progress.advance(rows as u64 * row_bytes);
            !interrupted()
        };
        let refused = |error| {
            let (file, tensor) = (self.model.file(source).to_path_buf(), source.name.clone());
            match error {
                ccq_quantize::Error::Cancelled => Error::Interrupted,
                ccq_quantize::Error::NonFinite { row, column, value } => {
                    let position = Position::new(&source.shape, row, column);
                    Error::NonFinite { file, tensor, position, value }
                }
                source => Error::Quantize { file, tensor, source },
            }
        };
        search.quantize(&self.weights, &shape, vectors, &progress).map_err(refused)
    }
}

/// The sum of squares, each times its input feature's importance if there is one; the same for any number of
/// threads.
fn energy(weights: &[f32], shape: &Shape, vectors: Option<&Vectors>) -> f64 {
    let row = |(index, row): (usize, &[f32])| -> f64 {
        let squares = row.iter().map(|&weight| f64::from(weight) * f64::from(weight));
        match vectors {
            None => squares.sum(),
            Some(vectors) => {
                let importance = vectors.of(index / shape.rows.max(1));
                squares.zip(importance).map(|(square, &weight)| square * f64::from(weight)).sum()
            }
        }
    };
    let rows = weights.par_chunks(shape.in_features.max(1)).enumerate();
    rows.map(row).collect::<Vec<_>>().iter().sum()
}

/// Bytes of memory that the job needs, at most: a tensor's weights and planes, and the front of the file.
pub fn memory_needed(plan: &Plan<'_>) -> u64 {
    let of = |(planned, info): (&Planned<'_>, TensorInfo<'_>)| match planned.decision.action {
        Action::Raw => 0,
        Action::Copy(_) => info.stored_bytes(),
        Action::Quantize(_) => {
            planned.source.element_count().saturating_mul(4).saturating_add(info.stored_bytes())
        }
    };
    let index = plan.layout.index();
    let payload = index.sections().last().map_or(0, |section| section.offset);
    plan.tensors.iter().zip(index.tensors()).map(of).max().unwrap_or(0).saturating_add(payload)
}

/// A file's length, 0 where it has vanished: it only informs.
pub fn file_len(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}
