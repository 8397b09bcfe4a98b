//! Every operation on this machine's GPU against the portable decoder, over codes, shapes and tails.
//!
//! Without a device nothing is checked, and every test says `no device: not run`; with CCQ_REQUIRE_GPU=1 that is a
//! failure. CCQ_GPU_QUICK=1 takes the small shapes alone, for tools that slow kernels down. On Linux this program
//! also starts itself again on simulated devices (`sim/driver.cpp`), so that the tests are tested.

#[cfg(target_os = "linux")]
#[path = "simulator/compile.rs"]
mod compile;

use std::env;
use std::io::{self, Write};

use ccq::code::{Cluster, Code, Family, GROUP_SIZES};
use ccq::codec::{Matrix, Planes};
use ccq_cuda::plan::Plan;
use ccq_cuda::{Activations, Device, Element, Routing, Selector, Source};
use half::{bf16, f16};

/// Rows, columns, tokens.
const SMALL: [(usize, usize, usize); 4] = [(1, 1, 1), (33, 70, 9), (16, 513, 8), (5, 100, 16)];
const LARGE: [(usize, usize, usize); 4] = [(67, 4095, 3), (128, 4096, 16), (1000, 2000, 5), (4096, 4096, 1)];

fn set(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| value == "1")
}

/// Prints to the terminal even where the test passes.
fn say(line: &str) {
    // A closed terminal is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}

fn device() -> Option<Device> {
    match Device::open(Selector::Any) {
        Ok(device) => {
            say(&format!("on {:?}", device.info()));
            Some(device)
        }
        Err(error) if error.is_absence() && !set("CCQ_REQUIRE_GPU") => {
            say(&format!("no device: not run ({error})"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }

    /// Values that the element type holds exactly, and their bytes.
    fn values(&mut self, element: Element, count: usize) -> (Vec<f32>, Vec<u8>) {
        let values: Vec<f32> = (0..count).map(|_| round(element, self.unit())).collect();
        let bytes = values.iter().flat_map(|&value| to_bytes(element, value)).collect();
        (values, bytes)
    }
}

fn round(element: Element, value: f32) -> f32 {
    match element {
        Element::F32 => value,
        Element::F16 => f16::from_f32(value).to_f32(),
        Element::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

fn to_bytes(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

/// A matrix of random bits and its decoded weights.
struct Case {
    code: Code,
    rows: usize,
    in_features: usize,
    planes: [Vec<u8>; 4],
    decoded: Vec<f32>,
}

impl Case {
    fn new(code: Code, rows: usize, in_features: usize, random: &mut Random) -> Self {
        let lens = Plan::new(&code, rows, in_features).unwrap().layout.lens;
        let mut planes = lens.map(|len| (0..len).map(|_| random.bits() as u8).collect::<Vec<u8>>());
        for scale in planes[2].chunks_exact_mut(4) {
            scale.copy_from_slice(&(random.unit() * 0.25).to_le_bytes());
        }
        if code.cluster() == Some(Cluster::F32) {
            for value in planes[3].chunks_exact_mut(4) {
                value.copy_from_slice(&(random.unit() * 400.0).to_le_bytes());
            }
        }
        let mut case = Self { code, rows, in_features, planes, decoded: vec![0.0; rows * in_features] };
        let mut decoded = std::mem::take(&mut case.decoded);
        case.matrix().decode_rows_into(0..rows, &mut decoded).unwrap();
        case.decoded = decoded;
        case
    }

    fn matrix(&self) -> Matrix<'_> {
        let [code, local_scale, super_scale, cluster] = &self.planes;
        let planes = Planes { code, local_scale, super_scale, cluster };
        Matrix::new(self.code, self.rows, self.in_features, planes).unwrap()
    }

    fn name(&self) -> String {
        format!("{} {:?}, {} x {}", self.code, self.code.local_scale(), self.rows, self.in_features)
    }

    /// Asserts that `y` is the product of rows from `first` on with `x`, but for the f32 sums' rounding: tensor
    /// cores cut off, and a warp adds up to 3/16 of a row's weights one after the other.
    fn check(&self, first: usize, y: &[f32], x: &[f32]) {
        let tolerance = (self.in_features as f64 * 0.2 + 32.0) * 2f64.powi(-23);
        for (row, &y) in (first..).zip(y) {
            let weights = &self.decoded[row * self.in_features..][..self.in_features];
            let products = || weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let error = (f64::from(y) - expected).abs();
            assert!(error <= tolerance * size, "{} row {row}: {y}, expected {expected}", self.name());
        }
    }
}

/// Every named code at every group size, with both clusters, in small and in large shapes.
fn cases(mut check: impl FnMut(&Case, usize, &mut Random)) {
    let mut random = Random(1);
    let mut codes = Vec::new();
    for code in Family::ALL
        .into_iter()
        .flat_map(|family| GROUP_SIZES.map(|group| family.code(group.into())))
        .flatten()
    {
        codes.push(code);
        if code.cluster().is_some() {
            let group = code.group_size().unwrap_or(0) as u16;
            codes.push(Code::new(code.segments(), 8, group, code.local_scale(), Some(Cluster::F32)).unwrap());
        }
    }
    let large = if set("CCQ_GPU_QUICK") { &LARGE[..0] } else { &LARGE };
    for (i, code) in codes.into_iter().enumerate() {
        let chosen = large.get(i % LARGE.len()); // every code one large shape, every shape some codes
        // Every code two small shapes, too.
        for &(rows, in_features, tokens) in SMALL.iter().skip(i % 2).step_by(2).chain(chosen) {
            check(&Case::new(code, rows, in_features, &mut random), tokens, &mut random);
        }
    }
}

#[test]
fn dequantize_is_bit_exact() {
    let Some(device) = device() else { return };
    cases(|case, _, _| {
        for element in Element::ALL {
            let mut out = vec![0u8; case.decoded.len() * element.bytes()];
            device.dequantize(&case.matrix(), 0..case.rows, element, &mut out).unwrap();
            let expected: Vec<u8> =
                case.decoded.iter().flat_map(|&weight| to_bytes(element, weight)).collect();
            assert!(out == expected, "{} {element:?}", case.name());
        }
    });
}

#[test]
fn squared_error_is_f64_accurate() {
    let Some(device) = device() else { return };
    cases(|case, _, random| {
        for element in Element::ALL {
            let (source, bytes) = random.values(element, case.decoded.len());
            let found = device.squared_error(&case.matrix(), Source { element, bytes: &bytes }).unwrap();
            let errors = || source.iter().zip(&case.decoded).map(|(&w, &d)| f64::from(w) - f64::from(d));
            let expected: f64 = errors().map(|e| e * e).sum();
            let sum = found.sums.squared_error;
            assert!(
                (sum - expected).abs() <= 1e-11 * expected,
                "{} {element:?}: {sum}, {expected}",
                case.name()
            );
            assert_eq!(
                found.sums.max_abs_error,
                errors().map(f64::abs).fold(0.0, f64::max),
                "{}",
                case.name()
            );
        }
    });
}

#[test]
fn gemv_is_f32_accurate() {
    let Some(device) = device() else { return };
    cases(|case, tokens, random| {
        for element in [Element::F16, Element::Bf16] {
            let (x, bytes) = random.values(element, tokens * case.in_features);
            let mut y = vec![f32::NAN; tokens * case.rows];
            device.gemv(&case.matrix(), Activations { element, tokens, bytes: &bytes }, &mut y).unwrap();
            y.chunks(case.rows).zip(x.chunks(case.in_features)).for_each(|(y, x)| case.check(0, y, x));
        }
    });
}

#[test]
fn moe_gemv_is_f32_accurate() {
    let Some(device) = device() else { return };
    cases(|case, tokens, random| {
        let experts = (1..=8).rev().find(|n| case.rows.is_multiple_of(*n)).unwrap();
        let (rows, top_k) = (case.rows / experts, 1 + tokens % 3);
        let chosen: Vec<u32> = (0..tokens * top_k).map(|_| random.bits() % experts as u32).collect();
        for element in [Element::F16, Element::Bf16] {
            let (x, bytes) = random.values(element, tokens * case.in_features);
            let mut y = vec![f32::NAN; chosen.len() * rows];
            let activations = Activations { element, tokens, bytes: &bytes };
            let routing = Routing { experts, chosen: &chosen };
            device.moe_gemv(&case.matrix(), routing, activations, &mut y).unwrap();
            for (p, (y, &expert)) in y.chunks(rows).zip(&chosen).enumerate() {
                let x = &x[p / top_k * case.in_features..][..case.in_features];
                case.check(expert as usize * rows, y, x);
            }
        }
    });
}

/// The same bits from every run: sums are added in a fixed order.
#[test]
fn gemv_is_deterministic() {
    let Some(device) = device() else { return };
    let mut random = Random(2);
    let case = Case::new(Family::Ccq206.default_code().unwrap(), 200, 1000, &mut random);
    let (_, bytes) = random.values(Element::Bf16, 16 * 1000);
    let activations = Activations { element: Element::Bf16, tokens: 16, bytes: &bytes };
    let run = || {
        let mut y = vec![f32::NAN; 16 * 200];
        device.gemv(&case.matrix(), activations, &mut y).unwrap();
        y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = run();
    let runs = if set("CCQ_GPU_QUICK") { 3 } else { 100 };
    assert!((0..runs).all(|_| run() == first));
}

/// These tests on simulated devices, in a process of their own.
#[test]
#[cfg(target_os = "linux")]
fn simulated_driver_passes() {
    let driver = compile::compile("sim/driver.cpp", "ccq-gpu-driver/libcuda.so", &[]);
    let system = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let folder = driver.parent().expect("a path in a folder").display();
    let output = std::process::Command::new(env::current_exe().expect("this program"))
        .args(["--test-threads=1", "--skip", "simulated_driver"])
        .env("LD_LIBRARY_PATH", format!("{folder}:{system}"))
        .env("CCQ_GPU_QUICK", "1")
        .env("CCQ_REQUIRE_GPU", "1")
        .output()
        .expect("this program again");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(said.matches("on DeviceInfo { ordinal: 1, name: \"simulator\"").count(), 5, "{said}");
}
