//! The way back: a container to a safetensors file, quantized tensors decoded and rounded.
//!
//! The whole payload is verified before anything is written, so that a damaged container leaves no trace. The
//! header is written first: every tensor's length follows from its shape and dtype. Quantized tensors then go by
//! blocks of rows, so memory stays small however large they are.

pub mod fastdeploy;
mod turned;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use ccq::format::{Dtype, Value};
use ccq::{Container, Set, Tensor};
use ccq_cli::Progress;
use rayon::prelude::*;
use serde::Serialize;

use crate::args::Common;
use crate::error::{Error, Position};
use crate::job::file_len;
use crate::output::{self, Interruptible, check_input, check_interrupt};
use crate::part;
use crate::report::{Report, Row};
use crate::rounding::Target;

/// Weights that are decoded before they are written.
const BLOCK: usize = 1 << 22;
/// What the keys of a safetensors file's `__metadata__` begin with in a container.
const METADATA: &str = "safetensors.";
/// The key of metadata in a safetensors header, among the names of tensors.
const HEADER_METADATA: &str = "__metadata__";

/// Converts a container to a safetensors file; `dtype` is that of quantized tensors.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then.
pub fn export(common: &Common, dtype: Option<Dtype>) -> Result<Report, Error> {
    let start = Instant::now();
    check_input(&common.input)?;
    let set = open(common)?;
    if set.tensor(HEADER_METADATA).is_some() {
        return Err(Error::ReservedName { file: common.input.clone(), tensor: HEADER_METADATA });
    }
    let inputs: Vec<_> = set.files().map(|(path, _)| path.to_path_buf()).collect();
    let output = output::create(common, &inputs)?;
    let tensors = plan(&set, dtype, &transposed(&set));
    let bytes_out: u64 = tensors.iter().map(|tensor| tensor.len).sum();
    let mut report = Report::new(common);
    report.left_out = set.blobs().map(|blob| blob.0.into()).collect();
    let no_text = |value: &Value<'_>| !matches!(value, Value::String(_));
    let metadata = set.metadata().into_iter().flat_map(|metadata| metadata.iter());
    let lost = metadata.filter(|(key, value)| key.starts_with(METADATA) && no_text(value));
    report.warnings =
        lost.map(|(key, _)| format!("metadata {key:?} is no text, which safetensors cannot hold")).collect();

    let progress = match common.job.quiet {
        true => Progress::hidden(),
        false => Progress::new(set.file_len().saturating_add(bytes_out)),
    };
    output::show_warnings(&report.warnings, &progress);
    set.files().try_for_each(|(file, container)| verify(file, container, &progress))?;
    let failed = write_failed(common);
    let mut sink = BufWriter::new(Interruptible(output.file()));
    write_header(&mut sink, metadata_texts(&set), tensors.iter().map(Planned::header)).map_err(&failed)?;
    for planned in &tensors {
        check_interrupt()?;
        progress.work_on(planned.tensor.info().name());
        match planned.target {
            _ if planned.turned => {
                turned::write(&mut sink, planned, common, |bytes| progress.advance(bytes))?;
            }
            None => {
                sink.write_all(planned.tensor.raw().unwrap_or_default()).map_err(&failed)?;
                progress.advance(planned.len);
            }
            Some(target) => write_decoded(&mut sink, &planned.tensor, target, common, &progress)?,
        }
    }
    sink.flush().map_err(&failed)?;
    drop(sink);
    report.total.bytes_in = set.file_len();
    report.total.bytes_out = file_len(output.partial_path());
    output::commit(output)?;
    progress.finish();

    let mut rows: Vec<_> = tensors.iter().map(Planned::row).collect();
    rows.sort_by(|a, b| a.name().cmp(b.name()));
    rows.into_iter().for_each(|row| report.add(row, None));
    report.finish(start.elapsed());
    report.total.quantized_bpw = None; // they no longer are
    Ok(report)
}

/// Opens a model, in one file or in several; a part of a job is none.
fn open(common: &Common) -> Result<Set, Error> {
    let set = Set::open(&common.input)?;
    if let Some(Value::String(part)) = set.metadata().and_then(|metadata| metadata.get(part::KEY)) {
        let part = part.split(' ').next().unwrap_or(part).into();
        return Err(Error::IsPart { file: common.input.clone(), part });
    }
    Ok(set)
}

/// The tensors that the source has the other way round.
fn transposed(set: &Set) -> BTreeSet<String> {
    set.metadata().map(ccq_import::transposed).unwrap_or_default()
}

fn write_failed(common: &Common) -> impl Fn(io::Error) -> Error {
    let failed = output::failed(common);
    move |source| failed(source.into())
}

/// The error of a weight, by row and column, that has no place in the target.
fn overflow(
    common: &Common,
    tensor: &Tensor<'_>,
    target: Target,
    (row, column, value): (usize, usize, f32),
) -> Error {
    let info = tensor.info();
    Error::Overflow {
        file: common.input.clone(),
        tensor: info.name().into(),
        position: Position::new(info.shape(), row as u64, column as u64),
        value,
        dtype: target.dtype(),
        advice: target.advice(),
    }
}

/// A tensor of the file to be written.
struct Planned<'a> {
    tensor: Tensor<'a>,
    /// What its weights are rounded to; `None` if it is raw.
    target: Option<Target>,
    dtype: Dtype,
    len: u64,
    /// Whether the source has it the other way round.
    turned: bool,
}

