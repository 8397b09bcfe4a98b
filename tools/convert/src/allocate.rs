//! Which encodings have the least error in a file of a given size.
//!
//! ```text
//! measure   every free tensor's relative error under each candidate, on a sample of its rows
//! solve     one candidate each: the least weighted sum of these errors within a budget (ccq_quantize::allocate)
//! lay out   the file that comes out, padding, index and recipe included; correct the budget by what it missed
//! ```
//!
//! Free are the tensors whose encoding the recipe leaves open: projections that no rule names, and rules with
//! `encoding = "auto"`. docs/allocation.md says what the sum means.

mod measure;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, Write};

use ccq::code::Code;
use ccq::format::Encoding;
use ccq_cli::bytes as human;
use ccq_import::{Importance, Model, SourceTensor};
use ccq_quantize::Choice;
use serde::Serialize;

use crate::args::Common;
use crate::error::Error;
use crate::plan::file_len;
use crate::policy::{Reason, refusal};
use crate::recipe::{Facts, How, Names, Place, Recipe, Roles, Rule, Selector};
use crate::search::Search;

/// Corrections of the budget by what the file's layout adds; two or three are enough as a rule.
const ROUNDS: usize = 16;
/// A file may be so much smaller than asked, as a part of what was asked.
const TOLERANCE: f64 = 0.01;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Target {
    /// How large the file may be.
    pub budget: Budget,
    /// What to choose from; `None` is raw.
    pub candidates: Vec<Option<Code>>,
}

/// How large a file may be.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// Bits a parameter, all bytes of the file counted.
    Bpw(f64),
    /// Bytes.
    Size(u64),
}

impl Budget {
    fn bytes(self, parameters: u64) -> u64 {
        match self {
            Self::Bpw(bits) => (bits * parameters as f64 / 8.0) as u64,
            Self::Size(bytes) => bytes,
        }
    }
}

/// As the option was given.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bpw(bits) => write!(f, "--target-bpw {bits}"),
            Self::Size(bytes) => write!(f, "--target-size {bytes}"),
        }
    }
}

/// What was found, for the report.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Tensors whose encoding was chosen.
    pub tensors: usize,
    /// Bytes asked for.
    pub target_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// The weighted mean of the free tensors' relative errors, as measured.
    pub error: f64,
    /// The same with one encoding for all of them.
    pub uniform: Vec<Uniform>,
}

/// What one encoding for all free tensors would give; tensors that cannot take it stay raw.
#[derive(Clone, Debug, Serialize)]
pub struct Uniform {
    /// The encoding.
    pub encoding: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// The weighted mean of the relative errors.
    pub error: f64,
}

impl Outcome {
    /// Writes the lines of a report's summary.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { tensors, target_bytes, bytes, error, .. } = *self;
        let used = 100.0 * bytes as f64 / target_bytes.max(1) as f64;
        let (size, limit) = (human(bytes), human(target_bytes));
        writeln!(out, "  chosen   {tensors} tensors: {size}, {used:.2} % of {limit}; error {error:.5}")?;
        for Uniform { encoding, bytes, error } in &self.uniform {
            writeln!(out, "           {encoding} for all: {}; error {error:.5}", human(*bytes))?;
        }
        Ok(())
    }
}

/// A tensor whose encoding is to be chosen.
struct Free<'a> {
    tensor: &'a SourceTensor,
    /// Whether it would fall to the recipe's default.
    by_default: bool,
    options: Vec<How>,
    /// Of each option: bytes, and, once it is measured, error times the tensor's weight.
    choices: Vec<Choice>,
    weight: f64,
}

