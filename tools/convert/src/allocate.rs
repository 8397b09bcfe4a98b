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
mod solve;

use std::fmt;
use std::io::{self, Write};

use ccq::code::Code;
use ccq::format::Encoding;
use ccq_cli::bytes as human;
use ccq_import::{Importance, Model, SourceTensor};
use ccq_quantize::Choice;
use serde::Serialize;
use solve::Solver;

use crate::args::Common;
use crate::error::Error;
use crate::plan::file_len;
use crate::policy::{Reason, refusal};
use crate::recipe::{Facts, How, Recipe};
use crate::search::{Search, Shape};

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

impl Target {
    /// What there is to choose from, in one line.
    pub fn list(&self) -> String {
        let name = |code: &Option<Code>| code.map_or_else(|| "raw".to_owned(), |code| code.to_string());
        self.candidates.iter().map(name).collect::<Vec<_>>().join(", ")
    }
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
            #[allow(clippy::cast_possible_truncation)] // no file has 2^64 bytes
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
    /// What was measured, for whoever goes on with the job.
    #[serde(skip)]
    pub measured: String,
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

/// Fills in what `recipe` leaves open; `known` is what an earlier run of the same job measured.
///
/// # Errors
/// `NothingToChoose`, `Budget`; what reading and measuring the weights gives.
pub fn allocate(
    model: &Model,
    recipe: &Recipe,
    target: &Target,
    importance: Option<&Importance>,
    known: Option<&str>,
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
    if !known.is_some_and(|known| measure::recall(&mut free, known)) {
        measure::measure(model, &mut free, importance)?;
    }
    let solver = Solver { model, recipe, target, free: &free, common, parameters, budget };
    let solved = solver.solve()?;
    let outcome = Outcome {
        tensors: free.len(),
        target_bytes: budget,
        bytes: solved.bytes,
        error: mean_error(&free, |at, _| solved.choices.get(at).copied()),
        uniform: uniform(model, recipe, target, &free, common)?,
        measured: measure::note(&free),
    };
    let warnings = if (solved.bytes as f64) < budget as f64 * (1.0 - TOLERANCE) {
        vec![solver.too_small(&solved)?]
    } else {
        Vec::new()
    };
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
        let padded = len.div_ceil(align).saturating_mul(align);
        let checksums = len.div_ceil(1 << 26).saturating_mul(4);
        if len == 0 { 0 } else { padded.saturating_add(RECORD).saturating_add(checksums) }
    };
    let Encoding::Coded(code) = encoding else { return plane(tensor.byte_len()) };
    let Shape { experts, rows, in_features } = Shape::of(&tensor.shape);
    code.plane_sizes(experts.saturating_mul(rows), in_features).map_or(u64::MAX >> 16, |sizes| {
        [sizes.code, sizes.local_scale, sizes.super_scale, sizes.cluster].map(plane).iter().sum()
    })
}

/// The weighted mean of the relative errors, where each free tensor takes the option that `chosen` names; a tensor
/// for which there is none stays raw, without error.
fn mean_error<'a>(free: &'a [Free<'a>], chosen: impl Fn(usize, &'a Free<'a>) -> Option<usize>) -> f64 {
    let choice = |(at, free)| chosen(at, free).and_then(|option| free.choices.get(option));
    let error: f64 = free.iter().enumerate().filter_map(choice).map(|choice| choice.error).sum();
    let weight: f64 = free.iter().map(|free| free.weight).sum();
    if weight > 0.0 { error / weight } else { 0.0 }
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
        let mut all = recipe.clone();
        for how in all.rules.iter_mut().map(|rule| &mut rule.how).chain([&mut all.default]) {
            if let How::Choose { quality, method } = *how {
                *how = How::Quantize(Search { code: *code, quality, method });
            }
        }
        let bytes = file_len(model, &all, common)?;
        let error = mean_error(free, |_, free| free.options.iter().position(is_it));
        Ok(Uniform { encoding: code.to_string(), bytes, error })
    };
    target.candidates.iter().flatten().map(uniform).collect()
}

#[cfg(test)]
mod tests;
