//! However large the model, a job keeps within its memory.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use ccq::Container;
use ccq_quantize::{Options, Quality, quantize};
use common::{Folder, run, tool, values};

/// A safetensors file of zeros that take no room on the disk: F16 tensors by name and shape.
fn sparse(folder: &Folder, tensors: &[(&str, &[u64])]) -> PathBuf {
    let mut entries = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<u64>() * 2;
        let entry = serde_json::json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        entries.insert((*name).into(), entry);
    }
    let header = serde_json::to_vec(&entries).unwrap();
    let path = folder.path("sparse.safetensors");
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    path
}

/// The most memory that a process has had resident, maps of files included, in bytes.
fn peak(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) * 1024);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    peak
}

fn convert_within(model: &Path, out: &Path, limit: u64, args: &[&str]) -> u64 {
    let mut command = tool();
    command.args([model, out]).args(["--max-memory", &limit.to_string(), "--quality", "fast"]).args(args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let peak = peak(&mut child);
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn a_model_many_times_larger_than_the_memory() {
    let folder = Folder::new();
    // 800 MB: one matrix of 256 MB, a stack, many small ones, and one to be copied.
    let names: Vec<_> = (0..64).map(|i| format!("layers.{i}.up_proj.weight")).collect();
    let mut tensors: Vec<(&str, &[u64])> =
        names.iter().map(|name| (name.as_str(), &[512, 512][..])).collect();
    tensors.push(("huge.weight", &[16_384, 8192]));
    tensors.push(("experts.down_proj", &[8, 2048, 4096]));
    tensors.push(("embed_tokens.weight", &[45_000, 4096]));
    let model = sparse(&folder, &tensors);
    let mut sizes = Vec::new();
    for (limit, encoding) in [(64 << 20, "wint4"), (72 << 20, "int2"), (200 << 20, "wint4")] {
        let out = folder.path("out.ccq");
        let peak = convert_within(&model, &out, limit, &["--encoding", encoding, "--overwrite"]);
        eprintln!("{encoding}: {} MB resident of {} MB allowed", peak >> 20, limit >> 20);
        assert!(peak > 4 << 20 && peak <= limit, "{encoding}: {peak} bytes, allowed {limit}");
        sizes.push(fs::metadata(&out).unwrap().len());
        Container::open(&out).unwrap();
    }
    assert_eq!(sizes[0], sizes[2]);
    let out = folder.path("none.ccq");
    let args = [model.to_str().unwrap(), out.to_str().unwrap(), "--max-memory", "20MiB"];
    run(args).failed(2, &["--max-memory 20971520: this job needs at least", "--threads"]);
    assert!(!out.exists());
}

/// Neither blocks nor memory nor threads show in what is written, or in the errors that are reported.
#[test]
fn blocks_are_what_wholes_are() {
    let folder = Folder::new();
    let model = folder.path("m.safetensors");
    // Two blocks in each.
    let matrices = [("a.weight", 300usize, 4096usize), ("b.weight", 2200, 500)];
    let weights = matrices.map(|(name, rows, width)| (name, width, values(rows * width, rows as u64)));
    let tensors: Vec<_> = weights
        .iter()
        .map(|(name, width, values)| common::f32_tensor(name, &[values.len() / width, *width], values))
        .collect();
    common::write(&model, &tensors);
    for encoding in ["ccq-2.06", "ccq-2.75", "ccq-3.31", "wint4"] {
        let convert = |memory: &str, threads: &str| {
            let out = folder.path("out.ccq");
            let args = [model.to_str().unwrap(), out.to_str().unwrap(), "--encoding", encoding];
            let more =
                ["--quality", "fast", "--json", "--overwrite", "--max-memory", memory, "--threads", threads];
            let mut json = run([&args[..], &more].concat()).ok().json();
            json["total"]["seconds"] = 0.into();
            (fs::read(&out).unwrap(), json)
        };
        let (bytes, json) = convert("1GiB", "2");
        assert!((bytes.clone(), json) == convert("56MiB", "1"), "{encoding}");
        let container = Container::read(folder.path("out.ccq")).unwrap();
        for (name, width, weights) in &weights {
            let tensor = container.tensor(name).unwrap();
            let ccq::format::Encoding::Coded(code) = tensor.info().encoding() else { panic!("{name}") };
            let options = Options::new(code).with_quality(Quality::Fast);
            let whole = quantize(weights, *width, &options).unwrap();
            let (planes, whole) = (tensor.info().planes(), whole.planes());
            let expected = [whole.code, whole.local_scale, whole.super_scale, whole.cluster];
            let expected: Vec<_> = expected.into_iter().filter(|plane| !plane.is_empty()).collect();
            assert_eq!(planes.len(), expected.len());
            for (plane, expected) in planes.iter().zip(expected) {
                assert!(tensor.plane(plane.kind) == expected, "{encoding} {name} {}", plane.kind.name());
            }
        }
    }
}
