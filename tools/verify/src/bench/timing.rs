//! Medians of many runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ccq_cli::interrupted;
use rayon::prelude::*;

use crate::failure::Failure;

/// Runs timed at least, whatever they take.
const LEAST: usize = 3;
/// Runs timed at most.
const MOST: usize = 100_000;
/// A turn of one of several runs.
const TURN: Duration = Duration::from_millis(40);
/// Bytes that a copy takes at most.
const MOST_COPIED: u64 = 512 << 20;
/// Bytes that a copy takes at least.
const LEAST_COPIED: u64 = 64 << 20;

/// What became of the runs.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Seconds of the run in the middle.
    pub median: f64,
    /// Runs timed.
    pub runs: usize,
}

/// Times a run, which returns its seconds, again and again; it is given numbers from 0 on, 0 being a warm-up that is
/// not counted.
///
/// # Errors
/// `Interrupted`, and those of the run.
pub fn time(budget: Duration, mut run: impl FnMut(usize) -> Result<f64, Failure>) -> Result<Timing, Failure> {
    let [timing] = time_in_turns(budget, |_, number| run(number))?;
    Ok(timing)
}

/// The same for several runs, told apart by the first number, that take turns, so that whatever slows the machine down
/// slows them all. A turn has time for threads to wake and come to cores of their own.
///
/// # Errors
/// Those of [`time`].
pub fn time_in_turns<const N: usize>(
    budget: Duration,
    mut run: impl FnMut(usize, usize) -> Result<f64, Failure>,
) -> Result<[Timing; N], Failure> {
    (0..N).try_for_each(|which| run(which, 0).map(drop))?;
    let start = Instant::now();
    let mut times = [const { Vec::new() }; N];
    let counted = |times: &[Vec<f64>; N]| times.iter().map(Vec::len).min().unwrap_or(MOST);
    while counted(&times) < LEAST || (start.elapsed() < budget && counted(&times) < MOST) {
        for (which, times) in times.iter_mut().enumerate() {
            let turn = Instant::now();
            loop {
                if interrupted() {
                    return Err(Failure::Interrupted);
                }
                times.push(run(which, times.len() + 1)?);
                if turn.elapsed() >= TURN.min(budget) || times.len() >= MOST {
                    break;
                }
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        // A clock that did not advance would make speeds infinite.
        Timing { median: middle.max(1e-9), runs: times.len() }
    }))
}

/// Bytes read plus bytes written a second by a copy of memory, on the threads of the current pool.
///
/// # Errors
/// `Interrupted`.
pub fn copy_bandwidth(cache: u64, budget: Duration) -> Result<f64, Failure> {
    let len = cache.saturating_mul(2).clamp(LEAST_COPIED, MOST_COPIED) as usize;
    let source = vec![1u8; len];
    let mut target = vec![0u8; len];
    let part = len.div_ceil(rayon::current_num_threads());
    let timing = time(budget, |_| {
        let start = Instant::now();
        let parts = target.par_chunks_mut(part).zip(black_box(&source).par_chunks(part));
        parts.for_each(|(target, source)| target.copy_from_slice(source));
        black_box(&mut target);
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok(2.0 * len as f64 / timing.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_without_the_first() {
        let mut numbers = Vec::new();
        let timing = time(Duration::ZERO, |run| {
            numbers.push(run);
            Ok([9.0, 3.0, 1.0, 2.0][run])
        });
        let timing = timing.unwrap();
        assert_eq!((timing.runs, numbers), (LEAST, vec![0, 1, 2, 3]));
        assert_eq!(timing.median, 2.0);
    }

    #[test]
    fn runs_that_take_turns_have_medians_of_their_own() {
        let times = [[9.0, 3.0, 1.0, 2.0], [9.0, 5.0, 6.0, 4.0]];
        let timings = time_in_turns(Duration::ZERO, |which, run| Ok(times[which][run]));
        assert_eq!(timings.unwrap().map(|timing| (timing.median, timing.runs)), [(2.0, LEAST), (5.0, LEAST)]);
    }
}
