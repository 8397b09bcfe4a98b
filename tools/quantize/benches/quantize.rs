//! Speed of the quantizer and of its stages on one thread, in weights a second: 64 x 1536 N(0, 1) values, one row of
//! them for a stage, 64 weights a group.
//!
//! ```text
//! cargo bench -p ccq-quantize
//! ```
#![allow(missing_docs)]

use ccq::code::Family;
use ccq_quantize::{Isa, Options, Quality, Stage, bench_stage, gaussian, quantize};
use divan::Bencher;
use divan::counter::ItemsCount;

const IN_FEATURES: usize = 1536;
const WEIGHTS: usize = 64 * IN_FEATURES;

fn main() {
    divan::main();
}

fn run(bencher: Bencher<'_, '_>, options: Option<Options<'_>>) {
    let Some(options) = options else { return };
    let weights = gaussian(1, WEIGHTS);
    let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(1).build() else { return };
    bencher
        .counter(ItemsCount::new(WEIGHTS))
        .bench_local(|| pool.install(|| quantize(divan::black_box(&weights), IN_FEATURES, &options)));
}

fn options(family: &str) -> Option<Options<'static>> {
    Some(Options::new(Family::from_name(family)?.code(64).ok()?))
}

/// One stage of the balanced search, on one row.
fn stage(bencher: Bencher<'_, '_>, family: &str, stage: Stage) {
    let Some(options) = options(family) else { return };
    let bencher = bencher.counter(ItemsCount::new(IN_FEATURES));
    bench_stage(&options, &gaussian(1, IN_FEATURES), stage, |run| bencher.bench_local(run));
}

const FAMILIES: [&str; 7] = ["ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "ccq-5.5", "wint4", "int2"];

#[divan::bench(args = FAMILIES)]
fn fast(bencher: Bencher<'_, '_>, family: &str) {
    run(bencher, options(family).map(|options| options.with_quality(Quality::Fast)));
}

#[divan::bench(args = FAMILIES)]
fn balanced(bencher: Bencher<'_, '_>, family: &str) {
    run(bencher, options(family));
}

#[divan::bench(args = FAMILIES, sample_count = 10)]
fn best(bencher: Bencher<'_, '_>, family: &str) {
    run(bencher, options(family).map(|options| options.with_quality(Quality::Best)));
}

/// Balanced, with an importance a column.
#[divan::bench(args = FAMILIES)]
fn weighted(bencher: Bencher<'_, '_>, family: &str) {
    let importance: Vec<f32> = gaussian(2, IN_FEATURES).iter().map(|h| h * h).collect();
    run(bencher, options(family).map(|options| options.with_importance(Some(&importance))));
}

/// Fast, on each instruction set that the machine has.
#[divan::bench(args = FAMILIES, consts = [0, 1, 2])]
fn instruction_set<const N: usize>(bencher: Bencher<'_, '_>, family: &str) {
    let isa = Isa::all().nth(N);
    let options = options(family).zip(isa).map(|(options, isa)| options.with_isa(isa));
    run(bencher, options.map(|options| options.with_quality(Quality::Fast)));
}

/// One encoding search: Viterbi, the 256 codes, or rounding.
#[divan::bench(args = FAMILIES)]
fn stage_encode(bencher: Bencher<'_, '_>, family: &str) {
    stage(bencher, family, Stage::Encode);
}

/// The choice of lattices for a row, by a sample of it.
#[divan::bench(args = ["ccq-2.06"])]
fn stage_rank_lattices(bencher: Bencher<'_, '_>, family: &str) {
    stage(bencher, family, Stage::RankLattices);
}

/// The scale search, its encodings included.
#[divan::bench(args = FAMILIES)]
fn stage_scales(bencher: Bencher<'_, '_>, family: &str) {
    stage(bencher, family, Stage::Scales);
}
