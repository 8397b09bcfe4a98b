//! Status, error object, and the guard that keeps panics on this side.

use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use std::path::Path;

use ccq::codec::SizeError;
use ccq::{Error, SetError};

/// What came of a call. The numbers stay what they are; later versions add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ccq_status {
    /// All went well.
    Ok = 0,
    /// The file is cut short.
    Truncated = 1,
    /// Not a .ccq file.
    BadMagic = 2,
    /// A version of the format that this reader does not know.
    UnsupportedVersion = 3,
    /// A feature that this reader does not know.
    UnsupportedFeature = 4,
    /// A reserved field is not zero.
    Reserved = 5,
    /// The front of the file does not match its checksums.
    Checksum = 6,
    /// More than this reader is willing to open.
    LimitExceeded = 7,
    /// A computed size exceeds 64 bits.
    Overflow = 8,
    /// A shape that the encoding cannot have.
    BadShape = 9,
    /// A range outside the part of the file it belongs to.
    OutOfBounds = 10,
    /// Ranges or records that do not follow each other as they must.
    Layout = 11,
    /// A name that nothing can have.
    BadName = 12,
    /// A metadata entry that is not well-formed.
    BadMetadata = 13,
    /// A code description or a set of planes that is not one.
    BadEncoding = 14,
    /// The file does not belong to the set of files it is opened with.
    Shard = 15,
    /// A tensor or blob does not match its checksum.
    PayloadChecksum = 16,
    /// Padding that is not zero.
    Padding = 17,
    /// A scale that is not a finite number.
    NonFinite = 18,
    /// The system failed to read.
    Io = 19,
    /// An argument is NULL, or has a value that stands for nothing.
    InvalidArgument = 100,
    /// The tensor is not quantized: it has no rows to decode.
    NotQuantized = 101,
    /// The rows asked for are not rows of the tensor.
    Rows = 102,
    /// A buffer does not hold exactly what is asked for.
    BufferSize = 103,
    /// A fault of this library: please report it.
    Internal = 200,
}

/// A failure: a status and a message. Made by the call that failed, given back with ccq_error_free.
pub struct ccq_error {
    status: ccq_status,
    message: CString,
}

/// A failure on this side of the border.
pub(crate) struct Failure {
    pub status: ccq_status,
    pub message: String,
}

impl Failure {
    pub(crate) fn invalid(message: &str) -> Self {
        Self { status: ccq_status::InvalidArgument, message: message.into() }
    }

    /// A failure of opening a model by one of its files, the message with the file's name unless it is that one.
    pub(crate) fn opening(path: &Path, error: &SetError) -> Self {
        let status = status_of(&error.source);
        let named = error.file != path || status == ccq_status::Io;
        Self { status, message: if named { error.to_string() } else { error.source.to_string() } }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { status: status_of(&error), message: error.to_string() }
    }
}

impl From<SizeError> for Failure {
    fn from(error: SizeError) -> Self {
        let status = match error {
            SizeError::Rows { .. } => ccq_status::Rows,
            SizeError::Output { .. } | SizeError::Input { .. } => ccq_status::BufferSize,
            _ => ccq_status::Internal, // of making a matrix, which happened before
        };
        Self { status, message: error.to_string() }
    }
}

fn status_of(error: &Error) -> ccq_status {
    match error {
        Error::Truncated { .. } => ccq_status::Truncated,
        Error::BadMagic { .. } => ccq_status::BadMagic,
        Error::UnsupportedVersion { .. } => ccq_status::UnsupportedVersion,
        Error::UnsupportedFeature { .. } => ccq_status::UnsupportedFeature,
        Error::Reserved { .. } => ccq_status::Reserved,
        Error::Checksum { .. } => ccq_status::Checksum,
        Error::LimitExceeded { .. } => ccq_status::LimitExceeded,
        Error::Overflow { .. } => ccq_status::Overflow,
        Error::BadShape { .. } => ccq_status::BadShape,
        Error::OutOfBounds { .. } => ccq_status::OutOfBounds,
        Error::Layout { .. } => ccq_status::Layout,
        Error::BadName { .. } => ccq_status::BadName,
        Error::BadMetadata { .. } => ccq_status::BadMetadata,
        Error::BadEncoding { .. } => ccq_status::BadEncoding,
        Error::Shard { .. } => ccq_status::Shard,
        Error::PayloadChecksum { .. } => ccq_status::PayloadChecksum,
        Error::Padding { .. } => ccq_status::Padding,
        Error::NonFinite { .. } => ccq_status::NonFinite,
        Error::Io(_) => ccq_status::Io,
        _ => ccq_status::Internal, // an error that this interface was not taught
    }
}

