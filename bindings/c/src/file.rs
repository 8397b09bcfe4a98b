//! Files: opening, verifying, closing; blobs and metadata.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr;

use ccq::format::{Index, Value};
use ccq::{Access, Container, Limits, OpenOptions, Set};

use crate::error::{Failure, ccq_error, ccq_status, guard};
use crate::tensor::{ccq_tensor, tensors};

/// Flag of ccq_open: read the whole file into memory, for network disks and files that others may change. Without it
/// the file is mapped, and must not be modified or truncated until it is closed (replacing it by renaming another
/// file over it is fine).
pub const CCQ_IN_MEMORY: u32 = 1;
/// Flag of ccq_open: the payload is going to be used from front to back, once.
pub const CCQ_SEQUENTIAL: u32 = 2;
/// Flag of ccq_open: the payload is going to be used here and there.
pub const CCQ_RANDOM: u32 = 4;
/// Flag of ccq_open: use huge pages where the system has them.
pub const CCQ_HUGE_PAGES: u32 = 8;

/// An open file, or all files of a model that is in several.
pub struct ccq_file {
    // Everything but the last field borrows from what the last one points to.
    pub(crate) tensors: Vec<ccq_tensor>,
    blobs: Vec<(CString, &'static [u8])>,
    metadata: Vec<(CString, Value<'static>)>,
    model: *mut Model,
}

/// What is open.
enum Model {
    /// By a path.
    Files(Set),
    /// In the caller's memory: one file, also where it is one of several.
    Bytes(Container<'static>),
}

impl Model {
    /// That of the first file.
    fn index(&self) -> Option<&Index> {
        match self {
            Self::Files(set) => set.files().next().map(|(_, first)| first.index()),
            Self::Bytes(container) => Some(container.index()),
        }
    }

    fn parameters(&self) -> u64 {
        match self {
            Self::Files(set) => set.parameters(),
            Self::Bytes(container) => container.index().parameters(),
        }
    }

    fn verify(&self) -> Result<(), Failure> {
        match self {
            Self::Files(set) => {
                // A file that is the only one needs no name.
                let given = if set.files().len() == 1 { set.files().next().map(|file| file.0) } else { None };
                let failed = |error| Failure::opening(given.unwrap_or(Path::new("")), &error);
                set.verify().map_err(failed)
            }
            Self::Bytes(container) => Ok(container.verify()?),
        }
    }
}

const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Model>();
    shared_by_threads::<ccq_tensor>();
};

impl ccq_file {
    fn new(model: Model) -> Self {
        let model = Box::into_raw(Box::new(model));
        // SAFETY: the box lives until `drop`, which no borrowed part outlives: the header forbids their use after
        // ccq_close.
        let shared: &'static Model = unsafe { &*model };
        let c_string = |text: &str| CString::new(text).unwrap_or_default(); // names hold no NUL (spec, clause 4.3)
        let blob = |(name, bytes): (&str, &'static [u8])| (c_string(name), bytes);
        let (tensors, blobs) = match shared {
            Model::Files(set) => (tensors(set.tensors()), set.blobs().map(blob).collect()),
            Model::Bytes(container) => (tensors(container.tensors()), container.blobs().map(blob).collect()),
        };
        let metadata = shared.index().into_iter().flat_map(|index| index.metadata().iter());
        let metadata = metadata.map(|(key, value)| (c_string(key), value)).collect();
        Self { tensors, blobs, metadata, model }
    }

    fn model(&self) -> &Model {
        // SAFETY: the box of `new`, which lives as long as `self`.
        unsafe { &*self.model }
    }
}

impl Drop for ccq_file {
    fn drop(&mut self) {
        self.tensors.clear();
        self.blobs.clear();
        self.metadata.clear();
        // SAFETY: the box of `new`; nothing borrows from it any more.
        drop(unsafe { Box::from_raw(self.model) });
    }
}

/// The version of this library, such as "0.1.0". It lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ccq_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => c"",
        };
    VERSION.as_ptr()
}

/// Opens a file; where it is one of several of a model (x-00002-of-00003.ccq), all of them, as if they were one: the
/// others are found beside it. This costs time in proportion to the index, unless files are read into memory: a tensor
/// is read when it is first touched. `flags` is 0 or a sum of CCQ_IN_MEMORY, CCQ_SEQUENTIAL, CCQ_RANDOM and
/// CCQ_HUGE_PAGES. A message about another file than `path` begins with its name.
///
/// # Safety
/// `path` is NULL or a string; `file` and `error` are NULL or point to writable memory for a pointer. A file that is
/// mapped is not modified or truncated until it is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_open(
    path: *const c_char,
    flags: u32,
    file: *mut *mut ccq_file,
    error: *mut *mut ccq_error,
) -> ccq_status {
    let open = || {
        if path.is_null() || file.is_null() {
            return Err(Failure::invalid("`path` or `file` is NULL"));
        }
        // SAFETY: the caller's promise.
        let path = path_of(unsafe { CStr::from_ptr(path) })?;
        let set = Set::open_with(&path, options(flags)?).map_err(|error| Failure::opening(&path, &error))?;
        // SAFETY: the caller's promise.
        unsafe { file.write(Box::into_raw(Box::new(ccq_file::new(Model::Files(set))))) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(error, open) }
}

/// Opens a file that is in memory already, at any alignment. The memory is borrowed: it must stay as it is until
/// ccq_close. A file that is one of several of a model is opened alone.
///
/// # Safety
/// `bytes` is NULL or points to `len` bytes, which stay as they are until ccq_close; `file` and `error` are NULL or
/// point to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_open_bytes(
    bytes: *const u8,
    len: usize,
    file: *mut *mut ccq_file,
    error: *mut *mut ccq_error,
) -> ccq_status {
    let open = || {
        if bytes.is_null() || file.is_null() || isize::try_from(len).is_err() {
            return Err(Failure::invalid("`bytes` or `file` is NULL, or `len` is no length"));
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
        let container = Container::from_bytes(bytes, &Limits::DEFAULT)?;
        // SAFETY: the caller's promise.
        unsafe { file.write(Box::into_raw(Box::new(ccq_file::new(Model::Bytes(container))))) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { guard(error, open) }
}

/// Closes a file, and with it everything got from it; nothing happens for NULL.
///
/// # Safety
/// `file` is NULL or a file that has not been closed, and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_close(file: *mut ccq_file) {
    if !file.is_null() {
        // SAFETY: the caller's promise; the functions that open made it of a box.
        drop(unsafe { Box::from_raw(file) });
    }
}

/// Reads everything and checks what opening cannot: checksums, padding, scales that must be finite. Of a model in
/// several files the message begins with the name of the one it is about.
///
/// # Safety
/// `file` is NULL or an open file; `error` is NULL or points to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_verify(file: *const ccq_file, error: *mut *mut ccq_error) -> ccq_status {
    // SAFETY: the caller's promise.
    let verify = || match unsafe { file.as_ref() } {
        Some(file) => file.model().verify(),
        None => Err(Failure::invalid("`file` is NULL")),
    };
    // SAFETY: the caller's promise.
    unsafe { guard(error, verify) }
}

/// The version of the format that the file was written in; either pointer may be NULL.
///
/// # Safety
/// `file` is NULL or an open file; `major` and `minor` are NULL or point to writable integers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_format_version(file: *const ccq_file, major: *mut u16, minor: *mut u16) {
    // SAFETY: the caller's promise.
    let version =
        unsafe { file.as_ref() }.and_then(|file| file.model().index()).map_or((0, 0), Index::version);
    for (out, value) in [(major, version.0), (minor, version.1)] {
        if !out.is_null() {
            // SAFETY: the caller's promise.
            unsafe { out.write(value) };
        }
    }
}

