//! TOML and the command line -> [`Recipe`]; every fault with its line and byte.

use std::ops::Range;
use std::sync::Arc;

use ccq::code::{Code, Family};
use ccq_quantize::{Method, Quality};
use regex_lite::RegexBuilder;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::near::nearest;
use super::selector::Layers;
use super::{DEFAULT, Fault, How, Names, Place, Recipe, RecipeError, Roles, Rule, Selector, Wish};
use crate::policy::RoleName;
use crate::search::Search;

const TOP: &[&str] = &["default", "rule"];
const OPTIONS: &[&str] = &["encoding", "group-size", "quality", "method"];
const RULE: &[&str] =
    &["tensor", "regex", "layers", "role", "encoding", "group-size", "quality", "method", "optional"];

/// Bytes that a compiled regular expression may take.
const MAX_REGEX: usize = 1 << 18;

/// The encodings that are no code.
const RAW: &str = "raw";
const KEEP: &str = "keep";
const AUTO: &str = "auto";

/// What has been said of an encoding, key by key.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    encoding: Option<Encoding>,
    group_size: Option<u32>,
    quality: Option<Quality>,
    method: Option<Method>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Encoding {
    Raw,
    Auto,
    Coded(Family),
}

/// Reads a recipe; `source` is what errors call it.
pub fn read(source: &str, text: &str, wish: &Wish) -> Result<Recipe, RecipeError> {
    let reader = Reader { source, text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or_default();
        Fault::Syntax(error.message().trim().to_owned()).at(reader.place(&at, None))
    })?;
    let document = reader.table(document.get_ref(), TOP, None)?;
    let mut default = Said::default();
    if let Some((options, _)) = document.get("default") {
        let options = reader.table(reader.as_table("default", options, None)?, OPTIONS, None)?;
        default = reader.said(&options, None)?;
    }
    let default_line = document.get("default").map(|(value, _)| value.span()).unwrap_or_default();
    let default_place = match document.get("default") {
        Some(_) => reader.place(&default_line, None),
        None => Place { source: source.into(), ..Place::default() },
    };
    let default = with_options(default, wish);
    let fallback = default.how(None, wish.choose).map_err(|fault| fault.at(default_place))?;

    let mut rules = command_line_rules(wish, fallback)?;
    if let Some((list, _)) = document.get("rule") {
        let DeValue::Array(list) = list.get_ref() else {
            return Err(reader.wrong_type("rule", "[[rule]] tables", list, None));
        };
        for (number, rule) in (1..).zip(list.iter()) {
            rules.push(reader.rule(rule, number, &default, wish)?);
        }
    }
    Ok(Recipe { rules, default: fallback })
}

/// The command line comes before the file's `[default]`.
fn with_options(file: Said, wish: &Wish) -> Said {
    let encoding = match wish.encoding {
        _ if wish.choose => Some(Encoding::Auto),
        Some(None) => Some(Encoding::Raw),
        Some(Some(family)) => Some(Encoding::Coded(family)),
        None => file.encoding.or(Some(Encoding::Coded(DEFAULT))),
    };
    // A group size goes with its encoding: the file's is not that of an encoding given instead.
    let group_size = if encoding == file.encoding { file.group_size } else { None };
    let quality = wish.quality.or(file.quality);
    Said {
        encoding,
        group_size: wish.group_size.or(group_size),
        quality,
        method: wish.method.or(file.method),
    }
}

/// `--keep`, then `--quantize`.
fn command_line_rules(wish: &Wish, default: How) -> Result<Vec<Rule>, RecipeError> {
    let rule = |option: &str, pattern: &String, how| Rule {
        selector: Selector {
            names: Some(Names::new(vec![pattern.clone()])),
            roles: Roles::Any,
            ..Selector::default()
        },
        how,
        optional: false,
        place: Place { source: option.into(), ..Place::default() },
        label: format!("{option} {pattern}").into(),
    };
    let keep = wish.keep.iter().map(|pattern| rule("--keep", pattern, How::Raw));
    let quantize: Vec<_> = wish.quantize.iter().map(|pattern| rule("--quantize", pattern, default)).collect();
    match quantize.first() {
        Some(first) if default == How::Raw => Err(Fault::NoCode.at(first.place.clone())),
        _ => Ok(keep.chain(quantize).collect()),
    }
}