/// Runs what can fail, and turns errors and panics into a status and an error object.
///
/// # Safety
/// `error` is NULL or points to writable memory for a pointer.
pub(crate) unsafe fn guard(
    error: *mut *mut ccq_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> ccq_status {
    let panicked = |_| {
        let message = "internal error: please report it".into();
        Err(Failure { status: ccq_status::Internal, message })
    };
    // Nothing that a panic could have left half-done is used again: files are only read, outputs written last.
    let Err(Failure { status, message }) = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(panicked)
    else {
        return ccq_status::Ok;
    };
    if !error.is_null() {
        let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: the caller's promise.
        unsafe { error.write(Box::into_raw(Box::new(ccq_error { status, message }))) };
    }
    status
}

/// The status of an error; CCQ_STATUS_OK for NULL.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_error_status(error: *const ccq_error) -> ccq_status {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(ccq_status::Ok, |error| error.status)
}

/// What went wrong, where, and what to do; it lives as long as the error. Empty for NULL.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_error_message(error: *const ccq_error) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error; nothing happens for NULL.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_error_free(error: *mut ccq_error) {
    if !error.is_null() {
        // SAFETY: the caller's promise; `guard` made it of a box.
        drop(unsafe { Box::from_raw(error) });
    }
}

/// The name of a status, such as "BadMagic"; "unknown" for a number that is none. It lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ccq_status_name(status: u32) -> *const c_char {
    const NAMES: &[(ccq_status, &CStr)] = &[
        (ccq_status::Ok, c"Ok"),
        (ccq_status::Truncated, c"Truncated"),
        (ccq_status::BadMagic, c"BadMagic"),
        (ccq_status::UnsupportedVersion, c"UnsupportedVersion"),
        (ccq_status::UnsupportedFeature, c"UnsupportedFeature"),
        (ccq_status::Reserved, c"Reserved"),
        (ccq_status::Checksum, c"Checksum"),
        (ccq_status::LimitExceeded, c"LimitExceeded"),
        (ccq_status::Overflow, c"Overflow"),
        (ccq_status::BadShape, c"BadShape"),
        (ccq_status::OutOfBounds, c"OutOfBounds"),
        (ccq_status::Layout, c"Layout"),
        (ccq_status::BadName, c"BadName"),
        (ccq_status::BadMetadata, c"BadMetadata"),
        (ccq_status::BadEncoding, c"BadEncoding"),
        (ccq_status::Shard, c"Shard"),
        (ccq_status::PayloadChecksum, c"PayloadChecksum"),
        (ccq_status::Padding, c"Padding"),
        (ccq_status::NonFinite, c"NonFinite"),
        (ccq_status::Io, c"Io"),
        (ccq_status::InvalidArgument, c"InvalidArgument"),
        (ccq_status::NotQuantized, c"NotQuantized"),
        (ccq_status::Rows, c"Rows"),
        (ccq_status::BufferSize, c"BufferSize"),
        (ccq_status::Internal, c"Internal"),
    ];
    NAMES.iter().find(|(known, _)| *known as u32 == status).map_or(c"unknown", |(_, name)| *name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let mut error = std::ptr::null_mut();
        // SAFETY: `error` is a pointer of this function.
        let status = unsafe { guard(&raw mut error, || panic!("on purpose")) };
        assert_eq!(status, ccq_status::Internal);
        // SAFETY: `guard` made it, and it is freed once.
        unsafe {
            assert_eq!(ccq_error_status(error), ccq_status::Internal);
            let message = CStr::from_ptr(ccq_error_message(error)).to_str().unwrap();
            assert!(message.contains("please report"), "{message}");
            ccq_error_free(error);
        }
        // SAFETY: NULL is allowed.
        let status = unsafe { guard(std::ptr::null_mut(), || panic!("on purpose")) };
        assert_eq!(status, ccq_status::Internal);
    }
}
