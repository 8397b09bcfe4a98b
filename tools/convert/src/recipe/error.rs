//! What is wrong with a recipe, and where.

use std::fmt;
use std::io;

use super::Place;

/// A fault of a recipe.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct RecipeError {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub fault: Box<Fault>,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(io::Error),
    /// The file is no recipe.
    #[error("more than {limit} bytes, which no recipe has")]
    TooLarge {
        /// Bytes that are read.
        limit: u64,
    },
    /// The file is no text.
    #[error("not UTF-8, as TOML is; save it as UTF-8")]
    NotUtf8,
    /// The container cannot be read.
    #[error("{0}")]
    Container(ccq::Error),
    /// The container has no recipe.
    #[error("this container does not say with which recipe it was made (metadata ccq.recipe)")]
    NoRecipe,
    /// It is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key that means nothing.
    #[error("unknown key {key:?}{}; expected {}", suggestion(*near), known.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// One like it.
        near: Option<&'static str>,
        /// All there are.
        known: &'static [&'static str],
    },
    /// A value of the wrong type.
    #[error("{key} is {found}, expected {expected}")]
    Type {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that is not one of those there are.
    #[error("{key} {found:?}{}; expected {expected}", suggestion(*near))]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        found: String,
        /// One like it.
        near: Option<&'static str>,
        /// What it should be.
        expected: String,
    },
    /// A group size that the encoding does not take.
    #[error("{family} takes group sizes 32, 64 and 128; one scale a channel is for {per_channel}")]
    GroupSize {
        /// The encoding.
        family: &'static str,
        /// Those that take one scale a channel.
        per_channel: String,
    },
    /// A rule without a selector.
    #[error(
        "the rule names no tensors: give tensor, regex or layers; [default] is for all that no rule names"
    )]
    NoSelector,
    /// A rule without an encoding.
    #[error("the rule has no encoding")]
    NoEncoding,
    /// An option that means nothing for the encoding.
    #[error("{key} does not go with {with}")]
    Idle {
        /// The option.
        key: &'static str,
        /// What it does not go with.
        with: &'static str,
    },
    /// `--quantize` where the default is raw.
    #[error("there is no encoding to quantize with, the default being raw: give --encoding, or a rule")]
    NoCode,
    /// `encoding = "auto"` without a budget.
    #[error("encoding \"auto\" needs a budget: give --target-bpw or --target-size")]
    NoTarget,
    /// The rule has no tensor to speak of.
    #[error("{selector} matches no tensor of {input}; {hint}")]
    NoMatch {
        /// What it asks for.
        selector: String,
        /// The model.
        input: String,
        /// What may have been meant.
        hint: String,
    },
    /// Earlier rules of the recipe take all that the rule speaks of.
    #[error("{selector} is never used: {by} comes first and takes {example:?} and all else it matches")]
    Taken {
        /// What it asks for.
        selector: String,
        /// The earlier rule.
        by: String,
        /// A tensor that both match.
        example: String,
    },
}

impl Fault {
    /// The fault at its place.
    pub fn at(self, place: Place) -> RecipeError {
        RecipeError { place, fault: Box::new(self) }
    }
}

fn suggestion(near: Option<&str>) -> String {
    near.map_or(String::new(), |near| format!(", did you mean {near:?}?"))
}

/// `mix.toml:12`, `mix.toml:12, rule 3`, `--keep`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(rule) = self.rule {
            write!(f, ", rule {rule}")?;
        }
        Ok(())
    }
}
