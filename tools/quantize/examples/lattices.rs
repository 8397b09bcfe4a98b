//! The search for the table of cluster parameters, `src/lattices.rs`.
//!
//! ```text
//! cargo run --release -p ccq-quantize --example lattices -- [--quick] MODEL.safetensors
//! ```
//!
//! Prints rows of Rust source; progress goes to stderr, with the average errors of the channels. The model is
//! all-MiniLM-L6-v2 as `python3 testdata/minilm.py model FOLDER` makes it: layers 1, 3 and 5, so that 0, 2 and 4
//! can judge the table. Minutes on two cores; `--quick` does a twentieth of the work, to see that it works.
//!
//! ```text
//! channels   rows of 8 runs of 64 weights at most: Gaussian, Laplacian and real ones
//! measure    encode each run with steps near the one that suits Gaussian weights and refit the step by equation
//!            (4); the error of a channel is relative to its energy
//! family     pairs whose codes fit 15 bits, spread over all wide code scales; the best on ever more runs stay
//! choose     greedily, each next pair the one that lowers the sum of the channels' errors the most
//! refine     the neighbours of the chosen are the next family, twice
//! ```
//!
//! The same table on every machine: f32 and f64 arithmetic in a fixed order, square roots, nothing else.
#![allow(clippy::print_stdout, missing_docs)]

use ccq::codec::ClusterParams;
use ccq_quantize::gaussian;
use rayon::prelude::*;
use std::array::from_fn;
use std::error::Error;

/// Cluster parameters.
type Pair = (u16, i16);
/// Points, each with half its square.
type Points = [([f32; 4], f32); 256];
/// Words whose best points are looked for at the same time, weights of a run, runs of a channel.
const WORDS: usize = 8;
const RUN: usize = 2 * 4 * WORDS;
const RUNS: usize = 8;
/// Gaussian, Laplacian and real channels.
const CHANNELS: [usize; 3] = [180, 60, 540];
/// Ratios of step to rms that are tried: the second and third, and for the mean error the first alone.
const STEPS: [f32; 3] = [1.0 / 16.4, 0.93 / 16.4, 1.12 / 16.4];
/// Zero points of the family for a code scale: one of so many.
const STRIDE: u64 = 64;
/// Runs that the mean error is taken of, and how many pairs stay.
const ROUNDS: [(usize, usize); 3] = [(6, 60_000), (60, 10_000), (240, 1000)];
/// How far from a chosen pair its neighbours are, in zero points and in fourths of code scales.
const SPREADS: [u64; 2] = [48, 12];
const NEIGHBOURS: usize = 150;
/// Pairs of the table.
const CHOSEN: usize = 64;
/// The first of them serve the quality that tries no negative steps and compares lattices on so few runs.
const FIRST: usize = 12;
const FIRST_RUNS: usize = 2;

/// Two times eight words, transposed, in units of the rms.
struct Run {
    words: [[[f32; WORDS]; 4]; 2],
    /// The sum of the weights' squares.
    energy: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (less, path) = match &arguments[..] {
        [path] if path != "--quick" => (1, path),
        [quick, path] if quick == "--quick" => (20, path),
        _ => return Err("lattices [--quick] MODEL.safetensors".into()),
    };
    let channels = channels(less, path)?;
    let mut random = random(1);
    // All kinds of channels mixed, for the mean error.
    let mut runs: Vec<&Run> = channels.iter().flatten().collect();
    (1..runs.len()).rev().for_each(|i| runs.swap(i, random(i as u64 + 1) as usize));
    let mut family = Vec::new();
    for a in 1 << 14..1 << 15u16 {
        // The largest zero point whose last code fits.
        let most = 0x7FFF - u64::from((u32::from(a) * 255 + 128) >> 8);
        for start in (0..=most).step_by(STRIDE as usize * less) {
            family.push((a, (start + random((most - start + 1).min(STRIDE))) as i16));
        }
    }
    for (count, keep) in ROUNDS {
        family = best(family, &runs, (count, keep / less));
    }
    let mut chosen = choose(&family, &channels);
    for spread in SPREADS {
        let mut near = Vec::new();
        for &(a, zp) in &chosen {
            for _ in 0..NEIGHBOURS / less {
                let mut moved = |x: u64, by: u64| (x + random(2 * by + 1)).saturating_sub(by);
                let (a, zp) = (moved(a.into(), spread / 4), moved(zp as u64, spread));
                if (a * 255 + 256 * zp + 128) >> 8 <= 0x7FFF {
                    near.push((a as u16, zp as i16));
                }
            }
        }
        near = best(near, &runs, (ROUNDS[2].0, ROUNDS[2].1 / less));
        near.retain(|pair| !chosen.contains(pair));
        near.extend(chosen);
        chosen = choose(&near, &channels);
    }
    for row in chosen.chunks(5) {
        let pairs = row.iter().map(|(a, zp)| format!(" ({}_{:03}, {zp}),", a / 1000, a % 1000));
        println!("   {}", pairs.collect::<String>());
    }
    Ok(())
}

