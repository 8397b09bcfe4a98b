//! A well-formed container opens; damaged in a few places, with or without repaired checksums, it answers with an
//! error or a result.
#![no_main]

use ccq_fuzz::{Damage, Recipe, exercise};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Recipe, [Option<Damage>; 3], bool)| {
    let (recipe, damages, repair) = input;
    let Some(mut file) = recipe.build() else { return };
    match exercise(&file) {
        Ok(()) | Err(ccq::Error::Padding { .. } | ccq::Error::NonFinite { .. }) => {}
        Err(error) => panic!("the writer wrote what the reader refuses: {error}"),
    }
    for damage in damages.iter().flatten() {
        damage.apply(&mut file, repair);
    }
    let _ = exercise(&file);
});
