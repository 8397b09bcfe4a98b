//! The kernels' sources against the portable decoder, without a GPU: `cu/*.cu` compiled as C++ with
//! `sim/shim.hpp`, and launched with the plans that the library launches.
//!
//! Every launch runs twice, with the lanes of a warp taking turns in rising and in falling order, and must write
//! the same bits. Needs a C++17 compiler (`CXX`, or `c++`).

mod simulator;

use ccq::code::{Cluster, Family};
use ccq::codec::{Matrix, Planes};
use ccq_cuda::Error;
use ccq_cuda::operation::{
    Activations, Args, Dequantize, Gemv, MoeGemv, Operation, Routing, Source, SquaredError,
};
use ccq_cuda::plan::{self, Element, MAX_TOKENS, Plan, RowError};
use simulator::case::{Case, GUARD, Random, codes, from_element, sweep, to_element};
use simulator::{Aligned, Simulator};

fn check_dequantize(simulator: &Simulator, case: &Case, plan: &Plan, element: Element, misaligned: usize) {
    let size = element.bytes();
    for falling in [false, true] {
        let mut out = Aligned::new(case.decoded.len() * size, misaligned * size, GUARD);
        let (launch, args) = plan.dequantize(element, out.address_mut());
        simulator.launch(&launch, &Args::Dequantize(args), falling);
        assert!(out.guards_are(GUARD), "{}: written outside the output", case.name(plan));
        for (i, (found, &weight)) in out.bytes().chunks_exact(size).zip(&case.decoded).enumerate() {
            let expected = to_element(element, weight);
            let same = found == expected || from_element(element, found).is_nan() && weight.is_nan();
            assert!(same, "{} {element:?} weight {i}: {found:?}, expected {expected:?}", case.name(plan));
        }
    }
}

#[test]
fn dequantize_is_bit_exact() {
    let simulator = Simulator::new("dequantize");
    let mut launches = 0;
    sweep(1, |case, plan, random| {
        for element in Element::ALL {
            check_dequantize(
                &simulator,
                case,
                plan,
                element,
                random.bits() as usize % (16 / element.bytes()),
            );
            launches += 2;
        }
    });
    eprintln!("{launches} launches");
}

/// Super scales and cluster parameters of every kind of float: subnormal, huge, infinite, NaN.
#[test]
fn dequantize_takes_any_scale() {
    let simulator = Simulator::new("dequantize");
    let mut random = Random(2);
    for code in codes() {
        for kind in 0..4 {
            let mut case = Case::new(code, 3, 200, &mut random);
            let layout = case.plans()[0].layout;
            let floats = if code.cluster() == Some(Cluster::F32) { 2..4 } else { 2..3 };
            for plane in floats {
                let start = layout.offsets[plane];
                for value in case.planes.bytes_mut()[start..start + layout.lens[plane]].chunks_exact_mut(4) {
                    let bits = match kind {
                        0 => random.bits() & 0x807F_FFFF,
                        1 => random.bits() & 0x80FF_FFFF | 0x7E00_0000,
                        2 => random.bits() & 0xFFC0_0000 | 0x7F80_0000,
                        _ => random.bits(),
                    };
                    value.copy_from_slice(&bits.to_le_bytes());
                }
            }
            case.decode();
            for plan in case.plans() {
                Element::ALL.iter().for_each(|&e| check_dequantize(&simulator, &case, &plan, e, 0));
            }
        }
    }
}

/// Every f16 there is, its neighbours in f32, and ties: per-channel 8-bit integers times exact scales.
#[test]
fn rounding_is_to_nearest_even() {
    let simulator = Simulator::new("dequantize");
    let code = Family::Wint8.code(0).unwrap();
    let mut random = Random(3);
    for exponent in -160..130 {
        let mut case = Case::new(code, 5, 255, &mut random);
        let layout = case.plans()[0].layout;
        let scale = (2f64.powi(exponent) * f64::from(random.bits() % 4096 + 4096)) as f32;
        for value in case.planes.bytes_mut()[layout.offsets[2]..][..layout.lens[2]].chunks_exact_mut(4) {
            value.copy_from_slice(&scale.to_le_bytes());
        }
        let stride = layout.lens[0] / 5;
        for (i, value) in case.decoded.iter_mut().enumerate() {
            let word = case.planes.bytes()[layout.offsets[0] + i / 255 * stride + i % 255];
            *value = (f32::from(word) - 128.0) * scale;
        }
        for plan in case.plans() {
            Element::ALL.iter().for_each(|&e| check_dequantize(&simulator, &case, &plan, e, 0));
        }
    }
}

