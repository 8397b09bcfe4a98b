//! Names in the order that people expect.

use std::cmp::Ordering;

/// The first number between two dots of a name: `12` of `model.layers.12.mlp.up_proj.weight`.
pub fn layer(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Names in the order of their numbers: `layer.2` before `layer.10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (part_a, part_b) = (take_part(&mut rest_a), take_part(&mut rest_b));
        let order = match (part_a, part_b) {
            ("", "") => return a.cmp(b),
            (a, b) if is_number(a) && is_number(b) => {
                let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
                a.len().cmp(&b.len()).then_with(|| a.cmp(b))
            }
            (a, b) => a.cmp(b),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes the digits, or what is no digit, that the text starts with.
fn take_part<'a>(text: &mut &'a str) -> &'a str {
    let number = is_number(text);
    let end = text.find(|c: char| c.is_ascii_digit() != number).unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    *text = rest;
    part
}

fn is_number(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let ordered = ["", "a", "a.2", "a.2.b", "a.10", "a.010", "a.11", "b.1", "é"];
        for pair in ordered.windows(2) {
            let order = natural(pair[0], pair[1]);
            assert!(order == Ordering::Less || pair[0] == "a.10", "{pair:?}");
        }
        assert_eq!(natural("a.010", "a.10"), Ordering::Less);
        assert_eq!(natural("x99999999999999999999999", "x100000000000000000000000"), Ordering::Less);
        assert_eq!((layer("h.3.attn.0.w"), layer("embed")), (Some(3), None));
    }
}
