//! The safetensors header: bytes -> checked tensor entries.
//!
//! ```text
//! u64 length | JSON of that length, padded with spaces | data
//! {"__metadata__": {key: text}, name: {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
//! ```
//!
//! Offsets count from the end of the header. The `safetensors` crate's own reader keeps the last of two equal
//! keys, ignores unknown fields, and adds up offsets without an overflow check, so the header is read here,
//! and strictly: what this module accepts the crate accepts too, with the same result.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ccq::format::{Dtype, Limits};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, HEADER_START};
use crate::json::{self, Pairs};

/// The longest header read, the limit of the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 32;
/// The most bytes of a name: a container holds no longer one.
const MAX_NAME: usize = 1024;
const _: () = assert!(MAX_NAME as u64 == Limits::DEFAULT.name_len);
/// The key of the metadata object.
const METADATA: &str = "__metadata__";

/// What a safetensors file holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// In the order of their data.
    pub tensors: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// A tensor of a safetensors file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<u64>,
    /// Its bytes, counted from the start of the file and within it.
    pub range: Range<usize>,
}

/// Reads the header of `file`, whose bytes are `bytes`, and checks everything but the weights.
pub(crate) fn read(file: &Path, bytes: &[u8]) -> Result<Contents, Error> {
    let (json, data_start) = split(file, bytes)?;
    let text = Text { file, json };
    let header: Header = serde_json::from_slice(json).map_err(|source| {
        let at = HEADER_START.saturating_add(json::position(json, &source));
        Error::Header { file: file.into(), at, source }
    })?;
    let metadata = unique_metadata(text, header.metadata)?;
    refuse_duplicates(text, &header.tensors)?;

    let data_len = bytes.len().saturating_sub(data_start) as u64;
    let mut tensors = header
        .tensors
        .into_iter()
        .map(|(name, info)| checked(text, name, info, data_start, data_len))
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    refuse_gaps(file, &tensors, data_start, bytes.len())?;
    Ok(Contents { tensors, metadata })
}

/// The JSON of a header, and its file.
#[derive(Clone, Copy)]
struct Text<'a> {
    file: &'a Path,
    json: &'a [u8],
}

impl Text<'_> {
    fn file(self) -> PathBuf {
        self.file.into()
    }

    /// The byte of the file where a member of the JSON begins.
    fn at(self, path: &[&str]) -> u64 {
        HEADER_START.saturating_add(json::place(self.json, path))
    }
}

/// The JSON text, and where the data begins.
fn split<'a>(file: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize), Error> {
    let found = bytes.len() as u64;
    let truncated = |expected| Error::Truncated { file: file.into(), expected, found };
    let (prefix, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| truncated(8))?;
    let len = u64::from_le_bytes(*prefix);
    if len > MAX_HEADER {
        return Err(Error::HeaderTooLarge { file: file.into(), limit: MAX_HEADER, found: len });
    }
    let end = len.saturating_add(8);
    let json = usize::try_from(len).ok().and_then(|len| rest.get(..len)).ok_or_else(|| truncated(end))?;
    match json.first() {
        Some(b'{') => Ok((json, json.len().saturating_add(8))),
        first => Err(Error::HeaderStart { file: file.into(), found: first.map(|&byte| byte.into()) }),
    }
}

fn unique_metadata(
    text: Text<'_>,
    pairs: Vec<Vec<(String, String)>>,
) -> Result<BTreeMap<String, String>, Error> {
    let duplicate = |path: &[&str]| {
        let key = path.last().copied().unwrap_or_default().into();
        Error::DuplicateMetadata { file: text.file(), at: text.at(path), key }
    };
    if pairs.len() > 1 {
        return Err(duplicate(&[METADATA]));
    }
    let mut unique = BTreeMap::new();
    for (key, value) in pairs.into_iter().flatten() {
        if unique.contains_key(&key) {
            return Err(duplicate(&[METADATA, &key]));
        }
        unique.insert(key, value);
    }
    Ok(unique)
}

fn refuse_duplicates(text: Text<'_>, tensors: &[(String, Info)]) -> Result<(), Error> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find_map(|pair| match pair {
        [first, second] if first == second => Some(*first),
        _ => None,
    });
    match twice {
        None => Ok(()),
        Some(name) => {
            Err(Error::DuplicateTensor { file: text.file(), at: text.at(&[name]), tensor: name.into() })
        }
    }
}

