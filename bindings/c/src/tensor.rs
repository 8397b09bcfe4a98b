//! Tensors: what the index says of them, their planes, and their values.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::Arc;

use ccq::Tensor;
use ccq::code::{Cluster, Code, LocalScale};
use ccq::codec::{Activations, Matrix, SizeError};
use ccq::format::{Encoding, PlaneKind};

use crate::error::{Failure, ccq_error, ccq_status, guard};
use crate::file::{ccq_file, text};

/// A tensor of an open file; it lives as long as the file.
pub struct ccq_tensor {
    tensor: Tensor<'static>,
    name: CString,
    dtype: Arc<CStr>,
    encoding: Arc<CStr>,
}

/// Tensors, in ascending order of their names.
pub(crate) fn tensors(found: impl Iterator<Item = Tensor<'static>>) -> Vec<ccq_tensor> {
    let shared = |text: &str| Arc::from(CString::new(text).unwrap_or_default());
    let (mut dtypes, mut encodings) = (HashMap::new(), HashMap::new());
    let tensor = |tensor: Tensor<'static>| {
        let info = tensor.info();
        let name = CString::new(info.name()).unwrap_or_default(); // names hold no NUL (spec, clause 4.3)
        let dtype = info.dtype();
        let dtype = Arc::clone(dtypes.entry(dtype).or_insert_with(|| shared(dtype.name())));
        let encoding = info.encoding();
        let encoding = Arc::clone(encodings.entry(encoding).or_insert_with(|| shared(&encoding.to_string())));
        ccq_tensor { tensor, name, dtype, encoding }
    };
    found.map(tensor).collect()
}

/// How many tensors there are.
///
/// # Safety
/// `file` is NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_count(file: *const ccq_file) -> usize {
    // SAFETY: the caller's promise.
    unsafe { file.as_ref() }.map_or(0, |file| file.tensors.len())
}

/// The tensor at an index, in ascending order of their names, or NULL.
///
/// # Safety
/// `file` is NULL or an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_at(file: *const ccq_file, index: usize) -> *const ccq_tensor {
    // SAFETY: the caller's promise.
    let found = unsafe { file.as_ref() }.and_then(|file| file.tensors.get(index));
    found.map_or(ptr::null(), ptr::from_ref)
}

/// The tensor of a name, or NULL.
///
/// # Safety
/// `file` is NULL or an open file; `name` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_named(file: *const ccq_file, name: *const c_char) -> *const ccq_tensor {
    // SAFETY: the caller's promise.
    let Some((file, name)) = (unsafe { file.as_ref().zip(text(name)) }) else { return ptr::null() };
    let found = file.tensors.binary_search_by(|tensor| tensor.name.as_c_str().cmp(name)).ok();
    found.and_then(|at| file.tensors.get(at)).map_or(ptr::null(), ptr::from_ref)
}

/// The tensor's name.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_name(tensor: *const ccq_tensor) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(ptr::null(), |tensor| tensor.name.as_ptr())
}

/// Element type of the source, as safetensors names it: "BF16". It is that of the stored bytes of a raw tensor.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_dtype(tensor: *const ccq_tensor) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(ptr::null(), |tensor| tensor.dtype.as_ptr())
}

/// How the values are stored: "raw", or a code, such as "ccq-2.06" or "wint4 g32".
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_encoding(tensor: *const ccq_tensor) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(ptr::null(), |tensor| tensor.encoding.as_ptr())
}

/// Number of dimensions.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_rank(tensor: *const ccq_tensor) -> usize {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(0, |tensor| tensor.tensor.info().shape().len())
}

/// As many dimensions as the rank says: [..., out_features, in_features].
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_shape(tensor: *const ccq_tensor) -> *const u64 {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(ptr::null(), |tensor| tensor.tensor.info().shape().as_ptr())
}

/// Rows of a quantized tensor: all dimensions but the last. 0 if it is raw.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_rows(tensor: *const ccq_tensor) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }
        .and_then(|tensor| tensor.tensor.info().rows_and_features())
        .map_or(0, |size| size.0)
}