/// Fills in what `recipe` leaves open.
///
/// # Errors
/// `NothingToChoose`, `Budget`; what reading and measuring the weights gives.
pub fn allocate(
    model: &Model,
    recipe: &Recipe,
    target: &Target,
    importance: Option<&Importance>,
    common: &Common,
) -> Result<(Recipe, Outcome, Vec<String>), Error> {
    let mut free = free(model, recipe, &target.candidates);
    if free.is_empty() {
        let (input, target) = (common.input.clone(), target.budget.to_string());
        return Err(Error::NothingToChoose { input, target });
    }
    let parameters = model.tensors().iter().map(SourceTensor::element_count).sum();
    let budget = target.budget.bytes(parameters);
    // Whether it can be done at all shows before anything is measured.
    Solver { model, recipe, target, free: &free, common, parameters, budget }.smallest()?;
    measure::measure(model, &mut free, importance)?;
    let solved = Solver { model, recipe, target, free: &free, common, parameters, budget }.solve()?;
    let outcome = Outcome {
        tensors: free.len(),
        target_bytes: budget,
        bytes: solved.bytes,
        error: mean_error(&free, &solved.choices),
        uniform: uniform(model, recipe, target, &free, common)?,
    };
    let mut warnings = Vec::new();
    if (solved.bytes as f64) < budget as f64 * (1.0 - TOLERANCE) {
        let missing = 100.0 - 100.0 * solved.bytes as f64 / budget as f64;
        warnings.push(format!(
            "the file is {missing:.1} % smaller than {} allows: no choice of these candidates has less error",
            target.budget
        ));
    }
    Ok((solved.recipe, outcome, warnings))
}

/// The free tensors, with what each could be.
fn free<'a>(model: &'a Model, recipe: &Recipe, candidates: &[Option<Code>]) -> Vec<Free<'a>> {
    let option = |tensor: &SourceTensor, candidate: &Option<Code>, quality, method| match *candidate {
        None => Some(How::Raw),
        Some(code) => {
            let search = Search { code, quality, method };
            let refused = refusal(&search.result_code(), &tensor.shape, tensor.dtype).is_some();
            (!refused).then_some(How::Quantize(search))
        }
    };
    let free = |tensor: &'a SourceTensor| {
        let (How::Choose { quality, method }, reason) = recipe.find(&Facts::of(tensor)) else { return None };
        let mut options: Vec<_> =
            candidates.iter().filter_map(|c| option(tensor, c, quality, method)).collect();
        if options.is_empty() {
            options.push(How::Raw);
        }
        let by_default = matches!(reason, Reason::Role(_));
        let choices =
            options.iter().map(|how| Choice { bytes: bytes(tensor, how.encoding()), error: 0.0 }).collect();
        Some(Free { tensor, by_default, options, choices, weight: 0.0 })
    };
    model.tensors().iter().filter(|tensor| tensor.code().is_none()).filter_map(free).collect()
}

/// What a tensor adds to a file: its planes, each with its padding at worst, its record and its checksums.
fn bytes(tensor: &SourceTensor, encoding: Encoding) -> u64 {
    const RECORD: u64 = 40;
    let plane = |len: u64| {
        let align = if len >= 1 << 20 { 4096 } else { 256 };
        if len == 0 { 0 } else { len.next_multiple_of(align) + RECORD + 4 * len.div_ceil(1 << 26) }
    };
    let Encoding::Coded(code) = encoding else { return plane(tensor.byte_len()) };
    let in_features = tensor.shape.last().copied().unwrap_or(0);
    let rows = tensor.element_count() / in_features.max(1);
    code.plane_sizes(rows, in_features).map_or(u64::MAX >> 16, |sizes| {
        [sizes.code, sizes.local_scale, sizes.super_scale, sizes.cluster].map(plane).iter().sum()
    })
}

fn mean_error(free: &[Free<'_>], choices: &[usize]) -> f64 {
    let error: f64 = free.iter().zip(choices).map(|(free, &choice)| free.choices[choice].error).sum();
    let weight: f64 = free.iter().map(|free| free.weight).sum();
    if weight > 0.0 { error / weight } else { 0.0 }
}

/// A choice and the file it leads to.
struct Solved {
    choices: Vec<usize>,
    recipe: Recipe,
    bytes: u64,
}

struct Solver<'a> {
    model: &'a Model,
    recipe: &'a Recipe,
    target: &'a Target,
    free: &'a [Free<'a>],
    common: &'a Common,
    parameters: u64,
    budget: u64,
}