impl Planned<'_> {
    fn header(&self) -> Header<'_> {
        let info = self.tensor.info();
        let shape = if self.turned { turned::stored_shape(info.shape()) } else { info.shape().to_vec() };
        Header { name: info.name(), dtype: self.dtype, shape, len: self.len }
    }

    fn row(&self) -> Row {
        let reason = self.target.map_or("as it was".into(), |_| format!("decoded to {}", self.dtype));
        Row::new(self.tensor.info(), self.dtype, self.len, &reason)
    }
}

/// Tensors in file order: wide elements first, so that all are aligned, then by name.
fn plan<'a>(set: &'a Set, dtype: Option<Dtype>, transposed: &BTreeSet<String>) -> Vec<Planned<'a>> {
    let planned = |tensor: Tensor<'a>| {
        let info = tensor.info();
        let target = tensor
            .matrix()
            .map(|_| dtype.and_then(Target::new).or(Target::new(info.dtype())).unwrap_or(Target::F32));
        let dtype = target.map_or(info.dtype(), Target::dtype);
        let len = match target {
            Some(target) => info.elements().saturating_mul(target.size() as u64),
            None => info.stored_bytes(),
        };
        let turned =
            transposed.contains(info.name()) && info.shape().len() >= 2 && dtype.bits().is_multiple_of(8);
        Planned { tensor, target, dtype, len, turned }
    };
    let mut tensors: Vec<_> = set.tensors().map(planned).collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bits()));
    tensors
}

/// Checks the payload, chunks in parallel.
fn verify(file: &Path, container: &Container<'_>, progress: &Progress) -> Result<(), Error> {
    let invalid = |source| Error::Container { file: file.into(), source };
    progress.work_on("checksums");
    let chunks: Vec<_> = container.chunks().collect();
    let read: u64 = chunks.iter().map(|chunk| chunk.bytes.len() as u64).sum();
    chunks.par_iter().try_for_each(|chunk| {
        check_interrupt()?;
        chunk.verify().map_err(invalid)?;
        progress.advance(chunk.bytes.len() as u64);
        Ok::<_, Error>(())
    })?;
    container.verify_values().map_err(invalid)?;
    progress.advance(container.index().file_len().saturating_sub(read));
    Ok(())
}

/// What a safetensors header says of a tensor.
struct Header<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: Vec<u64>,
    len: u64,
}

/// A tensor's entry in the header.
#[derive(Serialize)]
struct Entry {
    dtype: &'static str,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The texts that a model has from a safetensors file's metadata.
fn metadata_texts(set: &Set) -> BTreeMap<&str, &str> {
    fn text<'a>((key, value): (&'a str, Value<'a>)) -> Option<(&'a str, &'a str)> {
        match value {
            Value::String(text) => Some((key.strip_prefix(METADATA)?, text)),
            _ => None,
        }
    }
    set.metadata().into_iter().flat_map(|metadata| metadata.iter()).filter_map(text).collect()
}

/// Writes the header's length and the header, padded with spaces to a multiple of eight bytes.
fn write_header<'a>(
    sink: &mut impl Write,
    metadata: BTreeMap<&str, &str>,
    tensors: impl Iterator<Item = Header<'a>>,
) -> io::Result<()> {
    let mut position = 0u64;
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert(HEADER_METADATA.into(), serde_json::to_value(metadata)?);
    }
    for Header { name, dtype, shape, len } in tensors {
        let end = position.saturating_add(len);
        let entry = Entry { dtype: dtype.name(), shape, data_offsets: [position, end] };
        header.insert(name.into(), serde_json::to_value(entry)?);
        position = end;
    }
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(8), b' ');
    sink.write_all(&(text.len() as u64).to_le_bytes())?;
    sink.write_all(&text)
}

/// Decodes a quantized tensor block by block.
fn write_decoded(
    sink: &mut impl Write,
    tensor: &Tensor<'_>,
    target: Target,
    common: &Common,
    progress: &Progress,
) -> Result<(), Error> {
    let Some(matrix) = tensor.matrix() else { return Ok(()) };
    let (rows, in_features) = (matrix.rows(), matrix.in_features().max(1));
    let row_bytes = in_features.saturating_mul(target.size());
    let block_rows = BLOCK.checked_div(in_features).unwrap_or(1).clamp(1, rows.max(1));
    let mut block = vec![0u8; block_rows.saturating_mul(row_bytes)];
    for first in (0..rows).step_by(block_rows) {
        check_interrupt()?;
        let count = rows.saturating_sub(first).min(block_rows);
        block.truncate(count.saturating_mul(row_bytes));
        let failed = block.par_chunks_exact_mut(row_bytes).enumerate().map_init(
            || vec![0f32; in_features],
            |values, (row, out)| {
                let row = first.saturating_add(row);
                // The row is the matrix's and `values` has its length.
                let _ = matrix.decode_rows_into(row..row.saturating_add(1), values);
                let column = target.round(values, out).err()?;
                Some((row, column, values.get(column).copied()?))
            },
        );
        if let Some(weight) = failed.find_first(Option::is_some).flatten() {
            return Err(overflow(common, tensor, target, weight));
        }
        sink.write_all(&block).map_err(write_failed(common))?;
        progress.advance(block.len() as u64);
    }
    Ok(())
}
