//! Whatever the bytes, a safetensors file is refused or read, and what is read is what the safetensors crate reads.
#![no_main]

use std::cell::LazyCell;

use ccq_fuzz::Folder;
use ccq_import::Model;
use safetensors::SafeTensors;

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.with(|folder| folder.write("model.safetensors", bytes));
    let Ok(model) = Model::open(&path) else { return };
    let theirs = SafeTensors::deserialize(bytes).expect("what is read here is read there");
    assert_eq!(model.tensors().len(), theirs.len());
    for tensor in model.tensors() {
        let their = theirs.tensor(&tensor.name).expect("a tensor of that name");
        let elements = model.elements(tensor, 0..tensor.element_count()).expect("all elements");
        assert_eq!(*elements, *their.data());
        let shape: Vec<_> = their.shape().iter().map(|&dimension| dimension as u64).collect();
        assert_eq!(tensor.shape, shape);
        let _ = model.decode_f32(tensor, 0..tensor.element_count(), &mut Vec::new());
    }
});
