//! Importance vectors: what a calibration found each input channel of a tensor to be worth.
//!
//! The importance of an input channel is the mean square of what enters it; an error in a weight of that
//! channel costs so much. Two kinds of files hold such vectors, told apart by their content:
//!
//! - A safetensors file: for a tensor of the model one of the same name, F32, F16 or BF16, of shape
//!   `[in_features]`; for stacked experts also `[experts, in_features]`.
//! - llama.cpp's imatrix in its GGUF form: for a tensor `NAME` the sums of squares `NAME.in_sum2`, of
//!   dimensions `[in_features, experts]` innermost first, and how many were summed, `NAME.counts`, of
//!   dimensions `[1, experts]`; trailing dimensions of 1 are left out. A tensor of several matrices without
//!   routing has one count and its sums in a row. `NAME` may also be the model's own.
//!
//! ```text
//! vector e = in_sum2[e] / counts[e]                 f32
//!          = the mean of all values of the vectors that have a count, everywhere, if counts[e] = 0
//! ```
//!
//! An expert without a count was never chosen during calibration. Within a stack it gets a uniform vector, on
//! the level of the others so that it weighs as much as they in a sum over all; alone it has no vector, and a
//! stack without any count has none.

mod contents;
mod error;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use ccq::format::Dtype;
use memmap2::Mmap;

use self::contents::{Contents, Entry};
use self::names::{Aliases, aliases};
use crate::decode::decode_f32;
use crate::error::Error;
use crate::{files, gguf};

pub use self::contents::Calibration;
pub use self::error::ImportanceError;

/// An opened file of importance vectors.
#[derive(Debug)]
pub struct Importance {
    file: PathBuf,
    bytes: Bytes,
    entries: BTreeMap<String, Entry>,
    calibration: Option<Calibration>,
    ignored: Vec<String>,
}

/// A file's content.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    InMemory(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::InMemory(bytes) => bytes,
        }
    }
}

/// The importance of a tensor's input channels: one vector for each expert, or one for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    values: Vec<f32>,
    in_features: usize,
}

impl Vectors {
    /// Whether one vector serves every expert.
    pub fn is_shared(&self) -> bool {
        self.values.len() == self.in_features
    }

    /// The values of an expert, or of a matrix, which is expert 0: finite and at least 0, one an input channel.
    ///
    /// A single vector serves every expert; otherwise an expert beyond the last has none.
    pub fn of(&self, expert: usize) -> &[f32] {
        if self.is_shared() {
            return &self.values;
        }
        self.values.chunks_exact(self.in_features.max(1)).nth(expert).unwrap_or_default()
    }
}

impl Importance {
    /// Opens a file and checks all of it, each value included.
    ///
    /// The file stays mapped: nobody may cut it short before this is dropped.
    ///
    /// # Errors
    /// [`ImportanceError`], for anything that is not as described; never for what depends on the model.
    pub fn open(path: &Path) -> Result<Self, ImportanceError> {
        let map = files::map(path).map_err(|error| match error {
            Error::UnknownInput { file } => ImportanceError::UnknownInput { file },
            other => other.into(),
        })?;
        Self::read(path, Bytes::Mapped(map))
    }

    /// The same for a file that is in memory; errors call it `path`.
    ///
    /// # Errors
    /// As [`Importance::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ImportanceError> {
        Self::read(path, Bytes::InMemory(bytes))
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self, ImportanceError> {
        let file = || path.to_path_buf();
        let Contents { entries, calibration, ignored } = if bytes.starts_with(gguf::MAGIC) {
            contents::imatrix(path, &bytes)?
        } else if bytes.get(8) == Some(&b'{') || path.extension().is_some_and(|end| end == "safetensors") {
            contents::safetensors(path, &bytes)?
        } else if is_old_imatrix(&bytes) || path.extension().is_some_and(|end| end == "dat") {
            return Err(ImportanceError::OldImatrix { file: file() });
        } else {
            return Err(ImportanceError::UnknownInput { file: file() });
        };
        let importance = Self { file: file(), bytes, entries, calibration, ignored };
        for (name, entry) in &importance.entries {
            importance.vectors(name, entry, 0..entry.vectors, entry.width)?;
        }
        Ok(importance)
    }

