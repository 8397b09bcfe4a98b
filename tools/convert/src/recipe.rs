//! Recipes: ordered rules that say which tensor is stored how. The first rule that speaks of a tensor decides.
//!
//! The command line, a `--recipe` file, a preset and what `--target-bpw` found all become one [`Recipe`]:
//!
//! ```text
//! --keep, --quantize      rules that come first
//! --recipe or --preset    their rules, in order                 read
//! --encoding and others   [default]: projections that no rule names, as module policy knows them
//! ```
//!
//! What is stored in the container is that recipe, written out as TOML (module write).

mod error;
mod near;
mod presets;
mod read;
mod selector;
mod write;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccq::code::{Code, Family};
use ccq::format::Encoding;
use ccq_import::SourceTensor;
use ccq_quantize::{Method, Quality};

use crate::policy::{Action, Decision, Reason, RoleName};
use crate::search::Search;

pub use error::{Fault, RecipeError};
pub use presets::Preset;
pub use read::code;
pub use selector::{Facts, Names, Roles, Selector};

/// The encoding taken when none is asked for. It is what the format is for: 2.06 bits a weight, with less error
/// than plain integers of that size; whoever needs less error asks for more bits by name.
const DEFAULT: Family = Family::Ccq206;

/// Bytes of a recipe at most.
const MAX_LEN: u64 = 1 << 20;

/// What the command line says of encodings.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Where rules come from.
    pub source: Source,
    /// Of projections that no rule names; the inner `None` keeps them raw.
    pub encoding: Option<Option<Family>>,
    /// The group size that goes with it, 0 for one group a row.
    pub group_size: Option<u32>,
    /// Of everything that does not say otherwise.
    pub quality: Option<Quality>,
    /// Of everything that does not say otherwise.
    pub method: Option<Method>,
    /// Patterns that stay raw.
    pub keep: Vec<String>,
    /// Patterns that are quantized whatever they look like.
    pub quantize: Vec<String>,
    /// Whether encodings are to be chosen for a budget.
    pub choose: bool,
}

/// Where a recipe comes from.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// The command line alone.
    #[default]
    Options,
    /// A recipe, or a container that holds one.
    File(PathBuf),
    /// One of ours.
    Preset(&'static Preset),
}

/// Rules, and what happens to projections that none of them names.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// In order: the first that selects a tensor decides.
    pub rules: Vec<Rule>,
    /// Of projections that no rule selects; everything else stays raw.
    pub default: How,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The tensors it speaks of.
    pub selector: Selector,
    /// What becomes of them.
    pub how: How,
    /// Whether it may select nothing.
    pub optional: bool,
    /// Where it stands.
    pub place: Place,
    /// What the report gives as the reason.
    pub label: Arc<str>,
}

/// Where a rule stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, the preset or the option.
    pub source: String,
    /// Line of the file, from 1.
    pub line: Option<usize>,
    /// Byte of the file, from 0.
    pub offset: Option<usize>,
    /// Number of the rule in it, from 1.
    pub rule: Option<usize>,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Its bytes are stored as they are.
    Raw,
    /// It is quantized.
    Quantize(Search),
    /// Whatever fits the budget best.
    Choose {
        /// How hard to search.
        quality: Quality,
        /// Which quantizer.
        method: Method,
    },
}

impl How {
    /// How the container stores it; raw while that is open.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Quantize(search) => Encoding::Coded(search.result_code()),
            Self::Raw | Self::Choose { .. } => Encoding::Raw,
        }
    }
}

impl Recipe {
    /// The recipe that the command line asks for.
    ///
    /// # Errors
    /// [`RecipeError`] for a recipe that cannot be read or understood.
    pub fn load(wish: &Wish) -> Result<Self, RecipeError> {
        match &wish.source {
            Source::Options => read::read("the command line", "", wish),
            Source::Preset(preset) => read::read(&format!("preset {}", preset.name), preset.text, wish),
            Source::File(path) => read::read(&path.display().to_string(), &text_of(path)?, wish),
        }
    }

    /// How a tensor is stored: codes stay what they are, whatever the rules say.
    pub fn decide(&self, tensor: &SourceTensor) -> Decision {
        if let Some(code) = tensor.code() {
            return Decision { action: Action::Copy(code), reason: Reason::Source };
        }
        let (how, reason) = self.find(&Facts::of(tensor));
        match how {
            How::Quantize(search) => Decision::quantize(search, reason, &tensor.shape, tensor.dtype),
            How::Raw | How::Choose { .. } => Decision { action: Action::Raw, reason },
        }
    }

    /// What the first rule, or the default, says of a tensor, and why.
    pub fn find(&self, facts: &Facts<'_>) -> (How, Reason) {
        if let Some(rule) = self.rules.iter().find(|rule| rule.selector.selects(facts)) {
            return (rule.how, Reason::Rule(rule.label.clone()));
        }
        match (facts.role.name(), self.default) {
            (RoleName::Projection, How::Raw) => (How::Raw, Reason::RawByDefault),
            (RoleName::Projection, how) => (how, Reason::Role(facts.role)),
            _ => (How::Raw, Reason::Role(facts.role)),
        }
    }

