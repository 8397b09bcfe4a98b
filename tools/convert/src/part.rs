//! Parts of a model that are converted by processes of their own, and merged in the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::options::Part;
use crate::plan::Planned;

/// The metadata key of a part (spec, clause 7.4).
pub const KEY: &str = "ccq.part";
/// Elements that are copied in the time that one is quantized, about.
const COPIED: u64 = 64;

/// What the key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartId {
    /// Which part.
    pub part: Part,
    /// The same for all parts of a job, and for no part of another one.
    pub job: String,
}

impl PartId {
    /// The value of the key.
    pub fn text(&self) -> String {
        format!("{} {}", self.part, self.job)
    }

    /// Reads the value of the key.
    pub fn parse(text: &str) -> Option<Self> {
        let (part, job) = text.split_once(' ')?;
        let is_hash = job.len() == 32 && job.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then_some(Self { part: part.parse().ok()?, job: job.into() })
    }
}

/// Keeps the tensors of one part. Whole tensors go to the parts so that all have about the same weights to quantize:
/// the largest first, each to the part that has least so far.
pub fn keep(tensors: &mut Vec<Planned<'_>>, part: Part) {
    let part_of = assign(&tensors.iter().map(cost).collect::<Vec<_>>(), part.count);
    let mut numbers = part_of.into_iter();
    tensors.retain(|_| numbers.next() == Some(part.number));
}

fn cost(planned: &Planned<'_>) -> u64 {
    let elements = planned.source.element_count();
    if planned.search().is_some() { elements } else { elements / COPIED }
}

/// The number of the part, from 1, that each tensor of that cost goes to.
fn assign(costs: &[u64], count: u32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&at| Reverse(costs.get(at)));
    let mut parts: BinaryHeap<_> = (1..=count).map(|number| Reverse((0u64, number))).collect();
    let mut part_of = vec![1; costs.len()];
    for at in order {
        // What costs nothing is spread as well.
        let cost = costs.get(at).copied().unwrap_or(0).max(1);
        if let (Some(mut least), Some(part)) = (parts.peek_mut(), part_of.get_mut(at)) {
            *part = least.0.1;
            least.0.0 = least.0.0.saturating_add(cost);
        }
    }
    part_of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_balanced() {
        let costs: Vec<u64> = (0..1000u64).map(|i| i * i % 977 * 1000 + 1).collect();
        let total: u64 = costs.iter().sum();
        for count in [1, 2, 7, 64] {
            let part_of = assign(&costs, count);
            let sums: Vec<u64> = (1..=count)
                .map(|part| costs.iter().zip(&part_of).filter(|(_, p)| **p == part).map(|(c, _)| c).sum())
                .collect();
            assert_eq!(sums.iter().sum::<u64>(), total);
            let most = *sums.iter().max().unwrap() as f64;
            assert!(most * f64::from(count) / (total as f64) < 1.02, "{count}: {sums:?}");
        }
        assert_eq!(assign(&[5, 5, 5], 8), [1, 2, 3]);
        assert_eq!(assign(&[], 3), [0u32; 0]);
    }

    #[test]
    fn ids_round_trip() {
        let id = PartId { part: Part { number: 3, count: 16 }, job: "0123456789abcdef".repeat(2) };
        assert_eq!(PartId::parse(&id.text()), Some(id.clone()));
        for text in ["", "3/16", "3/16 12", "0/16 0123456789abcdef0123456789abcdef", "3/16  x"] {
            assert_eq!(PartId::parse(text), None, "{text}");
        }
    }
}
