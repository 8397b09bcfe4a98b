//! A GGUF file's key-values.
//!
//! `gguf-rs-lib` reads each value. Its reader of all of them is not used: it refuses keys such as
//! `gpt-oss.context_length`, which every model has whose architecture has a hyphen in its name.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use gguf_rs_lib::GGUFError;
use gguf_rs_lib::format::constants::{GGUF_MAX_METADATA_DECODED_SIZE, GGUF_MAX_METADATA_KEY_LENGTH};
use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::format::types::GGUFValueType;

use super::{Fault, GgufError, record};

/// Values by key.
pub(crate) type Metadata = BTreeMap<String, Pair>;

/// A value and the byte of the file that it begins at.
#[derive(Debug)]
pub(crate) struct Pair {
    pub at: u64,
    pub value: MetadataValue,
}

/// Reads so many pairs.
pub(super) fn read(cursor: &mut Cursor<&[u8]>, count: u64) -> Result<Metadata, Fault> {
    let len = cursor.get_ref().len() as u64;
    let mut metadata = Metadata::new();
    let mut memory = 0usize;
    for _ in 0..count {
        let start = cursor.position();
        let mut at = start;
        let (key, value) =
            read_pair(cursor, &mut at).map_err(|source| record("metadata", at, len, source))?;
        // The library bounds what one value takes.
        memory = memory.saturating_add(size(&value));
        if memory > GGUF_MAX_METADATA_DECODED_SIZE {
            return Err(GgufError::MetadataSize { key, limit: GGUF_MAX_METADATA_DECODED_SIZE }.at(at));
        }
        if metadata.contains_key(&key) {
            return Err(GgufError::DuplicateKey { key }.at(start));
        }
        metadata.insert(key, Pair { at, value });
    }
    Ok(metadata)
}

/// Reads a pair; `at` is kept where the field that is being read begins, and in the end has the value's place.
fn read_pair(cursor: &mut Cursor<&[u8]>, at: &mut u64) -> Result<(String, MetadataValue), GGUFError> {
    let (mut length, mut kind) = ([0; 8], [0; 4]);
    cursor.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length == 0 || length > GGUF_MAX_METADATA_KEY_LENGTH as u64 {
        return Err(GGUFError::InvalidMetadata(format!("a key of {length} bytes")));
    }
    *at = cursor.position();
    let mut key = String::new();
    if cursor.take(length).read_to_string(&mut key)? as u64 != length {
        return Err(GGUFError::UnexpectedEof);
    }
    *at = cursor.position();
    cursor.read_exact(&mut kind)?;
    let kind = GGUFValueType::from_u32(u32::from_le_bytes(kind))?;
    *at = cursor.position();
    Ok((key, MetadataValue::read_from(cursor, kind)?))
}

/// Bytes in memory, about.
fn size(value: &MetadataValue) -> usize {
    let own = size_of::<MetadataValue>();
    match value {
        MetadataValue::String(text) => own.saturating_add(text.len()),
        MetadataValue::Array(array) => array.iter().map(size).fold(own, usize::saturating_add),
        _ => own,
    }
}
