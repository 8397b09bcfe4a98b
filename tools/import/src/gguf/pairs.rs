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

use super::GgufError;

/// Values by key.
pub(crate) type Metadata = BTreeMap<String, MetadataValue>;

/// Reads so many pairs.
pub(super) fn read(cursor: &mut Cursor<&[u8]>, count: u64) -> Result<Metadata, GgufError> {
    let len = cursor.get_ref().len() as u64;
    let mut metadata = Metadata::new();
    let mut memory = 0usize;
    for _ in 0..count {
        let pair = read_pair(cursor);
        let offset = cursor.position();
        let (key, value) =
            pair.map_err(|source| GgufError::Record { what: "metadata", offset, len, source })?;
        // The library bounds what one value takes.
        memory = memory.saturating_add(size(&value));
        if memory > GGUF_MAX_METADATA_DECODED_SIZE {
            return Err(GgufError::MetadataSize { key, limit: GGUF_MAX_METADATA_DECODED_SIZE });
        }
        if metadata.contains_key(&key) {
            return Err(GgufError::DuplicateKey { key });
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn read_pair(cursor: &mut Cursor<&[u8]>) -> Result<(String, MetadataValue), GGUFError> {
    let (mut length, mut kind) = ([0; 8], [0; 4]);
    cursor.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length == 0 || length > GGUF_MAX_METADATA_KEY_LENGTH as u64 {
        return Err(GGUFError::InvalidMetadata(format!("a key of {length} bytes")));
    }
    let mut key = String::new();
    if cursor.take(length).read_to_string(&mut key)? as u64 != length {
        return Err(GGUFError::UnexpectedEof);
    }
    cursor.read_exact(&mut kind)?;
    let kind = GGUFValueType::from_u32(u32::from_le_bytes(kind))?;
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
