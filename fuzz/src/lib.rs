//! What the fuzz targets share. A target states one property; what it needs to state it is here.

mod c_abi;
mod container;
mod damage;
mod exercise;
mod folder;
mod layers;
mod model;
mod reference;
mod weights;

pub use c_abi::exercise_c;
pub use container::Recipe;
pub use damage::{Damage, lines_with_checksums, repair_checksums};
pub use exercise::exercise;
pub use folder::Folder;
pub use layers::Layers;
pub use model::read_model;
pub use reference::{Verdict, reference, verdict};
pub use weights::{Weights, container, decode};
