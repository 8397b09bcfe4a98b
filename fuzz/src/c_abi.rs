//! Using everything of an open container through the C interface.
#![allow(unsafe_code)] // calls of a C interface

use std::ffi::CStr;
use std::ptr::{null, null_mut};
use std::{mem, slice};

use ccq::Container;
use ccq_c::*;

/// Opens bytes in C and uses everything, if they are accepted: `expected` is what Rust made of them.
pub fn exercise_c(bytes: &[u8], expected: Result<&Container<'_>, &ccq::Error>) {
    let (mut file, mut error) = (null_mut(), null_mut());
    // SAFETY: a slice that outlives the file, and pointers of this function.
    let status = unsafe { ccq_open_bytes(bytes.as_ptr(), bytes.len(), &raw mut file, &raw mut error) };
    let container = match expected {
        Ok(container) => container,
        Err(expected) => {
            assert!(file.is_null() && status != ccq_status::Ok && status != ccq_status::Internal);
            return check_error(error, status, &expected.to_string());
        }
    };
    assert!(status == ccq_status::Ok && error.is_null());
    // SAFETY: the file is open until `ccq_close`; its parts are used before; all else are pointers of this function.
    unsafe {
        assert_eq!(ccq_parameters(file), container.index().parameters());
        assert_eq!(ccq_tensor_count(file), container.tensors().len());
        for (at, tensor) in container.tensors().enumerate() {
            let found = ccq_tensor_at(file, at);
            assert_eq!(ccq_tensor_named(file, ccq_tensor_name(found)), found);
            check_tensor(found, &tensor);
        }
        assert!(ccq_tensor_at(file, container.tensors().len()).is_null());
        for (at, (_, bytes)) in container.blobs().enumerate() {
            let [mut blob, mut named] = mem::zeroed::<[ccq_blob; 2]>();
            assert!(ccq_blob_at(file, at, &raw mut blob) && ccq_blob_named(file, blob.name, &raw mut named));
            assert_eq!([slice_of(blob.bytes), slice_of(named.bytes)], [bytes; 2]);
        }
        for (at, (key, _)) in container.index().metadata().iter().enumerate() {
            let mut entry =
                ccq_entry { key: null(), value_type: ccq_type::Bool, value: ccq_value { u64: 0 } };
            assert!(ccq_metadata_at(file, at, &raw mut entry));
            let found = entry.key;
            assert_eq!(CStr::from_ptr(found).to_bytes(), key.as_bytes());
            assert!(ccq_metadata_named(file, found, &raw mut entry));
        }
        match container.verify() {
            Ok(()) => assert_eq!(ccq_verify(file, &raw mut error), ccq_status::Ok),
            Err(expected) => {
                let status = ccq_verify(file, &raw mut error);
                check_error(error, status, &expected.to_string());
            }
        }
        ccq_close(file);
    }
}

/// # Safety
/// `found` is a tensor of an open file.
unsafe fn check_tensor(found: *const ccq_tensor, tensor: &ccq::Tensor<'_>) {
    let mut error = null_mut();
    // SAFETY: the caller's promise; all else are pointers of this function.
    unsafe {
        let info = tensor.info();
        assert_eq!(CStr::from_ptr(ccq_tensor_name(found)).to_bytes(), info.name().as_bytes());
        let shape = slice_from(ccq_tensor_shape(found), ccq_tensor_rank(found));
        assert_eq!(shape, info.shape());
        assert_eq!(ccq_tensor_stored_bytes(found), info.stored_bytes());
        assert_eq!(CStr::from_ptr(ccq_tensor_dtype(found)).to_str(), Ok(info.dtype().name()));
        assert!(!CStr::from_ptr(ccq_tensor_encoding(found)).is_empty() && ccq_tensor_bpw(found) >= 0.0);
        ccq_tensor_prefetch(found);
        for kind in 0..8 {
            let plane = ccq_tensor_plane(found, kind);
            let expected = info.planes().iter().find(|plane| plane.kind as u32 == kind);
            let expected = expected.map_or(&[][..], |plane| tensor.plane(plane.kind));
            assert_eq!(slice_from(plane.data, plane.len), expected);
        }
        let mut code = ccq_code::default();
        let matrix = tensor.matrix();
        assert_eq!(ccq_tensor_code(found, &raw mut code), matrix.is_some());
        let Some(matrix) = matrix.filter(|matrix| matrix.in_features() < 1 << 16) else { return };
        let mut row = vec![0.0; matrix.in_features()];
        let (out, len) = (row.as_mut_ptr(), row.len());
        assert_eq!(ccq_tensor_decode_rows(found, 0, 1, out, len, &raw mut error), ccq_status::Ok);
        let mut expected = vec![0.0; matrix.in_features()];
        matrix.decode_rows_into(0..1, &mut expected).expect("the first row");
        assert!(row.iter().map(|value| value.to_bits()).eq(expected.iter().map(|value| value.to_bits())));
        let status = ccq_tensor_decode_rows(found, 0, 2, out, len, &raw mut error);
        assert!(matches!(status, ccq_status::Rows | ccq_status::BufferSize));
        ccq_error_free(error);
    }
}

fn check_error(error: *mut ccq_error, status: ccq_status, expected: &str) {
    // SAFETY: an error of a call that failed, freed once.
    unsafe {
        assert_eq!(ccq_error_status(error), status);
        assert_eq!(
            CStr::from_ptr(ccq_error_message(error)).to_str(),
            Ok(expected.replace('\0', "\\0").as_str())
        );
        ccq_error_free(error);
    }
}

/// # Safety
/// Of a file that stays open.
unsafe fn slice_of<'a>(bytes: ccq_bytes) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { slice_from(bytes.data, bytes.len) }
}

/// # Safety
/// `data` points to so many, which stay, or is NULL if there are none.
unsafe fn slice_from<'a, T>(data: *const T, len: usize) -> &'a [T] {
    assert!(data != null() || len == 0);
    // SAFETY: the caller's promise.
    if len == 0 { &[] } else { unsafe { slice::from_raw_parts(data, len) } }
}
