//! The choice of options whose file fits, and what there is to say about it.

use std::collections::HashSet;

use ccq_import::Model;
use ccq_quantize::{Allocation, Choice};

use super::{Free, Target, bytes};
use crate::args::Common;
use crate::error::Error;
use crate::plan::file_len;
use crate::recipe::{How, Names, Place, Recipe, Roles, Rule, Selector};

/// Corrections of the budget by what the file's layout adds; two or three are enough as a rule.
const ROUNDS: usize = 16;

/// A choice and the file it leads to.
pub(super) struct Solved {
    /// Of each free tensor, the option.
    pub choices: Vec<usize>,
    /// The recipe with the choices in place of what was open.
    pub recipe: Recipe,
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether it is certain that no other choice has less error.
    exact: bool,
}

/// What a choice has to go by.
pub(super) struct Solver<'a> {
    pub model: &'a Model,
    pub recipe: &'a Recipe,
    pub target: &'a Target,
    pub free: &'a [Free<'a>],
    pub common: &'a Common,
    pub parameters: u64,
    pub budget: u64,
}

impl Solver<'_> {
    /// The smallest file there is.
    ///
    /// # Errors
    /// `Budget` where that is too large; those of laying it out.
    pub fn smallest(&self) -> Result<Solved, Error> {
        let smallest = self.lay_out(self.free.iter().map(|free| smallest(&free.choices)).collect())?;
        if smallest.bytes <= self.budget { Ok(smallest) } else { Err(self.out_of_reach(smallest.bytes)) }
    }

    /// The best choice whose file fits.
    ///
    /// # Errors
    /// Those of [`Solver::smallest`].
    pub fn solve(&self) -> Result<Solved, Error> {
        let smallest = self.smallest()?;
        let items = self.items();
        // What the free tensors may take: the file without them is as large as here, nearly.
        let taken = self.sum(&smallest.choices, |choice| choice.bytes);
        let mut allowance = self.budget.saturating_add(taken).saturating_sub(smallest.bytes);
        let mut ceiling = u64::MAX;
        let mut best: Option<(Allocation, Solved)> = None;
        for _ in 0..ROUNDS {
            // Options there are, and measured errors are finite: no smaller choice is all that can be missing.
            let Ok(found) = ccq_quantize::allocate(&items, allowance) else { break };
            let solved = Solved { exact: found.exact, ..self.lay_out(found.choices.clone())? };
            allowance = found.bytes.saturating_add(self.budget).saturating_sub(solved.bytes);
            if solved.bytes > self.budget {
                ceiling = ceiling.min(found.bytes.saturating_sub(1));
            } else if best.as_ref().is_none_or(|(best, _)| found.error < best.error) {
                best = Some((found, solved));
            }
            allowance = allowance.min(ceiling);
            if best.as_ref().is_some_and(|(best, _)| allowance <= best.bytes) {
                break;
            }
        }
        Ok(best.map_or(smallest, |(_, solved)| solved))
    }

    /// Why a file is smaller than it may be, and at which size there is a better one.
    ///
    /// # Errors
    /// Those of laying that one out.
    pub fn too_small(&self, solved: &Solved) -> Result<String, Error> {
        let missing = 100.0 - 100.0 * solved.bytes as f64 / self.budget as f64;
        let what = format!("the file is {missing:.1} % smaller than {} allows", self.target.budget);
        if !solved.exact {
            return Ok(format!("{what}: no choice with less error was found"));
        }
        let Some(better) = self.next_better(solved) else {
            return Ok(format!("{what}: no choice of these candidates has less error, however large"));
        };
        let bytes = self.lay_out(better)?.bytes;
        // Rounded up, so that it can be asked for.
        let bpw = (bytes as f64 * 8000.0 / self.parameters.max(1) as f64).ceil() / 1000.0;
        Ok(format!("{what}: no choice of these candidates has less error below {bytes} bytes ({bpw:.3} bpw)"))
    }

    /// The smallest choice that has less error.
    fn next_better(&self, solved: &Solved) -> Option<Vec<usize>> {
        let items = self.items();
        let error = self.sum(&solved.choices, |choice| choice.error);
        let better = |budget| ccq_quantize::allocate(&items, budget).ok().filter(|found| found.error < error);
        let mut least = better(u64::MAX >> 1)?;
        let mut low = self.sum(&solved.choices, |choice| choice.bytes);
        while low < least.bytes {
            let middle = low.midpoint(least.bytes);
            match better(middle) {
                Some(found) => least = found,
                None => low = middle.saturating_add(1),
            }
        }
        Some(least.choices)
    }

    fn items(&self) -> Vec<Vec<Choice>> {
        self.free.iter().map(|free| free.choices.clone()).collect()
    }

    /// What the options of all free tensors add up to.
    pub fn sum<T: std::iter::Sum>(&self, choices: &[usize], of: impl Fn(&Choice) -> T) -> T {
        let chosen = self.free.iter().zip(choices).filter_map(|(free, &option)| free.choices.get(option));
        chosen.map(of).sum()
    }

    fn out_of_reach(&self, least: u64) -> Error {
        let free: HashSet<_> = self.free.iter().map(|free| free.tensor.name.as_str()).collect();
        let fixed = self.model.tensors().iter().filter(|tensor| !free.contains(tensor.name.as_str()));
        let fixed: u64 = fixed.map(|tensor| bytes(tensor, self.recipe.decide(tensor).encoding())).sum();
        Error::Budget {
            input: self.common.input.clone(),
            target: self.target.budget.to_string(),
            budget: self.budget,
            least,
            least_bpw: least as f64 * 8.0 / self.parameters.max(1) as f64,
            fixed,
        }
    }

    /// The file that a choice leads to.
    ///
    /// # Errors
    /// Those of laying it out.
    pub fn lay_out(&self, choices: Vec<usize>) -> Result<Solved, Error> {
        let recipe = self.settled(&choices);
        let bytes = file_len(self.model, &recipe, self.common)?;
        Ok(Solved { choices, recipe, bytes, exact: false })
    }

    /// The recipe with the choices in place of what was open.
    fn settled(&self, choices: &[usize]) -> Recipe {
        let chosen = || {
            self.free
                .iter()
                .zip(choices)
                .filter_map(|(free, &option)| Some((free, *free.options.get(option)?)))
        };
        let mut kinds: Vec<(How, Vec<&Free<'_>>)> = Vec::new();
        for (free, how) in chosen() {
            match kinds.iter_mut().find(|kind| kind.0 == how) {
                Some(kind) => kind.1.push(free),
                None => kinds.push((how, vec![free])),
            }
        }
        // The most frequent one needs no names; of equally frequent ones the first.
        let default = kinds.iter().rev().max_by_key(|kind| kind.1.len()).map_or(How::Raw, |kind| kind.0);
        let option = self.target.budget.to_string();
        let named = kinds.into_iter().filter_map(|(how, free)| {
            let named = free.iter().filter(|free| !(free.by_default && how == default));
            let names: Vec<_> = named.map(|free| free.tensor.name.clone()).collect();
            (!names.is_empty()).then(|| Rule {
                selector: Selector {
                    names: Some(Names::new(names)),
                    roles: Roles::Any,
                    ..Selector::default()
                },
                how,
                optional: false,
                place: Place { source: option.clone(), ..Place::default() },
                label: format!("chosen for {option}").into(),
            })
        });
        let given = self.recipe.rules.iter().filter(|rule| !matches!(rule.how, How::Choose { .. }));
        Recipe { rules: named.chain(given.cloned()).collect(), default }
    }
}

/// The option with the fewest bytes; of equal ones that with the least error.
fn smallest(options: &[Choice]) -> usize {
    let key = |(_, choice): &(usize, &Choice)| (choice.bytes, choice.error.to_bits());
    options.iter().enumerate().min_by_key(key).map_or(0, |(option, _)| option)
}
