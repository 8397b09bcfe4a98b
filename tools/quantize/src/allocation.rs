//! Bit allocation: one option for every item, with the least sum of errors within a budget of bytes.
//!
//! This is the multiple-choice knapsack problem. Two steps, neither of which knows what the items are:
//!
//! ```text
//! greedy: every item at its smallest option
//!         raise items along the lower convex hulls of their (bytes, error), the steepest step first,
//!         until a step does not fit: the best there is but for what that one step could not use
//! core:   of the items whose next or last step is nearest to that slope, all combinations of options,
//!         smallest error for every number of bytes, the other items staying as they are
//! ```
//!
//! With at most [`CORE`] items the core is everything, and the result exact as long as there are no more than
//! [`STATES`] combinations worth keeping; beyond that the nearest in size are thinned out. The result depends on
//! the arguments alone.

use std::cmp::Ordering;

/// Items whose options are all combined.
const CORE: usize = 64;
/// Combinations kept from item to item.
const STATES: usize = 1 << 14;

/// One way to store an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it takes.
    pub bytes: u64,
    /// What it costs, in whatever unit all items share: finite and at least 0.
    pub error: f64,
}

/// An option for every item.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The index of each item's option.
    pub choices: Vec<usize>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Error of all of them.
    pub error: f64,
}

/// Why there is no allocation.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocationError {
    /// Even the smallest options take more than the budget.
    #[error("the smallest options take {least} bytes, the budget is {budget}")]
    Budget {
        /// Bytes of the smallest options.
        least: u64,
        /// Bytes allowed.
        budget: u64,
    },
    /// An item has nothing to choose from.
    #[error("item {item} has no option")]
    NoOption {
        /// The item.
        item: usize,
    },
    /// An option's error is negative, NaN or infinite.
    #[error("item {item} has an option with error {error}")]
    BadError {
        /// The item.
        item: usize,
        /// The error.
        error: f64,
    },
}

/// Chooses an option for every item so that their bytes are at most `budget` and the sum of their errors is
/// small.
///
/// # Errors
/// [`AllocationError`].
pub fn allocate(items: &[Vec<Choice>], budget: u64) -> Result<Allocation, AllocationError> {
    let worthwhile = items
        .iter()
        .enumerate()
        .map(|(item, options)| worthwhile(item, options))
        .collect::<Result<Vec<_>, _>>()?;
    let least = worthwhile
        .iter()
        .zip(items)
        .fold(0u64, |sum, (kept, options)| sum.saturating_add(options[kept[0]].bytes));
    if least > budget {
        return Err(AllocationError::Budget { least, budget });
    }
    let (greedy, core) = greedy(items, &worthwhile, budget, least);
    let greedy = Allocation::of(items, greedy);
    let refined = Allocation::of(items, combine(items, &worthwhile, &greedy, &core, budget));
    Ok(if refined.error <= greedy.error { refined } else { greedy })
}

impl Allocation {
    fn of(items: &[Vec<Choice>], choices: Vec<usize>) -> Self {
        let chosen = || items.iter().zip(&choices).map(|(options, &choice)| options[choice]);
        let bytes = chosen().fold(0u64, |sum, choice| sum.saturating_add(choice.bytes));
        let error = chosen().map(|choice| choice.error).sum();
        Self { choices, bytes, error }
    }
}

/// An item's options by ascending bytes, each with less error than all smaller ones.
fn worthwhile(item: usize, options: &[Choice]) -> Result<Vec<usize>, AllocationError> {
    if let Some(bad) = options.iter().find(|choice| !choice.error.is_finite() || choice.error < 0.0) {
        return Err(AllocationError::BadError { item, error: bad.error });
    }
    let mut order: Vec<usize> = (0..options.len()).collect();
    order.sort_by(|&a, &b| by_size(&options[a], &options[b]));
    let mut kept: Vec<usize> = Vec::new();
    for option in order {
        if kept.last().is_none_or(|&last| options[option].error < options[last].error) {
            kept.push(option);
        }
    }
    if kept.is_empty() { Err(AllocationError::NoOption { item }) } else { Ok(kept) }
}

fn by_size(a: &Choice, b: &Choice) -> Ordering {
    a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error))
}

/// A step along an item's hull: `to` has more bytes and less error than the point before it.
struct Step {
    item: usize,
    to: usize,
    bytes: u64,
    /// Error saved a byte; it falls from step to step of an item.
    slope: f64,
}

