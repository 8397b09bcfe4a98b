//! The plan: from headers alone, every tensor's encoding, reason and place in the file to be written.

use std::collections::BTreeMap;

use ccq::format::{Contents, Encoding, Layout, TensorSpec, Value};
use ccq_import::{Blob, Model, SourceTensor};

use crate::args::Common;
use crate::error::Error;
use crate::policy::{Decision, Pattern, Rules};
use crate::source;

/// The program and version that containers name as their producer.
const PRODUCER: &str = concat!("ccq-convert ", env!("CARGO_PKG_VERSION"));

/// What a job is going to write.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Tensors in the order of the file.
    pub tensors: Vec<Planned<'a>>,
    /// Blobs in the order of the file.
    pub blobs: &'a [Blob],
    /// Where everything will be.
    pub layout: Layout,
}

/// A tensor of the plan.
#[derive(Debug)]
pub struct Planned<'a> {
    /// The tensor.
    pub source: &'a SourceTensor,
    /// What becomes of it.
    pub decision: Decision,
}

impl Plan<'_> {
    /// The tensors that are going to be quantized.
    pub fn quantized(&self) -> impl Iterator<Item = &SourceTensor> {
        let coded = |planned: &&Planned<'_>| {
            planned.decision.encoding != Encoding::Raw && planned.source.code().is_none()
        };
        self.tensors.iter().filter(coded).map(|planned| planned.source)
    }
}

/// Plans the conversion of a model.
///
/// # Errors
/// `NoMatch` for a pattern without a tensor, `Import` for a blob that cannot be read, `Layout`.
pub fn plan<'a>(model: &'a Model, rules: &Rules, common: &Common) -> Result<Plan<'a>, Error> {
    check_patterns(model, "--keep", &rules.keep, common)?;
    check_patterns(model, "--quantize", &rules.quantize, common)?;
    check_patterns(model, "--transpose", &common.reading.transpose, common)?;
    let tensors: Vec<_> = model
        .tensors()
        .iter()
        .map(|source| Planned { source, decision: source::decide(source, rules) })
        .collect();
    source::check(&tensors, common)?;
    let specs = tensors.iter().map(|Planned { source, decision }| TensorSpec {
        name: source.name.clone(),
        shape: source.shape.clone(),
        dtype: source.dtype,
        encoding: decision.encoding,
    });
    let mut blobs = BTreeMap::new();
    for blob in model.blobs() {
        blobs.insert(blob.name.clone(), blob.read()?.len() as u64);
    }
    let mut metadata: BTreeMap<_, _> =
        model.metadata().iter().map(|(key, value)| (key.as_str(), value.value())).collect();
    metadata.insert("ccq.producer", Value::String(PRODUCER));
    let contents = Contents { tensors: specs.collect(), blobs, metadata, shard: None };
    let layout =
        Layout::new(contents).map_err(|source| Error::Layout { input: common.input.clone(), source })?;
    Ok(Plan { tensors, blobs: model.blobs(), layout })
}

fn check_patterns(
    model: &Model,
    option: &'static str,
    patterns: &[Pattern],
    common: &Common,
) -> Result<(), Error> {
    let unused = |pattern: &&Pattern| !model.tensors().iter().any(|tensor| pattern.matches(&tensor.name));
    match patterns.iter().find(unused) {
        None => Ok(()),
        Some(pattern) => Err(Error::NoMatch {
            option,
            pattern: pattern.text().into(),
            input: common.input.clone(),
            example: model.tensors().first().map(|tensor| tensor.name.clone()).unwrap_or_default(),
        }),
    }
}
