//! Whatever an index says, it is refused, or names what lies beside it, all of it and nothing else.
#![no_main]

use std::cell::LazyCell;

use ccq_fuzz::Folder;
use ccq_import::Model;

const SHARDS: [(&str, &[u8]); 2] = [
    (
        "model-00001-of-00002.safetensors",
        b"\x34\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}x",
    ),
    (
        "model-00002-of-00002.safetensors",
        b"\x34\0\0\0\0\0\0\0{\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}y",
    ),
];

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&SHARDS)));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    FOLDER.with(|folder| {
        let index = folder.write("model.safetensors.index.json", bytes);
        let Ok(model) = Model::open(&index) else { return };
        assert!(model.tensors().iter().map(|tensor| tensor.name.as_str()).eq(["a", "b"]));
        assert!(model.input_files().iter().all(|file| file.parent() == Some(folder.path())));
    });
});
