//! `--device`, on a driver with simulated devices: device 0 is too old, device 1 serves. It is put in front of the
//! system's driver, and computes what the kernels compute.

#[path = "../../../../kernels/tests/simulator/compile.rs"]
mod compile;

use std::fs;
use std::path::PathBuf;

use ccq::code::{Cluster, Code, Family, GROUP_SIZES, LocalScale, Segment};
use ccq::codec::ClusterParams;
use ccq::format::Dtype;
use serde_json::{Value, json};

use crate::fixture::{Folder, Run, Tensor, tensors};

const AGAINST: [&str; 4] = ["model.ccq", "--source", "source.safetensors", "--json"];
const FIGURES: [&str; 4] = ["relative_mse", "snr_db", "max_abs_error", "cosine"];

/// The folder of the driver, without or with a cuBLAS beside it; the system's is hidden by files that are none.
fn driver(cublas: bool) -> PathBuf {
    let name = if cublas { "verify-driver-cublas" } else { "verify-driver" };
    let library = compile::compile("sim/driver.cpp", &format!("{name}/libcuda.so"), &[]);
    let folder = library.parent().unwrap();
    fs::write(folder.join("libcublas.so.13"), "not a library").unwrap();
    if cublas {
        compile::compile("sim/cublas.cpp", &format!("{name}/libcublas.so.12"), &[]);
    } else {
        fs::write(folder.join("libcublas.so.12"), "not a library").unwrap();
    }
    folder.into()
}

/// What is wrong with the driver, and its environment.
#[derive(Clone, Copy, Default)]
struct Machine {
    fault: &'static str,
    memory: Option<usize>,
    cublas: bool,
}

impl Machine {
    fn with(fault: &'static str) -> Self {
        Self { fault, ..Self::default() }
    }

    fn run(self, folder: &Folder, args: &[&str]) -> Run {
        let mut command = folder.command(args);
        command.env("LD_LIBRARY_PATH", driver(self.cublas)).env("CCQ_SIM_DRIVER", self.fault);
        if let Some(bytes) = self.memory {
            command.env("CCQ_SIM_MEMORY", bytes.to_string());
        }
        Run::of(&mut command)
    }

    /// The report of a comparison.
    #[track_caller]
    fn compare(self, folder: &Folder, device: &str) -> Value {
        let run = self.run(folder, &[&AGAINST[..], &["--device", device]].concat()).expect(0, &[]);
        assert_eq!(run.err, "");
        run.json()
    }
}

/// Asserts that two reports have the same figures, to 1e-6.
#[track_caller]
fn agree(cpu: &Value, cuda: &Value) {
    let near = |a: &Value, b: &Value, what: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-6 * a.abs(), "{a} {b} in {what}"),
        (None, None) => {}
        _ => panic!("{a} {b} in {what}"),
    };
    near(&cpu["total"]["relative_mse"], &cuda["total"]["relative_mse"], &cuda["total"]);
    let (cpu, cuda) = (cpu["tensors"].as_array().unwrap(), cuda["tensors"].as_array().unwrap());
    assert_eq!(cpu.len(), cuda.len());
    for (a, b) in cpu.iter().zip(cuda) {
        assert_eq!((&a["name"], &a["note"]), (&b["name"], &b["note"]));
        FIGURES.iter().for_each(|key| near(&a[key], &b[key], b));
    }
}

fn decoded_on<'a>(report: &'a Value, name: &str) -> &'a Value {
    let tensors = report["tensors"].as_array().unwrap();
    &tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["decoded_on"]
}

