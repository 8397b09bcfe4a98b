//! Whatever a journal holds, it is read; changed in one place, what is found is a beginning of what was noted.
#![no_main]

use std::cell::LazyCell;

use ccq_convert::journal::{BlockDone, Found, Identity, Journal};
use ccq_fuzz::{Folder, lines_with_checksums};

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));
fn open(bytes: &[u8]) -> (Journal, Option<Found>) {
    Journal::open(FOLDER.with(|folder| folder.write("journal", bytes))).expect("a file")
}

libfuzzer_sys::fuzz_target!(|input: (Identity, Vec<u32>, (u16, u8, bool), Vec<String>)| {
    let (identity, crcs, (at, change, cut), lines) = input;
    let mut journal = open(&[]).0;
    journal.start(&identity).expect("room");
    crcs.iter().for_each(|&crc| journal.add(&BlockDone { crc, error: None }));
    journal.flush(|| Ok(())).expect("room");
    drop(journal);
    let mut bytes = FOLDER.with(|folder| folder.read("journal"));
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= change;
    bytes.truncate(if cut { at } else { bytes.len() });
    if let Some(found) = open(&bytes).1 {
        assert_eq!(found.identity, identity);
        assert!(crcs.starts_with(&found.blocks.iter().map(|block| block.0.crc).collect::<Vec<_>>()));
    }
    open(&lines_with_checksums(&lines));
});
