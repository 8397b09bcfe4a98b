//! Whatever tensors lie side by side, layers that are put together from several of them (FP8 weights with scales,
//! FastDeploy's codes, matrices turned round) are refused or read, in parts as at once.
#![no_main]

use std::cell::LazyCell;

use ccq_fuzz::{Folder, Layers, read_model};

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));

libfuzzer_sys::fuzz_target!(|layers: Layers| {
    let (weights, config) = layers.build();
    FOLDER.with(|folder| {
        folder.write("model.safetensors", &weights);
        folder.write("config.json", config.as_bytes());
        let _ = read_model(folder.path());
    });
});
