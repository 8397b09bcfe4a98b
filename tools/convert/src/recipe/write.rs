//! [`Recipe`] -> TOML, with nothing left to defaults of the tool.

use ccq_quantize::Method;
use serde::Serialize;

use super::{How, Recipe, Roles, Rule};

#[derive(Serialize)]
struct Text<'a> {
    default: Options,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rule: Vec<RuleText<'a>>,
}

#[derive(Serialize)]
struct RuleText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<OneOrMore<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<OneOrMore<'a>>,
    #[serde(flatten)]
    options: Options,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OneOrMore<'a> {
    One(&'a str),
    More(Vec<&'a str>),
}

impl<'a> FromIterator<&'a str> for OneOrMore<'a> {
    fn from_iter<T: IntoIterator<Item = &'a str>>(texts: T) -> Self {
        let texts: Vec<_> = texts.into_iter().collect();
        match texts[..] {
            [one] => Self::One(one),
            _ => Self::More(texts),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Options {
    encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_size: Option<GroupSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum GroupSize {
    Weights(usize),
    Channel(&'static str),
}

/// The recipe's text.
pub fn write(recipe: &Recipe) -> String {
    let text = Text { default: options(&recipe.default), rule: recipe.rules.iter().map(rule).collect() };
    // Texts, numbers and tables: nothing that TOML could not hold.
    toml::to_string_pretty(&text).unwrap_or_default()
}

fn rule(rule: &Rule) -> RuleText<'_> {
    let selector = &rule.selector;
    let roles = match (&selector.roles, rule.how) {
        (Roles::Any, How::Raw) => None,
        (Roles::Projections, How::Raw) => Some(vec!["projection"]),
        (roles, _) => roles.names(),
    };
    RuleText {
        tensor: selector.names.as_ref().map(|names| names.texts().iter().map(String::as_str).collect()),
        regex: selector.regex.as_ref().map(|regex| regex.as_str()),
        layers: selector.layers.as_ref().map(ToString::to_string),
        role: roles.map(|roles| roles.into_iter().collect()),
        options: options(&rule.how),
        optional: rule.optional,
    }
}

fn options(how: &How) -> Options {
    let (encoding, group_size, quality, method) = match how {
        How::Raw => ("raw", None, None, None),
        How::Choose { quality, method } => ("auto", None, Some(quality), Some(method)),
        How::Quantize(search) => {
            let family = search.code.family().map_or("custom", |family| family.name());
            let size = search.code.group_size().map_or(GroupSize::Channel("channel"), GroupSize::Weights);
            (family, Some(size), Some(&search.quality), Some(&search.method))
        }
    };
    // The paper's method knows no qualities, and searching is what is done otherwise.
    let paper = method == Some(&Method::Paper);
    Options {
        encoding,
        group_size,
        quality: quality.filter(|_| !paper).map(|quality| quality.name()),
        method: method.filter(|_| paper).map(|method| method.name()),
    }
}
