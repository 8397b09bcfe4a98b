//! Sums on a GPU, as long as there is one that serves.
//!
//! The kernels sum in f64, rows in their order, as the CPU does, but within a row in another order: sums differ in
//! the last bits. What a kernel cannot tell, such as which element of the source is the first that is not finite,
//! the CPU finds out.

use std::borrow::Cow;
use std::ops::Range;

use ccq::codec::{Matrix, Planes};
use ccq::format::Dtype;
use ccq_cli::{Progress, interrupted, printable};
use ccq_cuda::{Device, Element, Error};
use ccq_import::SourceTensor;
use ccq_quantize::ErrorStats;

use super::{Source, Speed};
use crate::device::Choice;
use crate::failure::Failure;

/// Bytes of a source that are looked up at a time, unless a single row has more.
const PIECE: usize = 256 << 20;

/// The GPU that compares, until it fails.
pub struct Gpu {
    device: Option<Device>,
    choice: Choice,
    quiet: bool,
}

impl Gpu {
    /// The one chosen, if there is one.
    ///
    /// # Errors
    /// As [`Choice::open`].
    pub fn open(choice: Choice, quiet: bool) -> Result<Self, Failure> {
        Ok(Self { device: choice.open(quiet)?, choice, quiet })
    }

    /// What it is.
    pub fn device(&self) -> Option<&Device> {
        self.device.as_ref()
    }

    /// The sums over a tensor, and how fast it was decoded; `None` where the CPU has to find them. A GPU that fails is
    /// given up if it was found and not asked for.
    ///
    /// # Errors
    /// `Interrupted`, those of reading the source, and those of a GPU that was asked for.
    pub fn sum(
        &mut self,
        matrix: &Matrix<'_>,
        source: &Source<'_>,
        progress: &Progress,
    ) -> Result<Option<(ErrorStats, Speed)>, Failure> {
        let (Some(device), Some(element)) = (&self.device, element(source.tensor)) else {
            return Ok(None);
        };
        if matrix.rows() == 0 || matrix.in_features() == 0 {
            return Ok(None);
        }
        match sum(device, matrix, element, source) {
            Ok((stats, seconds)) if stats.energy.is_finite() => {
                progress.advance(source.tensor.byte_len());
                Ok(Some((stats, Speed::of(stats.weights, stored_bytes(matrix), seconds))))
            }
            // A source that is not finite, or a matrix beyond the kernels' indices.
            Ok(_) | Err(Stop::Gpu(Error::TooLarge { .. })) => Ok(None),
            Err(Stop::Gpu(error)) if self.choice == Choice::Auto => {
                if !self.quiet {
                    let name = printable(&source.tensor.name);
                    progress.line(&format!("note: on the CPU from tensor `{name}` on: {error}"));
                }
                self.device = None;
                Ok(None)
            }
            Err(Stop::Gpu(error)) => Err(self.choice.failed(&error)),
            Err(Stop::Tool(failure)) => Err(failure),
        }
    }
}

/// Why there are no sums.
enum Stop {
    Gpu(Error),
    Tool(Failure),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Gpu(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Tool(failure)
    }
}

/// The element type that the source goes to the device as; values that its dtype would round go as f32.
fn element(tensor: &SourceTensor) -> Option<Element> {
    match tensor.dtype {
        Dtype::F16 | Dtype::Bf16 if !tensor.is_exact() => Some(Element::F32),
        Dtype::F32 => Some(Element::F32),
        Dtype::F16 => Some(Element::F16),
        Dtype::Bf16 => Some(Element::Bf16),
        _ => None,
    }
}

/// The sums over a tensor piece by piece, and the seconds that the kernels took that only decode it.
fn sum(
    device: &Device,
    matrix: &Matrix<'_>,
    element: Element,
    source: &Source<'_>,
) -> Result<(ErrorStats, f64), Stop> {
    let (rows, width) = (matrix.rows(), matrix.in_features());
    let per_piece = PIECE.checked_div(width.saturating_mul(element.bytes())).unwrap_or(rows).max(1);
    let mut total = ErrorStats::default();
    let mut seconds = 0.0;
    for start in (0..rows).step_by(per_piece) {
        if interrupted() {
            return Err(Failure::Interrupted.into());
        }
        let piece = start..rows.min(start.saturating_add(per_piece));
        let first = |row: usize| (row as u64).saturating_mul(width as u64);
        let weights = weights(source, first(piece.start)..first(piece.end))?;
        let source = ccq_cuda::Source { element, bytes: &weights };
        let found = device.squared_error(&some_rows(matrix, piece)?, source)?;
        total.merge(&ErrorStats {
            weights: found.weights,
            squared_error: found.sums.squared_error,
            energy: found.sums.energy,
            decoded_energy: found.sums.decoded_energy,
            dot: found.sums.dot,
            max_abs_error: found.sums.max_abs_error,
        });
        seconds += found.decode_milliseconds / 1e3;
    }
    Ok((total, seconds))
}

/// The source's elements as [`element`] says.
fn weights<'a>(source: &Source<'a>, elements: Range<u64>) -> Result<Cow<'a, [u8]>, Failure> {
    if source.tensor.is_exact() {
        return source.elements(elements);
    }
    let mut values = Vec::new();
    source.decode(elements, &mut values)?;
    Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>().into())
}

/// Some rows of a matrix, as a matrix.
fn some_rows<'a>(matrix: &Matrix<'a>, rows: Range<usize>) -> Result<Matrix<'a>, Error> {
    let part = |plane: &'a [u8]| {
        let width = plane.len().checked_div(matrix.rows()).unwrap_or(0);
        let first = |row: usize| row.saturating_mul(width);
        plane.get(first(rows.start)..first(rows.end)).unwrap_or_default()
    };
    let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
    let planes = Planes {
        code: part(code),
        local_scale: part(local_scale),
        super_scale: part(super_scale),
        cluster: part(cluster),
    };
    Ok(Matrix::new(*matrix.code(), rows.len(), matrix.in_features(), planes)?)
}

/// Bytes of all planes.
pub fn stored_bytes(matrix: &Matrix<'_>) -> u64 {
    let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
    [code, local_scale, super_scale, cluster].iter().map(|plane| plane.len() as u64).sum()
}