/// The sums of a row in f64, one after the other.
fn row_error(source: &[f32], decoded: &[f32]) -> RowError {
    let mut sums = RowError::default();
    for (&w, &d) in source.iter().zip(decoded) {
        let (w, d) = (f64::from(w), f64::from(d));
        let e = w - d;
        sums.squared_error += e * e;
        sums.energy += w * w;
        sums.decoded_energy += d * d;
        sums.dot += w * d;
        let size = if e.is_nan() { f64::INFINITY } else { e.abs() };
        sums.max_abs_error = sums.max_abs_error.max(size);
    }
    sums
}

fn run_squared_error(
    simulator: &Simulator,
    case: &Case,
    plan: &Plan,
    element: Element,
    source: &Aligned,
) -> Vec<RowError> {
    let run = |falling| {
        let mut out = Aligned::new(case.rows * size_of::<RowError>(), 0, GUARD);
        let (launch, args) = plan.squared_error(element, source.address(), out.address_mut());
        simulator.launch(&launch, &Args::SquaredError(args), falling);
        assert!(out.guards_are(GUARD), "{}: written outside the output", case.name(plan));
        out
    };
    let (rising, falling) = (run(false), run(true));
    assert_eq!(rising.bytes(), falling.bytes(), "{}: the order of lanes shows", case.name(plan));
    rising.bytes().chunks_exact(size_of::<RowError>()).map(RowError::from_bytes).collect()
}

#[test]
fn squared_error_is_f64_accurate() {
    let simulator = Simulator::new("squared_error");
    let mut worst = 0f64;
    sweep(4, |case, plan, random| {
        for element in Element::ALL {
            let bytes: Vec<u8> = case
                .decoded
                .iter()
                .flat_map(|d| to_element(element, (d + random.unit() * 0.1).clamp(-6e4, 6e4)))
                .collect();
            let mut source = Aligned::new(bytes.len(), element.bytes() * (random.bits() as usize % 3), GUARD);
            source.bytes_mut().copy_from_slice(&bytes);
            let values: Vec<f32> =
                bytes.chunks_exact(element.bytes()).map(|b| from_element(element, b)).collect();
            let found = run_squared_error(&simulator, case, plan, element, &source);
            let rows = values.chunks(case.in_features).zip(case.decoded.chunks(case.in_features));
            for (found, (values, decoded)) in found.iter().zip(rows) {
                let expected = row_error(values, decoded);
                let scale = (expected.energy * expected.decoded_energy).sqrt();
                for (found, expected, scale) in [
                    (found.squared_error, expected.squared_error, expected.squared_error),
                    (found.energy, expected.energy, expected.energy),
                    (found.decoded_energy, expected.decoded_energy, expected.decoded_energy),
                    (found.dot, expected.dot, scale),
                ] {
                    let error = (found - expected).abs() / scale.max(f64::MIN_POSITIVE);
                    worst = worst.max(error);
                    assert!(error <= 1e-12, "{} {element:?}: {found}, expected {expected}", case.name(plan));
                }
                assert_eq!(found.max_abs_error, expected.max_abs_error, "{} {element:?}", case.name(plan));
            }
        }
    });
    eprintln!("largest relative error of a sum {worst:.1e}");
}

#[test]
fn what_is_not_finite_shows_in_the_largest_error() {
    let simulator = Simulator::new("squared_error");
    let case = Case::new(Family::Ccq206.default_code().unwrap(), 1, 100, &mut Random(5));
    for (bad, shows) in [(f32::INFINITY, true), (f32::NAN, true), (1.0, false)] {
        let mut source = Aligned::new(400, 0, GUARD);
        source.bytes_mut().fill(0);
        source.bytes_mut()[268..272].copy_from_slice(&bad.to_le_bytes());
        for plan in case.plans() {
            let found = run_squared_error(&simulator, &case, &plan, Element::F32, &source);
            assert_eq!(found[0].max_abs_error == f64::INFINITY, shows, "{bad}");
        }
    }
}

