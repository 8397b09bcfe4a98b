//! The plan: from headers alone, every tensor's encoding, reason and place in the file to be written.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ccq::Output;
use ccq::format::{Contents, Layout, TensorSpec, Value};
use ccq_import::{Blob, Importance, Model, SourceTensor};

use crate::allocate::{Outcome, allocate};
use crate::args::{Common, Conversion};
use crate::error::Error;
use crate::output;
use crate::policy::{Action, Decision, Reason};
use crate::recipe::Recipe;
use crate::search::{open_importance, vectors};
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
    /// The recipe as the container has it.
    pub recipe: String,
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
        let coded = |planned: &&Planned<'_>| matches!(planned.decision.action, Action::Quantize(_));
        self.tensors.iter().filter(coded).map(|planned| planned.source)
    }

    /// What cannot be done as the recipe asks.
    fn warnings(&self, recipe: &Recipe) -> Vec<String> {
        let refused = self.tensors.iter().filter(|t| matches!(t.decision.reason, Reason::Refused(..)));
        let mut warnings: Vec<_> =
            refused.map(|t| format!("tensor {:?} {}", t.source.name, t.decision.reason)).collect();
        let codes: Vec<_> = recipe.codes().iter().map(ToString::to_string).collect();
        if !codes.is_empty() && self.quantized().next().is_none() {
            let warning =
                format!("no tensor takes {}; the output holds the model as it is", codes.join(" or "));
            warnings.insert(0, warning);
        }
        warnings
    }
}

/// A plan with all that the job needs besides.
#[derive(Debug)]
pub struct Prepared<'a> {
    /// What is going to be written.
    pub plan: Plan<'a>,
    /// What errors in each input channel count.
    pub importance: Option<Importance>,
    /// What was chosen for a budget.
    pub outcome: Option<Outcome>,
    /// What could not be done as it was asked.
    pub warnings: Vec<String>,
}

/// Reads the recipe, fills in what it leaves to a budget, plans, and writes the recipe that is used.
///
/// # Errors
/// Any [`Error`], before anything but that recipe is written.
pub fn prepare<'a>(
    model: &'a Model,
    conversion: &Conversion,
    common: &Common,
) -> Result<Prepared<'a>, Error> {
    let recipe = Recipe::load(&conversion.wish)?;
    recipe.check(model.tensors(), &common.input)?;
    source::check_transposed(model, common)?;
    let mut recipe = recipe.without_unused(model.tensors());
    let importance = open_importance(conversion.importance.as_deref(), model)?;
    let recipe_file =
        conversion.write_recipe.as_ref().map(|file| RecipeFile::create(file, common)).transpose()?;
    let (mut outcome, mut warnings) = (None, Vec::new());
    if let Some(target) = &conversion.target {
        let (chosen, found, said) = allocate(model, &recipe, target, importance.as_ref(), common)?;
        (recipe, outcome, warnings) = (chosen, Some(found), said);
    }
    let plan = plan(model, &recipe, common)?;
    source::check(&plan.tensors, common)?;
    if let Some(importance) = &importance {
        for tensor in plan.quantized() {
            vectors(importance, tensor)?;
        }
    }
    if let Some(file) = recipe_file {
        file.write(&plan.recipe)?;
    }
    warnings.extend(plan.warnings(&recipe));
    Ok(Prepared { plan, importance, outcome, warnings })
}

/// Plans the conversion of a model.
fn plan<'a>(model: &'a Model, recipe: &Recipe, common: &Common) -> Result<Plan<'a>, Error> {
    let planned = |source| Planned { source, decision: recipe.decide(source) };
    let tensors: Vec<_> = model.tensors().iter().map(planned).collect();
    let recipe = recipe.to_toml();
    let layout = layout(model, &tensors, &recipe, common)?;
    Ok(Plan { tensors, blobs: model.blobs(), recipe, layout })
}

/// Bytes of the file that a recipe leads to.
///
/// # Errors
/// `Import` for a blob that cannot be read, `Layout`.
pub fn file_len(model: &Model, recipe: &Recipe, common: &Common) -> Result<u64, Error> {
    Ok(plan(model, recipe, common)?.layout.index().file_len())
}

/// The file that `--write-recipe` names, created before hours of work may come to nothing for want of it.
struct RecipeFile {
    path: PathBuf,
    output: Output,
}

impl RecipeFile {
    fn create(path: &Path, common: &Common) -> Result<Self, Error> {
        let output = Output::create(path, common.overwrite).map_err(output::refused)?;
        Ok(Self { path: path.into(), output })
    }

    fn write(self, recipe: &str) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Write { output: self.path.clone(), source: source.into() };
        self.output.file().write_all(recipe.as_bytes()).map_err(failed)?;
        self.output.commit().map_err(output::refused)
    }
}

/// Where everything will be.
fn layout(model: &Model, tensors: &[Planned<'_>], recipe: &str, common: &Common) -> Result<Layout, Error> {
    let specs = tensors.iter().map(|Planned { source, decision }| TensorSpec {
        name: source.name.clone(),
        shape: source.shape.clone(),
        dtype: source.dtype,
        encoding: decision.encoding(),
    });
    let mut blobs = BTreeMap::new();
    for blob in model.blobs() {
        blobs.insert(blob.name.clone(), blob.read()?.len() as u64);
    }
    let mut metadata: BTreeMap<_, _> =
        model.metadata().iter().map(|(key, value)| (key.as_str(), value.value())).collect();
    metadata.insert("ccq.producer", Value::String(PRODUCER));
    metadata.insert("ccq.recipe", Value::String(recipe));
    let contents = Contents { tensors: specs.collect(), blobs, metadata, shard: None };
    Layout::new(contents).map_err(|source| Error::Layout { input: common.input.clone(), source })
}
