//! Defined results where weights are unusual, and the same bytes whatever the threads.
#![allow(missing_docs)]

mod common;

use ccq::code::{Code, Family, GROUP_SIZES};
use ccq::codec::ClusterParams;
use ccq_quantize::{Error, ErrorStats, Isa, Method, Options, Quality, gaussian, quantize, quantize_with};
use common::decode;
use std::sync::atomic::{AtomicUsize, Ordering};

fn codes() -> impl Iterator<Item = Code> {
    Family::ALL
        .into_iter()
        .flat_map(|family| GROUP_SIZES.into_iter().filter_map(move |size| family.code(size.into()).ok()))
}

/// Quantizes; the decoded values are finite, and the error is what the quantizer says and at most that of zeros.
fn round_trip(code: Code, weights: &[f32], in_features: usize) -> (Vec<f32>, ErrorStats) {
    let matrix = quantize(weights, in_features, &Options::new(code)).unwrap();
    let decoded = decode(&matrix);
    assert!(decoded.iter().all(|w| w.is_finite()), "{code}");
    let stats = ErrorStats::of_rows(weights, &decoded, in_features);
    assert!(stats.squared_error <= stats.energy * (1.0 + 1e-6), "{code}: worse than zeros");
    let believed = matrix.squared_error;
    assert!(
        (believed - stats.squared_error).abs() <= 1e-4 * stats.squared_error + 1e-10 * stats.energy,
        "{code}: believed {believed:e}, found {:e}",
        stats.squared_error
    );
    (decoded, stats)
}

#[test]
fn zero_rows_and_groups_decode_to_zero() {
    for code in codes() {
        let (decoded, _) = round_trip(code, &[0.0; 3 * 200], 200);
        assert!(decoded.iter().all(|&w| w == 0.0), "{code}");
        let Some(size) = code.group_size() else { continue };
        let mut weights = gaussian(2, 4 * size);
        weights[size..2 * size].fill(0.0);
        weights[3 * size..].fill(-0.0);
        let (decoded, _) = round_trip(code, &weights, 4 * size);
        assert!(decoded[size..2 * size].iter().all(|&w| w == 0.0), "{code}");
        assert!(decoded[3 * size..].iter().all(|&w| w == 0.0), "{code}");
        assert!(decoded[..size].iter().any(|&w| w != 0.0), "{code}");
    }
}

#[test]
fn an_outlier_is_kept() {
    for code in codes() {
        for outlier in [1e3, -1e6, 1e30] {
            let mut weights = gaussian(3, 512);
            weights[77] = outlier;
            let (decoded, _) = round_trip(code, &weights, 512);
            // Neither a trellis nor a cluster has words of zeros: all others of the group pay for a step that is
            // wide enough for the outlier, and the best that can be had is a compromise.
            let most = if code.family().is_some_and(Family::is_trellis) { 0.8 } else { 0.13 };
            assert!((decoded[77] / outlier - 1.0).abs() < most, "{code}: {outlier} became {}", decoded[77]);
        }
    }
}

#[test]
fn magnitudes_at_the_limits_of_f32() {
    let ordinary = gaussian(4, 3 * 256);
    for code in codes() {
        let (_, reference) = round_trip(code, &ordinary, 256);
        let reference = reference.relative_mse().unwrap();
        for exponent in [-126, -120, 100, 120, 125] {
            let factor = f32::from_bits(((127 + exponent) as u32) << 23);
            let weights: Vec<f32> = ordinary.iter().map(|w| w * factor).collect();
            let (_, stats) = round_trip_loose(code, &weights, 256);
            let mse = stats.relative_mse().unwrap();
            assert!(mse < reference * 1.01 + 1e-9, "{code} 2^{exponent}: {mse}, at 2^0 {reference}");
        }
        let largest: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { f32::MAX } else { -f32::MAX }).collect();
        let (_, stats) = round_trip(code, &largest, 256);
        assert!(stats.relative_mse().unwrap() < 0.4, "{code}: {stats:?}");
        let smallest: Vec<f32> = (0..256).map(|i| f32::from_bits(i % 5)).collect();
        round_trip_loose(code, &smallest, 256);
    }
}

/// [`round_trip`] where products of state and step are denormal, and round in ways that the search ignores.
fn round_trip_loose(code: Code, weights: &[f32], in_features: usize) -> (Vec<f32>, ErrorStats) {
    let decoded = decode(&quantize(weights, in_features, &Options::new(code)).unwrap());
    assert!(decoded.iter().all(|w| w.is_finite()), "{code}");
    let stats = ErrorStats::of_rows(weights, &decoded, in_features);
    (decoded, stats)
}