/// Multiplies, and checks every product against f64: each sum is a chain of at most `depth` roundings.
fn check_gemv(
    simulator: &Simulator,
    case: &Case,
    plan: &Plan,
    element: Element,
    tokens: usize,
    x: &[f32],
) -> f64 {
    let stride = plan::padded_activations(case.in_features);
    let mut padded = Aligned::new(tokens * stride * 2, 0, GUARD);
    padded.bytes_mut().fill(0);
    for (token, x) in x.chunks_exact(case.in_features).enumerate() {
        let bytes: Vec<u8> = x.iter().flat_map(|&x| to_element(element, x)).collect();
        padded.bytes_mut()[token * stride * 2..][..bytes.len()].copy_from_slice(&bytes);
    }
    let run = |falling| {
        let y_stride = case.rows + 2;
        let mut y = Aligned::new((tokens - 1) * y_stride * 4 + case.rows * 4, 0, GUARD);
        let (launch, args) =
            plan.gemv(element, tokens, padded.address(), y.address_mut(), y_stride as u32).unwrap();
        simulator.launch(&launch, &Args::Gemv(args), falling);
        assert!(y.guards_are(GUARD), "{}: written outside the output", case.name(plan));
        y
    };
    let (rising, falling) = (run(false), run(true));
    assert_eq!(rising.bytes(), falling.bytes(), "{}: the order of lanes shows", case.name(plan));

    let depth = (case.in_features.div_ceil(256) * 8 + 16) as f64;
    let mut worst = 0f64;
    for (token, x) in x.chunks_exact(case.in_features).enumerate() {
        for (r, weights) in case.decoded.chunks(case.in_features).enumerate() {
            let products = || weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let start = 4 * (token * (case.rows + 2) + r);
            let found = f64::from(f32::from_le_bytes(rising.bytes()[start..start + 4].try_into().unwrap()));
            if !expected.is_finite() {
                assert_eq!(found.to_string(), expected.to_string(), "{}", case.name(plan));
                continue;
            }
            let error = (found - expected).abs() / size.max(f64::MIN_POSITIVE);
            worst = worst.max(error);
            let name = case.name(plan);
            assert!(
                error <= depth * 2f64.powi(-24),
                "{name} token {token} row {r}: {found}, expected {expected}"
            );
        }
    }
    worst
}

#[test]
fn gemv_is_f32_accurate() {
    let simulator = Simulator::new("gemv");
    let mut counts = [1, 2, 4, 5, MAX_TOKENS, 3, 1, 11, 13].into_iter().cycle();
    let mut worst = 0f64;
    sweep(6, |case, plan, random| {
        for element in [Element::F16, Element::Bf16] {
            let tokens = counts.next().unwrap();
            let exact = |value: f32| from_element(element, &to_element(element, value));
            let x: Vec<f32> = (0..tokens * case.in_features).map(|_| exact(random.unit())).collect();
            worst = worst.max(check_gemv(&simulator, case, plan, element, tokens, &x));
        }
    });
    eprintln!("largest error of a product {worst:.1e} of its sum of |w x|");
}

/// More rows than a block has, fewer than a fragment has, and rows of more tiles than a block has stages, which in groups
/// of 128 may be one a warp.
#[test]
fn gemv_takes_any_number_of_rows_and_tiles() {
    let simulator = Simulator::new("gemv");
    let mut random = Random(9);
    let long = [Family::Ccq331, Family::Ccq55].map(|family| family.code(128));
    for code in Family::ALL.map(Family::default_code).into_iter().chain(long) {
        for (rows, in_features, tokens) in [(33, 70, 9), (16, 513, 8), (64, 96, 1), (2, 6600, 16)] {
            let case = Case::new(code.unwrap(), rows, in_features, &mut random);
            let x: Vec<f32> =
                (0..tokens * in_features).map(|_| (random.bits() % 256) as f32 / 64.0 - 2.0).collect();
            for element in [Element::F16, Element::Bf16] {
                check_gemv(&simulator, &case, &case.plans()[0], element, tokens, &x);
            }
        }
    }
}

/// Clusters of every kind of float: where codes leave the range in which they are rounded the fast way, too.
#[test]
fn gemv_takes_any_cluster() {
    let simulator = Simulator::new("gemv");
    let mut random = Random(10);
    for code in codes().into_iter().filter(|code| code.cluster() == Some(Cluster::F32)) {
        for kind in 0..4 {
            let mut case = Case::new(code, 3, 200, &mut random);
            let layout = case.plans()[0].layout;
            let plane = &mut case.planes.bytes_mut()[layout.offsets[3]..][..layout.lens[3]];
            for value in plane.chunks_exact_mut(4) {
                let bits = match kind {
                    0 => (random.unit() * 16_000.0).to_bits(), // on both sides of the limit
                    1 => (random.unit() * 1e8).to_bits(),
                    2 => random.bits() & 0xFFC0_0000 | 0x7F80_0000, // infinities and NaN
                    _ => random.bits(),
                };
                value.copy_from_slice(&bits.to_le_bytes());
            }
            case.decode();
            let x: Vec<f32> = (0..200).map(|i| (i % 13) as f32 - 6.0).collect();
            case.plans().iter().for_each(|plan| {
                check_gemv(&simulator, &case, plan, Element::Bf16, 1, &x);
            });
        }
    }
}

