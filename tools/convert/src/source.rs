//! What depends on how the source holds a tensor: as weights, as codes, or as another format's blocks.

use ccq_import::{Model, Transpose};

use crate::args::Common;
use crate::error::Error;
use crate::plan::Planned;
use crate::policy::Action;
use crate::recipe::Names;

/// How the source is to be read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Names of matrices that are stored the other way round, besides those that the model's type tells.
    pub transpose: Names,
    /// Whether another format's quantized weights may be quantized again.
    pub allow_requantize: bool,
}

/// Opens the source.
///
/// # Errors
/// `Import`.
pub fn open(common: &Common) -> Result<Model, Error> {
    let named = |name: &str| common.reading.transpose.matches(name);
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
    let again = |planned: &&Planned<'_>| matches!(planned.decision.action, Action::Quantize(_));
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

/// Checks that every pattern of `--transpose` is of use.
///
/// # Errors
/// `NoMatch`.
pub fn check_transposed(model: &Model, common: &Common) -> Result<(), Error> {
    let unused = |text: &&String| {
        let names = Names::new(vec![(*text).clone()]);
        !model.tensors().iter().any(|tensor| names.matches(&tensor.name))
    };
    match common.reading.transpose.texts().iter().find(unused) {
        None => Ok(()),
        Some(pattern) => Err(Error::NoMatch {
            option: "--transpose",
            pattern: pattern.clone(),
            input: common.input.clone(),
            example: model.tensors().first().map(|tensor| tensor.name.clone()).unwrap_or_default(),
        }),
    }
}