type Value<'a> = Spanned<DeValue<'a>>;

/// The known keys of a table, each with its value and where the key stands.
struct Table<'a>(Vec<(&'static str, &'a Value<'a>, Range<usize>)>);

impl<'a> Table<'a> {
    fn get(&self, key: &str) -> Option<(&'a Value<'a>, Range<usize>)> {
        self.0.iter().find(|entry| entry.0 == key).map(|(_, value, at)| (*value, at.clone()))
    }
}

struct Reader<'a> {
    source: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn place(&self, at: &Range<usize>, rule: Option<usize>) -> Place {
        Place { rule, ..Place::of_byte(self.source, self.text.as_bytes(), at.start) }
    }

    fn table<'t>(
        &self,
        table: &'t DeTable<'t>,
        known: &'static [&'static str],
        rule: Option<usize>,
    ) -> Result<Table<'t>, RecipeError> {
        let mut entries = Vec::new();
        // In the order of the text, so that the first fault is the one named.
        let mut keys: Vec<_> = table.iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in keys {
            let name: &str = key.get_ref();
            let Some(name) = known.iter().find(|known| **known == name) else {
                let near =
                    nearest(name, known.iter().copied()).and_then(|near| known.iter().find(|k| **k == near));
                let fault = Fault::UnknownKey { key: name.into(), near: near.copied(), known };
                return Err(fault.at(self.place(&key.span(), rule)));
            };
            entries.push((*name, value, key.span()));
        }
        Ok(Table(entries))
    }

    fn rule(
        &self,
        rule: &Value<'_>,
        number: usize,
        default: &Said,
        wish: &Wish,
    ) -> Result<Rule, RecipeError> {
        let at = Some(number);
        let place = self.place(&rule.span(), at);
        let table = self.table(self.as_table("rule", rule, at)?, RULE, at)?;
        let said = self.said(&table, at)?;
        if said.encoding.is_none() {
            return Err(Fault::NoEncoding.at(place));
        }
        let how = said.how(Some(default), wish.choose).map_err(|fault| fault.at(place.clone()))?;
        let regex = self.text("regex", &table, at)?.map(|(text, value)| {
            RegexBuilder::new(&text).size_limit(MAX_REGEX).build().map_err(|error| {
                let expected = format!("a regular expression ({error})");
                Fault::Value { key: "regex", found: text, near: None, expected }
                    .at(self.place(&value.span(), at))
            })
        });
        let names = table.get("tensor").map(|(value, _)| self.texts("tensor", value, at)).transpose()?;
        let roles = match table.get("role") {
            Some((value, _)) => self.roles(value, at)?,
            None if how == How::Raw => Roles::Any,
            None => Roles::Projections,
        };
        let optional = match table.get("optional") {
            None => false,
            Some((value, _)) => value
                .get_ref()
                .as_bool()
                .ok_or_else(|| self.wrong_type("optional", "true or false", value, at))?,
        };
        let layers = self.layers(&table, at)?;
        let selector = Selector { names: names.map(Names::new), regex: regex.transpose()?, layers, roles };
        if selector.asks_nothing() {
            return Err(Fault::NoSelector.at(place));
        }
        let label: Arc<str> = format!("rule {number}: {selector}").into();
        Ok(Rule { selector, how, optional, place, label })
    }

    fn said(&self, table: &Table<'_>, rule: Option<usize>) -> Result<Said, RecipeError> {
        let encoding = self.one_of("encoding", table, rule, &encoding_names(), |name| match name {
            RAW | KEEP => Some(Encoding::Raw),
            AUTO => Some(Encoding::Auto),
            _ => Family::from_name(name).map(Encoding::Coded),
        })?;
        let group_size = match table.get("group-size") {
            None => None,
            Some((value, _)) => Some(self.group_size(value, rule)?),
        };
        let quality =
            self.one_of("quality", table, rule, &Quality::ALL.map(Quality::name), Quality::from_name)?;
        let method = self.one_of("method", table, rule, &Method::ALL.map(Method::name), Method::from_name)?;
        Ok(Said { encoding, group_size, quality, method })
    }

    fn group_size(&self, value: &Value<'_>, rule: Option<usize>) -> Result<u32, RecipeError> {
        let refused = |found: &str| {
            let expected = "32, 64, 128 or \"channel\"".to_owned();
            let fault = Fault::Value { key: "group-size", found: found.into(), near: None, expected };
            fault.at(self.place(&value.span(), rule))
        };
        match value.get_ref() {
            DeValue::String(text) if text == "channel" => Ok(0),
            DeValue::Integer(size) if matches!(size.as_str(), "32" | "64" | "128") => {
                size.as_str().parse().map_err(|_| refused(size.as_str()))
            }
            DeValue::Integer(size) => Err(refused(size.as_str())),
            DeValue::String(text) => Err(refused(text)),
            _ => Err(self.wrong_type("group-size", "32, 64, 128 or \"channel\"", value, rule)),
        }
    }

    fn layers(&self, table: &Table<'_>, rule: Option<usize>) -> Result<Option<Layers>, RecipeError> {
        let Some((value, _)) = table.get("layers") else { return Ok(None) };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(layer) => layer.as_str().to_owned(),
            _ => return Err(self.wrong_type("layers", "a text such as \"0-6, 10, 40-\"", value, rule)),
        };
        Layers::parse(&text).map(Some).ok_or_else(|| {
            let expected = "layers and ranges of them, such as \"0-6, 10, 40-\"".to_owned();
            let fault = Fault::Value { key: "layers", found: text, near: None, expected };
            fault.at(self.place(&value.span(), rule))
        })
    }

    fn roles(&self, value: &Value<'_>, rule: Option<usize>) -> Result<Roles, RecipeError> {
        let texts = self.texts("role", value, rule)?;
        if texts == ["any"] {
            return Ok(Roles::Any);
        }
        let known = || RoleName::ALL.map(RoleName::text).into_iter().chain(["any"]);
        let role = |text: String| {
            RoleName::ALL.into_iter().find(|role| role.text() == text).ok_or_else(|| {
                let near = nearest(&text, known()).and_then(|near| known().find(|known| *known == near));
                let expected = known().collect::<Vec<_>>().join(", ");
                Fault::Value { key: "role", found: text, near, expected }.at(self.place(&value.span(), rule))
            })
        };
        let roles = texts.into_iter().map(role).collect::<Result<Vec<_>, _>>()?;
        Ok(if roles == [RoleName::Projection] { Roles::Projections } else { Roles::Only(roles) })
    }

    /// A key that takes one of several names.
    fn one_of<T>(
        &self,
        key: &'static str,
        table: &Table<'_>,
        rule: Option<usize>,
        known: &[&'static str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, RecipeError> {
        let Some((found, value)) = self.text(key, table, rule)? else { return Ok(None) };
        parse(&found).map(Some).ok_or_else(|| {
            let near =
                nearest(&found, known.iter().copied()).and_then(|near| known.iter().find(|k| **k == near));
            let expected = known.join(", ");
            Fault::Value { key, found, near: near.copied(), expected }.at(self.place(&value.span(), rule))
        })
    }

    fn text<'t>(
        &self,
        key: &'static str,
        table: &Table<'t>,
        rule: Option<usize>,
    ) -> Result<Option<(String, &'t Value<'t>)>, RecipeError> {
        match table.get(key) {
            None => Ok(None),
            Some((value, _)) => match value.get_ref() {
                DeValue::String(text) => Ok(Some((text.to_string(), value))),
                _ => Err(self.wrong_type(key, "a text", value, rule)),
            },
        }
    }

    /// A text, or several.
    fn texts(
        &self,
        key: &'static str,
        value: &Value<'_>,
        rule: Option<usize>,
    ) -> Result<Vec<String>, RecipeError> {
        let text = |value: &Value<'_>| match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.wrong_type(key, "a text, or an array of texts", value, rule)),
        };
        match value.get_ref() {
            DeValue::Array(list) if !list.is_empty() => list.iter().map(text).collect(),
            _ => Ok(vec![text(value)?]),
        }
    }

    fn as_table<'t>(
        &self,
        key: &'static str,
        value: &'t Value<'t>,
        rule: Option<usize>,
    ) -> Result<&'t DeTable<'t>, RecipeError> {
        value.get_ref().as_table().ok_or_else(|| self.wrong_type(key, "a table", value, rule))
    }

    fn wrong_type(
        &self,
        key: &'static str,
        expected: &'static str,
        value: &Value<'_>,
        rule: Option<usize>,
    ) -> RecipeError {
        let found = match value.get_ref() {
            DeValue::Integer(_) => "an integer",
            DeValue::String(_) => "a text",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
            other => other.type_str(),
        };
        Fault::Type { key, expected, found }.at(self.place(&value.span(), rule))
    }
}

