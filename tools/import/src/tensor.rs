//! A tensor of a model: what it is called, and how its file stores it.

use std::ops::Range;

use ccq::code::Code;
use ccq::codec::Planes;
use ccq::format::{Dtype, element_count};

use crate::fastdeploy;
use crate::fp8::Scaled;
use crate::ggml::Block;

/// A tensor of a [`Model`](crate::Model), which has its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceTensor {
    /// Its name: not empty, no control characters.
    pub name: String,
    /// Its dimensions, outermost first; none for a scalar.
    pub shape: Vec<u64>,
    /// Its element type: what a container has on record.
    ///
    /// FP8 weights with scales are BF16, the blocks of a GGUF file F16, and FastDeploy's codes have the type of
    /// their super scales.
    pub dtype: Dtype,
    pub(crate) storage: Storage,
    pub(crate) transposed: bool,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Elements of the tensor's dtype.
    Plain(Piece),
    /// FP8 weights with scales.
    Fp8(Box<Scaled>),
    /// Quantized blocks of a GGUF file.
    Ggml { block: Block, blocks: Piece },
    /// FastDeploy's tensors of one expert's layer.
    FastDeploy(Box<fastdeploy::Parts>),
}

/// Bytes of one of the model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub file: usize,
    pub range: Range<usize>,
}

impl Storage {
    /// The piece that says which file the tensor is in.
    pub(crate) fn piece(&self) -> &Piece {
        match self {
            Self::Plain(piece) | Self::Ggml { blocks: piece, .. } => piece,
            Self::Fp8(scaled) => &scaled.weights,
            Self::FastDeploy(parts) => &parts.quant_weight,
        }
    }
}

impl SourceTensor {
    /// How many elements it has.
    pub fn element_count(&self) -> u64 {
        // The header's reader has checked the product.
        element_count(&self.shape).unwrap_or(0)
    }

    /// Bytes of all its elements as [`SourceTensor::dtype`] has them.
    pub fn byte_len(&self) -> u64 {
        self.dtype.tensor_bytes(&self.shape).unwrap_or(0)
    }

    /// The code of which the source already holds planes: such a tensor is copied
    /// ([`Model::planes`](crate::Model::planes)), not searched. `None` for weights.
    pub fn code(&self) -> Option<Code> {
        match &self.storage {
            Storage::FastDeploy(parts) => Some(parts.kind.code()),
            _ => None,
        }
    }

    /// The name of the lossy encoding that the weights have been through, such as `Q4_K`: to quantize them again
    /// adds errors to errors. FP8 is what its publishers trained with or call their weights: `None`.
    pub fn quantized_as(&self) -> Option<&'static str> {
        match &self.storage {
            Storage::Ggml { block, .. } => Some(block.name()),
            _ => None,
        }
    }

    /// Whether [`SourceTensor::dtype`] holds the file's values as they are, so that
    /// [`Model::elements`](crate::Model::elements) does not round.
    pub fn is_exact(&self) -> bool {
        matches!(self.storage, Storage::Plain(_))
    }

    /// Whether the file has each matrix the other way round, `[in_features, out_features]`: shape and elements
    /// are those of the transposed view.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }
}

/// Rows of a tensor that is quantized already: its planes, exactly as a container stores them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodedRows {
    /// What the words mean.
    pub code: Code,
    /// Rows of the code plane, padding included.
    pub words: Vec<u8>,
    /// Rows of the local-scale plane, empty where the code has none.
    pub local_scale: Vec<u8>,
    /// An f32 a row.
    pub super_scale: Vec<u8>,
    /// Cluster parameters, empty where the code has none.
    pub cluster: Vec<u8>,
}

impl CodedRows {
    /// The four planes.
    pub fn planes(&self) -> Planes<'_> {
        Planes {
            code: &self.words,
            local_scale: &self.local_scale,
            super_scale: &self.super_scale,
            cluster: &self.cluster,
        }
    }
}
