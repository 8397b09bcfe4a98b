//! A tensor against its source: the error of its decoded values, on a GPU or, block by block, on the CPU.
//!
//! Blocks are decoded in parallel, and the sums of their rows are merged in row order, so that the figures do
//! not depend on the number of threads. Memory is bounded by a batch of blocks, whatever the tensor's size.

mod gpu;

use std::borrow::Cow;
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::time::{Duration, Instant};

use ccq::Tensor;
use ccq::codec::Matrix;
use ccq::format::Dtype;
use ccq_cli::{Progress, interrupted};
use ccq_import::{Model, SourceTensor, decode_f32, first_non_finite};
use ccq_quantize::ErrorStats;
use rayon::prelude::*;
use serde::Serialize;

use crate::failure::Failure;
pub use gpu::Gpu;

/// Weights of a block, unless a single row has more.
const BLOCK: usize = 1 << 15;
/// Blocks between two looks at Ctrl-C.
const BATCH: usize = 64;
/// Elements that are summed up as a row where a tensor is raw and has no rows of its own.
const RAW_ROW: usize = 1 << 12;
/// Bytes of raw tensors that are compared at a time; a whole number of elements of any dtype.
const PIECE: u64 = 1 << 24;

/// A tensor of the source.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The model it is in.
    pub model: &'a Model,
    /// The tensor.
    pub tensor: &'a SourceTensor,
}

impl<'a> Source<'a> {
    fn elements(&self, elements: Range<u64>) -> Result<Cow<'a, [u8]>, Failure> {
        self.model.elements(self.tensor, elements).map_err(|error| Failure::source(&error))
    }

    fn decode(&self, elements: Range<u64>, out: &mut Vec<f32>) -> Result<(), Failure> {
        self.model.decode_f32(self.tensor, elements, out).map_err(|error| Failure::source(&error))
    }
}

/// How far a tensor is from its source; `None` is undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// `sum (w - w')^2 / sum w^2`.
    pub relative_mse: Option<f64>,
    /// Signal to noise ratio in decibels.
    pub snr_db: Option<f64>,
    /// Largest |w - w'|.
    pub max_abs_error: Option<f64>,
    /// Cosine similarity.
    pub cosine: Option<f64>,
}

impl Figures {
    /// Of bytes that are the same.
    const SAME: Self = Self { relative_mse: Some(0.0), snr_db: None, max_abs_error: Some(0.0), cosine: None };

    fn of(stats: &ErrorStats) -> Self {
        let largest = Some(stats.max_abs_error).filter(|error| error.is_finite() && stats.weights > 0);
        Self {
            relative_mse: stats.relative_mse(),
            snr_db: stats.snr_db(),
            max_abs_error: largest,
            cosine: stats.cosine(),
        }
    }
}

/// How fast weights were decoded from planes in memory to values in memory: by the kernels of a GPU, or by all threads
/// of the CPU, by the clock on the wall. Reading files, copying to a GPU and comparing are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    #[serde(skip)]
    weights: u64,
    #[serde(skip)]
    bytes: u64,
    /// What decoding took.
    pub seconds: f64,
    /// Weights over time.
    pub weights_per_second: f64,
    /// Stored bytes, which decoding reads, over time.
    pub stored_bytes_per_second: f64,
}

impl Speed {
    /// Of so many weights, stored in so many bytes.
    pub fn of(weights: u64, bytes: u64, seconds: f64) -> Self {
        let seconds = seconds.max(1e-9); // a clock that did not advance would make speeds infinite
        let (per_second, stored) = (weights as f64 / seconds, bytes as f64 / seconds);
        Self { weights, bytes, seconds, weights_per_second: per_second, stored_bytes_per_second: stored }
    }

    /// Of one after the other.
    pub fn add(&mut self, next: &Self) {
        let weights = self.weights.saturating_add(next.weights);
        let bytes = self.bytes.saturating_add(next.bytes);
        *self = Self::of(weights, bytes, self.seconds + next.seconds);
    }
}

