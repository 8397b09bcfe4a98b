//! Whatever the text, a recipe is refused or read; written out and read again, it decides the same of every tensor.
#![no_main]

use std::cell::LazyCell;

use ccq_convert::recipe::{Facts, Recipe, Source, Wish};
use ccq_fuzz::Folder;

thread_local!(static FOLDER: LazyCell<Folder> = LazyCell::new(|| Folder::new(&[])));

fn load(text: &str, choose: bool) -> Option<Recipe> {
    let source = Source::File(FOLDER.with(|folder| folder.write("recipe.toml", text.as_bytes())));
    Recipe::load(&Wish { source, choose, ..Wish::default() }).ok()
}

libfuzzer_sys::fuzz_target!(|text: &str| {
    for choose in [false, true] {
        let Some(recipe) = load(text, choose) else { continue };
        let written = recipe.to_toml();
        let again = load(&written, choose).expect("what was written");
        assert_eq!(again.to_toml(), written);
        let known = ["layers.3.mlp.experts.7.up_proj.weight", "lm_head.weight", "x"];
        for name in text.split('"').chain(known).take(64) {
            for shape in [&[4, 4][..], &[2, 4, 4], &[4]] {
                let facts = Facts::new(name, shape);
                assert_eq!(recipe.find(&facts), again.find(&facts), "{name:?}");
            }
        }
    }
});
