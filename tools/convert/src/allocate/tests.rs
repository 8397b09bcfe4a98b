//! On the real layer, with errors that are measured once: many budgets take no longer than one.

use super::*;
use crate::args::{Conversion, Task, parse_from};

const LAYER0: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/all-minilm-l6-v2-layer0.safetensors");

/// Calls `test` with what a solver for a budget is made by.
fn measured(candidates: &[&str], test: impl for<'a> FnOnce(&'a dyn Fn(Budget) -> Solver<'a>)) {
    let mut args = vec!["ccq-convert", LAYER0, "--dry-run", "--target-bpw", "3", "--quality", "fast"];
    let list = candidates.join(",");
    if !candidates.is_empty() {
        args.extend(["--candidates", &list]);
    }
    let (common, Task::Convert(conversion)) = parse_from(args).unwrap() else { panic!("no conversion") };
    let Conversion { wish, target, .. } = *conversion;
    let (model, recipe) = (crate::source::open(&common).unwrap(), Recipe::load(&wish).unwrap());
    let target = target.unwrap();
    let mut free = free(&model, &recipe, &target.candidates);
    measure::measure(&model, &mut free, None).unwrap();
    let parameters = model.tensors().iter().map(SourceTensor::element_count).sum();
    test(&|budget| Solver {
        model: &model,
        recipe: &recipe,
        target: &target,
        free: &free,
        common: &common,
        parameters,
        budget: budget.bytes(parameters),
    });
}

fn lands(bytes: u64, budget: u64) -> bool {
    (0.99..=1.0).contains(&(bytes as f64 / budget as f64))
}

#[test]
fn budgets_land_within_one_percent() {
    measured(&[], |solver| {
        let dense = (220..=440).chain(480..=545).chain(725..=845).step_by(5);
        for hundredths in dense.chain([550, 580, 600, 620, 640, 660, 670, 690, 705]) {
            let solver = solver(Budget::Bpw(f64::from(hundredths) / 100.0));
            let solved = solver.solve().unwrap();
            assert!(
                lands(solved.bytes, solver.budget),
                "{hundredths}: {} of {}",
                solved.bytes,
                solver.budget
            );
        }
    });
}

/// Every combination there is of these candidates, over a fine row of budgets, sizes to the byte.
#[test]
fn no_combination_that_fits_is_better() {
    let candidates =
        ["int2:32", "ccq-2.06", "ccq-2.75:32", "wint4:channel", "wint4", "wint4:32", "wint8", "wint8:32"];
    measured(&candidates, |solver| {
        let any = solver(Budget::Bpw(16.0));
        let mut all: Vec<(Choice, Vec<usize>)> = vec![(Choice { bytes: 0, error: 0.0 }, vec![])];
        for free in any.free {
            let with = |(sum, chosen): &(Choice, Vec<usize>)| {
                let (sum, chosen) = (*sum, chosen.clone());
                (0..free.choices.len()).map(move |option| {
                    let Choice { bytes, error } = free.choices[option];
                    let sum = Choice { bytes: sum.bytes + bytes, error: sum.error + error };
                    (sum, [&chosen[..], &[option]].concat())
                })
            };
            all = all.iter().flat_map(with).collect();
        }
        assert_eq!(all.len(), 8usize.pow(6));
        // What a file has besides the free tensors' planes, but for the recipe's text, which changes with the choice.
        let rest = any.lay_out(all[0].1.clone()).unwrap().bytes - all[0].0.bytes;
        const TEXT: u64 = 2048;
        let mut short = 0;
        for step in 48..172 {
            let solver = solver(Budget::Bpw(f64::from(step) * 0.05));
            let (budget, solved) = (solver.budget, solver.solve().unwrap());
            assert!(solved.bytes <= budget);
            let error = solver.sum(&solved.choices, |choice| choice.error);
            let landed = lands(solved.bytes, budget);
            short += usize::from(!landed);
            for (sum, choices) in all.iter().filter(|(sum, _)| sum.error <= error * (1.0 + 1e-12)) {
                let bytes = sum.bytes + rest;
                if bytes > budget + TEXT || *choices == solved.choices {
                    continue;
                }
                let bytes = solver.lay_out(choices.clone()).unwrap().bytes;
                assert!(bytes > budget || sum.error >= error * (1.0 - 1e-12), "{step}: {bytes} of {budget}");
                assert!(landed || !lands(bytes, budget), "{step}: {bytes} of {budget} are as good");
            }
        }
        // Where there is a gap between sizes, a budget in it stays unused.
        assert!(short > 0);
    });
}

/// What a file that is too small warns of is the next size that is of use.
#[test]
fn the_next_better_size_is_named() {
    measured(&[], |solver| {
        let gap = solver(Budget::Bpw(6.1));
        let solved = gap.solve().unwrap();
        assert!(!lands(solved.bytes, gap.budget));
        let said = gap.too_small(&solved).unwrap();
        let (_, named) = said.split_once("no choice of these candidates has less error below ").unwrap();
        let bytes: u64 = named.split(' ').next().unwrap().parse().unwrap();
        let error = |solver: &Solver<'_>| {
            let solved = solver.solve().unwrap();
            (solved.bytes, solver.sum(&solved.choices, |choice| choice.error))
        };
        let (next, before) = (error(&solver(Budget::Size(bytes))), error(&solver(Budget::Size(bytes - 1))));
        assert_eq!(next.0, bytes);
        assert_eq!(before, error(&gap));
        assert!(next.1 < before.1);
        let raw = solver(Budget::Bpw(60.0));
        let said = raw.too_small(&raw.solve().unwrap()).unwrap();
        assert!(said.ends_with("no choice of these candidates has less error, however large"), "{said}");
    });
}

#[test]
fn what_was_measured_is_recalled_to_the_bit() {
    measured(&["int2", "wint8", "raw"], |solver| {
        let solver = solver(Budget::Bpw(4.0));
        let text = measure::note(solver.free);
        let mut again = free(solver.model, solver.recipe, &solver.target.candidates);
        let longer = format!("{text},0");
        for other in [
            "",
            "0",
            &text[1..],
            &text[..text.len() - 1],
            &longer,
            &text.replace(',', ",7ff"),
            &text.replace(' ', ","),
        ] {
            let taken = measure::recall(&mut again, other);
            // A digit less may be another number; nothing else is taken.
            assert!(!taken || other.len() + 1 == text.len(), "{other}");
        }
        assert!(measure::recall(&mut again, &text));
        for (again, free) in again.iter().zip(solver.free) {
            assert_eq!((again.weight, &again.choices), (free.weight, &free.choices));
        }
    });
}
