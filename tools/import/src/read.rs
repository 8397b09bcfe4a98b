//! The elements of a model's tensors, range by range: memory is bounded by what is asked for.

use std::borrow::Cow;
use std::ops::Range;

use ccq::codec::Matrix;
use ccq::format::Dtype;

use crate::decode::{self, DecodeError};
use crate::error::Error;
use crate::fastdeploy;
use crate::fp8::{self, Fp8Error, Scaled};
use crate::ggml::Block;
use crate::model::Model;
use crate::tensor::{CodedRows, SourceTensor, Storage};
use crate::transpose::columns_to_rows;

impl Model {
    /// A range of the tensor's elements as [`SourceTensor::dtype`] has them: little-endian, row-major, at any
    /// alignment. Borrowed where the file has them so; where it does not, rounded to nearest even.
    ///
    /// # Errors
    /// [`Error::Elements`] for a range that is not the tensor's, [`Error::Overflow`], [`Error::Fp8`],
    /// [`Error::FastDeploy`].
    pub fn elements(&self, tensor: &SourceTensor, elements: Range<u64>) -> Result<Cow<'_, [u8]>, Error> {
        self.check(tensor, &elements)?;
        match &tensor.storage {
            Storage::Plain(piece) if !tensor.transposed => {
                let bits = tensor.dtype.bits();
                let byte = |element: u64| usize::try_from(element.checked_mul(bits)? / 8).ok();
                let range = byte(elements.start).zip(byte(elements.end));
                let found = range.and_then(|(start, end)| self.bytes(piece).get(start..end));
                found.map(Cow::Borrowed).ok_or_else(|| self.no_elements(tensor, &elements))
            }
            Storage::Plain(piece) => {
                let size = usize::try_from(tensor.dtype.bits() / 8).unwrap_or_default();
                let stored = self.bytes(piece);
                let turned = turned(&tensor.shape, elements, size, |stored_elements, out| {
                    out.extend_from_slice(stored.get(bytes_of(stored_elements, size)).unwrap_or_default());
                    Ok(())
                })?;
                Ok(Cow::Owned(turned))
            }
            Storage::Fp8(_) | Storage::Ggml { .. } | Storage::FastDeploy(_) => {
                let mut values = Vec::new();
                self.decode_f32(tensor, elements.clone(), &mut values)?;
                let rounded = rounded(tensor.dtype, &values);
                rounded.map(Cow::Owned).map_err(|(at, value)| {
                    let element = elements.start.saturating_add(at);
                    let (file, at) = self.place(tensor, element);
                    let (file, tensor, dtype) = (file.into(), tensor.name.clone(), tensor.dtype);
                    Error::Overflow { file, at, tensor, element, value, dtype }
                })
            }
        }
    }

    /// Decodes a range of the tensor's elements into `out`, replacing what it held: their exact values, not
    /// rounded to [`SourceTensor::dtype`].
    ///
    /// # Errors
    /// [`Error::Decode`] for a dtype other than F32, F16 and BF16, [`Error::Elements`], [`Error::Fp8`],
    /// [`Error::FastDeploy`].
    pub fn decode_f32(
        &self,
        tensor: &SourceTensor,
        elements: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.check(tensor, &elements)?;
        out.clear();
        match &tensor.storage {
            Storage::Plain(_) => {
                let bytes = self.elements(tensor, elements)?;
                self.decode(tensor, tensor.dtype, &bytes, out)
            }
            Storage::Fp8(scaled) if tensor.transposed => {
                let (table, mut values) = (fp8::table(scaled.format), Vec::new());
                let bytes = turned(&tensor.shape, elements, size_of::<f32>(), |stored_elements, out| {
                    values.clear();
                    self.decode_fp8(scaled, &table, stored_elements, &mut values)?;
                    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                    Ok(())
                })?;
                self.decode(tensor, Dtype::F32, &bytes, out)
            }
            Storage::Fp8(scaled) => self.decode_fp8(scaled, &fp8::table(scaled.format), elements, out),
            Storage::Ggml { block, blocks } => {
                decode_blocks(*block, self.bytes(blocks), elements, out);
                Ok(())
            }
            Storage::FastDeploy(parts) => self.decode_planes(tensor, parts, elements, out),
        }
    }

    /// Rows of a tensor that the source has as codes ([`SourceTensor::code`]): its planes, exactly as a container
    /// stores them.
    ///
    /// # Errors
    /// [`Error::NotCoded`], [`Error::Elements`] for rows that are not the tensor's, [`Error::FastDeploy`].
    pub fn planes(&self, tensor: &SourceTensor, rows: Range<u64>) -> Result<CodedRows, Error> {
        let (file, name) = (|| self.file(tensor).into(), || tensor.name.clone());
        let Storage::FastDeploy(parts) = &tensor.storage else {
            return Err(Error::NotCoded { file: file(), tensor: name() });
        };
        let elements = |row: u64| row.saturating_mul(parts.in_features);
        self.check(tensor, &(elements(rows.start)..elements(rows.end)))?;
        // The rows are those of a matrix in memory.
        let row = |row| usize::try_from(row).unwrap_or(usize::MAX);
        parts
            .planes(row(rows.start)..row(rows.end), |piece| self.bytes(piece))
            .map_err(|fault| fault.within(&self.files, self.file(tensor)))
    }

    fn decode_planes(
        &self,
        tensor: &SourceTensor,
        parts: &fastdeploy::Parts,
        elements: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let width = parts.in_features;
        let rows = covering(&elements, width);
        let first = rows.start;
        let coded = self.planes(tensor, rows.clone())?;
        let count = |rows: u64| usize::try_from(rows).unwrap_or_default();
        let (rows, in_features) = (count(rows.end.saturating_sub(first)), count(parts.in_features));
        out.resize(rows.saturating_mul(in_features), 0.0);
        // The planes were made for these dimensions.
        if let Ok(matrix) = Matrix::new(coded.code, rows, in_features, coded.planes()) {
            let _ = matrix.decode_rows_into(0..rows, out);
        }
        cut(out, elements, first.saturating_mul(width));
        Ok(())
    }

    /// Appends FP8 weights times their scales.
    fn decode_fp8(
        &self,
        scaled: &Scaled,
        table: &[f32; 256],
        elements: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let bytes = self.bytes(&scaled.weights).get(bytes_of(elements.clone(), 1)).unwrap_or_default();
        scaled.grid.runs(elements, |run, position| {
            let scale = self.scale(scaled, position)?;
            let bytes = bytes.get(bytes_of(run, 1)).unwrap_or_default();
            out.extend(bytes.iter().map(|&byte| table.get(usize::from(byte)).unwrap_or(&f32::NAN) * scale));
            Ok(())
        })
    }

    fn scale(&self, scaled: &Scaled, position: u64) -> Result<f32, Error> {
        let size = usize::try_from(scaled.scale_dtype.bits() / 8).unwrap_or_default();
        let at = bytes_of(position..position.saturating_add(1), size);
        let bytes = self.bytes(&scaled.scales).get(at.clone()).unwrap_or_default();
        let found = match (scaled.scale_dtype, bytes) {
            (Dtype::F8E8M0, [byte]) => fp8::e8m0(*byte),
            (dtype, bytes) => {
                let mut value = Vec::with_capacity(1);
                // F32, F16 or BF16, one element.
                let _ = decode::decode_f32(dtype, bytes, &mut value);
                value.first().copied().unwrap_or(f32::NAN)
            }
        };
        if found.is_finite() {
            return Ok(found);
        }
        let source = Fp8Error::Value { tensor: scaled.scales_name.clone(), position, found };
        let at = scaled.scales.range.start.saturating_add(at.start) as u64;
        Err(Error::Fp8 { file: self.file_of(&scaled.scales).into(), at, source: Box::new(source) })
    }

    fn decode(
        &self,
        tensor: &SourceTensor,
        dtype: Dtype,
        bytes: &[u8],
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        decode::decode_f32(dtype, bytes, out).map_err(|source: DecodeError| Error::Decode {
            file: self.file(tensor).into(),
            tensor: tensor.name.clone(),
            source,
        })
    }

    fn check(&self, tensor: &SourceTensor, elements: &Range<u64>) -> Result<(), Error> {
        match elements.start <= elements.end && elements.end <= tensor.element_count() {
            true => Ok(()),
            false => Err(self.no_elements(tensor, elements)),
        }
    }

    fn no_elements(&self, tensor: &SourceTensor, elements: &Range<u64>) -> Error {
        Error::Elements {
            file: self.file(tensor).into(),
            tensor: tensor.name.clone(),
            start: elements.start,
            end: elements.end,
            elements: tensor.element_count(),
        }
    }
}