/// Every encoding and group size, a few codes that have no kernels of their own, ragged shapes, all source types.
#[test]
fn a_gpu_finds_the_figures_of_the_cpu() {
    let named = Family::ALL.into_iter().flat_map(|family| GROUP_SIZES.map(|group| family.code(group.into())));
    let custom = [
        Code::new(&[Segment::new(5, 4, 1)], 8, 64, LocalScale::Nibble, None),
        Code::new(&[Segment::new(6, 4, 3)], 8, 0, LocalScale::None, Some(Cluster::Q8)),
    ];
    let codes: Vec<Code> = named.chain(custom).flatten().collect();
    assert!(codes.len() > 20);
    let shapes: [&[usize]; 5] = [&[1, 1], &[3, 100], &[2, 2, 65], &[7, 384], &[1, 4095]];
    let types = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    let mut tensors: Vec<_> = codes
        .into_iter()
        .enumerate()
        .flat_map(|(at, code)| {
            shapes.iter().enumerate().map(move |(i, shape)| {
                let name = format!("{at}.{i} {code}");
                Tensor::f32(&name, shape, None).coded(code).stored_as(types[(at + i) % types.len()])
            })
        })
        .collect();
    tensors.push(with_f32_cluster("f32 cluster", 5, 200));
    let folder = Folder::new();
    folder.container("model.ccq", &tensors);
    folder.source("source.safetensors", &tensors);
    let machine = Machine::default();
    let (cpu, cuda) = (machine.compare(&folder, "cpu"), machine.compare(&folder, "cuda:1"));
    agree(&cpu, &cuda);
    for tensor in cuda["tensors"].as_array().unwrap() {
        assert_eq!(tensor["decoded_on"], "cuda", "{tensor}");
        // One weight may be met exactly.
        let exact = tensor["shape"] == json!([1, 1]);
        assert!(tensor["relative_mse"].as_f64().is_some_and(|mse| mse > 0.0 || exact), "{tensor}");
        // One block, whose decoding is one kernel, which takes a millisecond by the simulated clock.
        let weights: f64 = tensor["shape"].as_array().unwrap().iter().filter_map(Value::as_f64).product();
        assert_eq!(tensor["decode"]["seconds"], 1e-3, "{tensor}");
        let speed = tensor["decode"]["weights_per_second"].as_f64().unwrap();
        assert!((speed / weights - 1e3).abs() < 1e-6, "{tensor}");
    }
    assert_eq!(cuda["device"]["name"], "simulator");
    assert_eq!((&cuda["device"]["ordinal"], &cuda["device"]["driver"]), (&json!(1), &json!("13.0")));
}

/// A matrix of any bits with parameters in f32, which the quantizer does not write.
fn with_f32_cluster(name: &str, rows: usize, in_features: usize) -> Tensor {
    let known = Family::Ccq206.default_code().unwrap();
    let (segments, scale) = (known.segments(), known.local_scale());
    let code = Code::new(segments, 8, 64, scale, Some(Cluster::F32)).unwrap();
    let sizes = code.plane_sizes(rows as u64, in_features as u64).unwrap();
    let any = |len: u64| (0..len).map(|at| (at * 167 + at / 7) as u8).collect::<Vec<_>>();
    let mut cluster = vec![0; sizes.cluster as usize];
    let pairs = cluster.chunks_exact_mut(ClusterParams::stored_bytes(Cluster::F32));
    pairs.for_each(|pair| ClusterParams::F32 { scale: 120.0, zp: 1234.0 }.write(pair));
    let super_scale = 0.01f32.to_le_bytes().repeat(sizes.super_scale as usize / 4);
    let planes = [any(sizes.code), any(sizes.local_scale), super_scale, cluster];
    Tensor::f32(name, &[rows, in_features], None).coded(code).with_planes(&planes)
}

/// Raw tensors, empty ones, sources that are not finite: what the kernels cannot tell, the CPU does.
#[test]
fn the_cpu_compares_what_kernels_cannot() {
    let folder = Folder::model();
    let machine = Machine::default();
    for device in ["auto", "cuda", "cuda:1"] {
        let (cpu, cuda) = (machine.compare(&folder, "cpu"), machine.compare(&folder, device));
        agree(&cpu, &cuda);
        assert_eq!((&cpu["device"]["kind"], &cuda["device"]["kind"]), (&json!("cpu"), &json!("cuda")));
    }
    let mut theirs = tensors();
    theirs[4].bytes[4 * 70..4 * 71].copy_from_slice(&f32::NAN.to_le_bytes());
    theirs[5].bytes[4 * 301..4 * 302].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    folder.source("source.safetensors", &theirs);
    let report = machine.compare(&folder, "cuda");
    agree(&machine.compare(&folder, "cpu"), &report);
    assert_eq!(report["tensors"][4]["note"], "the source has NaN at [0, 1, 6]: no figures");
    assert_eq!(report["tensors"][5]["note"], "the source has -inf at [1, 45]: no figures");
    assert_eq!(decoded_on(&report, "layer.0.weight"), "cuda");
    assert!(decoded_on(&report, "a.embedding").is_null());
}