/// The choices of the greedy step, and the items of the core, ascending.
fn greedy(
    items: &[Vec<Choice>],
    worthwhile: &[Vec<usize>],
    budget: u64,
    least: u64,
) -> (Vec<usize>, Vec<usize>) {
    let mut steps: Vec<Step> =
        items.iter().zip(worthwhile).enumerate().flat_map(|(item, (o, kept))| hull(item, o, kept)).collect();
    // A stable sort: an item's own steps stay in order.
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope).then(a.item.cmp(&b.item)));
    let mut choices: Vec<usize> = worthwhile.iter().map(|kept| kept[0]).collect();
    let mut left = budget - least;
    let fitting = steps.iter().position(|step| {
        let fits = step.bytes <= left;
        if fits {
            left -= step.bytes;
            choices[step.item] = step.to;
        }
        !fits
    });
    let critical = fitting.unwrap_or(steps.len());
    // Outwards from the critical step, one on either side in turn.
    let (before, after) = steps.split_at(critical);
    let mut sides =
        [before.iter().rev().map(|s| s.item).collect::<Vec<_>>(), after.iter().map(|s| s.item).collect()]
            .map(Vec::into_iter);
    let mut chosen = vec![false; items.len()];
    let mut count = 0;
    while count < CORE && sides.iter().any(|side| side.len() > 0) {
        for item in sides.iter_mut().filter_map(Iterator::next) {
            count += usize::from(!std::mem::replace(&mut chosen[item], true));
        }
    }
    (choices, (0..items.len()).filter(|&item| chosen[item]).collect())
}

/// The steps along the lower convex hull of an item's worthwhile options.
fn hull(item: usize, options: &[Choice], kept: &[usize]) -> Vec<Step> {
    let slope = |a: usize, b: usize| {
        let (a, b) = (options[a], options[b]);
        (a.error - b.error) / (b.bytes - a.bytes) as f64
    };
    let mut corners: Vec<usize> = Vec::new();
    for &option in kept {
        while let [.., a, b] = corners[..]
            && slope(a, b) <= slope(b, option)
        {
            corners.pop();
        }
        corners.push(option);
    }
    let step = |pair: &[usize]| Step {
        item,
        to: pair[1],
        bytes: options[pair[1]].bytes - options[pair[0]].bytes,
        slope: slope(pair[0], pair[1]),
    };
    corners.windows(2).map(step).collect()
}

/// A combination of the options of the first items of the core.
#[derive(Clone, Copy)]
struct State {
    bytes: u64,
    error: f64,
    /// The combination of one item fewer that it extends.
    parent: u32,
    /// The option that it adds.
    option: u32,
}

/// All combinations of the core's options that fit, the other items staying as they are; the best of them.
fn combine(
    items: &[Vec<Choice>],
    worthwhile: &[Vec<usize>],
    start: &Allocation,
    core: &[usize],
    budget: u64,
) -> Vec<usize> {
    let inside: u64 = core.iter().map(|&item| items[item][start.choices[item]].bytes).sum();
    let room = budget - (start.bytes - inside);
    // What the items still to come take at least.
    let mut rest: u64 = core.iter().map(|&item| items[item][worthwhile[item][0]].bytes).sum();
    let mut stages = vec![vec![State { bytes: 0, error: 0.0, parent: 0, option: 0 }]];
    for &item in core {
        rest -= items[item][worthwhile[item][0]].bytes;
        let before = stages.last().map_or(&[][..], Vec::as_slice);
        stages.push(extended(before, &items[item], &worthwhile[item], room - rest));
    }
    let mut choices = start.choices.clone();
    // The last state is the largest that fits, and so the one with the least error.
    let mut at = stages.last().map_or(0, |stage| stage.len().saturating_sub(1));
    for (&item, stage) in core.iter().zip(&stages[1..]).rev() {
        let state = stage[at];
        choices[item] = state.option as usize;
        at = state.parent as usize;
    }
    choices
}