/// Weights and other elements over all tensors.
///
/// # Safety
/// `file` is NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_parameters(file: *const ccq_file) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { file.as_ref() }.map_or(0, |file| file.model().parameters())
}

/// Bytes with their length; `data` is NULL where there are none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ccq_bytes {
    /// The first byte.
    pub data: *const u8,
    /// How many.
    pub len: usize,
}

/// One of the model's own files, such as its config.json.
#[repr(C)]
pub struct ccq_blob {
    /// A relative path.
    pub name: *const c_char,
    /// The contents.
    pub bytes: ccq_bytes,
}

/// How many of the model's own files there are.
///
/// # Safety
/// `file` is NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_blob_count(file: *const ccq_file) -> usize {
    // SAFETY: the caller's promise.
    unsafe { file.as_ref() }.map_or(0, |file| file.blobs.len())
}

/// The blob at an index, in ascending order of their names. False, and `blob` as it was, where there is none.
///
/// # Safety
/// `file` is NULL or an open file; `blob` is NULL or points to a writable ccq_blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_blob_at(file: *const ccq_file, index: usize, blob: *mut ccq_blob) -> bool {
    // SAFETY: the caller's promise.
    let found = unsafe { file.as_ref() }.and_then(|file| file.blobs.get(index));
    // SAFETY: the caller's promise.
    unsafe { give(blob, found.map(blob_of)) }
}

