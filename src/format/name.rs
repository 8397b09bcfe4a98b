//! Names of tensors, blobs and metadata keys (spec, clause 4.3).

use super::error::{Error, NameFault, Place};
use super::limits::Limits;

/// Checks the bytes of a tensor's name or a metadata key.
pub(super) fn check_name<'a>(bytes: &'a [u8], at: u64, limits: &Limits) -> Result<&'a str, Error> {
    let bad = |fault| Error::BadName { at: Place::byte(at), fault };
    if bytes.is_empty() {
        return Err(bad(NameFault::Empty));
    }
    if bytes.len() as u64 > limits.name_len {
        let (limit, found) = (limits.name_len, bytes.len() as u64);
        return Err(Error::LimitExceeded { what: "bytes of a name", at: Place::byte(at), limit, found });
    }
    let name = core::str::from_utf8(bytes).map_err(|_| bad(NameFault::NotUtf8))?;
    if name.chars().any(char::is_control) {
        return Err(bad(NameFault::ControlCharacter));
    }
    Ok(name)
}

/// Checks the bytes of a blob's name: also a relative path that stays below the folder it is put in.
pub(super) fn check_blob_name<'a>(bytes: &'a [u8], at: u64, limits: &Limits) -> Result<&'a str, Error> {
    let name = check_name(bytes, at, limits)?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if name.contains(['\\', ':']) || !name.split('/').all(plain) {
        return Err(Error::BadName { at: Place::named(at, name), fault: NameFault::UnsafePath });
    }
    Ok(name)
}
