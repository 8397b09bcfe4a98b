//! The library on this machine's GPU, where it has one, and its absence where it has none.
//!
//! Without a device the tests of kernels check nothing, and say so: `no device: not run`. What is checked then
//! is that looking for one gives a typed error, and, on Linux, everything but the driver and the card: this
//! program starts itself again with a driver whose devices are simulated (`sim/driver.cpp`).

#[cfg(target_os = "linux")]
#[path = "simulator/compile.rs"]
mod compile;

use std::io::{self, Write};

use ccq::code::{Code, Family, GROUP_SIZES};
use ccq::codec::{Matrix, Planes};
use ccq_cuda::operation::Dequantize;
use ccq_cuda::plan::Plan;
use ccq_cuda::{Activations, Device, Element, Error, Selector, Source};
use half::{bf16, f16};

/// Prints to the terminal even where the test passes, whose own output is not shown.
fn say(line: &str) {
    // A closed terminal is no reason to fail.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The device, or `None` where there is none, unless CCQ_REQUIRE_GPU=1; any other failure is the test's.
fn device() -> Option<Device> {
    match Device::open(Selector::Any) {
        Ok(device) => {
            say(&format!("on {:?}", device.info()));
            Some(device)
        }
        Err(error) if error.is_absence() && std::env::var_os("CCQ_REQUIRE_GPU").is_none_or(|v| v != "1") => {
            say(&format!("no device: not run ({error})"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn absence_is_an_error_value() {
    let found = Device::probe();
    match (&found, Device::open(Selector::Ordinal(999))) {
        (Ok(devices), Err(Error::NoSuchDevice { ordinal: 999, count })) => assert_eq!(count, devices.len()),
        (Err(probed), Err(opened)) => {
            assert!(probed.is_absence() && opened.is_absence(), "{probed}; {opened}");
            assert_eq!(probed.to_string(), opened.to_string());
            assert!(probed.to_string().contains("CPU") || probed.to_string().contains("GPU"), "{probed}");
        }
        (found, opened) => panic!("{found:?}; {opened:?}"),
    }
}

/// The planes of a matrix of random bits.
struct Random {
    planes: [Vec<u8>; 4],
    code: Code,
    rows: usize,
    in_features: usize,
}

impl Random {
    fn new(code: Code, rows: usize, in_features: usize) -> Self {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let lens = Plan::new(&code, rows, in_features).unwrap().layout.lens;
        let mut planes = lens.map(|len| (0..len).map(|_| random()).collect::<Vec<u8>>());
        for (i, scale) in planes[2].chunks_exact_mut(4).enumerate() {
            scale.copy_from_slice(&(0.001 * (i % 7) as f32 - 0.002).to_le_bytes());
        }
        Self { planes, code, rows, in_features }
    }

    fn matrix(&self) -> Matrix<'_> {
        let [code, local_scale, super_scale, cluster] = &self.planes;
        let planes = Planes { code, local_scale, super_scale, cluster };
        Matrix::new(self.code, self.rows, self.in_features, planes).unwrap()
    }

    fn decoded(&self) -> Vec<f32> {
        let mut decoded = vec![0.0; self.rows * self.in_features];
        self.matrix().decode_rows_into(0..self.rows, &mut decoded).unwrap();
        decoded
    }
}

fn cases() -> impl Iterator<Item = Random> {
    let codes = Family::ALL.into_iter().flat_map(|f| GROUP_SIZES.map(|group| f.code(group.into()))).flatten();
    codes
        .flat_map(|code| [(1, 1), (3, 100), (5, 4095), (67, 384)].map(|(rows, n)| Random::new(code, rows, n)))
}

fn to_bytes(element: Element, values: &[f32]) -> Vec<u8> {
    let bytes = |&value: &f32| match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

#[test]
fn dequantize_is_bit_exact_on_the_device() {
    let Some(device) = device() else { return };
    for case in cases() {
        let decoded = case.decoded();
        for element in Element::ALL {
            let mut out = vec![0u8; decoded.len() * element.bytes()];
            device.dequantize(&case.matrix(), 0..case.rows, element, &mut out).unwrap();
            assert!(out == to_bytes(element, &decoded), "{} {element:?}", case.code);
        }
    }
}

/// More rows than two blocks hold: every slot is used again, and a range begins inside the matrix.
#[test]
fn matrices_stream_through_the_device() {
    let Some(device) = device() else { return };
    let case = Random::new(Family::Ccq206.default_code().unwrap(), 6000, 8192);
    let decoded = case.decoded();
    let mut out = vec![0u8; (6000 - 17) * 8192 * 4];
    device.dequantize(&case.matrix(), 17..6000, Element::F32, &mut out).unwrap();
    assert!(out == to_bytes(Element::F32, &decoded[17 * 8192..]));

    let source = vec![0u8; decoded.len() * 4];
    let source = Source { element: Element::F32, bytes: &source };
    let whole = device.squared_error(&case.matrix(), source).unwrap();
    let again = device.squared_error(&case.matrix(), source).unwrap();
    assert_eq!(whole.sums, again.sums);
    let energy: f64 = decoded.iter().map(|&d| f64::from(d) * f64::from(d)).sum();
    assert!((whole.sums.squared_error - energy).abs() <= 1e-9 * energy);
}

#[test]
fn squared_error_is_accurate_on_the_device() {
    let Some(device) = device() else { return };
    for case in cases() {
        let decoded = case.decoded();
        let source: Vec<f32> = decoded.iter().enumerate().map(|(i, d)| d + (i % 5) as f32 * 0.125).collect();
        let bytes = to_bytes(Element::F32, &source);
        let source_bytes = Source { element: Element::F32, bytes: &bytes };
        let found = device.squared_error(&case.matrix(), source_bytes).unwrap();
        let errors = source.iter().zip(&decoded).map(|(&w, &d)| f64::from(w) - f64::from(d));
        let expected: f64 = errors.clone().map(|e| e * e).sum();
        assert!((found.sums.squared_error - expected).abs() <= 1e-12 * expected, "{}", case.code);
        assert_eq!(found.sums.max_abs_error, errors.map(f64::abs).fold(0.0, f64::max), "{}", case.code);
        assert_eq!(found.weights, decoded.len() as u64);
        assert!(found.kernel_milliseconds > 0.0 && found.decode_milliseconds > 0.0, "{found:?}");
    }
}

#[test]
fn gemv_is_accurate_on_the_device() {
    let Some(device) = device() else { return };
    for (case, tokens) in cases().zip([1, 2, 4, 7, 16].into_iter().cycle()) {
        let decoded = case.decoded();
        for element in [Element::F16, Element::Bf16] {
            let x: Vec<f32> = (0..tokens * case.in_features).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
            let bytes = to_bytes(element, &x);
            let mut y = vec![f32::NAN; tokens * case.rows];
            device.gemv(&case.matrix(), Activations { element, tokens, bytes: &bytes }, &mut y).unwrap();
            for (i, &y) in y.iter().enumerate() {
                let (x_at, w_at) = (i / case.rows * case.in_features, i % case.rows * case.in_features);
                let products = || {
                    let (x, w) = (&x[x_at..][..case.in_features], &decoded[w_at..][..case.in_features]);
                    x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w))
                };
                let error = (f64::from(y) - products().sum::<f64>()).abs();
                assert!(error <= 1e-5 * products().map(f64::abs).sum::<f64>(), "{} {element:?}", case.code);
            }
        }
    }
}

/// Operations that stay on the device give the same output after any number of launches.
#[test]
fn residents_can_be_launched_again() {
    let Some(device) = device() else { return };
    let case = Random::new(Family::Ccq25.default_code().unwrap(), 67, 384);
    let matrix = case.matrix();
    let mut outs = [vec![0u8; 66 * 384 * 2], vec![0u8; 66 * 384 * 2], vec![0u8; 384 * 2]];
    let rows = [1..67, 1..67, 5..6];
    let operations = rows.into_iter().zip(&mut outs);
    let operations =
        operations.map(|(rows, out)| Dequantize::new(&matrix, rows, Element::Bf16, out).unwrap());
    let residents = device.residents(operations).unwrap();
    for _ in 0..3 {
        assert!(residents.launch().unwrap() > 0.0);
    }
    assert_eq!(residents.finish().unwrap().len(), 3);
    let decoded = case.decoded();
    assert!(outs[0] == to_bytes(Element::Bf16, &decoded[384..]) && outs[1] == outs[0]);
    assert!(outs[2] == to_bytes(Element::Bf16, &decoded[5 * 384..6 * 384]));
    assert!(device.copy_bandwidth(1 << 20, 3).unwrap() > 0.0);
}

/// The dense product is that of the same matrix, the right way round.
#[test]
fn cublas_multiplies_what_is_decoded() {
    let Some(device) = device() else { return };
    let cublas = match device.cublas() {
        Ok(cublas) => cublas,
        Err(error) => {
            say(&format!("no cuBLAS: not run ({error})"));
            assert!(matches!(error, Error::NoCublas { .. }));
            return;
        }
    };
    say(&format!("with {}", cublas.library()));
    let (rows, in_features, tokens) = (67, 384, 3);
    let case = Random::new(Family::Wint8.default_code().unwrap(), rows, in_features);
    let x: Vec<f32> = (0..tokens * in_features).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect();
    let bytes = to_bytes(Element::Bf16, &x);
    let activations = Activations { element: Element::Bf16, tokens, bytes: &bytes };
    let product = cublas.product(&case.matrix(), activations, 2).unwrap();
    assert!(product.launch().unwrap() > 0.0);
    let decoded = case.decoded();
    for (i, y) in product.finish().unwrap().into_iter().enumerate() {
        let (x, w) = (&x[i / rows * in_features..], &decoded[i % rows * in_features..][..in_features]);
        let products = || x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
        let error = (f64::from(y) - products().sum::<f64>()).abs();
        assert!(error <= products().map(f64::abs).sum::<f64>() / 128.0, "{i}");
    }
}

/// What decoding a small matrix on any device comes to, said for whoever started this program.
#[test]
fn a_small_matrix_is_decoded_or_not() {
    let case = Random::new(Family::Ccq275.default_code().unwrap(), 3, 100);
    let mut out = [0u8; 1200];
    let result = Device::open(Selector::Any)
        .and_then(|device| device.dequantize(&case.matrix(), 0..3, Element::F32, &mut out));
    match result {
        Ok(_) => assert!(out.as_slice() == to_bytes(Element::F32, &case.decoded())),
        Err(error) => say(&format!("small matrix: {error}")),
    }
}

/// The library on a driver with simulated devices, in a process of its own.
#[cfg(target_os = "linux")]
mod simulated_driver {
    use std::process::{Command, Output};

    use super::compile::compile;

    /// Runs tests of this program with the driver, and a fault of it.
    fn run(library: &str, defines: &[&str], (fault, memory): (&str, usize), tests: &[&str]) -> Output {
        let driver = compile("sim/driver.cpp", library, defines);
        compile("sim/cublas.cpp", "ccq-driver/libcublas.so.13", &[]);
        let system = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let folder = driver.parent().expect("a path in a folder").display();
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--test-threads=1", "--skip", "simulated_driver"])
            .args(tests)
            .env("LD_LIBRARY_PATH", format!("{folder}:{system}"))
            .env("CCQ_SIM_DRIVER", fault)
            .env("CCQ_SIM_MEMORY", memory.to_string())
            .output()
            .expect("this program again")
    }

    #[test]
    fn serves_every_operation() {
        let output = run("ccq-driver/libcuda.so", &[], ("", 1 << 30), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(said.matches("on DeviceInfo { ordinal: 1, name: \"simulator\"").count(), 6, "{said}");
        assert!(said.contains("with libcublas.so.13"), "{said}");
    }

    /// Matrices on devices with room for a few rows of them.
    #[test]
    fn blocks_shrink_to_the_memory_there_is() {
        for (memory, test) in [(100_000, "stream"), (24_000, "squared_error")] {
            let output = run("ccq-driver/libcuda.so", &[], ("", memory), &[test]);
            let said = String::from_utf8_lossy(&output.stderr);
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && out.contains("1 passed"), "{memory}: {out}{said}");
        }
    }

    #[test]
    fn faults_are_error_values() {
        for (fault, expected) in [
            ("no-device", "no CUDA device: the driver is there"),
            ("stub", "no CUDA driver"),
            ("old-driver", "serves CUDA 10.2, expected 11.0 or later"),
            ("old-device", "simulator (CUDA device 1) has compute capability 7.5"),
            ("no-memory", "out of the GPU's memory: "),
            ("no-pinned-memory", "out of page-locked memory: "),
            ("no-kernel", "cuModuleGetFunction failed with CUDA error 500 (CUDA_ERROR_NOT_FOUND)"),
            ("no-launch", "cuLaunchKernel failed with CUDA error 719 (CUDA_ERROR_SIMULATED)"),
            ("unknown-code", "cuStreamCreate failed with CUDA error 987654 (unknown)"),
        ] {
            let output = run("ccq-driver/libcuda.so", &[], (fault, 1 << 30), &["absence", "small_matrix"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains(expected), "{fault}: {said}");
        }
        let output =
            run("ccq-driver-old/libcuda.so", &["-DCCQ_NO_KERNELS"], ("", 1 << 30), &["small_matrix"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("the CUDA driver lacks cuLaunchKernel"), "{said}");
    }
}