/// The blob of a name. False, and `blob` as it was, where there is none.
///
/// # Safety
/// `file` is NULL or an open file; `name` is NULL or a string; `blob` is NULL or points to a writable ccq_blob.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_blob_named(
    file: *const ccq_file,
    name: *const c_char,
    blob: *mut ccq_blob,
) -> bool {
    // SAFETY: the caller's promise.
    let found = unsafe { file.as_ref().zip(text(name)) }.and_then(|(file, name)| named(&file.blobs, name));
    // SAFETY: the caller's promise.
    unsafe { give(blob, found.map(blob_of)) }
}

/// The type of a metadata value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ccq_type {
    /// `boolean`.
    Bool = 1,
    /// `u64`.
    U64 = 2,
    /// `i64`.
    I64 = 3,
    /// `f64`.
    F64 = 4,
    /// UTF-8 in `bytes`; it may hold NULs and does not end in one.
    String = 5,
    /// `bytes`.
    Bytes = 6,
}

/// A metadata value, to be read as its type says.
#[repr(C)]
#[derive(Clone, Copy)]
pub union ccq_value {
    /// True or false.
    pub boolean: bool,
    /// An unsigned integer.
    pub u64: u64,
    /// A signed integer.
    pub i64: i64,
    /// A floating-point number.
    pub f64: f64,
    /// A string or bytes.
    pub bytes: ccq_bytes,
}

/// A metadata entry.
#[repr(C)]
pub struct ccq_entry {
    /// Its key.
    pub key: *const c_char,
    /// Which part of `value` holds it.
    pub value_type: ccq_type,
    /// Its value.
    pub value: ccq_value,
}

/// How many metadata entries there are.
///
/// # Safety
/// `file` is NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_metadata_count(file: *const ccq_file) -> usize {
    // SAFETY: the caller's promise.
    unsafe { file.as_ref() }.map_or(0, |file| file.metadata.len())
}

/// The entry at an index, in ascending order of their keys. False, and `entry` as it was, where there is none.
///
/// # Safety
/// `file` is NULL or an open file; `entry` is NULL or points to a writable ccq_entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_metadata_at(file: *const ccq_file, index: usize, entry: *mut ccq_entry) -> bool {
    // SAFETY: the caller's promise.
    let found = unsafe { file.as_ref() }.and_then(|file| file.metadata.get(index));
    // SAFETY: the caller's promise.
    unsafe { give(entry, found.and_then(entry_of)) }
}

