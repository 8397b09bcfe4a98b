//! Bit allocation: one option for every item, with the least sum of errors within a budget of bytes.
//!
//! This is the multiple-choice knapsack problem. Three steps, none of which knows what the items are:
//!
//! ```text
//! greedy   every item at its smallest option
//!          raise items along the lower convex hulls of their (bytes, error), the steepest step first,
//!          until a step does not fit; the slope of that step is the price of a byte
//! reduce   at that price an option costs its error and its bytes. No choice costs less than the cheapest options of
//!          all items, so what an option costs more than its item's cheapest bounds what it can lead to:
//!          most items are left with the one option they have
//! combine  of the items with more than one, all combinations, smallest error for every number of bytes, without
//!          those whose options together cost too much
//! ```
//!
//! The last two come again with the better choice they found, which leaves fewer options. The result is the best there
//! is, and says so ([`Allocation::exact`]), unless more than [`CORE`] items stay open or more than [`STATES`]
//! combinations do; then only the items nearest to a change are combined, or of combinations of nearly one size only
//! the last is kept. The result depends on the arguments alone.

use std::cmp::Ordering;

/// Items whose options are combined.
const CORE: usize = 64;
/// Combinations kept from item to item, pass by pass: a good choice, quickly found, spares the next pass most of them.
const STATES: [usize; 3] = [1 << 6, 1 << 10, 1 << 14];
/// What sums of many numbers may be wrong by, as a part of them.
const ROUNDING: f64 = 1e-12;

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
    /// Whether it is certain that nothing else within the budget has less error.
    pub exact: bool,
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
    let (choices, price) = greedy(items, &worthwhile, budget, least);
    let mut best = Allocation::of(items, choices);
    for states in STATES {
        let mut better = true;
        while better {
            let open = Open::new(items, &worthwhile, &best, price, budget);
            let (choices, exact) = open.combine(&best, states);
            let found = Allocation::of(items, choices);
            better = found.error < best.error;
            if better {
                best = found;
            }
            best.exact = exact;
            if exact {
                return Ok(best);
            }
        }
    }
    Ok(best)
}

impl Allocation {
    fn of(items: &[Vec<Choice>], choices: Vec<usize>) -> Self {
        let chosen = || items.iter().zip(&choices).map(|(options, &choice)| options[choice]);
        let bytes = chosen().fold(0u64, |sum, choice| sum.saturating_add(choice.bytes));
        let error = chosen().map(|choice| choice.error).sum();
        Self { choices, bytes, error, exact: false }
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

/// The choices of the greedy step, and the price of a byte at which it ended: 0 where everything fits.
fn greedy(items: &[Vec<Choice>], worthwhile: &[Vec<usize>], budget: u64, least: u64) -> (Vec<usize>, f64) {
    let mut steps: Vec<Step> =
        items.iter().zip(worthwhile).enumerate().flat_map(|(item, (o, kept))| hull(item, o, kept)).collect();
    // A stable sort: an item's own steps stay in order.
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope).then(a.item.cmp(&b.item)));
    let mut choices: Vec<usize> = worthwhile.iter().map(|kept| kept[0]).collect();
    let mut left = budget - least;
    let misfit = steps.iter().find(|step| {
        let fits = step.bytes <= left;
        if fits {
            left -= step.bytes;
            choices[step.item] = step.to;
        }
        !fits
    });
    (choices, misfit.map_or(0.0, |step| step.slope))
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

/// An option that may be part of something better.
#[derive(Clone, Copy)]
struct Live {
    option: usize,
    choice: Choice,
    /// What it costs more than its item's cheapest option.
    extra: f64,
}

/// The items that have more than one option left, those nearest to a change first.
struct Open {
    items: Vec<(usize, Vec<Live>)>,
    /// What their options may cost more than the cheapest ones, all together.
    margin: f64,
    /// Bytes for all of them.
    room: u64,
    /// Whether no such item was left out.
    all: bool,
}

impl Open {
    fn new(
        items: &[Vec<Choice>],
        worthwhile: &[Vec<usize>],
        best: &Allocation,
        price: f64,
        budget: u64,
    ) -> Self {
        let cost = |choice: Choice| choice.error + price * choice.bytes as f64;
        let extras = |options: &[Choice], kept: &[usize]| {
            let least = kept.iter().map(|&option| cost(options[option])).fold(f64::INFINITY, f64::min);
            let live = |&option: &usize| Live {
                option,
                choice: options[option],
                extra: cost(options[option]) - least,
            };
            kept.iter().map(live).collect::<Vec<_>>()
        };
        let mut live: Vec<_> =
            items.iter().zip(worthwhile).map(|(o, kept)| extras(o, kept)).enumerate().collect();
        let extra_of_best = |&(item, ref live): &(usize, Vec<Live>)| {
            live.iter().find(|live| live.option == best.choices[item]).map_or(0.0, |live| live.extra)
        };
        // What `best` costs more than the cheapest options, and what it leaves of the budget.
        let mut margin: f64 =
            live.iter().map(extra_of_best).sum::<f64>() + price * (budget - best.bytes) as f64;
        margin += ROUNDING * (best.error + price * budget as f64);
        live.retain_mut(|(_, live)| {
            live.retain(|live| live.extra <= margin);
            live.len() > 1
        });
        // The second cheapest option is the one that may come instead.
        let distance = |(_, live): &(usize, Vec<Live>)| {
            let mut extras: Vec<f64> = live.iter().map(|live| live.extra).collect();
            extras.sort_by(f64::total_cmp);
            extras[1]
        };
        live.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let all = live.len() <= CORE;
        let left_out = live.split_off(live.len().min(CORE));
        let margin = margin - left_out.iter().map(extra_of_best).sum::<f64>();
        let inside: u64 = live.iter().map(|&(item, _)| items[item][best.choices[item]].bytes).sum();
        Self { items: live, margin, room: budget - (best.bytes - inside), all }
    }

