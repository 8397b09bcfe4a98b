//! What an importance of the input features does.
#![allow(missing_docs)]

mod common;

use ccq::code::Family;
use ccq_quantize::{Error, Options, Quality, gaussian, quantize};
use common::{decode, layer};

#[test]
fn only_ratios_matter_and_a_uniform_one_changes_nothing() {
    let weights = gaussian(1, 8 * 400);
    let importance: Vec<f32> = gaussian(2, 400).iter().map(|h| h.abs() + 0.01).collect();
    let scaled: Vec<f32> = importance.iter().map(|h| h * 1024.0).collect();
    for family in Family::ALL {
        let options = Options::new(family.default_code().unwrap());
        for quality in Quality::ALL {
            let options = options.with_quality(quality);
            let run = |h: Option<&[f32]>| quantize(&weights, 400, &options.with_importance(h)).unwrap();
            let (plain, uniform) = (run(None), run(Some(&[0.7; 400])));
            assert_eq!(plain.planes(), uniform.planes(), "{family:?} {quality:?}");
            assert_eq!(
                run(Some(&importance)).planes(),
                run(Some(&scaled)).planes(),
                "{family:?} {quality:?}"
            );
            assert!((plain.squared_error / uniform.squared_error - 1.0).abs() < 1e-4);
            assert!((uniform.weighted_squared_error / uniform.squared_error / 0.7 - 1.0).abs() < 1e-4);
            assert_eq!(plain.weighted_squared_error, plain.squared_error);
        }
    }
}

#[test]
fn a_skewed_importance_lowers_the_weighted_error_of_a_real_layer() {
    for family in Family::ALL {
        let options = Options::new(family.default_code().unwrap()).with_quality(Quality::Fast);
        let (mut with, mut without, mut unweighted) = (0.0, 0.0, [0.0; 2]);
        for (name, (weights, in_features)) in layer().into_iter().take(3).enumerate() {
            // A few features carry most of the activations' energy, as they do in transformers.
            let importance: Vec<f32> = gaussian(name as u64, in_features).iter().map(|h| h.powi(6)).collect();
            let found = quantize(&weights, in_features, &options.with_importance(Some(&importance))).unwrap();
            let plain = quantize(&weights, in_features, &options).unwrap();
            with += found.weighted_squared_error;
            unweighted[0] += found.squared_error;
            unweighted[1] += plain.squared_error;
            let decoded = decode(&plain);
            without +=
                ccq_quantize::ErrorStats::of_rows_weighted(&weights, &decoded, in_features, &importance)
                    .squared_error;
        }
        // Plain codes have little to move: the scale of a group, not its states.
        let most = if family.is_trellis() { 0.8 } else { 0.995 };
        assert!(with < without * most, "{family:?}: {with} with, {without} without");
        assert!(unweighted[0] > unweighted[1], "{family:?}");
    }
}

#[test]
fn columns_and_groups_without_importance() {
    let weights = gaussian(3, 6 * 256);
    let mut importance = vec![1.0; 256];
    importance[64..128].fill(0.0);
    importance.iter_mut().step_by(7).for_each(|h| *h = 0.0);
    for family in Family::ALL {
        for (importance, most) in [(&importance[..], 0.2), (&[0.0; 256][..], 0.13)] {
            let options = Options::new(family.default_code().unwrap()).with_importance(Some(importance));
            let decoded = decode(&quantize(&weights, 256, &options).unwrap());
            assert!(decoded.iter().all(|w| w.is_finite()));
            // A group that counts for nothing is still quantized for itself, with what scales there are.
            let (mut error, mut energy) = (0.0, 0.0);
            for (w, d) in weights.chunks(256).zip(decoded.chunks(256)) {
                for column in (64..128).filter(|column| column % 7 != 0) {
                    error += (w[column] - d[column]).powi(2);
                    energy += w[column] * w[column];
                }
            }
            assert!(error < energy * most, "{family:?}: {}", error / energy);
        }
    }
}

#[test]
fn bad_importances_are_refused() {
    let options = Options::new(Family::Wint4.default_code().unwrap());
    let run = |h: &[f32]| quantize(&[1.0; 8], 4, &options.with_importance(Some(h))).map(|_| ());
    assert_eq!(run(&[1.0; 3]), Err(Error::ImportanceLength { expected: 4, found: 3 }));
    assert_eq!(run(&[1.0, -0.5, 1.0, 1.0]), Err(Error::Importance { column: 1, value: -0.5 }));
    assert!(matches!(run(&[1.0, 0.0, f32::NAN, 1.0]), Err(Error::Importance { column: 2, .. })));
    assert!(matches!(run(&[f32::INFINITY; 4]), Err(Error::Importance { column: 0, .. })));
    assert_eq!(run(&[0.0; 4]), Ok(()));
}