/// Weights of a row of a quantized tensor. 0 if it is raw.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_in_features(tensor: *const ccq_tensor) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }
        .and_then(|tensor| tensor.tensor.info().rows_and_features())
        .map_or(0, |size| size.1)
}

/// Bytes stored for the tensor.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_stored_bytes(tensor: *const ccq_tensor) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.map_or(0, |tensor| tensor.tensor.info().stored_bytes())
}

/// Bits a weight, every stored byte counted; 0 for an empty tensor.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_bpw(tensor: *const ccq_tensor) -> f64 {
    // SAFETY: the caller's promise.
    unsafe { tensor.as_ref() }.and_then(|tensor| tensor.tensor.info().bpw()).unwrap_or(0.0)
}

/// `scale_placement`: no local scales, the row is one group.
pub const CCQ_SCALE_NONE: u32 = 0;
/// `scale_placement`: in the low bits of a group's last word.
pub const CCQ_SCALE_EMBEDDED: u32 = 1;
/// `scale_placement`: two a byte in the local-scale plane, the even group in the high nibble.
pub const CCQ_SCALE_NIBBLE: u32 = 2;
/// `scale_placement`: a signed byte in the local-scale plane.
pub const CCQ_SCALE_SIGNED8: u32 = 3;
/// `cluster`: the stored word is the code.
pub const CCQ_CLUSTER_NONE: u32 = 0;
/// `cluster`: a u16 and an i16 a row, code = (a q + 256 zp + 128) >> 8.
pub const CCQ_CLUSTER_Q8: u32 = 1;
/// `cluster`: two floats a row, code = floor(fma(q, code_scale, code_zero_point + 0.5)).
pub const CCQ_CLUSTER_F32: u32 = 2;

/// Overlapping states of a word, (L, N, S): N states of L bits, each S bits below the one before.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccq_segment {
    /// L.
    pub state_bits: u8,
    /// N.
    pub states: u8,
    /// S.
    pub shift: u8,
}

/// The code description: all that a decoder needs besides the planes. The fields are those of the format's record
/// (spec, clause 4.7 and chapter 6).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ccq_code {
    /// From the top of the word down; those in use come first.
    pub segments: [ccq_segment; 4],
    /// Segments in use.
    pub segment_count: u8,
    /// Bits of a stored word: 8 or 16, little-endian.
    pub word_bits: u8,
    /// CCQ_SCALE_NONE, _EMBEDDED, _NIBBLE or _SIGNED8.
    pub scale_placement: u8,
    /// Bits of a local scale.
    pub scale_bits: u8,
    /// Weights in a group; 0 where the row is one group.
    pub group_size: u16,
    /// CCQ_CLUSTER_NONE, _Q8 or _F32.
    pub cluster: u8,
}

/// Describes the code of a quantized tensor. False, and `code` as it was, if it is raw.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file; `code` is NULL or points to a writable ccq_code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_code(tensor: *const ccq_tensor, code: *mut ccq_code) -> bool {
    // SAFETY: the caller's promise.
    match unsafe { tensor.as_ref() }.map(|tensor| tensor.tensor.info().encoding()) {
        Some(Encoding::Coded(found)) if !code.is_null() => {
            // SAFETY: the caller's promise.
            unsafe { code.write(describe(&found)) };
            true
        }
        _ => false,
    }
}

/// Plane: packed words, rows at multiples of `row_stride` bytes.
pub const CCQ_PLANE_CODE: u32 = 1;
/// Plane: local scales outside the words.
pub const CCQ_PLANE_LOCAL_SCALE: u32 = 2;
/// Plane: a little-endian float a row.
pub const CCQ_PLANE_SUPER_SCALE: u32 = 3;
/// Plane: cluster parameters, a pair a row.
pub const CCQ_PLANE_CLUSTER: u32 = 4;
/// Plane: the bytes of a raw tensor.
pub const CCQ_PLANE_RAW: u32 = 5;

const _: () = assert!(
    CCQ_PLANE_CODE == PlaneKind::Code as u32
        && CCQ_PLANE_LOCAL_SCALE == PlaneKind::LocalScale as u32
        && CCQ_PLANE_SUPER_SCALE == PlaneKind::SuperScale as u32
        && CCQ_PLANE_CLUSTER == PlaneKind::Cluster as u32
        && CCQ_PLANE_RAW == PlaneKind::Raw as u32
);

