//! The reader and the reference in Python refuse the same files in the same phase, and decode what they accept to
//! the same bits.
#![no_main]

use ccq_fuzz::{Damage, Recipe, reference, verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Recipe, [Option<Damage>; 2])| {
    let (recipe, damages) = input;
    let Some(mut file) = recipe.build().filter(|file| file.len() < 1 << 16) else { return };
    for damage in damages.iter().flatten() {
        damage.apply(&mut file, true);
    }
    assert_eq!(verdict(&file), reference(&file));
});