    /// Checks that each rule is of use for a model.
    ///
    /// # Errors
    /// The first rule that selects nothing, or all of whose tensors earlier rules of its source take.
    pub fn check(&self, tensors: &[SourceTensor], input: &Path) -> Result<(), RecipeError> {
        let facts: Vec<_> = tensors.iter().map(Facts::of).collect();
        for (at, rule) in self.rules.iter().enumerate().filter(|(_, rule)| !rule.optional) {
            let mut selected = facts.iter().filter(|facts| rule.selector.selects(facts)).peekable();
            let Some(example) = selected.peek().copied() else {
                let fault = Fault::NoMatch {
                    selector: rule.selector.to_string(),
                    input: input.display().to_string(),
                    hint: hint(&rule.selector, &facts),
                };
                return Err(fault.at(rule.place.clone()));
            };
            let earlier =
                self.rules.iter().take(at).filter(|before| before.place.source == rule.place.source);
            let taker = |facts: &Facts<'_>| earlier.clone().find(|rule| rule.selector.selects(facts));
            if let Some(first) = taker(example)
                && selected.all(|facts| taker(facts).is_some())
            {
                let (selector, example) = (rule.selector.to_string(), example.name.to_owned());
                let fault = Fault::Taken { selector, by: first.label.to_string(), example };
                return Err(fault.at(rule.place.clone()));
            }
            check_each_name(rule, &facts, input)?;
        }
        Ok(())
    }

    /// The recipe without the rules that decide about no tensor: `--keep` may have taken all that they speak of.
    pub fn without_unused(self, tensors: &[SourceTensor]) -> Self {
        let mut used = BTreeSet::new();
        for facts in tensors.iter().map(Facts::of) {
            if let Some(at) = self.rules.iter().position(|rule| rule.selector.selects(&facts)) {
                used.insert(at);
            }
        }
        let rules = (0..).zip(self.rules).filter(|(at, rule)| used.contains(at) || rule.optional);
        Self { rules: rules.map(|(_, rule)| rule).collect(), default: self.default }
    }

    /// The recipe as TOML, complete: read again, it decides the same without any option.
    pub fn to_toml(&self) -> String {
        write::write(self)
    }

    /// The encodings that it asks for, in order, each once.
    pub fn codes(&self) -> Vec<Code> {
        let mut codes = Vec::new();
        for how in self.rules.iter().map(|rule| rule.how).chain([self.default]) {
            if let How::Quantize(search) = how
                && !codes.contains(&search.result_code())
            {
                codes.push(search.result_code());
            }
        }
        codes
    }
}

/// One of several names that none matches would go unnoticed otherwise.
fn check_each_name(rule: &Rule, facts: &[Facts<'_>], input: &Path) -> Result<(), RecipeError> {
    let known: HashSet<_> = facts.iter().map(|facts| facts.name).collect();
    let texts = rule.selector.names.iter().flat_map(Names::texts);
    for text in texts.filter(|text| !known.contains(text.as_str())) {
        let alone = Selector { names: Some(Names::new(vec![text.clone()])), ..Selector::default() };
        if !facts.iter().any(|facts| alone.selects_name(facts.name)) {
            let (selector, hint) = (format!("{text:?}"), hint(&alone, facts));
            let fault = Fault::NoMatch { selector, input: input.display().to_string(), hint };
            return Err(fault.at(rule.place.clone()));
        }
    }
    Ok(())
}

/// Why a selector selects nothing: the name, the layer or the role.
fn hint(selector: &Selector, facts: &[Facts<'_>]) -> String {
    let named: Vec<_> = facts.iter().filter(|facts| selector.selects_name(facts.name)).collect();
    if named.is_empty() {
        return near::hint(selector, facts.iter().map(|facts| facts.name));
    }
    let Some(other) = named.iter().find(|facts| selector.selects_layer(facts)) else {
        let layers = || named.iter().filter_map(|facts| facts.layer);
        return match (layers().min(), layers().max()) {
            (Some(first), Some(last)) => format!("the tensors of that name are in layers {first} to {last}"),
            _ => "the tensors of that name are in no layer".into(),
        };
    };
    format!(
        "{:?} is no projection but: {}; give the rule role = {:?} to include it",
        other.name,
        other.role,
        other.role.name().text()
    )
}

/// A recipe's text: a file's, or that in a container's metadata.
fn text_of(path: &Path) -> Result<String, RecipeError> {
    let source = path.display().to_string();
    let at = |fault: Fault| fault.at(Place { source: source.clone(), ..Place::default() });
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ccq")) {
        let bytes = first_bytes(path).map_err(|error| at(Fault::Io(error)))?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(at(Fault::TooLarge { limit: MAX_LEN }));
        }
        return String::from_utf8(bytes).map_err(|error| {
            let end = error.utf8_error().valid_up_to();
            Fault::NotUtf8.at(Place::of_byte(&source, error.as_bytes(), end))
        });
    }
    let container = ccq::Container::open(path).map_err(|error| at(Fault::Container(error)))?;
    match container.index().metadata().get("ccq.recipe") {
        Some(ccq::format::Value::String(text)) => Ok(text.to_owned()),
        _ => Err(at(Fault::NoRecipe)),
    }
}

/// A file's first bytes, one more than a recipe may have.
fn first_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LEN.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Place {
    /// A byte of a text.
    fn of_byte(source: &str, text: &[u8], offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or_default();
        let line = before.iter().filter(|&&byte| byte == b'\n').count().saturating_add(1);
        Self { source: source.into(), line: Some(line), offset: Some(offset), rule: None }
    }
}

#[cfg(test)]
mod tests;
