//! The C interface of `ccq`: `include/ccq.h`, generated from these declarations, and two libraries.
//!
//! Handles are opaque and borrowed parts live as long as their file; the header says so at length. No panic crosses
//! the border: what can fail runs inside `guard`, the rest reads fields.
//!
//! | module | what it holds |
//! |---|---|
//! | `error` | status, error object, the guard |
//! | `file` | opening, verifying, closing; blobs and metadata |
//! | `tensor` | tensors: description, planes, decoding, products |
#![allow(unsafe_code)] // a C interface: every block says what the caller promises
#![allow(non_camel_case_types)] // C's names

mod error;
mod file;
mod tensor;

pub use error::{
    ccq_error, ccq_error_free, ccq_error_message, ccq_error_status, ccq_status, ccq_status_name,
};
pub use file::{
    CCQ_HUGE_PAGES, CCQ_IN_MEMORY, CCQ_RANDOM, CCQ_SEQUENTIAL, ccq_blob, ccq_blob_at, ccq_blob_count,
    ccq_blob_named, ccq_bytes, ccq_close, ccq_entry, ccq_file, ccq_format_version, ccq_metadata_at,
    ccq_metadata_count, ccq_metadata_named, ccq_open, ccq_open_bytes, ccq_parameters, ccq_type, ccq_value,
    ccq_verify, ccq_version,
};
pub use tensor::{
    CCQ_CLUSTER_F32, CCQ_CLUSTER_NONE, CCQ_CLUSTER_Q8, CCQ_PLANE_CLUSTER, CCQ_PLANE_CODE,
    CCQ_PLANE_LOCAL_SCALE, CCQ_PLANE_RAW, CCQ_PLANE_SUPER_SCALE, CCQ_SCALE_EMBEDDED, CCQ_SCALE_NIBBLE,
    CCQ_SCALE_NONE, CCQ_SCALE_SIGNED8, ccq_code, ccq_plane, ccq_segment, ccq_tensor, ccq_tensor_at,
    ccq_tensor_bpw, ccq_tensor_code, ccq_tensor_count, ccq_tensor_decode_rows, ccq_tensor_dtype,
    ccq_tensor_encoding, ccq_tensor_in_features, ccq_tensor_matvec, ccq_tensor_matvec_int8, ccq_tensor_name,
    ccq_tensor_named, ccq_tensor_plane, ccq_tensor_prefetch, ccq_tensor_rank, ccq_tensor_rows,
    ccq_tensor_shape, ccq_tensor_stored_bytes,
};