/// What the comparison of a tensor found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How far the tensor is from its source.
    pub figures: Figures,
    /// How fast it was decoded, and whether by `cpu` or by `cuda`; not of raw tensors.
    pub decode: Option<(Speed, &'static str)>,
    /// The sums behind the figures, to be pooled.
    pub stats: Option<ErrorStats>,
    /// Why figures are missing.
    pub note: Option<String>,
    /// What the file and the source disagree about.
    pub mismatches: Vec<String>,
}

/// Compares a tensor with its source.
///
/// # Errors
/// `Interrupted`, and those of reading the source.
pub fn compare(
    tensor: &Tensor<'_>,
    source: &Source<'_>,
    gpu: &mut Gpu,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let info = tensor.info();
    let SourceTensor { shape, dtype, .. } = source.tensor;
    let mut outcome = Outcome::default();
    if info.dtype() != *dtype {
        let (ours, theirs) = (info.dtype(), dtype);
        outcome.mismatches.push(format!("made from {ours}, but the source has {theirs}"));
    }
    if info.shape() != shape {
        let (ours, theirs) = (info.shape(), shape);
        outcome.mismatches.push(format!("shape {ours:?}, but the source has {theirs:?}"));
        progress.advance(source.tensor.byte_len());
        return Ok(outcome);
    }
    let mut same = false;
    let values = match tensor.matrix() {
        Some(matrix) => Values::Coded(matrix),
        None => Values::Raw(info.dtype(), tensor.raw().unwrap_or_default()),
    };
    if let Values::Raw(stored, bytes) = values
        && stored == *dtype
    {
        let different = first_difference(bytes, source)?;
        same = different.is_none();
        outcome.mismatches.extend(different);
    }
    if !is_float(*dtype) || !values.are_floats() {
        if same {
            outcome.figures = Figures::SAME;
        } else {
            outcome.note = Some(format!("a source of {dtype} has no figures"));
        }
        progress.advance(source.tensor.byte_len());
        return Ok(outcome);
    }
    let on_gpu = values.coded().map(|matrix| gpu.sum(matrix, source, progress)).transpose()?.flatten();
    let sums = match on_gpu {
        Some((stats, speed)) => Sums::Stats(stats, Some((speed, "cuda"))),
        None => sum(&values, source, progress)?,
    };
    match sums {
        Sums::Stats(stats, decode) => {
            outcome.decode = decode;
            outcome.figures = Figures::of(&stats);
            outcome.note = undefined(&stats).map(String::from);
            outcome.stats = Some(stats);
            if same {
                let Figures { relative_mse, max_abs_error, .. } = Figures::SAME;
                outcome.figures = Figures { relative_mse, max_abs_error, ..outcome.figures };
            }
        }
        Sums::NotFinite { at, value } => {
            let at = position(shape, at);
            let same = if same { ", and so has the file" } else { "" };
            outcome.note = Some(format!("the source has {value} at {at}{same}: no figures"));
        }
    }
    Ok(outcome)
}

/// Why the figures of finite weights are not all defined.
fn undefined(stats: &ErrorStats) -> Option<&'static str> {
    if stats.weights == 0 {
        Some("no elements")
    } else if !stats.max_abs_error.is_finite() {
        Some("decodes to values that are not finite")
    } else if stats.energy == 0.0 {
        Some("all zero in the source")
    } else {
        None
    }
}

/// The stored values of a tensor.
enum Values<'a> {
    Coded(Matrix<'a>),
    Raw(Dtype, &'a [u8]),
}

impl<'a> Values<'a> {
    fn coded(&self) -> Option<&Matrix<'a>> {
        match self {
            Self::Coded(matrix) => Some(matrix),
            Self::Raw(..) => None,
        }
    }

    fn are_floats(&self) -> bool {
        match self {
            Self::Coded(_) => true,
            Self::Raw(dtype, _) => is_float(*dtype),
        }
    }

    /// The elements that are summed up as one row.
    fn width(&self) -> NonZeroUsize {
        let width = match self {
            Self::Coded(matrix) => matrix.in_features(),
            Self::Raw(..) => RAW_ROW,
        };
        NonZeroUsize::new(width).unwrap_or(NonZeroUsize::MIN)
    }

    /// Decodes the elements of whole rows from `start` on into `out`, which has the room; the last row may be short.
    fn decode(&self, start: usize, out: &mut Vec<f32>) {
        let end = start.saturating_add(out.len());
        match self {
            Self::Coded(matrix) => {
                let width = self.width();
                // Rows and length are the matrix's own; if ever not, the NaN in `out` show.
                let _ = matrix.decode_rows_into(start / width..end / width, out);
            }
            Self::Raw(dtype, bytes) => decode_elements(*dtype, bytes, start..end, out),
        }
    }
}

