//! A container to a model folder that FastDeploy's WINT2 backend reads.
//!
//! Experts' layers in `ccq-2.06` (WINT2) and `ccq-2.5` (WINT2.5), groups of 64, become FastDeploy's tensors: the same
//! codes, scales and parameters, rows turned into columns. All other tensors are raw and stay what they are, and the
//! container's blobs, config.json with its `quantization_config` among them, are files again. Nothing is rounded:
//! what FastDeploy cannot hold exactly is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use ccq::code::{Cluster, Code, Family};
use ccq::codec::{ClusterParams, Matrix};
use ccq::format::Dtype;
use ccq::{OutputError, Set, Tensor};
use ccq_cli::Progress;
use ccq_import::columns_to_rows;

use super::{Header, metadata_texts, open, transposed, verify, write_failed, write_header};
use crate::args::Common;
use crate::error::Error;
use crate::job::file_len;
use crate::output::{self, Interruptible, check_input, check_interrupt};
use crate::report::{Report, Row};
use crate::rounding::Target;

/// Bytes turned at a time.
const BLOCK: usize = 1 << 24;
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// Weights of a group.
const GROUP: usize = 64;

/// Why a tensor cannot be stored as FastDeploy does.
#[derive(Clone, Debug, PartialEq)]
pub enum Unfit {
    /// It is no expert's layer.
    Name,
    /// It has another code, or groups of another size.
    Code(Code),
    /// It is no matrix of whole groups.
    Shape(Vec<u64>),
    /// Two f32 cannot stand for a row's cluster parameters.
    Cluster(usize),
    /// Its source has it the other way round.
    Transposed,
    /// A tensor that it is stored as has the name of another.
    Taken(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "it is called neither ….experts.N.up_gate_proj.weight nor ….experts.N.down_proj.weight; keep it raw",
            ),
            Self::Code(code) => write!(
                f,
                "it is {code}; convert it to ccq-2.06 or ccq-2.5 with groups of 64, or keep it raw"
            ),
            Self::Shape(shape) => {
                write!(f, "it has shape {shape:?}, expected a matrix with a multiple of {GROUP} columns; keep it raw")
            }
            Self::Cluster(row) => write!(
                f,
                "the codes of row {row} are not the same with cluster parameters in f32; convert it with --method paper"
            ),
            Self::Transposed => f.write_str("its source has it the other way round, which FastDeploy never does"),
            Self::Taken(name) => write!(f, "there is a tensor {name:?} already; rename that one"),
        }
    }
}

/// Converts a container to a model folder.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then.
pub fn export(common: &Common) -> Result<Report, Error> {
    let start = Instant::now();
    check_input(&common.input)?;
    let set = open(common)?;
    let transposed = transposed(&set);
    for tensor in set.tensors() {
        check(&tensor, &transposed).map_err(|why| unfit(common, &tensor, why))?;
    }
    let folder = Folder::create(&common.output)?;
    let mut report = Report::new(common);
    report.warnings.extend(no_config(&set));
    let progress = match common.job.quiet {
        true => Progress::hidden(),
        false => Progress::new(set.file_len().saturating_mul(2)),
    };
    output::show_warnings(&report.warnings, &progress);
    set.files().try_for_each(|(file, container)| verify(file, container, &progress))?;

    let parts = plan(&set, common)?;
    let failed = write_failed(common);
    let file = File::create_new(folder.partial.join(WEIGHTS)).map_err(&failed)?;
    let mut sink = BufWriter::new(Interruptible(&file));
    let headers = parts.iter().map(|part| Header {
        name: &part.name,
        dtype: part.dtype,
        shape: part.shape.clone(),
        len: part.len(),
    });
    write_header(&mut sink, metadata_texts(&set), headers).map_err(&failed)?;
    for part in &parts {
        check_interrupt()?;
        progress.work_on(&part.name);
        part.write(&mut sink).map_err(&failed)?;
        progress.advance(part.len());
    }
    sink.flush().map_err(&failed)?;
    drop(sink);
    file.sync_all().map_err(&failed)?;
    for (name, bytes) in set.blobs() {
        if !is_file_name(name) || name == WEIGHTS {
            report.left_out.push(name.into());
            continue;
        }
        let mut file = File::create_new(folder.partial.join(name)).map_err(&failed)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(&failed)?;
        report.blobs.push(name.into());
    }
    report.total.bytes_in = set.file_len();
    report.total.bytes_out = file_len(&folder.partial.join(WEIGHTS));
    check_interrupt()?;
    folder.commit()?;
    progress.finish();
    for tensor in set.tensors() {
        let info = tensor.info();
        let reason = match tensor.matrix().map(|matrix| matrix.code().cluster()) {
            None => "as it was",
            Some(None) => "WINT2.5",
            Some(Some(_)) => "WINT2",
        };
        report.add(Row::new(info, info.dtype(), info.stored_bytes(), &reason), None);
    }
    report.finish(start.elapsed());
    Ok(report)
}

