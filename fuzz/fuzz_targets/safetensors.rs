//! Whatever the bytes, a safetensors file is refused or read, and what is read is what the safetensors crate reads, but
//! for tensors that are made of several: weights with their scales, codes with their parameters.
#![no_main]

use std::cell::LazyCell;

use ccq_fuzz::{Folder, read_model};
use safetensors::SafeTensors;

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.with(|folder| folder.write("model.safetensors", bytes));
    let Ok(model) = read_model(&path) else { return };
    let theirs = SafeTensors::deserialize(bytes).expect("what is read here is read there");
    let exact: Vec<_> = model.tensors().iter().filter(|tensor| tensor.is_exact()).collect();
    if exact.len() == model.tensors().len() {
        assert_eq!(exact.len(), theirs.len());
    }
    for tensor in exact {
        let their = theirs.tensor(&tensor.name).expect("a tensor of that name");
        let elements = model.elements(tensor, 0..tensor.element_count()).expect("all elements");
        assert_eq!(*elements, *their.data());
        let shape: Vec<_> = their.shape().iter().map(|&dimension| dimension as u64).collect();
        assert_eq!(tensor.shape, shape);
    }
});
