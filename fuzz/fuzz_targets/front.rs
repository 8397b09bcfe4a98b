//! The front of a file and its length say the same of it as the whole file, or both are refused alike.
#![no_main]

use ccq::{Index, Limits};
use ccq_fuzz::repair_checksums;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = bytes.to_vec();
    repair_checksums(&mut file);
    let (len, limits) = (file.len() as u64, &Limits::DEFAULT);
    let whole = Index::parse(&file, len, limits);
    let alone = Index::front_len(&file, len, limits).and_then(|front_len| {
        assert!(front_len <= len);
        Index::parse(&file[..front_len as usize], len, limits)
    });
    match (whole, alone) {
        (Ok(whole), Ok(alone)) => assert_eq!(format!("{whole:?}"), format!("{alone:?}")),
        (Err(whole), Err(alone)) => assert_eq!(whole.to_string(), alone.to_string()),
        (whole, alone) => panic!("whole: {whole:?}, the front alone: {alone:?}"),
    }
});