/// Every state with every option, as far as `room` allows: ascending in bytes, descending in error, thinned.
fn extended(states: &[State], options: &[Choice], kept: &[usize], room: u64) -> Vec<State> {
    let mut next: Vec<State> = Vec::with_capacity(states.len() * kept.len());
    for &option in kept {
        let choice = options[option];
        next.extend(states.iter().enumerate().map(|(parent, state)| State {
            bytes: state.bytes + choice.bytes,
            error: state.error + choice.error,
            parent: parent as u32,
            option: option as u32,
        }));
    }
    next.retain(|state| state.bytes <= room);
    // Stable, so that of equal ones the first option stays.
    next.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
    let mut best = f64::INFINITY;
    next.retain(|state| {
        state.error < best && {
            best = state.error;
            true
        }
    });
    let (Some(first), Some(last)) = (next.first().copied(), next.last().copied()) else { return next };
    if next.len() > STATES {
        // Of a run of neighbours in size the last one has the least error; the first of all keeps things possible.
        let width = (last.bytes - first.bytes) / STATES as u64 + 1;
        let bucket = |state: &State| (state.bytes - first.bytes) / width;
        let thinned: Vec<State> = (0..next.len())
            .filter(|&i| i == 0 || next.get(i + 1).is_none_or(|after| bucket(after) != bucket(&next[i])))
            .map(|i| next[i])
            .collect();
        return thinned;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(bytes: u64, error: f64) -> Choice {
        Choice { bytes, error }
    }

    /// Seeded items: sizes of a few kinds, errors that fall with bytes, some options that are worth nothing.
    fn items(count: usize, options: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let item = |random: &mut dyn FnMut(u64) -> u64| {
            let size = 1 + random(50);
            (0..options as u64)
                .map(|i| {
                    let bytes = size * (2 * i + 2 + random(2));
                    choice(bytes, size as f64 * 4f64.powi(-(i as i32)) * (1.0 + random(100) as f64 / 100.0))
                })
                .collect()
        };
        (0..count).map(|_| item(&mut random)).collect()
    }

    /// Every combination.
    fn exhaustive(items: &[Vec<Choice>], budget: u64) -> f64 {
        let Some((first, rest)) = items.split_first() else { return 0.0 };
        let fitting = first.iter().filter(|choice| choice.bytes <= budget);
        fitting.map(|c| c.error + exhaustive(rest, budget - c.bytes)).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn few_items_are_allocated_exactly() {
        for seed in 0..200 {
            let items = items(5, 4, seed);
            for budget in [40, 100, 300, 500, 800, 5000] {
                let best = exhaustive(&items, budget);
                match allocate(&items, budget) {
                    Ok(found) => {
                        assert!(found.bytes <= budget);
                        assert!(
                            (found.error - best).abs() <= 1e-9 * best,
                            "{seed} {budget}: {} {best}",
                            found.error
                        );
                    }
                    Err(AllocationError::Budget { least, .. }) => {
                        assert!(least > budget && best.is_infinite());
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    /// The greedy step without its last, partial one bounds what is possible from below.
    #[test]
    fn many_items_come_close_to_the_bound() {
        let items = items(5000, 6, 7);
        let least = allocate(&items, u64::MAX).map(|all| all.bytes).unwrap();
        for budget in [least / 2, least * 2 / 3, least * 9 / 10] {
            let found = allocate(&items, budget).unwrap();
            assert!(
                found.bytes <= budget && found.bytes as f64 > budget as f64 * 0.9999,
                "{budget}: {}",
                found.bytes
            );
            let bound = relaxed(&items, budget);
            assert!(found.error >= bound * (1.0 - 1e-12));
            assert!(found.error <= bound * 1.0001, "{} is far from {bound}", found.error);
            assert_eq!(found, allocate(&items, budget).unwrap());
        }
    }

    /// The largest dual bound on a grid of slopes.
    fn relaxed(items: &[Vec<Choice>], budget: u64) -> f64 {
        let bound = |slope: f64| {
            let least = |item: &Vec<Choice>| {
                item.iter().map(|c| c.error + slope * c.bytes as f64).fold(f64::INFINITY, f64::min)
            };
            items.iter().map(least).sum::<f64>() - slope * budget as f64
        };
        (-4000..1000).map(|i| bound((f64::from(i) / 200.0).exp())).fold(f64::NEG_INFINITY, f64::max)
    }

    #[test]
    fn more_budget_is_never_worse() {
        let items = items(30, 6, 3);
        let errors: Vec<f64> = (1500..4000)
            .step_by(100)
            .filter_map(|budget| allocate(&items, budget).ok())
            .map(|a| a.error)
            .collect();
        assert!(errors.len() > 10 && errors.windows(2).all(|pair| pair[1] <= pair[0]));
    }

    #[test]
    fn what_has_no_answer_is_refused() {
        assert_eq!(allocate(&[], 0), Ok(Allocation { choices: vec![], bytes: 0, error: 0.0 }));
        let item = vec![choice(10, 1.0), choice(8, 2.0)];
        let budget = AllocationError::Budget { least: 16, budget: 15 };
        assert_eq!(allocate(&[item.clone(), item.clone()], 15), Err(budget));
        let refused = Err(AllocationError::NoOption { item: 1 });
        assert_eq!(allocate(&[item.clone(), vec![]], 100), refused);
        let nan = allocate(&[vec![choice(1, f64::NAN)]], 100);
        assert!(matches!(nan, Err(AllocationError::BadError { item: 0, .. })));
        assert_eq!(allocate(&[item], 9).unwrap().choices, [1]);
    }
}