/// FP8 weights times their scales are compared as they are, though the container has bfloat16 on record.
#[test]
fn sources_that_would_be_rounded_are_not() {
    let (rows, columns) = (6, 200);
    let folder = Folder::new();
    let weights: Vec<u8> = (0..rows * columns).map(|at| ((at * 37 % 120) | ((at % 3) << 7)) as u8).collect();
    let scales: Vec<u8> = [0.0123f32, 0.0234].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let plain =
        |name, shape: &[usize], dtype, bytes: &[u8]| Tensor::f32(name, shape, None).bytes(dtype, bytes);
    let source = [
        plain("w.weight", &[rows, columns], Dtype::F8E4M3, &weights),
        plain("w.weight_scale_inv", &[1, 2], Dtype::F32, &scales),
    ];
    folder.source("source.safetensors", &source);
    let model = ccq_import::Model::open(&folder.path("source.safetensors")).unwrap();
    let mut values = Vec::new();
    model.decode_f32(&model.tensors()[0], 0..(rows * columns) as u64, &mut values).unwrap();
    let ours = Tensor::of("w.weight", &[rows, columns], Some(Family::Wint8), &values).bf16();
    folder.container("model.ccq", &[ours]);
    let machine = Machine::default();
    let (cpu, cuda) = (machine.compare(&folder, "cpu"), machine.compare(&folder, "cuda"));
    agree(&cpu, &cuda);
    assert_eq!(decoded_on(&cuda, "w.weight"), "cuda");
}

#[test]
fn auto_says_once_why_it_is_the_cpu() {
    let folder = Folder::model();
    for (fault, reason) in [
        ("stub", "no CUDA driver: install NVIDIA's driver"),
        ("no-device", "no CUDA device: the driver is there but finds no GPU"),
        ("old-driver", "the CUDA driver serves CUDA 10.2, expected 11.0 or later"),
        ("old-device", "simulator (CUDA device 1) has compute capability 7.5"),
    ] {
        let run = Machine::with(fault).run(&folder, &AGAINST).expect(0, &[]);
        let note = format!("note: on the CPU: {reason}");
        assert!(run.err.starts_with(&note) && run.err.lines().count() == 1, "{run:#?}");
        assert_eq!(run.json()["device"]["kind"], "cpu");
        let quiet = Machine::with(fault).run(&folder, &[&AGAINST[..], &["--quiet"]].concat()).expect(0, &[]);
        assert_eq!(quiet.err, "");
        let bench = ["bench", "model.ccq", "--encoding", "wint4", "--seconds", "0.01", "--json"];
        let run = Machine::with(fault).run(&folder, &bench).expect(0, &[]);
        assert!(run.err.starts_with(&note) && run.err.lines().count() == 1, "{run:#?}");
    }
}

