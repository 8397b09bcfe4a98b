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
use std::io::{Cursor, ErrorKind};
use std::ops::Range;
use std::path::Path;

use gguf_rs_lib::GGUFError;
use gguf_rs_lib::format::constants::GGUF_MAX_TENSOR_NAME_LENGTH;
use gguf_rs_lib::format::header::{GGUFHeader, TensorInfo};
use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::format::types::GGUFTensorType;

use crate::error::Error;
use crate::ggml::{KNOWN, Type};
use crate::header::{NameProblem, name_problem};

pub(crate) use self::pairs::{Metadata, Pair};
pub(crate) use self::source::{Source, source};

/// What a GGUF file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Where the header has version and counts.
const VERSION_AT: u64 = 4;
const TENSORS_AT: u64 = 8;
const PAIRS_AT: u64 = 16;
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
    #[error("{what}: {source}, in a file of {len} bytes; the file is cut short or damaged, fetch it again")]
    Record {
        /// The record: header, metadata or tensor entry.
        what: &'static str,
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

impl GgufError {
    /// The fault at a byte of the file.
    pub(crate) fn at(self, at: u64) -> Fault {
        Fault { at, source: self }
    }
}

/// What is wrong with a GGUF file, and where.
pub(crate) struct Fault {
    at: u64,
    source: GgufError,
}

impl Fault {
    /// As the error of a file.
    pub(crate) fn within(self, file: &Path) -> Error {
        Error::Gguf { file: file.into(), at: self.at, source: self.source }
    }
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
    /// Where its entry begins.
    pub at: u64,
    /// Innermost first; none is zero.
    pub dimensions: Vec<u64>,
    pub kind: Type,
    /// Its bytes, counted from the start of the file and within it.
    pub range: Range<usize>,
}

/// Reads what `file`, whose bytes are `bytes`, says of itself, and checks everything but the weights.
pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Contents, Error> {
    read_bytes(bytes).map_err(|fault| fault.within(file))
}

fn read_bytes(bytes: &[u8]) -> Result<Contents, Fault> {
    let len = bytes.len() as u64;
    let mut cursor = Cursor::new(bytes);
    let header = GGUFHeader::read_from(&mut cursor).map_err(|source| {
        let field = if matches!(source, GGUFError::UnsupportedVersion(_)) { VERSION_AT } else { 0 };
        record("header", field, len, source)
    })?;
    let (tensors, pairs) = (header.tensor_count, header.metadata_kv_count);
    if tensors > len / MIN_TENSOR || pairs > len / MIN_PAIR {
        let field = if tensors > len / MIN_TENSOR { TENSORS_AT } else { PAIRS_AT };
        return Err(GgufError::Counts { tensors, pairs, found: len }.at(field));
    }
    let metadata = pairs::read(&mut cursor, pairs)?;
    let infos = (0..tensors).map(|_| Info::read(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let header_end = cursor.position();
    let place = Place::after(header_end, len, alignment(&metadata)?);
    let tensors = placed(infos, &place)?;
    Ok(Contents { metadata, tensors, header_end })
}

/// A record that cannot be read, because of the field at `field` or because the file ends.
fn record(what: &'static str, field: u64, len: u64, source: GGUFError) -> Fault {
    let at = if is_end(&source) { len } else { field };
    GgufError::Record { what, len, source }.at(at)
}

/// Whether the file ends too early.
fn is_end(error: &GGUFError) -> bool {
    match error {
        GGUFError::Io(error) => error.kind() == ErrorKind::UnexpectedEof,
        other => matches!(other, GGUFError::UnexpectedEof),
    }
}

/// A tensor's entry, and the bytes that it takes.
struct Info {
    info: TensorInfo,
    start: u64,
    end: u64,
}

impl Info {
    /// The next entry. The library's errors do not name the tensor, so its name is looked up again.
    fn read(cursor: &mut Cursor<&[u8]>) -> Result<Self, Fault> {
        let start = cursor.position();
        match TensorInfo::read_from(cursor) {
            Ok(info) => Ok(Self { info, start, end: cursor.position() }),
            Err(source) => Err(Self::fault(cursor.get_ref(), start, source)),
        }
    }

    fn fault(bytes: &[u8], start: u64, source: GGUFError) -> Fault {
        let len = bytes.len() as u64;
        match name_and_type(bytes, start) {
            Some((tensor, number, at)) if Type::from_number(number).is_none() => {
                unread(tensor, number).at(at)
            }
            Some((tensor, ..)) => {
                let at = if is_end(&source) { len } else { start };
                GgufError::Entry { tensor, source }.at(at)
            }
            None => record("tensor entry", start, len, source),
        }
    }

    /// Where an entry's dimensions begin, its type and its offset.
    fn fields(&self) -> [u64; 3] {
        let before = |bytes: u64| self.end.saturating_sub(bytes);
        let dimensions = (self.info.dimensions.len() as u64).saturating_mul(8);
        [before(dimensions.saturating_add(12)), before(12), before(8)]
    }
}

fn unread(tensor: String, number: u32) -> GgufError {
    let found = GGUFTensorType::from_u32(number);
    let found = found.map_or(number.to_string(), |known| format!("{number} ({})", known.name()));
    GgufError::TensorType { tensor, found, expected: KNOWN }
}

/// Name and type of the entry at `start`, and where the type is, if that much of it is there.
fn name_and_type(bytes: &[u8], start: u64) -> Option<(String, u32, u64)> {
    let rest = bytes.get(usize::try_from(start).ok()?..)?;
    let (len, rest) = rest.split_first_chunk()?;
    // A longer name would be copied into the error.
    let len =
        usize::try_from(u64::from_le_bytes(*len)).ok().filter(|&len| len <= GGUF_MAX_TENSOR_NAME_LENGTH)?;
    let (name, rest) = rest.split_at_checked(len)?;
    let (rank, rest) = rest.split_first_chunk()?;
    let dimensions = usize::try_from(u32::from_le_bytes(*rank)).ok()?.checked_mul(size_of::<u64>())?;
    let rest = rest.get(dimensions..)?;
    let at = bytes.len().checked_sub(rest.len())? as u64;
    Some((String::from_utf8(name.to_vec()).ok()?, u32::from_le_bytes(*rest.first_chunk()?), at))
}

fn alignment(metadata: &Metadata) -> Result<u64, Fault> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Pair { value: MetadataValue::U32(found), .. }) if found.is_power_of_two() => Ok((*found).into()),
        Some(Pair { value, at }) => {
            Err(GgufError::Alignment { found: value.to_string_representation() }.at(*at))
        }
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
fn placed(infos: Vec<Info>, place: &Place) -> Result<Vec<Entry>, Fault> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    let (mut next, mut end) = (0, 0);
    for entry in infos {
        let [dimensions_at, type_at, offset_at] = entry.fields();
        let Info {
            info: TensorInfo { name: tensor, dimensions, tensor_type, offset, .. }, start: at, ..
        } = entry;
        if let Some(problem) = name_problem(&tensor) {
            return Err(GgufError::BadName { tensor, problem }.at(at));
        }
        if !names.insert(tensor.clone()) {
            return Err(GgufError::DuplicateTensor { tensor }.at(at));
        }
        let Some(kind) = Type::from_number(tensor_type) else {
            return Err(unread(tensor, tensor_type).at(type_at));
        };
        if offset != next {
            return Err(GgufError::Offset { tensor, expected: next, found: offset }.at(offset_at));
        }
        let Some(after) = size(kind, &dimensions).and_then(|size| offset.checked_add(size)) else {
            return Err(GgufError::Dimensions { tensor, dimensions }.at(dimensions_at));
        };
        let Some(range) = place.range(offset, after) else {
            return Err(GgufError::OutOfBounds { tensor, end: after, data: place.len }.at(at));
        };
        end = after;
        next = after.checked_next_multiple_of(place.alignment).unwrap_or(u64::MAX);
        tensors.push(Entry { name: tensor, at, dimensions, kind, range });
    }
    // The padding behind the last tensor may be missing.
    match (end..=next).contains(&place.len) {
        true => Ok(tensors),
        false => {
            let fault = GgufError::TrailingBytes { expected: next, found: place.len };
            Err(fault.at(place.start.saturating_add(next)))
        }
    }
}

/// The bytes of a tensor.
fn size(kind: Type, dimensions: &[u64]) -> Option<u64> {
    let (row, rest) = dimensions.split_first()?;
    let product = |product: u64, &dimension: &u64| product.checked_mul(dimension);
    let rows = rest.iter().try_fold(1, product)?;
    kind.bytes(*row, rows).filter(|&size| size > 0 && size < 1 << 62)
}
