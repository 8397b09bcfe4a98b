//! Containers back to safetensors.

mod common;

use std::fs;
use std::path::Path;

use ccq::Container;
use common::{Folder, Source, bf16_tensor, f32_tensor, matrix, run, values, write};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

fn model() -> Vec<Source> {
    let odd = (0..24).collect();
    vec![
        matrix("a.weight", 33, 100),
        bf16_tensor("b.weight", &[2, 16, 64], &values(2 * 16 * 64, 4)),
        matrix("embed.weight", 5, 16),
        Source { name: "ids".into(), dtype: Dtype::I64, shape: vec![3], bytes: odd },
        Source { name: "flag".into(), dtype: Dtype::BOOL, shape: vec![1], bytes: vec![1] },
        f32_tensor("empty", &[0, 3], &[]),
        f32_tensor("scalar", &[], &[2.5]),
    ]
}

fn decoded(container: &Container<'_>, name: &str) -> Vec<f32> {
    let tensor = container.tensor(name).unwrap();
    let matrix = tensor.matrix().unwrap();
    let mut values = vec![0.0; matrix.rows() * matrix.in_features()];
    tensor.decode_rows_into(0..matrix.rows(), &mut values).unwrap();
    values
}

fn convert(folder: &Folder, tensors: &[Source], encoding: &str) -> std::path::PathBuf {
    let (source, container) = (folder.path("source.safetensors"), folder.path("model.ccq"));
    write(&source, tensors);
    let args = [source.as_os_str(), container.as_os_str(), "--encoding".as_ref(), encoding.as_ref()];
    run(args).ok();
    container
}

fn export(container: &Path, out: &Path, args: &[&str]) -> common::Run {
    run([container.to_str().unwrap(), out.to_str().unwrap()].iter().chain(args))
}

#[test]
fn quantized_tensors_are_rounded_and_others_copied() {
    let folder = Folder::new();
    let container_path = convert(&folder, &model(), "ccq-2.06");
    let container = Container::open(&container_path).unwrap();
    for (dtype, expected) in [
        (None, [Dtype::F32, Dtype::BF16]),
        (Some("f32"), [Dtype::F32; 2]),
        (Some("f16"), [Dtype::F16; 2]),
        (Some("bf16"), [Dtype::BF16; 2]),
    ] {
        let out = folder.path("out.safetensors");
        let asked: Vec<_> = dtype.iter().flat_map(|dtype| ["--dtype", dtype]).collect();
        export(&container_path, &out, &[&asked[..], &["--overwrite", "--threads", "2"]].concat()).ok();
        let bytes = fs::read(&out).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!(metadata.into_iter().collect::<Vec<_>>(), [("format".into(), "pt".into())]);
        let found = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(found.len(), 7);
        for source in model() {
            let tensor = found.tensor(&source.name).unwrap();
            assert_eq!(tensor.shape(), source.shape);
            assert_eq!(tensor.data().as_ptr().align_offset(1), 0);
            let quantized = ["a.weight", "b.weight"].iter().position(|name| *name == source.name);
            let Some(at) = quantized else {
                assert_eq!((tensor.dtype(), tensor.data()), (source.dtype, &source.bytes[..]));
                continue;
            };
            assert_eq!(tensor.dtype(), expected[at]);
            let decoded = decoded(&container, &source.name);
            let rounded: Vec<u8> = match expected[at] {
                Dtype::F16 => decoded.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
                Dtype::BF16 => decoded.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
                _ => decoded.iter().flat_map(|v| v.to_le_bytes()).collect(),
            };
            assert!(tensor.data() == rounded, "{} as {dtype:?}", source.name);
        }
    }
}

#[test]
fn a_raw_container_comes_back_as_it_was() {
    let folder = Folder::new();
    let container = convert(&folder, &model(), "raw");
    let out = folder.path("out.safetensors");
    let json = export(&container, &out, &["--json", "--dtype", "bf16"]).ok().json();
    assert_eq!((&json["total"]["quantized"], &json["total"]["tensors"]), (&0.into(), &7.into()));
    assert_eq!(json["total"]["bytes_out"], fs::metadata(&out).unwrap().len());
    let bytes = fs::read(&out).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    for source in model() {
        let tensor = found.tensor(&source.name).unwrap();
        assert_eq!((tensor.dtype(), tensor.data()), (source.dtype, &source.bytes[..]));
    }
}

#[test]
fn an_overflow_is_an_error() {
    let folder = Folder::new();
    let mut large = values(8 * 64, 2);
    large[5 * 64 + 7] = 1e6;
    let container = convert(&folder, &[f32_tensor("a.weight", &[8, 64], &large)], "wint8");
    let out = folder.path("out.safetensors");
    let said = ["\"a.weight\"", "at row 5, column 7 overflows F16", "--dtype bf16 or f32"];
    export(&container, &out, &["--dtype", "f16"]).failed(1, &said);
    assert_eq!(folder.names(), ["model.ccq", "source.safetensors"]);
    export(&container, &out, &["--dtype", "bf16"]).ok();
}

#[test]
fn a_damaged_container_is_refused() {
    let folder = Folder::new();
    let container = convert(&folder, &model(), "wint4");
    let out = folder.path("out.safetensors");
    let whole = fs::read(&container).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&container, &damaged).unwrap();
    export(&container, &out, &[]).failed(3, &["model.ccq", "[5.9]", "checksum", "damaged"]);
    fs::write(&container, &whole[..100]).unwrap();
    export(&container, &out, &[]).failed(3, &["model.ccq", "cut short"]);
    fs::write(&container, "").unwrap();
    export(&container, &out, &[]).failed(3, &["model.ccq"]);
    fs::remove_file(&container).unwrap();
    export(&container, &out, &[]).failed(1, &["model.ccq: no such file"]);
    assert_eq!(folder.names(), ["source.safetensors"]);
}

#[test]
fn an_existing_output_is_kept() {
    let folder = Folder::new();
    let container = convert(&folder, &[matrix("a.weight", 8, 64)], "wint4");
    let source = folder.path("source.safetensors");
    export(&container, &source, &[]).failed(1, &["exists", "--overwrite"]);
    export(&container, &source, &["--overwrite"]).ok();
}