/// The pairs of least mean error, best first.
fn best(pairs: Vec<Pair>, runs: &[&Run], (count, keep): (usize, usize)) -> Vec<Pair> {
    let runs = &runs[..count.min(runs.len())];
    eprintln!("{} pairs on {} runs", pairs.len(), runs.len());
    let mean = |pair| {
        let points = points(pair);
        (runs.iter().map(|run| left(&points, run, 1.0, &STEPS[..1]) / run.energy).sum(), pair)
    };
    let mut measured: Vec<(f64, Pair)> = pairs.into_par_iter().map(mean).collect();
    measured.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
    measured.dedup();
    measured.into_iter().take(keep).map(|(_, pair)| pair).collect()
}

/// The table, from these pairs.
fn choose(pairs: &[Pair], channels: &[Vec<Run>]) -> Vec<Pair> {
    eprintln!("{} pairs on {} channels", pairs.len(), channels.len());
    let row = |points: Points| channels.iter().map(|channel| measure(&points, channel)).collect();
    let table: Vec<Vec<[f32; 3]>> = pairs.par_iter().map(|&pair| row(points(pair))).collect();
    let mut chosen: Vec<usize> = Vec::new();
    for i in 0..CHOSEN.min(pairs.len()) {
        // What a pair is chosen for a channel by, and what it then leaves.
        let view = |of: &[f32; 3]| if i < FIRST { [of[0], of[1]] } else { [of[2]; 2] };
        let better = |x: [f32; 2], y: [f32; 2]| if y[0] < x[0] { y } else { x };
        let mut so_far = vec![[f32::INFINITY; 2]; channels.len()];
        for &pair in &chosen {
            so_far.iter_mut().zip(&table[pair]).for_each(|(x, of)| *x = better(*x, view(of)));
        }
        let left = |(of, x): (&[f32; 3], &[f32; 2])| f64::from(better(*x, view(of))[1]);
        let sums: Vec<f64> = table.par_iter().map(|row| row.iter().zip(&so_far).map(left).sum()).collect();
        let next = (0..pairs.len()).filter(|pair| !chosen.contains(pair));
        let Some(next) = next.min_by(|&x, &y| sums[x].total_cmp(&sums[y])) else { break };
        chosen.push(next);
        if [1, FIRST, 2 * FIRST, CHOSEN].contains(&chosen.len()) {
            eprintln!("    {}: {:.5}", chosen.len(), sums[next] / channels.len() as f64);
        }
    }
    chosen.into_iter().map(|index| pairs[index]).collect()
}

/// What a pair leaves of a channel's first runs and of all with positive steps, and of all with either sign.
fn measure(points: &Points, channel: &[Run]) -> [f32; 3] {
    let energy = |runs: &[Run]| runs.iter().map(|run| run.energy).sum::<f64>();
    let left = |runs: &[Run], sign| runs.iter().map(|run| left(points, run, sign, &STEPS[1..])).sum::<f64>();
    let (first, rest) = channel.split_at(FIRST_RUNS.min(channel.len()));
    let of_first = left(first, 1.0);
    let [positive, negative, all] = [of_first + left(rest, 1.0), left(channel, -1.0), energy(channel)];
    [of_first / energy(first), positive / all, positive.min(negative) / all].map(|error| error as f32)
}

