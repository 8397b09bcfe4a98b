//! What somebody may have meant.

use std::collections::BTreeSet;

use super::selector::Selector;

/// Below this two words are too different for one to stand for the other.
const SIMILAR: f64 = 0.75;

/// The candidate most like `word`, if one is like it; the first of equally good ones.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = (SIMILAR, None);
    for candidate in candidates {
        let similarity = strsim::jaro_winkler(word, candidate);
        if similarity > best.0 {
            best = (similarity, Some(candidate));
        }
    }
    best.1
}

/// Why no name matches, as well as it can be said: the part that no name has and one that is like it, or a name.
pub fn hint<'a>(selector: &Selector, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let Some(example) = names.clone().next() else { return "it has no tensors".into() };
    let parts: BTreeSet<&str> = names.clone().flat_map(|name| name.split('.')).collect();
    let mut patterns = selector.names.iter().flat_map(|names| names.texts());
    let Some(pattern) = patterns.find(|pattern| {
        let alone = super::Names::new(vec![pattern.to_string()]);
        !names.clone().any(|name| alone.matches(name))
    }) else {
        return format!("its names look like {example:?}");
    };
    let literal = |part: &&str| !part.is_empty() && !part.contains(['*', '?']);
    if let Some(unknown) = pattern.split('.').filter(literal).find(|part| !parts.contains(part))
        && let Some(near) = nearest(unknown, parts)
    {
        let example = names.clone().find(|name| name.split('.').any(|part| part == near)).unwrap_or(example);
        return format!("no name has {unknown:?} in it; did you mean {near:?}, as in {example:?}?");
    }
    match nearest(pattern, names) {
        Some(near) => format!("the nearest name is {near:?}"),
        None => format!("its names look like {example:?}"),
    }
}
