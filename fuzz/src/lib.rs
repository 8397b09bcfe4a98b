//! What the fuzz targets share. A target states one property; what it needs to state it is here.

mod container;
mod damage;
mod exercise;
mod folder;
mod reference;
mod weights;

pub use container::Recipe;
pub use damage::{Damage, repair_checksums};
pub use exercise::exercise;
pub use folder::Folder;
pub use reference::{Verdict, reference, verdict};
pub use weights::{Weights, container, decode};
