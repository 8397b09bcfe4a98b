//! A GGUF file as a model: its tensors, its metadata and its header.

use std::collections::BTreeMap;
use std::path::Path;

use ccq::format::Dtype;
use gguf_rs_lib::format::metadata::MetadataValue;

use super::{Contents, Entry, GgufError, Metadata, Pair, read};
use crate::carried::Carried;
use crate::error::Error;
use crate::folder::Blob;
use crate::ggml::Type;
use crate::tensor::{Piece, SourceTensor, Storage};

/// How many files the model was split into.
const SPLIT: &str = "split.count";
/// What the file's keys begin with in a container.
const PREFIX: &str = "gguf.";
/// The name of the blob.
const HEADER: &str = "gguf.header";

/// What a model takes from a GGUF file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Sorted by name; pieces of file 0.
    pub tensors: Vec<SourceTensor>,
    pub metadata: BTreeMap<String, Carried>,
    /// All bytes before the padding that the data begins after.
    pub header: Blob,
}

/// Reads what `file`, whose bytes are `bytes`, holds as a model.
pub(crate) fn source(file: &Path, bytes: &[u8]) -> Result<Source, Error> {
    let Contents { metadata, tensors, header_end } = read(file, bytes)?;
    if let Some(Pair { at, value }) = metadata.get(SPLIT)
        && let Some(count) = value.as_u64().filter(|&count| count > 1)
    {
        return Err(GgufError::Split { count }.at(*at).within(file));
    }
    let mut tensors: Vec<_> = tensors.into_iter().map(tensor).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let header = Blob { name: HEADER.into(), path: file.into(), range: Some(0..header_end) };
    Ok(Source { tensors, metadata: carried(&metadata), header })
}

fn tensor(entry: Entry) -> SourceTensor {
    let Entry { name, dimensions, kind, range, .. } = entry;
    let shape = dimensions.into_iter().rev().collect();
    let piece = Piece { file: 0, range };
    // Blocks are scaled by binary16 numbers, whose range their weights have.
    let (dtype, storage) = match kind {
        Type::Plain(dtype) => (dtype, Storage::Plain(piece)),
        Type::Blocks(block) => (Dtype::F16, Storage::Ggml { block, blocks: piece }),
    };
    SourceTensor { name, shape, dtype, storage, transposed: false }
}

/// The metadata but for the arrays.
fn carried(metadata: &Metadata) -> BTreeMap<String, Carried> {
    let value = |value: &MetadataValue| {
        Some(match value {
            MetadataValue::Bool(value) => Carried::Bool(*value),
            MetadataValue::U8(value) => Carried::U64((*value).into()),
            MetadataValue::U16(value) => Carried::U64((*value).into()),
            MetadataValue::U32(value) => Carried::U64((*value).into()),
            MetadataValue::U64(value) => Carried::U64(*value),
            MetadataValue::I8(value) => Carried::I64((*value).into()),
            MetadataValue::I16(value) => Carried::I64((*value).into()),
            MetadataValue::I32(value) => Carried::I64((*value).into()),
            MetadataValue::I64(value) => Carried::I64(*value),
            MetadataValue::F32(value) => Carried::F64((*value).into()),
            MetadataValue::F64(value) => Carried::F64(*value),
            MetadataValue::String(value) => Carried::String(value.clone()),
            MetadataValue::Array(_) => return None,
        })
    };
    metadata
        .iter()
        .filter_map(|(key, found)| Some((format!("{PREFIX}{key}"), value(&found.value)?)))
        .collect()
}