#[test]
fn any_row_length() {
    for code in codes() {
        for in_features in [1, 2, 3, 5, 31, 33, 63, 65, 100, 127, 130, 4095] {
            let weights = gaussian(in_features as u64, 2 * in_features);
            let (_, stats) = round_trip(code, &weights, in_features);
            assert!(stats.relative_mse().unwrap() < 0.16, "{code} x {in_features}: {stats:?}");
        }
        let empty = quantize(&[], 64, &Options::new(code)).unwrap();
        assert_eq!((empty.rows, empty.code_plane.len(), empty.super_scale.len()), (0, 0, 0));
    }
}

#[test]
fn cluster_codes_stay_within_fifteen_bits() {
    let code = Family::Ccq206.code(64).unwrap();
    let matrix = quantize(&gaussian(6, 64 * 256), 256, &Options::new(code)).unwrap();
    for row in matrix.cluster.chunks_exact(4) {
        let (a, zp) = (u16::from_le_bytes([row[0], row[1]]), i16::from_le_bytes([row[2], row[3]]));
        let ends = [0, 255].map(|q| (i32::from(a) * q + 256 * i32::from(zp) + 128) >> 8);
        assert!(ends.iter().all(|code| (0..32_768).contains(code)), "{a} {zp}");
        assert_eq!(ClusterParams::Q8 { a, zp }.code(255), ends[1] as u16);
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let weights = gaussian(7, 37 * 300);
    for code in codes() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quantize(&weights, 300, &Options::new(code)).unwrap())
        };
        let one = run(1);
        assert_eq!(one, run(2), "{code}");
        assert_eq!(one, run(3), "{code}");
        // Nor on the other rows.
        let last = quantize(&weights[36 * 300..], 300, &Options::new(code)).unwrap();
        assert_eq!(last.code_plane, one.code_plane[36 * one.code_plane.len() / 37..]);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_instruction_set() {
    // Heavy tails, a row of zeros, short words and a short group at the end.
    let mut weights: Vec<f32> = gaussian(9, 6 * 331).iter().map(|w| w * w.abs()).collect();
    weights[331..662].fill(0.0);
    let importance: Vec<f32> = gaussian(10, 331).iter().map(|h| h * h).collect();
    for code in codes() {
        for options in [
            Options::new(code).with_quality(Quality::Fast),
            Options::new(code),
            Options::new(code).with_importance(Some(&importance)),
            Options::new(code).with_method(Method::Paper),
        ] {
            let portable = quantize(&weights, 331, &options.with_isa(Isa::PORTABLE)).unwrap();
            for isa in Isa::all() {
                let found = quantize(&weights, 331, &options.with_isa(isa)).unwrap();
                assert_eq!(found.planes(), portable.planes(), "{code} {}", isa.name());
            }
        }
    }
}

#[test]
fn errors_say_where() {
    let options = Options::new(Family::Ccq275.code(64).unwrap());
    let mut weights = vec![1.0; 300];
    weights[205] = f32::NEG_INFINITY;
    weights[290] = f32::NAN;
    let expected = Error::NonFinite { row: 2, column: 5, value: f32::NEG_INFINITY };
    assert_eq!(quantize(&weights, 100, &options), Err(expected.clone()));
    assert_eq!(expected.to_string(), "weight -inf at row 2, column 5");
    let shape = |in_features| Error::Shape { weights: 300, in_features };
    assert_eq!(quantize(&weights, 7, &options), Err(shape(7)));
    assert_eq!(quantize(&weights, 0, &options), Err(shape(0)));
    let nibble = Family::Ccq206.code(64).unwrap();
    let imported =
        Code::new(nibble.segments(), 8, 64, nibble.local_scale(), Some(ccq::code::Cluster::F32)).unwrap();
    assert_eq!(quantize(&[], 64, &Options::new(imported)), Err(Error::Unsupported(imported)));
}

#[test]
fn progress_counts_rows_and_can_cancel() {
    let options = Options::new(Family::Wint4.code(64).unwrap());
    let weights = gaussian(8, 50 * 64);
    let rows = AtomicUsize::new(0);
    let count = |n| {
        rows.fetch_add(n, Ordering::Relaxed);
        true
    };
    quantize_with(&weights, 64, &options, &count).unwrap();
    assert_eq!(rows.into_inner(), 50);
    assert_eq!(quantize_with(&weights, 64, &options, &|_| false), Err(Error::Cancelled));
}