/// A plane as it lies in the file; in a mapped file at a multiple of 256 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ccq_plane {
    /// The first byte, or NULL where the tensor has no such plane.
    pub data: *const u8,
    /// Bytes.
    pub len: usize,
    /// Bytes from row to row of a code plane, otherwise 0.
    pub row_stride: usize,
}

/// A plane of a tensor, without a copy. `kind` is one of CCQ_PLANE_CODE, _LOCAL_SCALE, _SUPER_SCALE, _CLUSTER, _RAW.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_plane(tensor: *const ccq_tensor, kind: u32) -> ccq_plane {
    // SAFETY: the caller's promise.
    let tensor = unsafe { tensor.as_ref() }.map(|tensor| &tensor.tensor);
    let found = tensor.and_then(|tensor| {
        let plane = tensor.info().planes().iter().find(|plane| plane.kind as u32 == kind)?;
        let bytes = tensor.plane(plane.kind);
        Some(ccq_plane {
            data: bytes.as_ptr(),
            len: bytes.len(),
            row_stride: usize::try_from(plane.row_stride).unwrap_or(0),
        })
    });
    found.unwrap_or(ccq_plane { data: ptr::null(), len: 0, row_stride: 0 })
}

/// Decodes the rows `start` to `end` - 1 of a quantized tensor into `out`, row after row. `out_len` is the number of
/// floats there, exactly (end - start) * in_features.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file; `out` is NULL or points to `out_len` writable floats; `error` is NULL
/// or points to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_decode_rows(
    tensor: *const ccq_tensor,
    start: usize,
    end: usize,
    out: *mut f32,
    out_len: usize,
    error: *mut *mut ccq_error,
) -> ccq_status {
    let decode = || {
        // SAFETY: the caller's promise.
        let tensor = unsafe { tensor.as_ref() }.ok_or_else(|| Failure::invalid("`tensor` is NULL"))?;
        let matrix = tensor.matrix()?;
        if out.is_null() || !is_length(out_len) {
            return Err(Failure::invalid("`out` is NULL, or `out_len` is no length"));
        }
        // SAFETY: the caller's promise. Uninitialised memory of C's is memory with some bytes: any are floats.
        let out = unsafe { std::slice::from_raw_parts_mut(out, out_len) };
        Ok(matrix.decode_rows_into(start..end, out)?)
    };
    // SAFETY: the caller's promise.
    unsafe { guard(error, decode) }
}

/// y = W x: multiplies the rows `start` to `end` - 1 of a quantized tensor with one vector or several, in floats.
///
/// `x` is vectors of in_features floats, one after the other, and `x_len` the number of all floats there. `y` gets as
/// many products of a row as there are vectors, row after row; `y_len` is exactly (end - start) * vectors. Weights are
/// decoded in registers, not to memory. Threads can share a tensor by rows. Each product is within 2^-20 of the sum of
/// its terms' magnitudes; in which order the terms are summed depends on the processor.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file; `x` is NULL or points to `x_len` floats; `y` is NULL or points to
/// `y_len` writable floats, none of them in `x`; `error` is NULL or points to writable memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_matvec(
    tensor: *const ccq_tensor,
    start: usize,
    end: usize,
    x: *const f32,
    x_len: usize,
    y: *mut f32,
    y_len: usize,
    error: *mut *mut ccq_error,
) -> ccq_status {
    let product = |matrix: &Matrix<'_>, x: &[f32], y: &mut [f32]| matrix.matvec_rows(start..end, x, y);
    // SAFETY: the caller's promise.
    unsafe { multiply(tensor, x, x_len, y, y_len, error, product) }
}