    /// The best of all combinations, the other items staying as they are, and whether it is the best there is.
    fn combine(&self, start: &Allocation, states: usize) -> (Vec<usize>, bool) {
        let smallest = |live: &[Live]| live.iter().map(|live| live.choice.bytes).min().unwrap_or(0);
        // What the items still to come take at least.
        let mut rest: u64 = self.items.iter().map(|(_, live)| smallest(live)).sum();
        let mut exact = self.all;
        let mut stages = vec![vec![State { bytes: 0, error: 0.0, extra: 0.0, parent: 0, option: 0 }]];
        for (_, live) in &self.items {
            rest -= smallest(live);
            let before = stages.last().map_or(&[][..], Vec::as_slice);
            let mut next = extended(before, live, self.room - rest, self.margin);
            exact &= !thin(&mut next, states);
            stages.push(next);
        }
        let mut choices = start.choices.clone();
        // The last state is the largest that fits, and so the one with the least error.
        let mut at = stages.last().map_or(0, |stage| stage.len().saturating_sub(1));
        for (&(item, _), stage) in self.items.iter().zip(&stages[1..]).rev() {
            // None are left where rounding, or thinning, took even the start away.
            let Some(state) = stage.get(at) else { return (start.choices.clone(), false) };
            choices[item] = state.option as usize;
            at = state.parent as usize;
        }
        (choices, exact)
    }
}

/// A combination of options of the first open items.
#[derive(Clone, Copy)]
struct State {
    bytes: u64,
    error: f64,
    /// What the options cost more than the cheapest.
    extra: f64,
    /// The combination of one item fewer that it extends.
    parent: u32,
    /// The option that it adds.
    option: u32,
}

/// Every state with every option, as far as `room` and `margin` allow: ascending in bytes, descending in error.
fn extended(states: &[State], options: &[Live], room: u64, margin: f64) -> Vec<State> {
    let mut next: Vec<State> = Vec::with_capacity(states.len() * options.len());
    for live in options {
        next.extend(states.iter().enumerate().map(|(parent, state)| State {
            bytes: state.bytes + live.choice.bytes,
            error: state.error + live.choice.error,
            extra: state.extra + live.extra,
            parent: parent as u32,
            option: live.option as u32,
        }));
    }
    next.retain(|state| state.bytes <= room && state.extra <= margin);
    // Stable, so that of equal ones the first option stays.
    next.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
    let mut best = f64::INFINITY;
    next.retain(|state| {
        state.error < best && {
            best = state.error;
            true
        }
    });
    next
}

/// Leaves about `most` of them, if there are more: of neighbours in size the last, which has the least error, and
/// the first of all, which keeps things possible. Whether any were taken.
fn thin(states: &mut Vec<State>, most: usize) -> bool {
    let (Some(&first), Some(&last)) = (states.first(), states.last()) else { return false };
    if states.len() <= most {
        return false;
    }
    let width = (last.bytes - first.bytes) / most as u64 + 1;
    let bucket = |state: &State| (state.bytes - first.bytes) / width;
    let all = std::mem::take(states);
    let kept = |&at: &usize| at == 0 || all.get(at + 1).is_none_or(|after| bucket(after) != bucket(&all[at]));
    states.extend((0..all.len()).filter(kept).map(|at| all[at]));
    states.len() < all.len()
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
                        assert!(found.bytes <= budget && found.exact);
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
            assert!(found.error >= bound * (1.0 - 1e-12) && found.exact);
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
        assert_eq!(allocate(&[], 0), Ok(Allocation { choices: vec![], bytes: 0, error: 0.0, exact: true }));
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
