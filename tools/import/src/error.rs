//! The one error of this package: each variant names the file, the byte, the tensor, what was due, what was found,
//! and what to do about it.

use std::io;
use std::path::PathBuf;

use ccq::format::Dtype;

use crate::decode::DecodeError;
use crate::fastdeploy::FastDeployError;
use crate::fp8::Fp8Error;
use crate::gguf::GgufError;
use crate::header::NameProblem;

/// Where the JSON of a safetensors file begins: after its length.
pub(crate) const HEADER_START: u64 = 8;

/// Why a source model cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open or read a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The input is no regular file, or its name is not one this package reads.
    #[error("{}: expected a .safetensors file, a .safetensors.index.json, a .gguf file or a model folder; convert the model to safetensors first", file.display())]
    UnknownInput {
        /// The input.
        file: PathBuf,
    },

    /// The file ends before its header does.
    #[error("{}: ends at byte {found}, but its header needs {expected}; the file is cut short, fetch it again", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that the header needs.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The header says that it is longer than this package reads.
    #[error("{}: at byte 0: a header of {found} bytes, expected at most {limit}; this is no safetensors file, or a damaged one", file.display())]
    HeaderTooLarge {
        /// The file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// A JSON file or a blob is larger than this package reads.
    #[error("{}: {found} bytes of {what}, expected at most {limit}; the file is damaged or not what its name says", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// What is too large.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
        /// Its length in bytes.
        found: u64,
    },
    /// The safetensors header is not the JSON it should be.
    #[error("{}: at byte {at}: header: {source}; this is no safetensors file, or a damaged one: fetch it again", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// What is wrong and where; it names the tensor when the error lies within one.
        source: serde_json::Error,
    },
    /// The header does not begin with `{`.
    #[error("{}: at byte {HEADER_START}: the header {}, expected '{{'; this is no safetensors file", file.display(), beginning(*found))]
    HeaderStart {
        /// The file.
        file: PathBuf,
        /// The first byte of the header, if it has one.
        found: Option<char>,
    },
    /// The header has the same metadata key twice, or two `__metadata__` objects.
    #[error("{}: at byte {at}: metadata key {key:?} appears twice; write the file again with unique keys", file.display())]
    DuplicateMetadata {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The key.
        key: String,
    },
    /// The header has a tensor twice.
    #[error("{}: at byte {at}: tensor {tensor:?} appears twice; write the file again with unique names", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
    },
    /// A tensor's name cannot be carried.
    #[error("{}: at byte {at}: tensor {tensor:?}: its name {problem}; rename it and write the file again", file.display())]
    BadName {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor; of a name that is too long, its beginning.
        tensor: String,
        /// What is wrong with the name.
        problem: NameProblem,
    },
    /// A dtype that safetensors does not define.
    #[error("{}: at byte {at}: tensor {tensor:?}: unknown dtype {found:?}; a newer safetensors may define it", file.display())]
    UnknownDtype {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// The dtype's name in the header.
        found: String,
    },
    /// More dimensions than [`Error::TooManyDimensions::limit`].
    #[error("{}: at byte {at}: tensor {tensor:?} has {found} dimensions, expected at most {limit}; the file is damaged", file.display())]
    TooManyDimensions {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// The most dimensions this package reads.
        limit: usize,
        /// Its dimensions.
        found: u64,
    },
    /// The tensor's size overflows (even behind a zero dimension), or is no whole number of bytes.
    #[error("{}: at byte {at}: tensor {tensor:?}: {dtype} {shape:?} is no whole number of bytes below 2^64; the file is damaged", file.display())]
    BadShape {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The tensor's data is not as long as its shape and dtype say.
    #[error("{}: at byte {at}: tensor {tensor:?}: {dtype} {shape:?} takes {expected} bytes, its data_offsets hold {found}; the file is damaged", file.display())]
    SizeMismatch {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes that dtype and shape need.
        expected: u64,
        /// Bytes between its offsets.
        found: u64,
    },
    /// The tensor's data ends before it begins, or beyond the end of the file.
    #[error("{}: at byte {at}: tensor {tensor:?}: data_offsets {begin}..{end} in {data} bytes of data; the file is cut short or damaged, fetch it again", file.display())]
    OutOfBounds {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Where its data begins, from the end of the header.
        begin: u64,
        /// Where its data ends.
        end: u64,
        /// Bytes of data in the file.
        data: u64,
    },
    /// The tensor's data leaves a hole after the one before it, or overlaps it.
    #[error("{}: at byte {at}: tensor {tensor:?}: data begins at {found}, expected {expected}, where the data before it ends; the file is damaged", file.display())]
    Gap {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Where the data before it ends.
        expected: u64,
        /// Where its data begins.
        found: u64,
    },
    /// The file goes on after the last tensor.
    #[error("{}: at byte {at}: {found} bytes of data, expected {expected}, where the last tensor ends; the file is damaged", file.display())]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// Bytes of all tensors.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
    },

    /// The GGUF file is not as the format says.
    #[error("{}: at byte {at}: {source}", file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// What is wrong.
        source: GgufError,
    },

    /// The index is not the JSON it should be.
    #[error("{}: at byte {at}: {source}; expected {{\"weight_map\": {{tensor: file}}}}: fetch the index again", index.display())]
    Index {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// What is wrong and where.
        source: serde_json::Error,
    },
    /// The index has a tensor twice.
    #[error("{}: at byte {at}: tensor {tensor:?} appears twice; fetch the index again", index.display())]
    DuplicateIndexEntry {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
    },
    /// The index names a shard that is no plain file name.
    #[error("{}: at byte {at}: tensor {tensor:?} is in {shard:?}, expected the name of a .safetensors file beside the index", index.display())]
    BadShardName {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// A tensor promised there.
        tensor: String,
        /// The shard's name.
        shard: String,
    },
    /// A shard that the index names does not exist.
    #[error("{}: at byte {at}: shard {shard:?} is missing, tensor {tensor:?} should be in it; fetch it into the same folder", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The shard.
        shard: String,
        /// A tensor promised there.
        tensor: String,
    },
    /// The folder has a shard that the index does not name.
    #[error("{}: shard {shard:?} lies beside the index, which does not name it; fetch the index that belongs to the shards, or remove the file", index.display())]
    UnlistedShard {
        /// The index.
        index: PathBuf,
        /// The shard.
        shard: String,
    },
    /// No shard has a tensor that the index promises.
    #[error("{}: at byte {at}: tensor {tensor:?} should be in {shard:?}, but no shard has it; fetch shards and index of the same revision", index.display())]
    MissingTensor {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Where it should be.
        shard: String,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("{}: tensor {tensor:?} in {shard:?} is not listed; fetch shards and index of the same revision", index.display())]
    UnlistedTensor {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it is.
        shard: String,
    },
    /// A tensor lies in another shard than the index says.
    #[error("{}: at byte {at}: tensor {tensor:?} should be in {expected:?} and is in {found:?}; fetch shards and index of the same revision", index.display())]
    MisplacedTensor {
        /// The index.
        index: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// Where the index says it is.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error("{}: tensor {tensor:?} is in {first:?} and in {second:?}; fetch the shards again, or remove one of the two", index.display())]
    TensorInTwoShards {
        /// The index.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// One of the shards.
        first: String,
        /// The other.
        second: String,
    },

    /// The folder has no safetensors file.
    #[error("{}: no .safetensors file in this folder; convert the model to safetensors first", folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder has several weight files and nothing says which one is meant.
    #[error("{}: both {first:?} and {second:?} could be the model; name the one you mean, or its index, instead of the folder", folder.display())]
    AmbiguousWeights {
        /// The folder.
        folder: PathBuf,
        /// One candidate.
        first: String,
        /// Another.
        second: String,
    },
    /// A tensor's bytes cannot be decoded to f32.
    #[error("{}: tensor {tensor:?}: {source}", file.display())]
    Decode {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why not.
        source: DecodeError,
    },
    /// FastDeploy's tensors do not fit together.
    #[error("{}: {}{source}", file.display(), byte(*at))]
    FastDeploy {
        /// The model's folder or file.
        file: PathBuf,
        /// The byte of the file it is about, unless something is missing.
        at: Option<u64>,
        /// What is wrong with which tensor.
        source: FastDeployError,
    },
    /// FP8 weights and scales do not fit together.
    #[error("{}: at byte {at}: {source}", file.display())]
    Fp8 {
        /// The file of the scales.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// What is wrong with which tensor.
        source: Box<Fp8Error>,
    },
    /// A weight is too large for the dtype that the tensor has on record.
    #[error("{}: at byte {at}: tensor {tensor:?}: {value:e} at element {element} overflows {dtype}; quantize the tensor", file.display())]
    Overflow {
        /// The file.
        file: PathBuf,
        /// The byte of the file it is about.
        at: u64,
        /// The tensor.
        tensor: String,
        /// The position of the element.
        element: u64,
        /// The exact value.
        value: f32,
        /// The dtype on record.
        dtype: Dtype,
    },
    /// A tensor was named to be turned round that is no matrix of whole bytes, or quantized already.
    #[error("{}: tensor {tensor:?} ({dtype} {shape:?}) cannot be transposed: expected two dimensions or more, and weights that are not quantized yet; name other tensors", file.display())]
    CannotTranspose {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Planes were asked for of a tensor that has none.
    #[error("{}: tensor {tensor:?} holds weights, not codes", file.display())]
    NotCoded {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Elements were asked for that the tensor does not have.
    #[error("{}: tensor {tensor:?} has {elements} elements, not {start}..{end}", file.display())]
    Elements {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first one asked for.
        start: u64,
        /// The first one not asked for.
        end: u64,
        /// Elements there are.
        elements: u64,
    },
}

impl Error {
    /// The byte of the file named first in the message that the error is about, counted from the file's start: where
    /// the record, the JSON member or the data that is wrong begins, or where the bytes end too early. `None` for
    /// what lies at no byte: files and tensors that are missing, or too many, and requests that do not fit.
    ///
    /// It counts bytes in JSON, too; what JSON's own rules forbid has line and column in its message besides.
    pub fn offset(&self) -> Option<u64> {
        Some(match self {
            Self::HeaderTooLarge { .. } => 0,
            Self::HeaderStart { .. } => HEADER_START,
            Self::Truncated { found, .. } => *found,
            Self::FastDeploy { at, .. } => return *at,
            Self::Header { at, .. }
            | Self::DuplicateMetadata { at, .. }
            | Self::DuplicateTensor { at, .. }
            | Self::BadName { at, .. }
            | Self::UnknownDtype { at, .. }
            | Self::TooManyDimensions { at, .. }
            | Self::BadShape { at, .. }
            | Self::SizeMismatch { at, .. }
            | Self::OutOfBounds { at, .. }
            | Self::Gap { at, .. }
            | Self::TrailingBytes { at, .. }
            | Self::Gguf { at, .. }
            | Self::Index { at, .. }
            | Self::DuplicateIndexEntry { at, .. }
            | Self::BadShardName { at, .. }
            | Self::MissingShard { at, .. }
            | Self::MissingTensor { at, .. }
            | Self::MisplacedTensor { at, .. }
            | Self::Fp8 { at, .. }
            | Self::Overflow { at, .. } => *at,
            Self::Io { .. }
            | Self::UnknownInput { .. }
            | Self::TooLarge { .. }
            | Self::UnlistedShard { .. }
            | Self::UnlistedTensor { .. }
            | Self::TensorInTwoShards { .. }
            | Self::NoWeights { .. }
            | Self::AmbiguousWeights { .. }
            | Self::Decode { .. }
            | Self::CannotTranspose { .. }
            | Self::NotCoded { .. }
            | Self::Elements { .. } => return None,
        })
    }
}

/// What a header begins with.
fn beginning(found: Option<char>) -> String {
    found.map_or("is empty".into(), |found| format!("begins with {found:?}"))
}

/// Where something is, before what is said of it.
pub(crate) fn byte(at: Option<u64>) -> String {
    at.map_or(String::new(), |at| format!("at byte {at}: "))
}
