//! The plan: from headers alone, every tensor's encoding and reason, and what the container is going to hold.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ccq::Output;
use ccq::format::{Contents, TensorSpec, Value};
use ccq_import::{Blob, Carried, Importance, Model, SourceTensor};

use crate::allocate::{Outcome, allocate};
use crate::args::{Common, Conversion};
use crate::error::Error;
use crate::output;
use crate::part::{KEY, PartId};
use crate::policy::{Action, Decision, Reason};
use crate::recipe::Recipe;
use crate::search::{Search, open_importance, vectors};
use crate::source;
use crate::split::{self, FilePlan};

/// The program and version that containers name as their producer.
pub const PRODUCER: &str = concat!("ccq-convert ", env!("CARGO_PKG_VERSION"));

/// What a job is going to write.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Tensors in the order of the file.
    pub tensors: Vec<Planned<'a>>,
    /// Blobs in the order of the file.
    pub blobs: &'a [Blob],
    /// The recipe as it is stored.
    pub recipe: String,
    /// How many tensors the model has.
    pub source_tensors: u64,
    blob_lens: BTreeMap<String, u64>,
    /// Metadata of the source files, by the keys it gets.
    carried: &'a BTreeMap<String, Carried>,
    /// What makes the output a part, if it is one.
    part: Option<String>,
}

/// A tensor of the plan.
#[derive(Debug)]
pub struct Planned<'a> {
    /// The tensor.
    pub source: &'a SourceTensor,
    /// What becomes of it.
    pub decision: Decision,
}

impl Planned<'_> {
    /// How the tensor is quantized, if it is.
    pub fn search(&self) -> Option<Search> {
        match self.decision.action {
            Action::Quantize(search) => Some(search),
            Action::Raw | Action::Copy(_) => None,
        }
    }
}

impl Plan<'_> {
    /// The tensors that are going to be quantized.
    pub fn quantized(&self) -> impl Iterator<Item = &SourceTensor> {
        self.tensors.iter().filter(|planned| planned.search().is_some()).map(|planned| planned.source)
    }

    /// What the container is going to hold.
    pub fn contents(&self) -> Contents<'_> {
        let specs = self.tensors.iter().map(|Planned { source, decision }| TensorSpec {
            name: source.name.clone(),
            shape: source.shape.clone(),
            dtype: source.dtype,
            encoding: decision.encoding(),
        });
        let carried = self.carried.iter().map(|(key, value)| (key.as_str(), value.value()));
        let own = [
            ("ccq.producer", Some(PRODUCER)),
            ("ccq.recipe", Some(&self.recipe)),
            (KEY, self.part.as_deref()),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some((key, Value::String(value?))));
        Contents {
            tensors: specs.collect(),
            blobs: self.blob_lens.clone(),
            metadata: carried.chain(own).collect(),
            shard: None,
        }
    }

    /// Leaves one part of what there is to do: some of the tensors; the first has the blobs, too.
    pub fn keep_part(&mut self, id: &PartId) {
        crate::part::keep(&mut self.tensors, id.part);
        if id.part.number != 1 {
            self.blobs = &[];
            self.blob_lens.clear();
        }
        self.part = Some(id.text());
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

/// Reads the recipe, fills in what it leaves to a budget, plans, and writes the recipe that is used. `measured` is what
/// an earlier run of the same job found for a budget.
///
/// # Errors
/// Any [`Error`], before anything but that recipe is written.
pub fn prepare<'a>(
    model: &'a Model,
    conversion: &Conversion,
    measured: Option<&str>,
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
        let (chosen, found, said) = allocate(model, &recipe, target, importance.as_ref(), measured, common)?;
        (recipe, outcome, warnings) = (chosen, Some(found), said);
    }
    let plan = plan(model, &recipe)?;
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
fn plan<'a>(model: &'a Model, recipe: &Recipe) -> Result<Plan<'a>, Error> {
    let planned = |source| Planned { source, decision: recipe.decide(source) };
    let mut blob_lens = BTreeMap::new();
    for blob in model.blobs() {
        blob_lens.insert(blob.name.clone(), blob.read()?.len() as u64);
    }
    Ok(Plan {
        tensors: model.tensors().iter().map(planned).collect(),
        blobs: model.blobs(),
        recipe: recipe.to_toml(),
        source_tensors: model.tensors().len() as u64,
        blob_lens,
        carried: model.metadata(),
        part: None,
    })
}

/// Bytes of the file that a recipe leads to, if it is one file.
///
/// # Errors
/// `Import` for a blob that cannot be read, `Layout`.
pub fn file_len(model: &Model, recipe: &Recipe, common: &Common) -> Result<u64, Error> {
    let files = split::files(plan(model, recipe)?.contents(), None, &common.output, &common.input)?;
    Ok(files.iter().map(FilePlan::len).sum())
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
