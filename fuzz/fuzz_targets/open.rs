//! Whatever the bytes, opening and using them answers with an error or a result.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = ccq_fuzz::exercise(bytes);
});