/// Sums over a tensor.
enum Sums {
    /// With the speed of decoding, where there was any.
    Stats(ErrorStats, Option<(Speed, &'static str)>),
    /// The source's first NaN or infinity.
    NotFinite { at: u64, value: f32 },
}

/// Sums up the source and the stored values of the same shape, both floats.
fn sum(values: &Values<'_>, source: &Source<'_>, progress: &Progress) -> Result<Sums, Failure> {
    let bytes = |elements: Range<usize>| bytes_of(source.tensor.dtype, elements.len() as u64);
    // Those of the stored values, which memory holds or maps.
    let elements = usize::try_from(source.tensor.element_count()).unwrap_or(usize::MAX);
    let width = values.width();
    let block = width.saturating_mul(NonZeroUsize::new(BLOCK / width).unwrap_or(NonZeroUsize::MIN)).get();
    let mut total = ErrorStats::default();
    let mut time = Duration::ZERO;
    let mut batch = Vec::new();
    let mut start = 0;
    while start < elements {
        if interrupted() {
            return Err(Failure::Interrupted);
        }
        let end = elements.min(start.saturating_add(block.saturating_mul(BATCH)));
        let starts = (start..end).step_by(block);
        batch.resize_with(starts.len(), Block::default);
        let not_finite = batch
            .par_iter_mut()
            .zip(starts.collect::<Vec<_>>())
            .map(|(next, start)| next.read(source, start..end.min(start.saturating_add(block))))
            .collect::<Result<Vec<_>, Failure>>()?;
        progress.advance(bytes(start..end));
        if let Some((at, value)) = not_finite.into_iter().flatten().next() {
            progress.advance(bytes(end..elements));
            return Ok(Sums::NotFinite { at, value });
        }
        let begin = Instant::now();
        batch.par_iter_mut().for_each(|block| values.decode(block.start, &mut block.decoded));
        time = time.saturating_add(begin.elapsed());
        let rows: Vec<_> = batch.par_iter().map(|block| block.sum(width)).collect();
        rows.iter().flatten().for_each(|row| total.merge(row));
        start = end;
    }
    let speed = values.coded().filter(|_| elements > 0).map(|matrix| {
        let speed = Speed::of(elements as u64, gpu::stored_bytes(matrix), time.as_secs_f64());
        (speed, "cpu")
    });
    Ok(Sums::Stats(total, speed))
}

/// Elements of a source that are compared by one thread.
#[derive(Default)]
struct Block {
    start: usize,
    weights: Vec<f32>,
    decoded: Vec<f32>,
}

impl Block {
    /// Reads these elements, and makes room for as many decoded ones; the first one that is not finite, if there is
    /// one.
    fn read(&mut self, source: &Source<'_>, elements: Range<usize>) -> Result<Option<(u64, f32)>, Failure> {
        self.start = elements.start;
        source.decode(elements.start as u64..elements.end as u64, &mut self.weights)?;
        self.decoded.clear();
        self.decoded.resize(self.weights.len(), f32::NAN);
        let at = first_non_finite(&self.weights);
        Ok(at.and_then(|at| Some((elements.start.saturating_add(at) as u64, *self.weights.get(at)?))))
    }

    /// The sums of its rows.
    fn sum(&self, width: NonZeroUsize) -> Vec<ErrorStats> {
        let rows = self.weights.chunks(width.get()).zip(self.decoded.chunks(width.get()));
        rows.map(|(weights, decoded)| ErrorStats::of(weights, decoded)).collect()
    }
}

/// The first element of raw bytes that is not the source's, in words.
fn first_difference(found: &[u8], source: &Source<'_>) -> Result<Option<String>, Failure> {
    let SourceTensor { shape, dtype, .. } = source.tensor;
    let per_piece = elements_of(*dtype, PIECE);
    let elements = source.tensor.element_count();
    let mut start = 0;
    while start < elements {
        let end = elements.min(start.saturating_add(per_piece));
        let theirs = source.elements(start..end)?;
        let first = usize::try_from(bytes_of(*dtype, start)).unwrap_or(usize::MAX);
        let ours = found.get(first..).unwrap_or_default();
        let ours = ours.get(..theirs.len()).unwrap_or(ours);
        if *ours != *theirs {
            let byte = ours.iter().zip(theirs.iter()).position(|(a, b)| a != b).unwrap_or(ours.len());
            let at = position(shape, start.saturating_add(elements_of(*dtype, byte as u64)));
            let (ours, theirs) = (byte_text(ours, byte, *dtype), byte_text(&theirs, byte, *dtype));
            return Ok(Some(format!("raw bytes differ first at {at}: {ours}, but the source has {theirs}")));
        }
        start = end;
    }
    Ok(None)
}

/// The element that the byte belongs to, as a float where it is one, otherwise the byte.
fn byte_text(bytes: &[u8], byte: usize, dtype: Dtype) -> String {
    if is_float(dtype) {
        let element = byte / element_size(dtype);
        let mut value = Vec::new();
        decode_elements(dtype, bytes, element..element.saturating_add(1), &mut value);
        if let [value] = value[..] {
            return value.to_string();
        }
    }
    bytes.get(byte).map_or("nothing".into(), |byte| format!("byte {byte:#04x}"))
}

/// Decodes a range of elements, at any alignment.
fn decode_elements(dtype: Dtype, bytes: &[u8], elements: Range<usize>, out: &mut Vec<f32>) {
    let place = |element: usize| element.saturating_mul(element_size(dtype).get());
    let bytes = bytes.get(place(elements.start)..place(elements.end)).unwrap_or_default();
    // Only whole elements of the three dtypes come here.
    let decoded = decode_f32(dtype, bytes, out);
    debug_assert_eq!(decoded, Ok(()));
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16)
}

/// Bytes of an element of whole bytes.
fn element_size(dtype: Dtype) -> NonZeroUsize {
    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
    if dtype == Dtype::F32 { TWO.saturating_mul(TWO) } else { TWO }
}

/// Bytes of so many elements.
fn bytes_of(dtype: Dtype, elements: u64) -> u64 {
    elements.saturating_mul(dtype.bits()) / 8
}

/// Whole elements in so many bytes.
fn elements_of(dtype: Dtype, bytes: u64) -> u64 {
    bytes.saturating_mul(8).checked_div(dtype.bits()).unwrap_or(0)
}

/// The place of an element: `[3, 17]`.
fn position(shape: &[u64], element: u64) -> String {
    let mut rest = element;
    let mut at: Vec<u64> = Vec::with_capacity(shape.len());
    for &dimension in shape.iter().rev() {
        let dimension = NonZeroU64::new(dimension).unwrap_or(NonZeroU64::MIN);
        at.push(rest % dimension);
        rest /= dimension;
    }
    at.reverse();
    format!("{at:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_row_major() {
        assert_eq!(position(&[2, 3], 4), "[1, 1]");
        assert_eq!(position(&[4], 3), "[3]");
        assert_eq!(position(&[], 0), "[]");
        assert_eq!(position(&[2, 2, 5], 19), "[1, 1, 4]");
    }

    #[test]
    fn differences_are_named_by_element() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut other = bytes.clone();
        other[4 * 2 + 3] ^= 0x80;
        for (dtype, expected) in [
            ("F32", "raw bytes differ first at [1, 0]: -3, but the source has 3"),
            ("I32", "raw bytes differ first at [1, 0]: byte 0xc0, but the source has byte 0x40"),
        ] {
            let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[2,2],"data_offsets":[0,16]}}}}"#);
            let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
            let path = folder.path().join("a.safetensors");
            std::fs::write(&path, file).unwrap();
            let model = Model::open(&path).unwrap();
            let source = Source { model: &model, tensor: &model.tensors()[0] };
            assert_eq!(first_difference(&bytes, &source).unwrap(), None);
            assert_eq!(first_difference(&other, &source).unwrap().unwrap(), expected);
        }
    }
}