    /// The names in the file, sorted: the model's, or llama.cpp's.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// What an imatrix says of the run that made it; `None` for a safetensors file.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    /// Tensors of an imatrix that are neither sums nor counts: a newer llama.cpp may know what they are.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// The importance of the input channels of the model's tensor `tensor`, which is `experts` matrices (1 if
    /// it is not a stack) with `in_features` columns. `None` if the file has no vector for it, or one of an
    /// expert that calibration never chose.
    ///
    /// # Errors
    /// [`ImportanceError::WrongLength`] and [`ImportanceError::NoExpert`] if the file was made for another
    /// model; [`ImportanceError::BadValue`] only if the file changed since it was opened.
    pub fn get(
        &self,
        tensor: &str,
        experts: usize,
        in_features: usize,
    ) -> Result<Option<Vectors>, ImportanceError> {
        let Some((name, entry, expert)) = self.find(tensor) else {
            return Ok(None);
        };
        let wrong_length = || ImportanceError::WrongLength {
            file: self.file.clone(),
            tensor: tensor.into(),
            entry: name.into(),
            experts,
            in_features,
            found: [entry.vectors, entry.width],
        };
        let held = entry.vectors_of(in_features).ok_or_else(wrong_length)?;
        let vectors = match expert {
            Some(_) if experts != 1 => return Err(wrong_length()),
            Some(expert) if expert >= held => {
                return Err(ImportanceError::NoExpert {
                    file: self.file.clone(),
                    tensor: tensor.into(),
                    entry: name.into(),
                    expert,
                    found: held,
                });
            }
            Some(expert) => expert..expert.saturating_add(1),
            None if held == experts || held == 1 => 0..held,
            None => return Err(wrong_length()),
        };
        let values = self.vectors(name, entry, vectors, in_features)?;
        Ok(values.map(|values| Vectors { values, in_features }))
    }

