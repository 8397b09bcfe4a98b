//! A GGUF file, read strictly: bytes -> metadata and checked tensor entries.
//!
//! ```text
//! "GGUF" | u32 version | u64 tensors | u64 pairs
//! pairs:   key, type, value; general.alignment among them
//! tensors: name, u32 rank, u64 dimensions innermost first, u32 type, u64 offset from the start of the data
//! padding to the alignment | data: each tensor padded to the alignment
//! ```
//!
//! The records are decoded by `gguf-rs-lib`, whose readers of header, metadata values and tensor entries bound
//! what they allocate and answer bad bytes with an error. Its file reader is not used: it copies tensors and has
//! rules of its own about keys. Everything about places is checked here: counts against the length of the
//! file, the alignment, and the data, which ggml wants in the order of the entries, each where the one before
//! ends, without a hole, an overlap or anything behind the last.

mod pairs;
mod source;

use std::collections::HashSet;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use gguf_rs_lib::GGUFError;
use gguf_rs_lib::format::header::{GGUFHeader, TensorInfo};
use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::format::types::GGUFTensorType;

use crate::error::{Error, NameProblem};
use crate::ggml::{KNOWN, Type};
use crate::header::name_problem;

pub(crate) use self::pairs::Metadata;
pub(crate) use self::source::{Source, source};

/// What a GGUF file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
/// The shortest metadata pair: a key of one byte, a value of one.
const MIN_PAIR: u64 = 14;
/// The shortest tensor entry: a name of one byte, one dimension.
const MIN_TENSOR: u64 = 33;
/// Why a GGUF file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// A record is not as the format says, or the file ends within it.
    #[error(
        "{what}, near byte {offset} of {len}: {source}; the file is cut short or damaged, fetch it again"
    )]
    Record {
        /// The record: header, metadata or tensor entry.
        what: &'static str,
        /// Where reading stopped.
        offset: u64,
        /// The length of the file.
        len: u64,
        /// What is wrong.
        source: GGUFError,
    },
    /// The header counts more records than the file has room for.
    #[error(
        "{tensors} tensors and {pairs} metadata pairs in {found} bytes; the file is cut short or damaged, fetch it again"
    )]
    Counts {
        /// Tensors by the header.
        tensors: u64,
        /// Metadata pairs by the header.
        pairs: u64,
        /// The length of the file.
        found: u64,
    },
    /// The metadata would take too much memory.
    #[error("more than {limit} bytes of metadata, up to {key:?}; the file is damaged")]
    MetadataSize {
        /// The key of the value that is too much.
        key: String,
        /// Bytes in memory at most.
        limit: usize,
    },
    /// The file has a key of its metadata twice.
    #[error("metadata key {key:?} appears twice; write the file again with unique keys")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// `general.alignment` is no power of two, or no u32.
    #[error("general.alignment is {found}, expected a power of two as u32; the file is damaged")]
    Alignment {
        /// The value.
        found: String,
    },
    /// A tensor's name cannot be carried.
    #[error("tensor {tensor:?}: its name {problem}; rename it and write the file again")]
    BadName {
        /// The tensor.
        tensor: String,
        /// What is wrong with the name.
        problem: NameProblem,
    },
    /// The file has a tensor twice.
    #[error("tensor {tensor:?} appears twice; write the file again with unique names")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },
    /// A type of elements or blocks that is not read.
    #[error("tensor {tensor:?} has ggml type {found}, expected {expected}; write it again as one of these")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// Its type, by ggml's name or number.
        found: String,
        /// The types that are read.
        expected: &'static str,
    },
    /// A tensor's entry is not as the format says.
    #[error("tensor {tensor:?}: {source}; the file is damaged")]
    Entry {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: GGUFError,
    },
    /// The file is one of several.
    #[error("one of {count} files; join them first: llama-gguf-split --merge FIRST.gguf WHOLE.gguf")]
    Split {
        /// How many there are.
        count: u64,
    },
    /// A dimension of zero, a row that is no whole number of blocks, or a size that overflows.
    #[error(
        "tensor {tensor:?}: dimensions {dimensions:?}, expected none of zero, whole blocks and less than 2^62 bytes; the file is damaged"
    )]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its dimensions, innermost first.
        dimensions: Vec<u64>,
    },
    /// A tensor's data is not where the data before it ends.
    #[error(
        "tensor {tensor:?}: data at offset {found}, expected {expected}, where the data before it ends; the file is damaged"
    )]
    Offset {
        /// The tensor.
        tensor: String,
        /// Where the data before it ends, padding included.
        expected: u64,
        /// Where its data begins.
        found: u64,
    },
    /// A tensor's data ends beyond the end of the file.
    #[error(
        "tensor {tensor:?}: data up to offset {end} in {data} bytes of data; the file is cut short, fetch it again"
    )]
    OutOfBounds {
        /// The tensor.
        tensor: String,
        /// Where its data ends.
        end: u64,
        /// Bytes of data in the file.
        data: u64,
    },
    /// The file goes on after the last tensor and its padding.
    #[error("{found} bytes of data, expected {expected}, where the last tensor ends; the file is damaged")]
    TrailingBytes {
        /// Bytes of all tensors, padding included.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
    },
}

/// What a GGUF file holds.
#[derive(Debug)]
pub(crate) struct Contents {
    pub metadata: Metadata,
    /// In the order of their data.
    pub tensors: Vec<Entry>,
    /// Where metadata and entries end.
    pub header_end: u64,
}

