//! Which tensors a rule speaks of: by name, by layer, by what they are.

use std::collections::HashSet;
use std::fmt;

use ccq_import::SourceTensor;
use regex_lite::Regex;
use wildmatch::WildMatch;

use crate::policy::{Role, RoleName, role};

/// What a rule asks of a tensor; all of it must hold.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// One of these names or patterns.
    pub names: Option<Names>,
    /// A name in which this is found.
    pub regex: Option<Regex>,
    /// One of these layers.
    pub layers: Option<Layers>,
    /// One of these roles.
    pub roles: Roles,
}

/// What is asked about a tensor, found out once.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a str,
    /// The first number that stands between dots in its name.
    pub layer: Option<u64>,
    /// What it is.
    pub role: Role,
}

impl<'a> Facts<'a> {
    /// The facts about a tensor.
    pub fn of(tensor: &'a SourceTensor) -> Self {
        Self::new(&tensor.name, &tensor.shape)
    }

    /// The same from a name and a shape.
    pub fn new(name: &'a str, shape: &[u64]) -> Self {
        let layer = name.split('.').find_map(|part| part.parse().ok());
        Self { name, layer, role: role(name, shape) }
    }
}

impl Selector {
    /// Whether a rule that asks for this speaks of the tensor.
    pub fn selects(&self, facts: &Facts<'_>) -> bool {
        self.roles.contain(facts.role) && self.selects_layer(facts) && self.selects_name(facts.name)
    }

    /// Whether the name is one of those asked for.
    pub fn selects_name(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.matches(name))
            && self.regex.as_ref().is_none_or(|regex| regex.is_match(name))
    }

    /// Whether the layer is one of those asked for.
    pub fn selects_layer(&self, facts: &Facts<'_>) -> bool {
        let Some(layers) = &self.layers else { return true };
        facts.layer.is_some_and(|layer| layers.contain(layer))
    }

    /// Whether it asks for anything at all.
    pub fn asks_nothing(&self) -> bool {
        self.names.is_none() && self.regex.is_none() && self.layers.is_none()
    }
}

/// `"*.experts.*", layers 7-53`: what a person needs to recognise the rule.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.as_ref().map(|names| match names.texts() {
            [one] => format!("{one:?}"),
            [first, others @ ..] => format!("{first:?} and {} more", others.len()),
            [] => String::new(),
        });
        let regex = self.regex.as_ref().map(|regex| format!("/{regex}/"));
        let layers = self.layers.as_ref().map(|layers| format!("layers {layers}"));
        let roles = match &self.roles {
            Roles::Only(_) => self.roles.names().map(|roles| format!("role {}", roles.join(", "))),
            Roles::Projections | Roles::Any => None,
        };
        let parts: Vec<_> = [names, regex, layers, roles].into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

/// Names and patterns, where `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, Default)]
pub struct Names {
    texts: Vec<String>,
    /// Those without a wildcard: a recipe may name every tensor of a model.
    exact: HashSet<String>,
    patterns: Vec<WildMatch>,
}

impl Names {
    /// Any texts will do.
    pub fn new(texts: Vec<String>) -> Self {
        let (patterns, exact): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.contains(['*', '?']));
        let exact = exact.into_iter().cloned().collect();
        let patterns = patterns.into_iter().map(|text| WildMatch::new(text)).collect();
        Self { texts, exact, patterns }
    }

    /// Whether the name is one of them.
    pub fn matches(&self, name: &str) -> bool {
        self.exact.contains(name) || self.patterns.iter().any(|pattern| pattern.matches(name))
    }

    /// As they were given.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// Numbers and ranges of numbers, both ends included: `0-6, 10, 40-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(Vec<(u64, u64)>);

impl Layers {
    /// The layers of a text, or `None` for a text of another kind.
    pub fn parse(text: &str) -> Option<Self> {
        let range = |text: &str| match text.split_once('-') {
            None => text.parse().ok().map(|layer| (layer, layer)),
            Some((first, "")) => Some((first.trim().parse().ok()?, u64::MAX)),
            Some((first, last)) => {
                let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
                (first <= last).then_some((first, last))
            }
        };
        text.split(',').map(|part| range(part.trim())).collect::<Option<_>>().map(Self)
    }

    fn contain(&self, layer: u64) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&layer))
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |&(first, last): &(u64, u64)| match last {
            u64::MAX => format!("{first}-"),
            _ if first == last => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        f.write_str(&self.0.iter().map(range).collect::<Vec<_>>().join(", "))
    }
}

/// Which roles a rule speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// Weight matrices and stacks of them.
    #[default]
    Projections,
    /// Whatever it is.
    Any,
    /// These alone.
    Only(Vec<RoleName>),
}

impl Roles {
    fn contain(&self, role: Role) -> bool {
        match self {
            Self::Projections => role.name() == RoleName::Projection,
            Self::Any => true,
            Self::Only(names) => names.contains(&role.name()),
        }
    }

    /// The names asked for, `None` where none were.
    pub fn names(&self) -> Option<Vec<&'static str>> {
        match self {
            Self::Projections => None,
            Self::Any => Some(vec!["any"]),
            Self::Only(names) => Some(names.iter().map(|name| name.text()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_and_ranges() {
        for (text, inside, outside) in [
            ("7", &[7][..], &[6, 8, 77][..]),
            ("0-6", &[0, 3, 6], &[7]),
            ("0 - 2,10 , 40-", &[0, 2, 10, 40, 1 << 40], &[3, 9, 11, 39]),
        ] {
            let layers = Layers::parse(text).unwrap();
            assert!(inside.iter().all(|&layer| layers.contain(layer)), "{text}");
            assert!(!outside.iter().any(|&layer| layers.contain(layer)), "{text}");
            assert_eq!(Layers::parse(&layers.to_string()), Some(layers));
        }
        for text in ["", "a", "6-3", "-3", "1,,2", "1-2-3", "1.5"] {
            assert_eq!(Layers::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_layer_is_the_first_number_between_dots() {
        for (name, layer) in [
            ("model.layers.3.mlp.experts.17.up_proj.weight", Some(3)),
            ("blk.12.ffn_gate_exps.weight", Some(12)),
            ("h.0.attn.c_attn.weight", Some(0)),
            ("encoder.conv1.weight", None),
        ] {
            assert_eq!(Facts::new(name, &[4, 4]).layer, layer, "{name}");
        }
    }
}