/// The entry of a key. False, and `entry` as it was, where there is none.
///
/// # Safety
/// `file` is NULL or an open file; `key` is NULL or a string; `entry` is NULL or points to a writable ccq_entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_metadata_named(
    file: *const ccq_file,
    key: *const c_char,
    entry: *mut ccq_entry,
) -> bool {
    // SAFETY: the caller's promise.
    let found = unsafe { file.as_ref().zip(text(key)) }.and_then(|(file, key)| named(&file.metadata, key));
    // SAFETY: the caller's promise.
    unsafe { give(entry, found.and_then(entry_of)) }
}

fn options(flags: u32) -> Result<OpenOptions, Failure> {
    if flags & !(CCQ_IN_MEMORY | CCQ_SEQUENTIAL | CCQ_RANDOM | CCQ_HUGE_PAGES) != 0 {
        return Err(Failure::invalid("`flags` has a bit that stands for nothing"));
    }
    let access = match (flags & CCQ_SEQUENTIAL != 0, flags & CCQ_RANDOM != 0) {
        (false, false) => Access::Normal,
        (true, false) => Access::Sequential,
        (false, true) => Access::Random,
        (true, true) => return Err(Failure::invalid("`flags` asks for both sequential and random use")),
    };
    let load = if flags & CCQ_IN_MEMORY == 0 { OpenOptions::map() } else { OpenOptions::memory() };
    Ok(load.access(access).huge_pages(flags & CCQ_HUGE_PAGES != 0))
}

#[cfg(unix)]
fn path_of(path: &CStr) -> Result<std::path::PathBuf, Failure> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(path.to_bytes()).into())
}

#[cfg(not(unix))]
fn path_of(path: &CStr) -> Result<std::path::PathBuf, Failure> {
    path.to_str().map(Into::into).map_err(|_| Failure::invalid("`path` is not UTF-8"))
}

/// The bytes of a string, or `None` for NULL.
///
/// # Safety
/// `string` is NULL or a string that outlives the result.
pub(crate) unsafe fn text<'a>(string: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's promise.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })
}

/// Looks a name up in a list that is sorted by name.
fn named<'a, T>(list: &'a [(CString, T)], name: &CStr) -> Option<&'a (CString, T)> {
    let at = list.binary_search_by(|entry| entry.0.as_c_str().cmp(name)).ok()?;
    list.get(at)
}

/// Writes a result where there is one and room for it.
///
/// # Safety
/// `out` is NULL or points to writable memory for a `T`.
unsafe fn give<T>(out: *mut T, found: Option<T>) -> bool {
    match found {
        Some(found) if !out.is_null() => {
            // SAFETY: the caller's promise.
            unsafe { out.write(found) };
            true
        }
        _ => false,
    }
}

fn blob_of((name, bytes): &(CString, &'static [u8])) -> ccq_blob {
    ccq_blob { name: name.as_ptr(), bytes: bytes_of(bytes) }
}

fn bytes_of(bytes: &[u8]) -> ccq_bytes {
    ccq_bytes { data: if bytes.is_empty() { ptr::null() } else { bytes.as_ptr() }, len: bytes.len() }
}

fn entry_of((key, value): &(CString, Value<'static>)) -> Option<ccq_entry> {
    let (value_type, value) = match *value {
        Value::Bool(boolean) => (ccq_type::Bool, ccq_value { boolean }),
        Value::U64(u64) => (ccq_type::U64, ccq_value { u64 }),
        Value::I64(i64) => (ccq_type::I64, ccq_value { i64 }),
        Value::F64(f64) => (ccq_type::F64, ccq_value { f64 }),
        Value::String(text) => (ccq_type::String, ccq_value { bytes: bytes_of(text.as_bytes()) }),
        Value::Bytes(bytes) => (ccq_type::Bytes, ccq_value { bytes: bytes_of(bytes) }),
        _ => return None, // a type that this interface was not taught
    };
    Some(ccq_entry { key: key.as_ptr(), value_type, value })
}
