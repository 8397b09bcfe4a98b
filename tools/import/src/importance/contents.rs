//! What a file of importance vectors holds: entries by name, checked against the file's own word.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ccq::format::Dtype;
use gguf_rs_lib::format::metadata::MetadataValue;

use super::error::ImportanceError;
use crate::ggml::Type;
use crate::gguf::{self, GgufError, Metadata, Pair};
use crate::header;

const KIND: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
/// Sums of the activations themselves, which newer imatrices have as well: of no use here.
const PLAIN_SUMS: &str = ".in_sum";

/// What an imatrix says of the run that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calibration {
    /// The files that were fed to the model.
    pub datasets: Vec<String>,
    /// Chunks of text seen.
    pub chunk_count: Option<u32>,
    /// Tokens in a chunk.
    pub chunk_size: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Contents {
    pub entries: BTreeMap<String, Entry>,
    /// Of an imatrix.
    pub calibration: Option<Calibration>,
    /// Tensors that are none of an imatrix's parts.
    pub ignored: Vec<String>,
}

/// The vectors of one tensor: bytes of the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub dtype: Dtype,
    /// How many; none is an empty vector.
    pub vectors: usize,
    /// The length of each.
    pub width: usize,
    pub values: Range<usize>,
    /// An imatrix's divisors, F32: one for each vector or one for all.
    pub counts: Option<Range<usize>>,
}

/// The tensors of a safetensors file.
pub(super) fn safetensors(file: &Path, bytes: &[u8]) -> Result<Contents, ImportanceError> {
    let mut entries = BTreeMap::new();
    for entry in header::read(file, bytes)?.tensors {
        let header::Entry { name: tensor, dtype, shape, range: values } = entry;
        let lengths = match *shape.as_slice() {
            [width] => lengths(1, width),
            [vectors, width] => lengths(vectors, width),
            _ => None,
        };
        let is_float = matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
        let Some((vectors, width)) = lengths.filter(|_| is_float) else {
            let (file, at) = (file.into(), values.start as u64);
            return Err(ImportanceError::NotAVector { file, at, tensor, dtype, shape });
        };
        entries.insert(tensor, Entry { dtype, vectors, width, values, counts: None });
    }
    some(file, Contents { entries, calibration: None, ignored: Vec::new() })
}

/// The sums and counts of an imatrix.
pub(super) fn imatrix(file: &Path, bytes: &[u8]) -> Result<Contents, ImportanceError> {
    let gguf::Contents { metadata, tensors, .. } = gguf::read(file, bytes)?;
    let kind = metadata.get(KIND);
    let found = kind.and_then(|kind| kind.value.as_str());
    if found != Some("imatrix") {
        let (at, found) = (kind.map(|kind| kind.at), found.map(Into::into));
        return Err(ImportanceError::NotAnImatrix { file: file.into(), at, found });
    }
    let calibration = Some(calibration(file, &metadata)?);

    let mut ignored = Vec::new();
    let mut parts = BTreeMap::<String, Parts>::new();
    for tensor in tensors {
        if tensor.kind != Type::Plain(Dtype::F32) {
            let (at, tensor, found) = (tensor.at, tensor.name, tensor.kind.name().into());
            let fault = GgufError::TensorType { tensor, found, expected: "F32" };
            return Err(fault.at(at).within(file).into());
        }
        let of = |suffix| tensor.name.strip_suffix(suffix).filter(|name| !name.is_empty()).map(String::from);
        if let Some(name) = of(SUMS) {
            parts.entry(name).or_default().sums = Some(tensor);
        } else if let Some(name) = of(COUNTS) {
            parts.entry(name).or_default().counts = Some(tensor);
        } else if let Some(name) = of(PLAIN_SUMS) {
            parts.entry(name).or_default();
        } else {
            ignored.push(tensor.name);
        }
    }
    let entries = parts
        .into_iter()
        .map(|(name, parts)| parts.join(file, &name).map(|entry| (name, entry)))
        .collect::<Result<_, _>>()?;
    some(file, Contents { entries, calibration, ignored })
}

#[derive(Default)]
struct Parts {
    sums: Option<gguf::Entry>,
    counts: Option<gguf::Entry>,
}

impl Parts {
    fn join(self, file: &Path, tensor: &str) -> Result<Entry, ImportanceError> {
        let (file, tensor) = (|| file.to_path_buf(), || tensor.to_string());
        let missing = |missing| ImportanceError::MissingPart { file: file(), tensor: tensor(), missing };
        let sums = self.sums.ok_or_else(|| missing(SUMS))?;
        let counts = self.counts.ok_or_else(|| missing(COUNTS))?;
        // The reader checked these products, and that no dimension is zero.
        let elements = |dimensions: &[u64]| dimensions.iter().fold(1u64, |all, &one| all.saturating_mul(one));
        let (width, rest) = sums.dimensions.split_first().unwrap_or((&0, &[]));
        let (vectors, divisors) = (elements(rest), elements(&counts.dimensions));
        match lengths(vectors, *width) {
            Some((count, width)) if divisors == 1 || divisors == vectors => Ok(Entry {
                dtype: Dtype::F32,
                vectors: count,
                width,
                values: sums.range,
                counts: Some(counts.range),
            }),
            _ => Err(ImportanceError::Counts {
                file: file(),
                at: counts.at,
                tensor: tensor(),
                expected: vectors,
                found: divisors,
            }),
        }
    }
}

fn calibration(file: &Path, metadata: &Metadata) -> Result<Calibration, ImportanceError> {
    let wrong = |key, at, expected| ImportanceError::Metadata { file: file.into(), at, key, expected };
    let number = |key| match metadata.get(key) {
        None => Ok(None),
        Some(Pair { value: MetadataValue::U32(number), .. }) => Ok(Some(*number)),
        Some(Pair { at, .. }) => Err(wrong(key, *at, "u32")),
    };
    let texts = |value: &MetadataValue| match value {
        MetadataValue::Array(array) => {
            array.values.iter().map(|text| text.as_str().map(Into::into)).collect()
        }
        _ => None,
    };
    let datasets = match metadata.get(DATASETS) {
        None => Vec::new(),
        Some(Pair { at, value }) => texts(value).ok_or_else(|| wrong(DATASETS, *at, "array of strings"))?,
    };
    let (chunk_count, chunk_size) = (number(CHUNK_COUNT)?, number(CHUNK_SIZE)?);
    Ok(Calibration { datasets, chunk_count, chunk_size })
}

/// Two lengths, neither of them zero.
fn lengths(vectors: u64, width: u64) -> Option<(usize, usize)> {
    let length = |length| usize::try_from(length).ok().filter(|&length| length > 0);
    Some((length(vectors)?, length(width)?))
}

fn some(file: &Path, contents: Contents) -> Result<Contents, ImportanceError> {
    match contents.entries.is_empty() {
        true => Err(ImportanceError::Empty { file: file.into() }),
        false => Ok(contents),
    }
}