/// ccq_tensor_matvec with vectors that are first rounded to eight bits, with a scale for each 64 values: several times
/// as fast. A value is off by half its scale at most, the largest magnitude of the 64 over 254; infinities and NaNs
/// make products unspecified.
///
/// # Safety
/// As ccq_tensor_matvec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_matvec_int8(
    tensor: *const ccq_tensor,
    start: usize,
    end: usize,
    x: *const f32,
    x_len: usize,
    y: *mut f32,
    y_len: usize,
    error: *mut *mut ccq_error,
) -> ccq_status {
    let product = |matrix: &Matrix<'_>, x: &[f32], y: &mut [f32]| {
        let expected = matrix.in_features();
        if x.is_empty() || x.len().checked_rem(expected) != Some(0) {
            return Err(SizeError::Input { expected, found: x.len() });
        }
        matrix.matvec_int8_rows(start..end, &Activations::new(x, expected), y)
    };
    // SAFETY: the caller's promise.
    unsafe { multiply(tensor, x, x_len, y, y_len, error, product) }
}

/// Asks the system to load a tensor of a mapped file, without waiting for it.
///
/// # Safety
/// `tensor` is NULL or a tensor of an open file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccq_tensor_prefetch(tensor: *const ccq_tensor) {
    // SAFETY: the caller's promise.
    if let Some(tensor) = unsafe { tensor.as_ref() } {
        tensor.tensor.prefetch();
    }
}

impl ccq_tensor {
    fn matrix(&self) -> Result<Matrix<'static>, Failure> {
        self.tensor.matrix().ok_or_else(|| {
            let message = format!("`{}` is raw: take its plane", self.tensor.info().name());
            Failure { status: ccq_status::NotQuantized, message }
        })
    }
}

/// Whether memory can hold so many floats.
fn is_length(floats: usize) -> bool {
    floats <= isize::MAX as usize / size_of::<f32>()
}

/// Runs a product over the caller's buffers.
///
/// # Safety
/// As `ccq_tensor_matvec`.
unsafe fn multiply(
    tensor: *const ccq_tensor,
    x: *const f32,
    x_len: usize,
    y: *mut f32,
    y_len: usize,
    error: *mut *mut ccq_error,
    product: impl FnOnce(&Matrix<'_>, &[f32], &mut [f32]) -> Result<(), SizeError>,
) -> ccq_status {
    let checked = || {
        // SAFETY: the caller's promise.
        let tensor = unsafe { tensor.as_ref() }.ok_or_else(|| Failure::invalid("`tensor` is NULL"))?;
        let matrix = tensor.matrix()?;
        if x.is_null() || y.is_null() || !is_length(x_len) || !is_length(y_len) {
            return Err(Failure::invalid("`x` or `y` is NULL, or `x_len` or `y_len` is no length"));
        }
        // SAFETY: the caller's promise, also that the two do not overlap.
        let (x, y) =
            unsafe { (std::slice::from_raw_parts(x, x_len), std::slice::from_raw_parts_mut(y, y_len)) };
        Ok(product(&matrix, x, y)?)
    };
    // SAFETY: the caller's promise.
    unsafe { guard(error, checked) }
}

fn describe(code: &Code) -> ccq_code {
    let mut segments = [ccq_segment::default(); 4];
    for (out, segment) in segments.iter_mut().zip(code.segments()) {
        *out = ccq_segment { state_bits: segment.state_bits, states: segment.states, shift: segment.shift };
    }
    let (scale_placement, scale_bits) = match code.local_scale() {
        LocalScale::None => (CCQ_SCALE_NONE, 0),
        LocalScale::Embedded { bits } => (CCQ_SCALE_EMBEDDED, bits),
        LocalScale::Nibble => (CCQ_SCALE_NIBBLE, 4),
        LocalScale::Signed8 => (CCQ_SCALE_SIGNED8, 8),
    };
    let cluster = match code.cluster() {
        None => CCQ_CLUSTER_NONE,
        Some(Cluster::Q8) => CCQ_CLUSTER_Q8,
        Some(Cluster::F32) => CCQ_CLUSTER_F32,
    };
    ccq_code {
        segments,
        segment_count: code.segments().len() as u8,
        word_bits: code.word_bits() as u8,
        scale_placement: scale_placement as u8,
        scale_bits,
        group_size: code.group_size().unwrap_or(0) as u16,
        cluster: cluster as u8,
    }
}
