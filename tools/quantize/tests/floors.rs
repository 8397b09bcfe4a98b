//! The errors that must hold, on Gaussian weights and on a real layer, through the codec that readers use; and the
//! bytes themselves.
#![allow(missing_docs)]

mod common;

use ccq::code::Family;
use ccq_quantize::{ErrorStats, Method, Options, Quality, gaussian, quantize};
use common::{decode, layer};

/// Quantizes with the family's default group, decodes, compares what the quantizer believed with the truth.
fn error(options: &Options<'_>, weights: &[f32], in_features: usize) -> ErrorStats {
    let matrix = quantize(weights, in_features, options).unwrap();
    let stats = ErrorStats::of_rows(weights, &decode(&matrix), in_features);
    let difference = (matrix.squared_error - stats.squared_error).abs();
    assert!(difference < 1e-4 * stats.squared_error, "{}: believed {}", options.code, matrix.squared_error);
    stats
}

/// What must hold, on 64 x 4096 Gaussian weights and on the layer. Floors that have become loose count as broken.
const FLOORS: [(Family, Quality, Method, [f64; 2]); 30] = [
    (Family::Ccq206, Quality::Fast, Method::Search, [0.1050, 0.1123]),
    (Family::Ccq206, Quality::Balanced, Method::Search, [0.1043, 0.1079]),
    (Family::Ccq206, Quality::Best, Method::Search, [0.1027, 0.1048]),
    (Family::Ccq25, Quality::Fast, Method::Search, [0.0957, 0.1064]),
    (Family::Ccq25, Quality::Balanced, Method::Search, [0.0937, 0.1016]),
    (Family::Ccq25, Quality::Best, Method::Search, [0.0933, 0.1011]),
    (Family::Ccq275, Quality::Fast, Method::Search, [0.0789, 0.0897]),
    (Family::Ccq275, Quality::Balanced, Method::Search, [0.0774, 0.0867]),
    (Family::Ccq275, Quality::Best, Method::Search, [0.0772, 0.0863]),
    (Family::Ccq331, Quality::Fast, Method::Search, [0.0297, 0.0351]),
    (Family::Ccq331, Quality::Balanced, Method::Search, [0.0287, 0.0330]),
    (Family::Ccq331, Quality::Best, Method::Search, [0.0286, 0.0326]),
    (Family::Ccq55, Quality::Fast, Method::Search, [0.00170, 0.00204]),
    (Family::Ccq55, Quality::Balanced, Method::Search, [0.00167, 0.00198]),
    (Family::Ccq55, Quality::Best, Method::Search, [0.00158, 0.00189]),
    (Family::Wint4, Quality::Fast, Method::Search, [0.00888, 0.00949]),
    (Family::Wint4, Quality::Balanced, Method::Search, [0.00816, 0.00879]),
    (Family::Wint4, Quality::Best, Method::Search, [0.00811, 0.00874]),
    (Family::Wint8, Quality::Fast, Method::Search, [0.000073, 0.000128]),
    (Family::Wint8, Quality::Balanced, Method::Search, [0.000075, 0.000127]),
    (Family::Int2, Quality::Fast, Method::Search, [0.1239, 0.1282]),
    (Family::Int2, Quality::Balanced, Method::Search, [0.1232, 0.1275]),
    (Family::Ccq206, Quality::Balanced, Method::Paper, [1.1536, 1.1940]),
    (Family::Ccq25, Quality::Balanced, Method::Paper, [0.1085, 0.1222]),
    (Family::Ccq275, Quality::Balanced, Method::Paper, [0.0902, 0.1032]),
    (Family::Ccq331, Quality::Balanced, Method::Paper, [0.0320, 0.0375]),
    (Family::Ccq55, Quality::Balanced, Method::Paper, [0.00174, 0.00208]),
    (Family::Wint4, Quality::Balanced, Method::Paper, [0.00993, 0.01080]),
    (Family::Wint8, Quality::Balanced, Method::Paper, [0.000075, 0.000129]),
    (Family::Int2, Quality::Balanced, Method::Paper, [0.1695, 0.1798]),
];

#[test]
fn errors_stay_below_their_floors() {
    let data = [vec![(gaussian(1, 64 * 4096), 4096)], layer()];
    let mut broken = String::new();
    for (family, quality, method, floors) in FLOORS {
        let code = family.default_code().unwrap();
        let options = Options::new(code).with_quality(quality).with_method(method);
        for (matrices, floor) in data.iter().zip(floors) {
            let mut total = ErrorStats::default();
            for (weights, in_features) in matrices {
                total.merge(&error(&options, weights, *in_features));
            }
            let mse = total.relative_mse().unwrap();
            if mse > floor || mse < floor * 0.98 {
                broken += &format!("\n{family:?} {quality:?} {method:?}: {mse:.6}, floor {floor}");
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// CRC-32 of the planes, one after the other. A change here is a change of what users get: intended, or a mistake.
#[test]
fn the_bytes_are_pinned() {
    let weights: Vec<f32> = gaussian(12, 8 * 330).iter().map(|w| w * (1.0 + w.abs())).collect();
    let mut found = Vec::new();
    for family in Family::ALL {
        let options = Options::new(family.default_code().unwrap());
        let qualities = Quality::ALL.map(|quality| options.with_quality(quality));
        for options in qualities.into_iter().chain([options.with_method(Method::Paper)]) {
            let matrix = quantize(&weights, 330, &options).unwrap();
            let mut hash = crc32fast::Hasher::new();
            for plane in [&matrix.code_plane, &matrix.local_scale, &matrix.super_scale, &matrix.cluster] {
                hash.update(plane);
            }
            found.push(hash.finalize());
        }
    }
    assert_eq!(found, PINNED, "fast, balanced, best, paper of each of {:?}", Family::ALL);
}

#[rustfmt::skip]
const PINNED: [u32; 32] = [
    2530886957, 3485235717, 4251111729, 1043803657, 939770055, 701815003, 2170484588, 2515361157, 3719819494, 3172873721, 1149336918, 2724399926, 1813962697, 4236847858, 598428690, 2244824083, 723593977, 1214148328, 1995175213, 2626868332, 1539515856, 1775235456, 933290445, 2603664273, 2102557962, 9968578, 2634177896, 668155318, 3884692322, 534024481, 3517226887, 3589254079,
];
