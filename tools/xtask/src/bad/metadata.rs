//! Faults of the metadata section (spec, chapter 7).

use anyhow::Result;
use ccq::format::SectionKind;

use super::{Case, edited, empty};

const BOOL: u32 = 1;
const U64: u32 = 2;
const STRING: u32 = 5;
const BYTES: u32 = 6;

pub fn cases() -> Result<Vec<Case>> {
    let seven = &7u64.to_le_bytes()[..];
    Ok(vec![
        ("metadata-unknown-type", "BadMetadata{UnknownType}", with(&[entry(b"k", 7, b"x")])?),
        ("metadata-type-zero", "BadMetadata{UnknownType}", with(&[entry(b"k", 0, b"")])?),
        ("metadata-bool-two", "BadMetadata{BadBool}", with(&[entry(b"k", BOOL, &[2])])?),
        ("metadata-bool-of-two-bytes", "BadMetadata{BadLength}", with(&[entry(b"k", BOOL, &[1, 0])])?),
        ("metadata-bool-empty", "BadMetadata{BadLength}", with(&[entry(b"k", BOOL, &[])])?),
        ("metadata-u64-of-four-bytes", "BadMetadata{BadLength}", with(&[entry(b"k", U64, &[1, 0, 0, 0])])?),
        ("metadata-i64-of-nine-bytes", "BadMetadata{BadLength}", with(&[entry(b"k", 3, &[0; 9])])?),
        ("metadata-f64-empty", "BadMetadata{BadLength}", with(&[entry(b"k", 4, &[])])?),
        ("metadata-string-not-utf8", "BadMetadata{NotUtf8}", with(&[entry(b"k", STRING, &[0xC3])])?),
        (
            "metadata-unsorted",
            "BadMetadata{Unsorted}",
            with(&[entry(b"b", U64, seven), entry(b"a", U64, seven)])?,
        ),
        (
            "metadata-unsorted-prefix",
            "BadMetadata{Unsorted}",
            with(&[entry(b"ab", U64, seven), entry(b"a", U64, seven)])?,
        ),
        (
            "metadata-key-twice",
            "BadMetadata{Duplicate}",
            with(&[entry(b"k", U64, seven), entry(b"k", BOOL, &[1])])?,
        ),
        (
            "metadata-producer-not-string",
            "BadMetadata{WrongType}",
            with(&[entry(b"ccq.producer", BYTES, b"x")])?,
        ),
        ("metadata-recipe-not-string", "BadMetadata{WrongType}", with(&[entry(b"ccq.recipe", U64, seven)])?),
        ("metadata-key-empty", "BadName{Empty}", with(&[entry(b"", BYTES, b"")])?),
        ("metadata-key-not-utf8", "BadName{NotUtf8}", with(&[entry(b"\xFF", BYTES, b"")])?),
        ("metadata-key-control", "BadName{ControlCharacter}", with(&[entry(b"a\tb", BYTES, b"")])?),
        (
            "metadata-key-too-long",
            "LimitExceeded{bytes of a name}",
            with(&[entry(&[b'k'; 1025], BYTES, b"")])?,
        ),
        ("metadata-value-huge", "Overflow{metadata entry}", with_bytes(8, &u64::MAX.to_le_bytes())?),
        ("metadata-value-large", "BadMetadata{BadLength}", with_bytes(8, &(1u64 << 60).to_le_bytes())?),
        ("metadata-value-past-end", "BadMetadata{BadLength}", with_bytes(8, &16u64.to_le_bytes())?),
        ("metadata-key-huge", "BadMetadata{BadLength}", with_bytes(0, &u32::MAX.to_le_bytes())?),
        ("metadata-key-past-end", "BadMetadata{BadLength}", with_bytes(0, &1000u32.to_le_bytes())?),
        ("metadata-cut-record", "BadMetadata{BadLength}", with(&[entry(b"k", BYTES, b""), vec![0; 8]])?),
        ("metadata-cut-padding", "BadMetadata{BadLength}", {
            let mut cut = entry(b"k", BYTES, b"");
            cut.pop();
            with(&[cut])?
        }),
        ("padding-metadata", "Padding{metadata padding}", {
            let mut padded = entry(b"k", BYTES, b"");
            padded[20] = 1;
            with(&[padded])?
        }),
    ])
}

/// A container with this metadata section, and nothing else.
fn with(entries: &[Vec<u8>]) -> Result<Vec<u8>> {
    edited(empty(), |parts| parts.section(SectionKind::Metadata).bytes = entries.concat())
}

/// A container with one entry, some bytes of its record changed.
fn with_bytes(at: usize, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut entry = entry(b"k", BYTES, b"value");
    entry[at..at + bytes.len()].copy_from_slice(bytes);
    with(&[entry])
}

fn entry(key: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    let mut entry = Vec::new();
    entry.extend_from_slice(&(key.len() as u32).to_le_bytes());
    entry.extend_from_slice(&value_type.to_le_bytes());
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(key);
    entry.extend_from_slice(value);
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}