#[test]
fn a_gpu_that_is_asked_for_and_fails_ends_the_tool() {
    let folder = Folder::model();
    for (fault, device, reason) in [
        ("", "cuda:7", "no CUDA device 7: there are 2, from 0 on"),
        ("", "cuda:0", "old simulator (CUDA device 0) has compute capability 7.5, expected 8.0 or later"),
        ("stub", "cuda:0", "no CUDA driver: install NVIDIA's driver"),
        ("no-device", "cuda", "no CUDA device: the driver is there but finds no GPU"),
        ("old-driver", "cuda:1", "serves CUDA 10.2, expected 11.0 or later: update it"),
        ("no-memory", "cuda:1", "out of the GPU's memory"),
        ("no-pinned-memory", "cuda:1", "out of page-locked memory"),
        ("no-kernel", "cuda:1", "cuModuleGetFunction failed with CUDA error 500 (CUDA_ERROR_NOT_FOUND)"),
        ("no-launch", "cuda:1", "cuLaunchKernel failed with CUDA error 719"),
        ("unknown-code", "cuda:1", "cuStreamCreate failed with CUDA error 987654 (unknown)"),
    ] {
        let start = format!("error: --device {device}: ");
        let texts = [start.as_str(), reason, "--device cpu does without a GPU"];
        let check = Machine::with(fault).run(&folder, &[&AGAINST[..], &["--device", device]].concat());
        assert_eq!(check.expect(5, &texts).out, "");
        let bench = ["bench", "model.ccq", "--seconds", "0.01", "--device", device];
        assert_eq!(Machine::with(fault).run(&folder, &bench).expect(5, &texts).out, "");
    }
    let run = Machine::default().run(&folder, &["model.ccq", "--device", "cpu"]);
    run.expect(2, &["--source"]);
}

/// A GPU that is found and then fails is given up, with one line, and the report is that of the CPU.
#[test]
fn auto_goes_on_without_a_gpu_that_fails() {
    let folder = Folder::model();
    let cpu = Machine::default().compare(&folder, "cpu");
    for (fault, reason) in [
        ("no-memory", "out of the GPU's memory"),
        ("no-pinned-memory", "out of page-locked memory"),
        ("no-launch", "cuLaunchKernel failed"),
        ("unknown-code", "CUDA error 987654"),
    ] {
        let run = Machine::with(fault).run(&folder, &AGAINST).expect(0, &[reason]);
        let note = "note: on the CPU from tensor `layer.0.weight` on: ";
        assert!(run.err.starts_with(note) && run.err.lines().count() == 1, "{run:#?}");
        let report = run.json();
        agree(&cpu, &report);
        assert_eq!(
            (decoded_on(&report, "layer.0.weight"), &report["device"]["kind"]),
            (&json!("cpu"), &json!("cpu"))
        );
    }
}

/// The card has room for a part of the file alone: blocks shrink, and the figures stay.
#[test]
fn a_file_larger_than_the_cards_memory_verifies() {
    let folder = Folder::new();
    let model = [
        Tensor::f32("a", &[500, 256], Some(Family::Wint8)),
        Tensor::f32("bb", &[300, 512], Some(Family::Ccq206)).bf16(),
    ];
    folder.container("model.ccq", &model);
    folder.source("source.safetensors", &model);
    let small = Machine { memory: Some(40_000), ..Machine::default() };
    assert!(folder.read("model.ccq").len() > 4 * 40_000);
    let (whole, parts) = (Machine::default().compare(&folder, "cuda"), small.compare(&folder, "cuda"));
    for (a, b) in whole["tensors"].as_array().unwrap().iter().zip(parts["tensors"].as_array().unwrap()) {
        FIGURES.iter().for_each(|key| assert_eq!(a[key], b[key], "{key} of {b}"));
        assert_eq!(b["decoded_on"], "cuda");
    }
    let tiny = Machine { memory: Some(1000), ..Machine::default() };
    let run = tiny
        .run(&folder, &AGAINST)
        .expect(0, &["note: on the CPU from tensor `a` on: out of the GPU's memory"]);
    assert_eq!(
        run.json()["tensors"][1]["relative_mse"],
        small.compare(&folder, "cpu")["tensors"][1]["relative_mse"]
    );
}

