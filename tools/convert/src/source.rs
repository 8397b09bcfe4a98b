//! What depends on how the source holds a tensor: as weights, as codes, or as another format's blocks.

use std::ops::Range;

use ccq::codec::Planes;
use ccq::format::Encoding;
use ccq_import::{Model, SourceTensor, Transpose};

use crate::args::Common;
use crate::error::Error;
use crate::plan::Planned;
use crate::policy::{Decision, Pattern, Reason, Rules};

/// How the source is to be read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Names of matrices that are stored the other way round, besides those that the model's type tells.
    pub transpose: Vec<Pattern>,
    /// Whether another format's quantized weights may be quantized again.
    pub allow_requantize: bool,
}

/// Opens the source.
///
/// # Errors
/// `Import`.
pub fn open(common: &Common) -> Result<Model, Error> {
    let patterns = &common.reading.transpose;
    let named = |name: &str| patterns.iter().any(|pattern| pattern.matches(name));
    Ok(Model::open_with(&common.input, &Transpose::Rule(&named))?)
}

/// Checks that nothing is quantized again that was not asked for.
///
/// # Errors
/// `Requantize`.
pub fn check(tensors: &[Planned<'_>], common: &Common) -> Result<(), Error> {
    if common.reading.allow_requantize {
        return Ok(());
    }
    let again = |planned: &&Planned<'_>| planned.decision.encoding != Encoding::Raw;
    let mut again = tensors.iter().filter(again).filter_map(|planned| {
        planned.source.quantized_as().map(|encoding| (planned.source.name.clone(), encoding))
    });
    match again.next() {
        None => Ok(()),
        Some((tensor, encoding)) => {
            let others = again.count();
            Err(Error::Requantize { input: common.input.clone(), tensor, encoding, others })
        }
    }
}

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