/// The error that is left of a run with the best of some steps.
fn left(points: &Points, run: &Run, sign: f32, steps: &[f32]) -> f64 {
    let max = run.words.as_flattened().as_flattened().iter().fold(0.0f32, |max, u| max.max(u.abs()));
    let mut fitted = 0.0f64;
    for &step in steps {
        // An outlier far beyond the points would drown everything else.
        let inverse = sign / step.max(max / 64.0);
        let (mut slope, mut norm) = (0.0, 0.0);
        for u in &run.words {
            let u = u.map(|u| u.map(|u| u * inverse));
            let (mut costs, mut halves) = ([f32::INFINITY; WORDS], [0.0; WORDS]);
            for &(c, half) in points {
                for i in 0..WORDS {
                    let cost = half - (u[0][i] * c[0] + u[1][i] * c[1] + (u[2][i] * c[2] + u[3][i] * c[3]));
                    let less = cost < costs[i];
                    costs[i] = if less { cost } else { costs[i] };
                    halves[i] = if less { half } else { halves[i] };
                }
            }
            for i in 0..WORDS {
                slope += f64::from(halves[i] - costs[i]);
                norm += 2.0 * f64::from(halves[i]);
            }
        }
        // Equation (4): the least error is |u|^2 - (u c)^2 / |c|^2.
        if slope > 0.0 && norm > 0.0 {
            fitted =
                fitted.max(slope * slope / norm / (RUN as f64 * f64::from(inverse) * f64::from(inverse)));
        }
    }
    run.energy * (1.0 - fitted)
}

/// The points of the code (6, 4, 3).
fn points((a, zp): Pair) -> Points {
    from_fn(|q| {
        let bits = i32::from(ClusterParams::Q8 { a, zp }.code(q as u8));
        let c = [9, 6, 3, 0].map(|shift| ((bits >> shift & 63) - 32) as f32);
        (c, c.iter().map(|c| c * c).sum::<f32>() * 0.5)
    })
}

/// Gaussian, Laplacian and real rows, in this order.
fn channels(less: usize, path: &str) -> Result<Vec<Vec<Run>>, Box<dyn Error>> {
    let [normal, double, real] = CHANNELS.map(|count| count / less);
    let width = RUNS * RUN;
    let mut out: Vec<Vec<Run>> = gaussian(2, normal * width).chunks(width).map(channel).collect();
    // The determinant of four Gaussian values is a Laplacian one.
    let four = gaussian(3, 4 * double * width);
    let determinants: Vec<f32> = four.as_chunks::<4>().0.iter().map(|x| x[0] * x[1] - x[2] * x[3]).collect();
    out.extend(determinants.chunks(width).map(channel));
    let bytes = std::fs::read(path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let mut found = file.tensors();
    found.retain(|(_, view)| view.shape().len() == 2 && view.dtype() == safetensors::Dtype::F32);
    found.retain(|(name, _)| ["layer.1.", "layer.3.", "layer.5."].iter().any(|layer| name.contains(layer)));
    found.sort_by(|x, y| x.0.cmp(&y.0));
    for (_, view) in &found {
        let (rows, count) = (view.shape()[0], real / found.len());
        let weights: Vec<f32> = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let rows = (0..count).map(|i| &weights[rows * i / count * view.shape()[1]..][..view.shape()[1]]);
        out.extend(rows.map(channel));
    }
    out.retain(|channel| !channel.is_empty());
    eprintln!("{} channels, {} matrices of {path}", out.len(), found.len());
    Ok(out)
}

/// Runs spread over a row.
fn channel(row: &[f32]) -> Vec<Run> {
    let (there, count) = (row.len() / RUN, RUNS.min(row.len() / RUN));
    let runs = (0..count).map(|i| &row[i * there / count * RUN..][..RUN]);
    runs.filter_map(|weights| {
        let energy: f64 = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let inverse = 1.0 / (energy / RUN as f64).sqrt() as f32;
        let u = |part, p, word| weights[4 * (WORDS * part + word) + p] * inverse;
        let words = from_fn(|part| from_fn(|p| from_fn(|word| u(part, p, word))));
        inverse.is_finite().then_some(Run { words, energy })
    })
    .collect()
}

/// Random numbers below a limit, by SplitMix64.
fn random(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |limit| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}
