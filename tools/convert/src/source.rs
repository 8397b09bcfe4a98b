//! What depends on how the source holds a tensor: as weights, as codes, or as another format's blocks.

use std::ops::Range;

use ccq::codec::Planes;
use ccq::format::Encoding;
use ccq_import::SourceTensor;

use crate::policy::{Decision, Reason, Rules};

/// How a tensor is stored: codes stay what they are, whatever the rules say.
pub fn decide(source: &SourceTensor, rules: &Rules) -> Decision {
    match source.code() {
        Some(code) => Decision { encoding: Encoding::Coded(code), reason: Reason::Source },
        None => rules.decide(&source.name, &source.shape, source.dtype),
    }
}

/// All rows of a tensor.
pub fn rows(source: &SourceTensor) -> Range<u64> {
    let (_, leading) = source.shape.split_last().unwrap_or((&0, &[]));
    0..leading.iter().product()
}

/// Planes as a file has them one after the other: the layout has none where the code has none.
pub fn in_file_order<'a>(planes: &Planes<'a>) -> Vec<&'a [u8]> {
    let all = [planes.code, planes.local_scale, planes.super_scale, planes.cluster];
    all.into_iter().filter(|plane| !plane.is_empty()).collect()
}
