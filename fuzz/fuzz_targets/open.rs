//! Whatever the bytes, opening and using them answers with an error or a result, also behind checksums that fit.
#![no_main]

use ccq_fuzz::{exercise, repair_checksums};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = exercise(bytes);
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    let _ = exercise(&repaired);
});
