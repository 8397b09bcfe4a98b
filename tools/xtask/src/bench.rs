//! `cargo xtask bench-decode`: figures for the README, each beside the time of something simple that has to touch the
//! same bytes. The best of several runs counts: others are slowed down by the rest of the machine.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use ccq::code::{Code, Family};
use ccq::{Container, Limits};

use crate::container::{FreeBits, Recipe, coded, with_f32_cluster};

pub const RUNS: usize = 25;

/// Times decoding, one thread, row by row into the same buffer.
pub fn decode(rows: u64, in_features: u64) -> Result<()> {
    let copy = copy_of_f32(rows, in_features)?;
    println!("{}, 1 thread, decode of {rows} x {in_features} to f32, best of {RUNS}\n", machine());
    println!("| encoding | bpw | Gweights/s | of a copy of f32 |\n|---|---:|---:|---:|");
    for (name, code) in codes()? {
        let tensors = vec![coded("weight", code, &[rows, in_features])];
        let file = Recipe { tensors, ..Recipe::default() }.write(FreeBits::Random)?;
        let container = Container::from_bytes(&file, &Limits::DEFAULT)?;
        let Some(tensor) = container.tensor("weight") else { continue };
        let mut row = vec![0.0f32; usize::try_from(in_features)?];
        let time = best(|| {
            for i in 0..usize::try_from(rows)? {
                tensor.decode_rows_into(i..i + 1, black_box(&mut row))?;
            }
            Ok(())
        })?;
        let speed = (rows * in_features) as f64 / time.as_secs_f64() / 1e9;
        let bpw = tensor.info().bpw().unwrap_or(f64::NAN);
        println!("| {name} | {bpw:.3} | {speed:.2} | {:.2} |", ratio(copy, time));
    }
    Ok(())
}

/// Every family at every group size, and the cluster of imported files.
fn codes() -> Result<Vec<(String, Code)>> {
    let mut codes = Vec::new();
    for family in Family::ALL {
        codes.extend([0, 32, 64, 128].into_iter().filter_map(|group| family.code(group).ok()));
    }
    let mut codes: Vec<_> = codes.into_iter().map(|code| (code.to_string(), code)).collect();
    codes.push(("ccq-2.06, f32 cluster".into(), with_f32_cluster(Family::Ccq206.code(64)?)?));
    Ok(codes)
}

/// The time of reading as many weights that are f32 already.
fn copy_of_f32(rows: u64, in_features: u64) -> Result<Duration> {
    let width = usize::try_from(in_features)?;
    let matrix = vec![1.0f32; usize::try_from(rows)? * width];
    let mut row = vec![0.0f32; width];
    best(|| {
        matrix
            .chunks_exact(width.max(1))
            .for_each(|source| black_box(&mut row).copy_from_slice(black_box(source)));
        Ok(())
    })
}

/// The time of the fastest of several runs.
pub fn best(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// How many times the baseline.
pub fn ratio(time: Duration, baseline: Duration) -> f64 {
    time.as_secs_f64() / baseline.as_secs_f64()
}

/// The processor, where the system tells.
pub fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or(std::env::consts::ARCH, |(_, name)| name).into()
}