/// One tensor, checked by itself.
fn checked(
    text: Text<'_>,
    tensor: String,
    info: Info,
    data_start: usize,
    data_len: u64,
) -> Result<Entry, Error> {
    let place = || (text.file(), text.at(&[&tensor]));
    if let Some(problem) = name_problem(&tensor) {
        let (file, at) = place();
        let tensor = tensor.chars().take(MAX_NAME).collect();
        return Err(Error::BadName { file, at, tensor, problem });
    }
    let Some(dtype) = Dtype::from_name(&info.dtype) else {
        let (file, at) = place();
        return Err(Error::UnknownDtype { file, at, tensor, found: info.dtype });
    };
    let Shape { dimensions: shape, count } = info.shape;
    if count > shape.len() as u64 {
        let (file, at) = place();
        return Err(Error::TooManyDimensions { file, at, tensor, limit: MAX_DIMENSIONS, found: count });
    }
    let Some(expected) = dtype.tensor_bytes(&shape) else {
        let (file, at) = place();
        return Err(Error::BadShape { file, at, tensor, dtype, shape });
    };
    let (begin, end) = info.data_offsets;
    let position = |offset: u64| usize::try_from(offset).ok()?.checked_add(data_start);
    let range = match (position(begin), position(end)) {
        (Some(start), Some(stop)) if begin <= end && end <= data_len => start..stop,
        _ => {
            let (file, at) = place();
            return Err(Error::OutOfBounds { file, at, tensor, begin, end, data: data_len });
        }
    };
    let found = range.len() as u64;
    if found != expected {
        let (file, at) = place();
        return Err(Error::SizeMismatch { file, at, tensor, dtype, shape, expected, found });
    }
    Ok(Entry { name: tensor, dtype, shape, range })
}

/// What is wrong with a tensor's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// It has no characters.
    Empty,
    /// It has more bytes than a container's names may have.
    TooLong,
    /// It holds a control character, NUL among them.
    ControlCharacter,
}

impl fmt::Display for NameProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("is empty"),
            Self::TooLong => write!(f, "has more than {MAX_NAME} bytes"),
            Self::ControlCharacter => f.write_str("holds a control character"),
        }
    }
}

/// What forbids carrying a tensor under that name.
pub(crate) fn name_problem(name: &str) -> Option<NameProblem> {
    if name.is_empty() {
        Some(NameProblem::Empty)
    } else if name.len() > MAX_NAME {
        Some(NameProblem::TooLong)
    } else if name.chars().any(char::is_control) {
        Some(NameProblem::ControlCharacter)
    } else {
        None
    }
}

/// Tensors sorted by their data must cover all of it, one after the other.
fn refuse_gaps(file: &Path, tensors: &[Entry], data_start: usize, file_len: usize) -> Result<(), Error> {
    let offset = |position: usize| position.saturating_sub(data_start) as u64;
    let mut end = data_start;
    for tensor in tensors {
        if tensor.range.start != end {
            return Err(Error::Gap {
                file: file.into(),
                at: tensor.range.start as u64,
                tensor: tensor.name.clone(),
                expected: offset(end),
                found: offset(tensor.range.start),
            });
        }
        end = tensor.range.end;
    }
    match end == file_len {
        true => Ok(()),
        false => {
            let (expected, found) = (offset(end), offset(file_len));
            Err(Error::TrailingBytes { file: file.into(), at: end as u64, expected, found })
        }
    }
}

/// The header as written: duplicates are still there.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, Info)>,
    metadata: Vec<Vec<(String, String)>>,
}

/// A tensor as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`MAX_DIMENSIONS`] dimensions, and how many were written.
struct Shape {
    dimensions: Vec<u64>,
    count: u64,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    let within = |error| A::Error::custom(format_args!("tensor {name:?}: {error}"));
                    if name == METADATA {
                        header.metadata.push(map.next_value::<Pairs<String, String>>()?.0);
                    } else {
                        let info = map.next_value().map_err(within)?;
                        header.tensors.push((name, info));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;
        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Shape, A::Error> {
                let mut shape = Shape { dimensions: Vec::new(), count: 0 };
                while let Some(dimension) = sequence.next_element()? {
                    shape.count = shape.count.saturating_add(1);
                    if shape.dimensions.len() < MAX_DIMENSIONS {
                        shape.dimensions.push(dimension);
                    }
                }
                Ok(shape)
            }
        }
        deserializer.deserialize_seq(Dimensions)
    }
}
