//! How much each quality searches.

use crate::options::Quality;
use crate::rank::Ranking;
use crate::scale::{Probe, Settings, Sign};

/// Wide plain codes, whose local scales are fine: where to clip the largest weight is all there is to choose.
pub(crate) fn plain(quality: Quality, half: f32) -> Settings {
    let max = |multiples: &[f32]| multiples.iter().map(|multiple| Probe::Max(multiple / half)).collect();
    match quality {
        Quality::Fast => Settings {
            probes: if half > 8.0 { max(&[1.0, 0.98]) } else { max(&[0.9]) },
            sign: Sign::OfLargest,
            refits: 0,
            super_scales: 4,
            rounds: 0,
            neighbours: &[0],
        },
        Quality::Balanced => Settings {
            probes: max(&[1.0, 0.96, 0.92, 0.87, 0.82, 0.76, 0.7, 0.62]),
            sign: Sign::OfLargest,
            refits: 1,
            super_scales: 12,
            rounds: 1,
            neighbours: &[0],
        },
        Quality::Best => Settings {
            probes: max(&[1.06, 1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79, 0.75, 0.7, 0.65, 0.6]),
            sign: Sign::Both,
            refits: 3,
            super_scales: 96,
            rounds: 6,
            neighbours: &[0, -1, 1, -2, 2],
        },
    }
}

/// Probes around `factor` times the rms, and one that puts a lone outlier on the widest state.
fn around(multiples: &[f32], factor: f32, half: f32) -> Vec<Probe> {
    let rms = multiples.iter().map(|multiple| Probe::Rms(multiple * factor));
    rms.chain([Probe::Max(1.0 / half)]).collect()
}

/// Plain codes of few states.
pub(crate) fn coarse(quality: Quality, factor: f32, half: f32) -> Settings {
    Settings { sign: Sign::Both, ..trellis(quality, factor, half) }
}

/// Codes of dependent states.
pub(crate) fn trellis(quality: Quality, factor: f32, half: f32) -> Settings {
    match quality {
        Quality::Fast => Settings {
            probes: around(&[1.0], factor, half),
            sign: Sign::Row(0),
            refits: 0,
            super_scales: 8,
            rounds: 0,
            neighbours: &[0],
        },
        Quality::Balanced => Settings {
            probes: around(&[0.93, 1.15, 0.76], factor, half),
            sign: Sign::Row(1),
            refits: 0,
            super_scales: 12,
            rounds: 1,
            neighbours: &[0, -1, 1],
        },
        Quality::Best => Settings {
            probes: around(
                &[0.93, 1.15, 0.72, 0.83, 1.03, 1.3, 0.98, 0.88, 1.09, 0.78, 1.22, 0.66],
                factor,
                half,
            ),
            sign: Sign::Row(4),
            refits: 3,
            super_scales: 96,
            rounds: 8,
            neighbours: &[0, -1, 1, -2, 2],
        },
    }
}

/// The clustered code: the same for each of the lattices searched.
pub(crate) fn cluster(quality: Quality, factor: f32, half: f32) -> Settings {
    match quality {
        Quality::Fast => {
            Settings { probes: around(&[0.93, 1.15], factor, half), ..trellis(quality, factor, half) }
        }
        _ => trellis(quality, factor, half),
    }
}

/// The lattices of the clustered code.
pub(crate) fn ranking(quality: Quality) -> Ranking {
    match quality {
        Quality::Fast => {
            Ranking { lattices: 12, both_signs: false, first_runs: 2, second_round: 1, runs: 2, searched: 1 }
        }
        Quality::Balanced => {
            Ranking { lattices: 24, both_signs: true, first_runs: 2, second_round: 6, runs: 6, searched: 1 }
        }
        Quality::Best => {
            Ranking { lattices: 64, both_signs: true, first_runs: 4, second_round: 16, runs: 16, searched: 5 }
        }
    }
}