/// The rows or blocks of `width` elements that hold those elements; none for none.
fn covering(elements: &Range<u64>, width: u64) -> Range<u64> {
    match elements.start.checked_div(width) {
        Some(first) if !elements.is_empty() => first..elements.end.div_ceil(width),
        _ => 0..0,
    }
}

/// The bytes of elements of `size` bytes.
fn bytes_of(elements: Range<u64>, size: usize) -> Range<usize> {
    let byte = |element: u64| usize::try_from(element).unwrap_or(usize::MAX).saturating_mul(size);
    byte(elements.start)..byte(elements.end)
}

/// Elements of a transposed view of that shape, `read` from the matrices as they are stored.
///
/// Output row r of a matrix is its column r: of each stored row, the elements of the output rows asked for are
/// read, and the block that they make is turned.
fn turned(
    shape: &[u64],
    elements: Range<u64>,
    size: usize,
    mut read: impl FnMut(Range<u64>, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<Vec<u8>, Error> {
    let [.., height, width] = *shape else { return Ok(Vec::new()) };
    let Range { start: first, end: last } = covering(&elements, width);
    let (mut out, mut block) = (Vec::new(), Vec::new());
    let mut row = first;
    while row < last {
        let (Some(matrix), Some(column)) = (row.checked_div(height), row.checked_rem(height)) else { break };
        let columns = height.saturating_sub(column).min(last.saturating_sub(row));
        block.clear();
        for stored_row in 0..width {
            // Within the tensor's elements, whose number is known to fit.
            let start = matrix.saturating_mul(width).saturating_add(stored_row).saturating_mul(height);
            let start = start.saturating_add(column);
            read(start..start.saturating_add(columns), &mut block)?;
        }
        let count = usize::try_from(columns).unwrap_or_default();
        let stride = usize::try_from(width).unwrap_or_default().saturating_mul(size);
        let place = out.len();
        out.resize(out.len().saturating_add(count.saturating_mul(stride)), 0);
        let rows = out.get_mut(place..).unwrap_or_default();
        columns_to_rows(&block, count, size, 0..count, rows, stride);
        row = row.saturating_add(columns);
    }
    let skipped = elements.start.saturating_sub(first.saturating_mul(width));
    let kept = elements.end.saturating_sub(elements.start);
    let kept = bytes_of(skipped..skipped.saturating_add(kept), size);
    out.truncate(kept.end);
    out.drain(..kept.start.min(out.len()));
    Ok(out)
}

/// Decodes the blocks that hold the elements, and cuts off what was not asked for.
fn decode_blocks(block: Block, bytes: &[u8], elements: Range<u64>, out: &mut Vec<f32>) {
    let weights = block.weights() as u64;
    let blocks = covering(&elements, weights);
    let first = blocks.start.saturating_mul(weights);
    block.decode(bytes.get(bytes_of(blocks, block.bytes())).unwrap_or_default(), out);
    cut(out, elements, first);
}

/// Keeps `elements` of values that begin with element `first`.
fn cut(values: &mut Vec<f32>, elements: Range<u64>, first: u64) {
    let place = |element: u64| usize::try_from(element.saturating_sub(first)).unwrap_or(usize::MAX);
    values.truncate(place(elements.end));
    values.drain(..place(elements.start).min(values.len()));
}

/// Values as bytes of F32, F16 or BF16, rounded to nearest even; or the place of the first that overflows.
fn rounded(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, (u64, f32)> {
    match dtype {
        Dtype::F16 => halves(values, |value| half::f16::from_f32(value).to_bits(), 0x7C00),
        Dtype::Bf16 => halves(values, |value| half::bf16::from_f32(value).to_bits(), 0x7F80),
        _ => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    }
}

/// Values of two bytes each, of which `infinity` are those of an infinity.
fn halves(values: &[f32], round: impl Fn(f32) -> u16, infinity: u16) -> Result<Vec<u8>, (u64, f32)> {
    let mut bytes = Vec::with_capacity(values.len().saturating_mul(2));
    for (at, &value) in (0..).zip(values) {
        let bits = round(value);
        if bits & 0x7FFF == infinity && value.is_finite() {
            return Err((at, value));
        }
        bytes.extend_from_slice(&bits.to_le_bytes());
    }
    Ok(bytes)
}