fn unfit(common: &Common, tensor: &Tensor<'_>, why: Unfit) -> Error {
    Error::Unfit { file: common.input.clone(), tensor: tensor.info().name().into(), why }
}

/// Without a word in config.json, FastDeploy takes the weights for something else.
fn no_config(set: &Set) -> Option<String> {
    let config = set.blob(CONFIG).and_then(|text| serde_json::from_slice::<serde_json::Value>(text).ok());
    match config.is_some_and(|config| config.get("quantization_config").is_some()) {
        true => None,
        false => Some(format!(
            "{CONFIG} has no quantization_config; FastDeploy needs one that names the layers in wint2"
        )),
    }
}

/// Whether FastDeploy has a place for the tensor, going by the index alone.
fn check(tensor: &Tensor<'_>, transposed: &BTreeSet<String>) -> Result<(), Unfit> {
    if transposed.contains(tensor.info().name()) {
        return Err(Unfit::Transposed);
    }
    let Some(matrix) = tensor.matrix() else { return Ok(()) };
    let (info, code) = (tensor.info(), matrix.code());
    if !base(info.name()).is_some_and(ccq_import::is_fastdeploy_layer) {
        return Err(Unfit::Name);
    }
    let is_known = matches!(code.family(), Some(Family::Ccq206 | Family::Ccq25));
    if !is_known || code.group_size() != Some(GROUP) {
        return Err(Unfit::Code(*code));
    }
    match info.shape() {
        [_, _] if matrix.in_features().is_multiple_of(GROUP) => Ok(()),
        shape => Err(Unfit::Shape(shape.to_vec())),
    }
}

fn base(name: &str) -> Option<&str> {
    name.strip_suffix(".weight")
}

/// A tensor of the file to be written.
struct Part<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    content: Content<'a>,
}

enum Content<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    /// Super scales that the part's dtype holds.
    SuperScales(&'a [u8]),
    /// Cluster parameters: the scale or the zero point of each pair.
    Cluster { kind: Cluster, pairs: &'a [u8], zero_points: bool },
    /// Rows of so many bytes, of which the first `columns` elements of `size` bytes are to be turned.
    Turned { rows: &'a [u8], row_bytes: usize, columns: usize, size: usize },
}

impl Part<'_> {
    fn len(&self) -> u64 {
        self.dtype.tensor_bytes(&self.shape).unwrap_or(0)
    }

    fn write(&self, sink: &mut impl Write) -> std::io::Result<()> {
        match &self.content {
            Content::Raw(bytes) => sink.write_all(bytes),
            Content::SuperScales(plane) => sink.write_all(&narrow(self.dtype, plane).unwrap_or_default()),
            &Content::Cluster { kind, pairs, zero_points } => {
                let floats = pairs.chunks_exact(ClusterParams::stored_bytes(kind)).filter_map(|pair| {
                    let (scale, zp) = floats(ClusterParams::read(kind, pair)?);
                    Some(if zero_points { zp } else { scale })
                });
                sink.write_all(&floats.flat_map(f32::to_le_bytes).collect::<Vec<_>>())
            }
            &Content::Turned { rows, row_bytes, columns, size } => {
                let count = rows.len().checked_div(row_bytes).unwrap_or(0);
                let stride = count.saturating_mul(size);
                let at_once = BLOCK.checked_div(stride).unwrap_or(1).clamp(1, columns.max(1));
                let width = row_bytes.checked_div(size).unwrap_or(0);
                let mut block = vec![0; at_once.saturating_mul(stride)];
                for first in (0..columns).step_by(at_once) {
                    let columns = first..columns.min(first.saturating_add(at_once));
                    block.truncate(columns.len().saturating_mul(stride));
                    columns_to_rows(rows, width, size, columns, &mut block, stride);
                    sink.write_all(&block)?;
                }
                Ok(())
            }
        }
    }
}

/// Every tensor to be written: wide elements first, so that all are aligned, then by name.
fn plan<'a>(set: &'a Set, common: &Common) -> Result<Vec<Part<'a>>, Error> {
    let mut parts = Vec::new();
    for tensor in set.tensors() {
        let info = tensor.info();
        match (tensor.matrix(), base(info.name())) {
            (Some(matrix), Some(base)) => {
                let layer = layer(&tensor, &matrix, base).map_err(|why| unfit(common, &tensor, why))?;
                let taken = layer.iter().find(|part| set.tensor(&part.name).is_some());
                if let Some(part) = taken {
                    return Err(unfit(common, &tensor, Unfit::Taken(part.name.clone())));
                }
                parts.extend(layer);
            }
            _ => parts.push(Part {
                name: info.name().into(),
                dtype: info.dtype(),
                shape: info.shape().to_vec(),
                content: Content::Raw(tensor.raw().unwrap_or_default()),
            }),
        }
    }
    parts.sort_by(|a, b| b.dtype.bits().cmp(&a.dtype.bits()).then_with(|| a.name.cmp(&b.name)));
    Ok(parts)
}