impl Solver<'_> {
    /// The smallest file there is.
    fn smallest(&self) -> Result<Solved, Error> {
        let smallest = self.lay_out(self.free.iter().map(|free| smallest(&free.choices)).collect())?;
        if smallest.bytes <= self.budget { Ok(smallest) } else { Err(self.out_of_reach(smallest.bytes)) }
    }

    /// The best choice whose file fits.
    fn solve(&self) -> Result<Solved, Error> {
        let smallest = self.smallest()?;
        let items: Vec<_> = self.free.iter().map(|free| free.choices.clone()).collect();
        let sum = |choices: &[usize]| -> u64 {
            items.iter().zip(choices).map(|(options, &choice)| options[choice].bytes).sum()
        };
        // What the free tensors may take: the file without them is as large as here, nearly.
        let mut allowance = (self.budget + sum(&smallest.choices)).saturating_sub(smallest.bytes);
        let mut ceiling = u64::MAX;
        let mut best: Option<(u64, f64, Solved)> = None;
        for _ in 0..ROUNDS {
            // Options there are, and measured errors are finite: no smaller choice is all that can be missing.
            let Ok(found) = ccq_quantize::allocate(&items, allowance) else { break };
            let solved = self.lay_out(found.choices)?;
            let fits = solved.bytes <= self.budget;
            allowance = (found.bytes + self.budget).saturating_sub(solved.bytes);
            if !fits {
                ceiling = ceiling.min(found.bytes.saturating_sub(1));
            } else if best.as_ref().is_none_or(|best| found.error < best.1) {
                best = Some((found.bytes, found.error, solved));
            }
            allowance = allowance.min(ceiling);
            if best.as_ref().is_some_and(|best| allowance <= best.0) {
                break;
            }
        }
        Ok(best.map_or(smallest, |best| best.2))
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

    fn lay_out(&self, choices: Vec<usize>) -> Result<Solved, Error> {
        let recipe = self.settled(&choices);
        let bytes = file_len(self.model, &recipe, self.common)?;
        Ok(Solved { choices, recipe, bytes })
    }

    /// The recipe with the choices in place of what was open.
    fn settled(&self, choices: &[usize]) -> Recipe {
        let chosen = || self.free.iter().zip(choices).map(|(free, &choice)| (free, free.options[choice]));
        let mut kinds: Vec<(How, usize)> = Vec::new();
        for (_, how) in chosen() {
            match kinds.iter_mut().find(|kind| kind.0 == how) {
                Some(kind) => kind.1 += 1,
                None => kinds.push((how, 1)),
            }
        }
        // The most frequent one needs no names; of equally frequent ones the first.
        let default = kinds.iter().rev().max_by_key(|kind| kind.1).map_or(How::Raw, |kind| kind.0);
        let mut lists: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (free, how) in chosen().filter(|(free, how)| !(free.by_default && *how == default)) {
            let kind = kinds.iter().position(|kind| kind.0 == how).unwrap_or(0);
            lists.entry(kind).or_default().push(free.tensor.name.clone());
        }
        let option = self.target.budget.to_string();
        let named = lists.into_iter().map(|(kind, names)| Rule {
            selector: Selector { names: Some(Names::new(names)), roles: Roles::Any, ..Selector::default() },
            how: kinds[kind].0,
            optional: false,
            place: Place { source: option.clone(), ..Place::default() },
            label: format!("chosen for {option}").into(),
        });
        let given = self.recipe.rules.iter().filter(|rule| !matches!(rule.how, How::Choose { .. }));
        Recipe { rules: named.chain(given.cloned()).collect(), default }
    }
}

/// The option with the fewest bytes; of equal ones that with the least error.
fn smallest(options: &[Choice]) -> usize {
    let key = |&choice: &usize| (options[choice].bytes, options[choice].error.to_bits());
    (0..options.len()).min_by_key(key).unwrap_or(0)
}

/// Every candidate for all free tensors.
fn uniform(
    model: &Model,
    recipe: &Recipe,
    target: &Target,
    free: &[Free<'_>],
    common: &Common,
) -> Result<Vec<Uniform>, Error> {
    let uniform = |code: &Code| {
        let is_it = |how: &How| matches!(how, How::Quantize(search) if search.code == *code);
        // Who cannot take it stays raw, without error.
        let error: f64 = free
            .iter()
            .filter_map(|free| free.options.iter().position(is_it).map(|at| free.choices[at].error))
            .sum();
        let weight: f64 = free.iter().map(|free| free.weight).sum();
        let mut all = recipe.clone();
        for how in all.rules.iter_mut().map(|rule| &mut rule.how).chain([&mut all.default]) {
            if let How::Choose { quality, method } = *how {
                *how = How::Quantize(Search { code: *code, quality, method });
            }
        }
        let bytes = file_len(model, &all, common)?;
        Ok(Uniform {
            encoding: code.to_string(),
            bytes,
            error: if weight > 0.0 { error / weight } else { 0.0 },
        })
    };
    target.candidates.iter().flatten().map(uniform).collect()
}
