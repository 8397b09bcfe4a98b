//! Whatever the bytes, the C interface says of them what the library says, also behind checksums that fit.
#![no_main]

use ccq::{Container, Limits};
use ccq_fuzz::{exercise_c, repair_checksums};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut repaired = bytes.to_vec();
    repair_checksums(&mut repaired);
    for bytes in [bytes, &repaired] {
        exercise_c(bytes, Container::from_bytes(bytes, &Limits::DEFAULT).as_ref());
    }
});