/// FastDeploy's tensors of one layer.
fn layer<'a>(tensor: &Tensor<'a>, matrix: &Matrix<'a>, base: &str) -> Result<Vec<Part<'a>>, Unfit> {
    let code = matrix.code();
    let planes = matrix.planes();
    let (rows, groups) = (matrix.rows(), code.groups(matrix.in_features()));
    let words = groups.saturating_mul(code.words_per_group(matrix.in_features()));
    let part = |end: &str, dtype, down: Option<usize>, content| Part {
        name: format!("{base}.{end}"),
        dtype,
        shape: down.into_iter().chain([rows]).map(|dimension| dimension as u64).collect(),
        content,
    };
    let turned =
        |rows: &'a [u8], row_bytes, columns, size| Content::Turned { rows, row_bytes, columns, size };
    let size = code.word_bytes();
    let codes = turned(planes.code, matrix.row_stride(), words, size);
    // In their source's dtype where that holds every one of them.
    let exact = narrow(tensor.info().dtype(), planes.super_scale).map(|_| tensor.info().dtype());
    let mut parts = vec![
        part("quant_weight", if size == 1 { Dtype::U8 } else { Dtype::U16 }, Some(words), codes),
        part("super_scales", exact.unwrap_or(Dtype::F32), None, Content::SuperScales(planes.super_scale)),
    ];
    if let Some(kind) = code.cluster() {
        let bytes = groups.div_ceil(2);
        let scales = turned(planes.local_scale, bytes, bytes, 1);
        parts.push(part("weight_scale", Dtype::U8, Some(bytes), scales));
        check_cluster(kind, planes.cluster)?;
        for (end, zero_points) in [("code_scale", false), ("code_zp", true)] {
            let content = Content::Cluster { kind, pairs: planes.cluster, zero_points };
            parts.push(part(end, Dtype::F32, None, content));
        }
    }
    Ok(parts)
}

/// Super scales as bytes of a dtype, if it is a float that holds every one of them exactly.
fn narrow(dtype: Dtype, plane: &[u8]) -> Option<Vec<u8>> {
    let target = Target::new(dtype)?;
    let values: Vec<f32> = plane.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut bytes = vec![0; values.len().saturating_mul(target.size())];
    let mut wide = Vec::new();
    target.round(&values, &mut bytes).ok()?;
    ccq_import::decode_f32(dtype, &bytes, &mut wide).ok()?;
    let same = wide.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
    same.then_some(bytes)
}

/// Integer cluster parameters turn into the floats of the same value. These have to give the same code for each of
/// the 256 bytes, with and without a fused multiply-add: FastDeploy's kernels do the one or the other.
fn check_cluster(kind: Cluster, plane: &[u8]) -> Result<(), Unfit> {
    for (row, pair) in plane.chunks_exact(ClusterParams::stored_bytes(kind)).enumerate() {
        let params = ClusterParams::read(kind, pair).ok_or(Unfit::Cluster(row))?;
        let (scale, zp) = floats(params);
        if kind == Cluster::F32 {
            continue;
        }
        let fused = ClusterParams::F32 { scale, zp };
        let same = |q: u8| {
            #[allow(clippy::cast_possible_truncation)] // a cast that saturates, as the kernels' does
            let unfused = (f32::from(q) * scale + zp + 0.5).floor() as i32;
            let code = params.code(q) & 0x7FFF;
            fused.code(q) & 0x7FFF == code && unfused & 0x7FFF == i32::from(code)
        };
        if !(0..=u8::MAX).all(same) {
            return Err(Unfit::Cluster(row));
        }
    }
    Ok(())
}

/// Cluster parameters as scale and zero point.
fn floats(params: ClusterParams) -> (f32, f32) {
    match params {
        ClusterParams::F32 { scale, zp } => (scale, zp),
        ClusterParams::Q8 { a, zp } => (f32::from(a) / 256.0, f32::from(zp)),
    }
}

/// Whether a blob's name is that of a file in the folder itself.
fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\\', ':']) && name != "." && name != ".."
}

/// A folder that appears whole or not at all.
struct Folder {
    path: PathBuf,
    partial: PathBuf,
    committed: bool,
}

impl Folder {
    /// Creates `PATH.partial`, where nobody else may be at work.
    fn create(path: &Path) -> Result<Self, Error> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::FolderExists { output: path.into() });
        }
        output::check_folder(path)?;
        let mut partial = path.as_os_str().to_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        match fs::create_dir(&partial) {
            Ok(()) => Ok(Self { path: path.into(), partial, committed: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::FolderExists { output: partial })
            }
            Err(source) => Err(Error::Output(OutputError::Io { path: partial, source })),
        }
    }

    /// Gives the folder its name.
    fn commit(mut self) -> Result<(), Error> {
        fs::rename(&self.partial, &self.path)
            .map_err(|source| Error::Output(OutputError::Io { path: self.path.clone(), source }))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing to be done about a failure here; the folder has not the name of a whole one.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}