#[test]
fn the_bench_is_the_same_on_a_gpu() {
    let folder = Folder::model();
    let quick = ["bench", "--seconds", "0.01", "--device", "cuda"];
    for cublas in [false, true] {
        let machine = Machine { cublas, ..Machine::default() };
        let shapes = ["--shape", "16x256", "--encoding", "ccq-2.06", "ccq-5.5", "wint4"];
        let run = machine.run(&folder, &[&quick[..], &shapes, &["--json"]].concat()).expect(0, &[]);
        assert_eq!(run.err, "");
        let report = run.json();
        assert_eq!((&report["device"]["kind"], &report["device"]["threads"]), (&json!("cuda"), &Value::Null));
        assert_eq!(report["device"]["cache_bytes"], 1 << 12);
        let copy = report["copy_bytes_per_second"].as_f64().unwrap();
        let rows = report["results"].as_array().unwrap();
        let kinds: Vec<_> =
            rows.iter().map(|row| (row["operation"].as_str(), row["element"].as_str())).collect();
        let products = [(Some("product"), Some("bf16")); 3];
        let decodes = ["f32", "f16", "bf16"].map(|element| (Some("dequantize"), Some(element)));
        assert_eq!(kinds, [decodes, products, decodes, products, decodes, products].concat());
        for row in rows {
            let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
            let size = if row["element"] == "f32" { 4.0 } else { 2.0 };
            let written = if row["operation"] == "dequantize" { 16.0 * 256.0 * size } else { 0.0 };
            let bytes = number("stored_bytes") + written;
            let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b} in {row}");
            // By the simulated clock a kernel takes a millisecond.
            near(number("median_seconds"), 1e-3);
            near(number("copy_share"), bytes / number("median_seconds") / copy);
            near(number("weights_per_second"), 4096.0 / number("median_seconds"));
            assert!(row["memory_share"].is_null() && row["single_seconds"].is_null(), "{row}");
            assert!(row["cold"] == true && number("sets") * bytes >= f64::from(2 << 12), "{row}");
            assert_eq!(row["cublas_seconds"].is_number(), cublas && row["operation"] == "product", "{row}");
        }
        let note = report["notes"][0].as_str().unwrap();
        let texts = if cublas {
            ["cuBLAS bf16: ", "libcublas.so.12"]
        } else {
            ["without cuBLAS: libcublas.so.13 and libcublas.so.12 do not load", "LD_LIBRARY_PATH"]
        };
        assert!(note.starts_with(texts[0]) && note.contains(texts[1]), "{note}");

        let table = machine.run(&folder, &[&quick[..], &shapes].concat());
        let table =
            table.expect(0, &["simulator (cuda:1, driver for CUDA 13.0)", "bf16 to memory", "M = 16"]);
        assert_eq!(table.out.contains("speed-up"), cublas, "{table:#?}");
    }
    let layers = [&quick[..], &["model.ccq", "--encoding", "ccq-2.75"]].concat();
    Machine::default().run(&folder, &layers).expect(0, &["layer.10.weight", "6x64", "f16 to memory"]);
}

/// A driver before CUDA 11.4 compares, but cannot record what a bench replays.
#[test]
fn old_drivers_compare_but_have_no_bench() {
    let folder = Folder::model();
    let driver = compile::compile("sim/driver.cpp", "verify-driver-11/libcuda.so", &["-DCCQ_NO_GRAPHS"]);
    let run = |args: &[&str]| {
        let mut command = folder.command(args);
        Run::of(command.env("LD_LIBRARY_PATH", driver.parent().unwrap()))
    };
    let report = run(&[&AGAINST[..], &["--device", "cuda"]].concat()).expect(0, &[]).json();
    assert_eq!(report["device"]["kind"], "cuda");
    let bench = run(&["bench", "--shape", "8x64", "--seconds", "0.01", "--device", "cuda"]);
    bench.expect(
        5,
        &["error: --device cuda: the CUDA driver lacks cuStreamBeginCapture_v2: install a newer one"],
    );
}

/// Copies become fewer where memory is short.
#[test]
fn benches_fit_the_memory_there_is() {
    let folder = Folder::new();
    let args = [
        "bench",
        "--seconds",
        "0.01",
        "--device",
        "cuda",
        "--shape",
        "16x512",
        "--encoding",
        "wint8",
        "--json",
    ];
    let sets = |memory| {
        let report = Machine { memory, ..Machine::default() }.run(&folder, &args).expect(0, &[]).json();
        report["results"].as_array().unwrap().iter().map(|row| row["sets"].clone()).collect::<Vec<_>>()
    };
    assert!(sets(None).iter().all(|sets| *sets == 2));
    // Not for two copies of 8 KiB and their values in f32.
    assert_eq!(sets(Some(64_000))[..3], [json!(1), json!(2), json!(2)]);
}