/// A tensor of a GGUF file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    /// Innermost first; none is zero.
    pub dimensions: Vec<u64>,
    pub kind: Type,
    /// Its bytes, counted from the start of the file and within it.
    pub range: Range<usize>,
}

/// Reads what `file`, whose bytes are `bytes`, says of itself, and checks everything but the weights.
pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Contents, Error> {
    read_bytes(bytes).map_err(|source| Error::Gguf { file: file.into(), source })
}

fn read_bytes(bytes: &[u8]) -> Result<Contents, GgufError> {
    let len = bytes.len() as u64;
    let mut cursor = Cursor::new(bytes);
    let header = GGUFHeader::read_from(&mut cursor).map_err(|source| {
        let (what, offset) = ("header", cursor.position());
        GgufError::Record { what, offset, len, source }
    })?;
    let (tensors, pairs) = (header.tensor_count, header.metadata_kv_count);
    if tensors > len / MIN_TENSOR || pairs > len / MIN_PAIR {
        return Err(GgufError::Counts { tensors, pairs, found: len });
    }
    let metadata = pairs::read(&mut cursor, pairs)?;
    let infos = (0..tensors).map(|_| tensor_info(bytes, &mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let header_end = cursor.position();
    let place = Place::after(header_end, len, alignment(&metadata)?);
    let tensors = placed(infos, &place)?;
    Ok(Contents { metadata, tensors, header_end })
}

/// The next entry. The library's errors do not name the tensor, so its name is looked up again.
fn tensor_info(bytes: &[u8], cursor: &mut Cursor<&[u8]>) -> Result<TensorInfo, GgufError> {
    let start = cursor.position();
    TensorInfo::read_from(cursor).map_err(|source| match name_and_type(bytes, start) {
        Some((tensor, number)) if Type::from_number(number).is_none() => unread(tensor, number),
        Some((tensor, _)) => GgufError::Entry { tensor, source },
        None => {
            let (what, offset, len) = ("tensor entry", cursor.position(), bytes.len() as u64);
            GgufError::Record { what, offset, len, source }
        }
    })
}

fn unread(tensor: String, number: u32) -> GgufError {
    let found = GGUFTensorType::from_u32(number);
    let found = found.map_or(number.to_string(), |known| format!("{number} ({})", known.name()));
    GgufError::TensorType { tensor, found, expected: KNOWN }
}

/// Name and type of the entry at `start`, if that much of it is there.
fn name_and_type(bytes: &[u8], start: u64) -> Option<(String, u32)> {
    let rest = bytes.get(usize::try_from(start).ok()?..)?;
    let (len, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    let (rank, rest) = rest.split_first_chunk()?;
    let dimensions = usize::try_from(u32::from_le_bytes(*rank)).ok()?.checked_mul(size_of::<u64>())?;
    let number = rest.get(dimensions..)?.first_chunk()?;
    Some((String::from_utf8(name.to_vec()).ok()?, u32::from_le_bytes(*number)))
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&MetadataValue::U32(found)) if found.is_power_of_two() => Ok(found.into()),
        Some(other) => Err(GgufError::Alignment { found: other.to_string_representation() }),
    }
}

/// Where the data lies.
struct Place {
    alignment: u64,
    start: u64,
    len: u64,
}

impl Place {
    /// The data of a file of `len` bytes whose entries end at `end`.
    fn after(end: u64, len: u64, alignment: u64) -> Self {
        let start = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        Self { alignment, start, len: len.saturating_sub(start) }
    }

    fn range(&self, offset: u64, end: u64) -> Option<Range<usize>> {
        let position = |offset| usize::try_from(self.start.checked_add(offset)?).ok();
        (end <= self.len).then_some(())?;
        Some(position(offset)?..position(end)?)
    }
}

/// The tensors, each by itself and in their order.
fn placed(infos: Vec<TensorInfo>, place: &Place) -> Result<Vec<Entry>, GgufError> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let (mut next, mut end) = (0, 0);
    for info in infos {
        let TensorInfo { name: tensor, dimensions, tensor_type, offset, .. } = info;
        if let Some(problem) = name_problem(&tensor) {
            return Err(GgufError::BadName { tensor, problem });
        }
        if !names.insert(tensor.clone()) {
            return Err(GgufError::DuplicateTensor { tensor });
        }
        let Some(kind) = Type::from_number(tensor_type) else {
            return Err(unread(tensor, tensor_type));
        };
        if offset != next {
            return Err(GgufError::Offset { tensor, expected: next, found: offset });
        }
        let Some(after) = size(kind, &dimensions).and_then(|size| offset.checked_add(size)) else {
            return Err(GgufError::Dimensions { tensor, dimensions });
        };
        let Some(range) = place.range(offset, after) else {
            return Err(GgufError::OutOfBounds { tensor, end: after, data: place.len });
        };
        end = after;
        next = after.checked_next_multiple_of(place.alignment).unwrap_or(u64::MAX);
        tensors.push(Entry { name: tensor, dimensions, kind, range });
    }
    // The padding behind the last tensor may be missing.
    match (end..=next).contains(&place.len) {
        true => Ok(tensors),
        false => Err(GgufError::TrailingBytes { expected: next, found: place.len }),
    }
}

/// The bytes of a tensor.
fn size(kind: Type, dimensions: &[u64]) -> Option<u64> {
    let (row, rest) = dimensions.split_first()?;
    let product = |product: u64, &dimension: &u64| product.checked_mul(dimension);
    let rows = rest.iter().try_fold(1, product)?;
    kind.bytes(*row, rows).filter(|&size| size > 0 && size < 1 << 62)
}
