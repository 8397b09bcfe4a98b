//! The metadata section: typed key-values (spec, chapter 7).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use zerocopy::FromBytes;

use super::cursor::{check_zeros, end_of, usize_range};
use super::error::{At, Error, MetadataFault, Place};
use super::layout::{METADATA_ALIGN, MetadataRecord};
use super::limits::Limits;
use super::name::check_name;

/// The value of a metadata entry.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// An unsigned integer.
    U64(u64),
    /// A signed integer.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// Text.
    String(&'a str),
    /// Anything else.
    Bytes(&'a [u8]),
}

/// Keys whose meaning the specification fixes; all of them hold strings.
pub const KNOWN_STRING_KEYS: [&str; 4] = ["ccq.part", "ccq.producer", "ccq.recipe", "ccq.transposed"];

impl Value<'_> {
    /// The identifier stored in an entry.
    #[cfg(feature = "std")]
    const fn type_id(&self) -> u32 {
        match self {
            Self::Bool(_) => 1,
            Self::U64(_) => 2,
            Self::I64(_) => 3,
            Self::F64(_) => 4,
            Self::String(_) => 5,
            Self::Bytes(_) => 6,
        }
    }

    /// Appends the stored form.
    #[cfg(feature = "std")]
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => out.push((*value).into()),
            Self::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::I64(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::String(value) => out.extend_from_slice(value.as_bytes()),
            Self::Bytes(value) => out.extend_from_slice(value),
        }
    }
}

/// A parsed metadata section, which owns its bytes.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    bytes: Box<[u8]>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Range<usize>,
    value: Range<usize>,
    value_type: u32,
}

impl Metadata {
    /// Entries in ascending order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Value<'_>)> {
        self.entries.iter().map(|entry| (self.key(entry), self.value(entry)))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let at = self.entries.binary_search_by(|entry| self.key(entry).cmp(key)).ok()?;
        self.entries.get(at).map(|entry| self.value(entry))
    }

    fn key(&self, entry: &Entry) -> &str {
        let bytes = self.bytes.get(entry.key.clone()).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    fn value(&self, entry: &Entry) -> Value<'_> {
        let bytes = self.bytes.get(entry.value.clone()).unwrap_or_default();
        decode(entry.value_type, bytes).unwrap_or(Value::Bytes(bytes))
    }

    /// Parses a section that starts at byte `offset` of the file.
    pub(super) fn parse(section: &[u8], offset: u64, limits: &Limits) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut previous: &[u8] = &[];
        let mut start = 0usize;
        while start < section.len() {
            let at = offset.saturating_add(start as u64);
            let bad = |fault| Error::BadMetadata { at: Place::byte(at), fault };
            let short = || bad(MetadataFault::BadLength);
            let rest = section.get(start..).unwrap_or_default();
            let (record, _) = MetadataRecord::ref_from_prefix(rest).map_err(|_| short())?;
            let place = At::byte(at);
            let key_at = end_of("metadata entry", start as u64, size_of::<MetadataRecord>() as u64, place)?;
            let value_at = end_of("metadata entry", key_at, record.key_len.get().into(), place)?;
            let value_end = end_of("metadata entry", value_at, record.value_len.get(), place)?;
            let end = value_end
                .checked_next_multiple_of(METADATA_ALIGN as u64)
                .ok_or_else(|| Error::Overflow { what: "metadata entry", at: place.into() })?;
            let within = |from, to| usize_range(from, to).filter(|range| range.end <= section.len());
            let key_range = within(key_at, value_at).ok_or_else(short)?;
            let value_range = within(value_at, value_end).ok_or_else(short)?;
            let padding_range = within(value_end, end).ok_or_else(short)?;

            let part = |range: &Range<usize>| section.get(range.clone()).unwrap_or_default();
            let (key, value, next) = (part(&key_range), part(&value_range), padding_range.end);
            let name = check_name(key, offset.saturating_add(key_at), limits)?;
            let bad = |fault| Error::BadMetadata { at: Place::named(at, name), fault };
            if key <= previous && !entries.is_empty() {
                let twice = key == previous;
                return Err(bad(if twice { MetadataFault::Duplicate } else { MetadataFault::Unsorted }));
            }
            let value_type = record.value_type.get();
            let decoded = decode(value_type, value).map_err(bad)?;
            if KNOWN_STRING_KEYS.contains(&name) && !matches!(decoded, Value::String(_)) {
                return Err(bad(MetadataFault::WrongType));
            }
            let padding = part(&padding_range);
            check_zeros(padding, "metadata padding", offset.saturating_add(value_end), name)?;
            entries.push(Entry { key: key_range, value: value_range, value_type });
            previous = key;
            start = next;
        }
        Ok(Self { bytes: section.into(), entries })
    }
}

/// The value of a type identifier and its stored bytes.
fn decode(value_type: u32, bytes: &[u8]) -> Result<Value<'_>, MetadataFault> {
    let eight = || <[u8; 8]>::try_from(bytes).map_err(|_| MetadataFault::BadLength);
    Ok(match value_type {
        1 => match bytes {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [_] => return Err(MetadataFault::BadBool),
            _ => return Err(MetadataFault::BadLength),
        },
        2 => Value::U64(u64::from_le_bytes(eight()?)),
        3 => Value::I64(i64::from_le_bytes(eight()?)),
        4 => Value::F64(f64::from_le_bytes(eight()?)),
        5 => Value::String(core::str::from_utf8(bytes).map_err(|_| MetadataFault::NotUtf8)?),
        6 => Value::Bytes(bytes),
        _ => return Err(MetadataFault::UnknownType),
    })
}

/// The stored form of entries that are sorted by key, names checked as a reader would.
#[cfg(feature = "std")]
pub(super) fn write_section(entries: &[(&str, Value<'_>)]) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    for (key, value) in entries {
        check_name(key.as_bytes(), 0, &Limits::DEFAULT).map_err(|error| match error {
            Error::BadName { fault, .. } => Error::BadName { at: Place::named(0, key), fault },
            other => other,
        })?;
        let mut stored = Vec::new();
        value.write(&mut stored);
        let record = MetadataRecord {
            // A name is at most 1024 bytes.
            key_len: u32::try_from(key.len()).unwrap_or(u32::MAX).into(),
            value_type: value.type_id().into(),
            value_len: (stored.len() as u64).into(),
        };
        out.extend_from_slice(zerocopy::IntoBytes::as_bytes(&record));
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&stored);
        out.resize(out.len().next_multiple_of(METADATA_ALIGN), 0);
    }
    Ok(out)
}