/// Every token with its own experts is the product of the token with those rows, to the bit, however the products
/// are divided into blocks.
#[test]
fn moe_gemv_is_gemv_with_chosen_rows() {
    let (simulator, gemv) = (Simulator::new("moe_gemv"), Simulator::new("gemv"));
    let (experts, in_features, tokens) = (3, 100, 4);
    let mut random = Random(11);
    for code in codes() {
        // More rows than a block of the tensor cores' kernels has, for some.
        let rows = if code.group_size() == Some(64) { 37 } else { 3 };
        let case = Case::new(code, experts * rows, in_features, &mut random);
        let matrix = Matrix::new(code, experts * rows, in_features, case.views()).unwrap();
        for element in [Element::F16, Element::Bf16] {
            let x: Vec<u8> =
                (0..tokens * in_features).flat_map(|_| to_element(element, random.unit())).collect();
            let activations = Activations { element, tokens, bytes: &x };
            let mut all = vec![f32::NAN; tokens * experts * rows];
            run_in_blocks(&gemv, experts * rows, &mut Gemv::new(&matrix, activations, &mut all).unwrap());
            let chosen = [2, 0, 0, 1, 2, 1, 1, 2];
            let routing = Routing { experts, chosen: &chosen };
            for block in [1, 3, chosen.len()] {
                let mut y = vec![f32::NAN; chosen.len() * rows];
                let mut operation = MoeGemv::new(&matrix, routing, activations, &mut y).unwrap();
                run_in_blocks(&simulator, block, &mut operation);
                for (p, (y, &expert)) in y.chunks(rows).zip(&chosen).enumerate() {
                    let expected = &all[(p / 2 * experts + expert as usize) * rows..][..rows];
                    let same = y.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{code} {element:?} product {p}: {y:?}, expected {expected:?}");
                }
            }
        }
    }
}

/// An infinite activation reaches every product once, and no NaN comes from the weights masked beside it; with
/// scales in parts, or states of 0, it may be NaN.
#[test]
fn infinite_activations_stay_infinities() {
    let simulator = Simulator::new("gemv");
    for code in [Family::Wint8.code(0).unwrap(), Family::Ccq275.default_code().unwrap()] {
        let mut case = Case::new(code, 3, 1600, &mut Random(7));
        let layout = case.plans()[0].layout;
        case.planes.bytes_mut()[layout.offsets[0]..][..layout.lens[0]].fill(0xFF);
        case.decode();
        // Tiles of ccq-2.75 meet inside eight weights, between 1489 and 1490.
        for at in [0, 511, 512, 1023, 1599].into_iter().chain(1488..1496) {
            let x: Vec<f32> = (0..1600).map(|i| if i == at { f32::INFINITY } else { 0.5 }).collect();
            for plan in case.plans() {
                check_gemv(&simulator, &case, &plan, Element::F16, 1, &x);
            }
        }
    }
}

/// An operation in blocks of rows, with memory in place of a device: what [`ccq_cuda::Device`] does but for the
/// driver's calls.
fn run_in_blocks(simulator: &Simulator, block: usize, operation: &mut dyn Operation) {
    let (rows, bytes) = (operation.rows(), operation.block_bytes());
    let mut input = Aligned::new(block * bytes.row_input + bytes.extra_input, 0, GUARD);
    for start in rows.clone().step_by(block) {
        let block = start..rows.end.min(start + block);
        let mut output = Aligned::new(block.len() * bytes.row_output, 0, GUARD);
        let used = operation.fill(block.clone(), input.bytes_mut()).unwrap();
        assert!(used <= input.bytes().len());
        input.bytes_mut()[used..].fill(GUARD);
        let (launch, args) = operation.launch(block.clone(), input.address(), output.address_mut()).unwrap();
        simulator.launch(&launch, &args, start % 2 == 1);
        assert!(output.guards_are(GUARD), "written outside the output");
        operation.drain(block, output.bytes());
    }
}