impl Said {
    /// What it amounts to. A rule has a default, which quality and method may come from; the default itself has
    /// none, and may have both for rules though it is raw.
    fn how(&self, default: Option<&Self>, choose: bool) -> Result<How, Fault> {
        let encoding = self.encoding.unwrap_or(Encoding::Coded(DEFAULT));
        let idle = |keys: &[(&'static str, bool)], with| match keys.iter().find(|key| key.1) {
            Some(&(key, _)) => Err(Fault::Idle { key, with }),
            None => Ok(()),
        };
        let (size, quality, method) = (self.group_size, self.quality, self.method);
        let method_or_default = method.or_else(|| default?.method).unwrap_or_default();
        if method_or_default == Method::Paper {
            idle(&[("quality", quality.is_some())], "method \"paper\", which knows nothing of it")?;
        }
        let quality_or_default = quality.or_else(|| default?.quality).unwrap_or_default();
        match encoding {
            Encoding::Raw => {
                let is_rule = default.is_some();
                let keys = [
                    ("group-size", size.is_some()),
                    ("quality", quality.is_some() && is_rule),
                    ("method", method.is_some() && is_rule),
                ];
                idle(&keys, "encoding \"raw\"")?;
                Ok(How::Raw)
            }
            Encoding::Auto if !choose => Err(Fault::NoTarget),
            Encoding::Auto => {
                idle(&[("group-size", size.is_some())], "encoding \"auto\"; --candidates may name one")?;
                Ok(How::Choose { quality: quality_or_default, method: method_or_default })
            }
            Encoding::Coded(family) => Ok(How::Quantize(Search {
                code: code(family, size)?,
                quality: quality_or_default,
                method: method_or_default,
            })),
        }
    }
}

/// The family's code with that group size, or its usual one.
pub fn code(family: Family, group_size: Option<u32>) -> Result<Code, Fault> {
    let code = match group_size {
        Some(size) => family.code(size),
        None => family.default_code(),
    };
    code.map_err(|_| {
        let per_channel = Family::ALL.into_iter().filter(|family| family.code(0).is_ok());
        let per_channel = per_channel.map(Family::name).collect::<Vec<_>>().join(", ");
        Fault::GroupSize { family: family.name(), per_channel }
    })
}

fn encoding_names() -> Vec<&'static str> {
    Family::ALL.into_iter().map(Family::name).chain([RAW, AUTO]).collect()
}
