//! Whatever the bytes, a GGUF file as a model is refused or read, in parts as at once.
#![no_main]

use std::cell::LazyCell;

use ccq_fuzz::{Folder, read_model};

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.with(|folder| folder.write("model.gguf", bytes));
    let _ = read_model(&path);
});
