//! Where an element is stored.

use std::path::Path;

use crate::fp8::{self, Scaled};
use crate::ggml::Block;
use crate::model::Model;
use crate::tensor::{Piece, SourceTensor, Storage};

impl Model {
    /// The file, and the byte of it, that an element which is too large or not finite has that value from:
    ///
    /// - of elements as they are, the element;
    /// - of FP8 weights, the weight where it is NaN or infinite by itself, or else its scale, whatever file that is in;
    /// - of the blocks of a GGUF file, the first of the block's own scales that is not finite, or else the block;
    /// - of FastDeploy's codes, where they begin: their scales are finite, or were refused when they were read.
    pub fn place(&self, tensor: &SourceTensor, element: u64) -> (&Path, u64) {
        let element = stored_element(tensor, element);
        let (piece, within) = match &tensor.storage {
            Storage::Plain(piece) => (piece, element.saturating_mul(tensor.dtype.bits()) / 8),
            Storage::Fp8(scaled) => self.place_in_fp8(scaled, element),
            Storage::Ggml { block, blocks } => (blocks, self.place_in_blocks(*block, blocks, element)),
            Storage::FastDeploy(parts) => (&parts.quant_weight, 0),
        };
        (self.file_of(piece), (piece.range.start as u64).saturating_add(within))
    }

    fn place_in_fp8<'a>(&self, scaled: &'a Scaled, element: u64) -> (&'a Piece, u64) {
        let code = self.bytes_at(&scaled.weights, element, 1).first().copied().unwrap_or_default();
        let weight = fp8::table(scaled.format).get(usize::from(code)).copied().unwrap_or_default();
        if weight.is_finite() {
            let (scale, _) = scaled.grid.scale_of(element);
            (&scaled.scales, scale.saturating_mul(scaled.scale_dtype.bits()) / 8)
        } else {
            (&scaled.weights, element)
        }
    }

    fn place_in_blocks(&self, block: Block, blocks: &Piece, element: u64) -> u64 {
        let size = block.bytes() as u64;
        let start = element.checked_div(block.weights() as u64).unwrap_or(0).saturating_mul(size);
        let scale = block.non_finite_scale(self.bytes_at(blocks, start, block.bytes()));
        start.saturating_add(scale.unwrap_or(0) as u64)
    }

    /// So many bytes of a piece.
    fn bytes_at(&self, piece: &Piece, start: u64, count: usize) -> &[u8] {
        let rest = usize::try_from(start).ok().and_then(|start| self.bytes(piece).get(start..));
        rest.and_then(|rest| rest.get(..count)).unwrap_or_default()
    }
}

/// The number of an element among those of the file, which has a transposed tensor's matrices by columns.
fn stored_element(tensor: &SourceTensor, element: u64) -> u64 {
    let &[.., height, width] = tensor.shape.as_slice() else { return element };
    if !tensor.transposed {
        return element;
    }
    let divided = |a: u64, b: u64| (a.checked_div(b).unwrap_or(0), a.checked_rem(b).unwrap_or(0));
    let (row, column) = divided(element, width);
    let (matrix, row) = divided(row, height);
    let stored_row = matrix.saturating_mul(width).saturating_add(column);
    stored_row.saturating_mul(height).saturating_add(row)
}