/// Blocks of rows give what the whole matrix gives, to the bit, for every size of block.
#[test]
fn operations_do_not_depend_on_blocks() {
    let simulators = ["dequantize", "squared_error", "gemv"].map(Simulator::new);
    let (rows, in_features) = (7, 100);
    let mut random = Random(8);
    for code in codes() {
        let case = Case::new(code, rows, in_features, &mut random);
        let matrix = Matrix::new(code, rows, in_features, case.views()).unwrap();
        let source: Vec<u8> = (0..rows * in_features * 2).map(|i| (i % 120) as u8 & 0x3F).collect();
        let x: Vec<u8> =
            (0..3 * in_features).flat_map(|i| to_element(Element::Bf16, (i % 9) as f32)).collect();
        let mut found = Vec::new();
        for block in [1, 2, 3, rows] {
            let mut out = vec![GUARD; (rows - 1) * in_features * 4];
            let mut dequantize = Dequantize::new(&matrix, 1..rows, Element::F32, &mut out).unwrap();
            run_in_blocks(&simulators[0], block, &mut dequantize);
            for (bytes, weight) in out.chunks_exact(4).zip(&case.decoded[in_features..]) {
                assert_eq!(bytes, weight.to_le_bytes(), "{}", case.code);
            }

            let source = Source { element: Element::F16, bytes: &source };
            let mut squared_error = SquaredError::new(&matrix, source).unwrap();
            run_in_blocks(&simulators[1], block, &mut squared_error);

            let mut y = vec![f32::NAN; 3 * rows];
            let activations = Activations { element: Element::Bf16, tokens: 3, bytes: &x };
            run_in_blocks(&simulators[2], block, &mut Gemv::new(&matrix, activations, &mut y).unwrap());
            let expected: f64 = case.decoded[..in_features]
                .iter()
                .zip(0..)
                .map(|(&w, i)| f64::from(w) * f64::from(i % 9))
                .sum();
            let size: f64 = case.decoded[..in_features].iter().map(|w| f64::from(w.abs()) * 8.0).sum();
            assert!((f64::from(y[0]) - expected).abs() <= 1e-5 * size, "{}: {} {expected}", case.code, y[0]);
            found.push((squared_error.sums(), y));
        }
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{}: {found:?}", case.code);
    }
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let planes = Planes { code: &[0; 32], super_scale: &[0; 8], ..Planes::default() };
    let matrix = Matrix::new(Family::Wint4.code(0).unwrap(), 2, 8, planes).unwrap();
    let refused = |error: Error, words: &str| assert!(error.to_string().contains(words), "{error}");
    let mut out = [0u8; 64];
    refused(
        Dequantize::new(&matrix, 0..3, Element::F32, &mut out).unwrap_err(),
        "rows 0..3 of a matrix of 2",
    );
    refused(Dequantize::new(&matrix, 0..2, Element::F16, &mut out).unwrap_err(), "64 bytes, expected 32");
    let source = Source { element: Element::Bf16, bytes: &out };
    refused(SquaredError::new(&matrix, source).unwrap_err(), "a source of 64 bytes, expected 32");
    let activations = |element, tokens| Activations { element, tokens, bytes: &out };
    let mut y = [0.0; 8];
    refused(Gemv::new(&matrix, activations(Element::F32, 4), &mut y).unwrap_err(), "expected f16 or bf16");
    refused(Gemv::new(&matrix, activations(Element::F16, 17), &mut y).unwrap_err(), "17 tokens");
    refused(Gemv::new(&matrix, activations(Element::F16, 3), &mut y).unwrap_err(), "64 bytes, expected 48");
    refused(
        Gemv::new(&matrix, activations(Element::F16, 4), &mut y[1..]).unwrap_err(),
        "7 values, expected 8",
    );
    Gemv::new(&matrix, activations(Element::F16, 4), &mut y).unwrap();

    let x = activations(Element::F16, 4);
    let mut moe = |experts, chosen: &[u32], len: usize| {
        MoeGemv::new(&matrix, Routing { experts, chosen }, x, &mut y[..len]).map(|_| ()).unwrap_err()
    };
    refused(moe(3, &[0; 4], 4), "a matrix of 2 rows, expected 3 experts");
    refused(moe(0, &[0; 4], 4), "expected 0 experts");
    refused(moe(2, &[0, 1, 2, 0], 4), "no expert 2: there are 2");
    refused(moe(2, &[0, 1, 1], 3), "3 experts chosen for 4 tokens");
    refused(moe(2, &[], 0), "0 experts chosen for 4 tokens");
    refused(moe(2, &[1; 4], 5), "5 values, expected 4");
}