    /// The names in the file that no tensor of the model has, sorted. `tensors` are the names of all tensors of
    /// the model, also of those that are not quantized.
    pub fn unknown<'a>(&self, tensors: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut unknown: BTreeSet<&str> = self.names().collect();
        for tensor in tensors {
            unknown.remove(tensor);
            if self.calibration.is_some() {
                let Aliases { names, related, .. } = aliases(tensor);
                for name in names.iter().chain(&related) {
                    unknown.remove(name.as_str());
                }
            }
        }
        unknown.into_iter().map(Into::into).collect()
    }

    /// The entry of the model's tensor, and which of its vectors if it is one expert's.
    fn find(&self, tensor: &str) -> Option<(&str, &Entry, Option<usize>)> {
        if let Some((name, entry)) = self.entries.get_key_value(tensor) {
            return Some((name, entry, None));
        }
        self.calibration.as_ref()?;
        let Aliases { names, expert, .. } = aliases(tensor);
        let (name, entry) = names.iter().find_map(|name| self.entries.get_key_value(name))?;
        Some((name, entry, expert))
    }

    /// Some vectors of an entry, each of `width` values; `None` if calibration saw none of them.
    fn vectors(
        &self,
        tensor: &str,
        entry: &Entry,
        vectors: Range<usize>,
        width: usize,
    ) -> Result<Option<Vec<f32>>, ImportanceError> {
        let first = vectors.start.saturating_mul(width);
        let elements = first..vectors.end.saturating_mul(width);
        let mut values = self.decode(tensor, entry.dtype, &entry.values, elements)?;
        let place = Place { dtype: entry.dtype, start: entry.values.start, first };
        self.check(tensor, place, &values)?;
        let Some(range) = &entry.counts else {
            return Ok(Some(values));
        };
        let all = 0..range.len().div_ceil(size_of::<f32>());
        let counts = self.decode(tensor, Dtype::F32, range, all.clone())?;
        let count_place = Place { dtype: Dtype::F32, start: range.start, first: 0 };
        self.check(&format!("{tensor}.counts"), count_place, &counts)?;
        let of_vectors = match *counts.as_slice() {
            [one] => vec![one; vectors.len()],
            _ => counts.get(vectors).unwrap_or_default().to_vec(),
        };
        if of_vectors.iter().all(|&count| count == 0.0) {
            return Ok(None);
        }
        divide(&mut values, &of_vectors, width);
        self.check(tensor, place, &values)?;
        Ok(Some(values))
    }

    /// Elements of a tensor at `range` of the file.
    fn decode(
        &self,
        tensor: &str,
        dtype: Dtype,
        range: &Range<usize>,
        elements: Range<usize>,
    ) -> Result<Vec<f32>, ImportanceError> {
        let size = size(dtype);
        let bytes = self.bytes.get(range.clone()).unwrap_or_default();
        let part = elements.start.saturating_mul(size)..elements.end.saturating_mul(size);
        let mut values = Vec::new();
        decode_f32(dtype, bytes.get(part).unwrap_or_default(), &mut values).map_err(|source| {
            let (file, tensor) = (self.file.clone(), tensor.into());
            Error::Decode { file, tensor, source }
        })?;
        Ok(values)
    }

    /// All values are finite and at least 0.
    fn check(&self, tensor: &str, place: Place, values: &[f32]) -> Result<(), ImportanceError> {
        let bad = |value: &f32| !(value.is_finite() && *value >= 0.0);
        match values.iter().enumerate().find(|(_, value)| bad(value)) {
            None => Ok(()),
            Some((at, &found)) => {
                let position = place.first.saturating_add(at);
                let at = place.start.saturating_add(position.saturating_mul(size(place.dtype))) as u64;
                let (file, tensor) = (self.file.clone(), tensor.into());
                Err(ImportanceError::BadValue { file, at, tensor, position, found })
            }
        }
    }
}

/// Where values are: in a tensor of that dtype that begins at `start`, from its element `first` on.
#[derive(Clone, Copy)]
struct Place {
    dtype: Dtype,
    start: usize,
    first: usize,
}

/// Bytes of an element: F32, F16 or BF16.
fn size(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

impl Entry {
    /// How many vectors of that length the entry is.
    fn vectors_of(&self, width: usize) -> Option<usize> {
        if self.width == width {
            return Some(self.vectors);
        }
        // One count for all: the sums of several matrices follow each other in one row.
        let one_row = self.counts.is_some() && self.vectors == 1;
        (one_row && self.width.checked_rem(width) == Some(0)).then(|| self.width.checked_div(width))?
    }
}

/// Sums to means, vector by vector; where nothing was counted, the mean of the others.
fn divide(values: &mut [f32], counts: &[f32], width: usize) {
    let (mut total, mut seen) = (0.0, 0.0);
    for (vector, &count) in
        values.chunks_exact_mut(width.max(1)).zip(counts).filter(|(_, count)| **count > 0.0)
    {
        for value in vector {
            *value /= count;
            total += f64::from(*value);
            seen += 1.0;
        }
    }
    #[allow(clippy::cast_possible_truncation)] // A mean of f32 values is within their range.
    let mean = if total > 0.0 { (total / seen) as f32 } else { 1.0 };
    for (vector, _) in values.chunks_exact_mut(width.max(1)).zip(counts).filter(|(_, count)| **count == 0.0) {
        vector.fill(mean);
    }
}

/// Does a file begin as llama.cpp's old form: i32 entries, then of the first i32 length and text of its name?
fn is_old_imatrix(bytes: &[u8]) -> bool {
    let Some((entries, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let Some((length, rest)) = rest.split_first_chunk::<4>() else {
        return false;
    };
    let name = usize::try_from(i32::from_le_bytes(*length)).ok().and_then(|length| rest.get(..length));
    let is_name = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    i32::from_le_bytes(*entries) > 0 && name.is_some_and(is_name)
}
