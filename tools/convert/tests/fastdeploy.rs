//! FastDeploy's checkpoints to containers and back.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use ccq::Container;
use ccq::code::Cluster;
use common::{Folder, Run, Source, bf16_tensor, f32_tensor, matrix, run, tool, values, write};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

const CONFIG: &str = r#"{"model_type": "ernie4_5_moe", "quantization_config": {"quantization": "wint2"}}"#;

fn bytes(count: usize, seed: u64) -> Vec<u8> {
    values(count, seed).iter().map(|value| (value * 1e4) as i32 as u8).collect()
}

fn tensor(name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Source {
    Source { name, dtype, shape: shape.into(), bytes }
}

/// A layer in WINT2, with super scales of that dtype.
fn wint2(base: &str, rows: usize, in_features: usize, dtype: Dtype) -> Vec<Source> {
    let (words, groups) = (in_features / 4, in_features / 64);
    let mut scales = bytes(groups.div_ceil(2) * rows, 2);
    if groups % 2 == 1 {
        let last = scales.len() - rows;
        scales[last..].iter_mut().for_each(|byte| *byte &= 0xF0);
    }
    let floats = |values: Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let super_scales: Vec<f32> = values(rows, 3);
    let super_scales = match dtype {
        Dtype::BF16 => super_scales.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        Dtype::F16 => super_scales.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        _ => floats(super_scales),
    };
    let scale = values(rows, 4).iter().map(|value| 110.0 + value * 40.0).collect();
    let zp = values(rows, 5).iter().map(|value| 1300.0 + value * 900.0).collect();
    vec![
        tensor(format!("{base}.quant_weight"), Dtype::U8, &[words, rows], bytes(words * rows, 1)),
        tensor(format!("{base}.weight_scale"), Dtype::U8, &[groups.div_ceil(2), rows], scales),
        tensor(format!("{base}.super_scales"), dtype, &[rows], super_scales),
        tensor(format!("{base}.code_scale"), Dtype::F32, &[rows], floats(scale)),
        tensor(format!("{base}.code_zp"), Dtype::F32, &[rows], floats(zp)),
    ]
}

fn wint25(base: &str, rows: usize, in_features: usize) -> Vec<Source> {
    let words = in_features / 64 * 10;
    vec![
        tensor(format!("{base}.quant_weight"), Dtype::U16, &[words, rows], bytes(words * rows * 2, 6)),
        bf16_tensor(&format!("{base}.super_scales"), &[rows], &values(rows, 7)),
    ]
}

fn checkpoint() -> Vec<Source> {
    let expert = |number: usize, layer: &str| format!("ernie.layers.7.mlp.experts.{number}.{layer}");
    let mut all = vec![
        bf16_tensor("ernie.norm.weight", &[64], &values(64, 8)),
        tensor(
            "ernie.layers.0.mlp.experts.0.down_proj.quant_weight".into(),
            Dtype::I8,
            &[8, 4],
            bytes(32, 9),
        ),
        f32_tensor("ernie.layers.0.mlp.experts.0.down_proj.weight_scale", &[8], &values(8, 10)),
        f32_tensor("ernie.layers.7.mlp.gate.weight", &[4, 64], &values(256, 11)),
    ];
    all.extend(wint2(&expert(0, "up_gate_proj"), 6, 128, Dtype::BF16));
    all.extend(wint2(&expert(0, "down_proj"), 5, 192, Dtype::F16));
    all.extend(wint2(&expert(1, "down_proj"), 33, 64, Dtype::F32));
    all.extend(wint25(&expert(2, "up_gate_proj"), 7, 128));
    all
}

fn folder_of(tensors: &[Source]) -> Folder {
    let folder = Folder::new();
    fs::create_dir(folder.path("model")).unwrap();
    write(&folder.path("model/model.safetensors"), tensors);
    fs::write(folder.path("model/config.json"), CONFIG).unwrap();
    fs::write(folder.path("model/tokenizer.model"), "words").unwrap();
    folder
}

fn convert(folder: &Folder, from: &str, to: &str, args: &[&str]) -> Run {
    let mut command = tool();
    command.current_dir(folder.0.path()).args([from, to]).args(args);
    Run(command.output().unwrap())
}

/// Every layer of the exported file is, by FastDeploy's formula in Python, what the container decodes to.
fn check_against_python(folder: &Folder, exported: &Path, container: &str) -> usize {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fastdeploy.py");
    let decoded = folder.path("decoded");
    fs::create_dir_all(&decoded).unwrap();
    let run = Command::new("python3").args([Path::new(script), exported, &decoded]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let container = Container::open(folder.path(container)).unwrap();
    let mut checked = 0;
    for tensor in container.tensors() {
        let Some(matrix) = tensor.matrix() else { continue };
        let mut values = vec![f32::NAN; matrix.rows() * matrix.in_features()];
        matrix.decode_rows_into(0..matrix.rows(), &mut values).unwrap();
        let ours: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let base = tensor.info().name().strip_suffix(".weight").unwrap();
        assert!(fs::read(decoded.join(format!("{base}.f32"))).unwrap() == ours, "{base}");
        checked += 1;
    }
    checked
}

#[test]
fn a_checkpoint_comes_back_byte_for_byte() {
    let folder = folder_of(&checkpoint());
    let json = convert(&folder, "model", "model.ccq", &["--json"]).ok().json();
    assert_eq!((&json["total"]["quantized"], &json["total"]["tensors"]), (&4.into(), &8.into()));
    let container = Container::open(folder.path("model.ccq")).unwrap();
    container.verify().unwrap();
    let encodings: Vec<_> = container.tensors().map(|tensor| tensor.info().encoding().to_string()).collect();
    assert_eq!(encodings, ["raw", "raw", "ccq-2.06", "ccq-2.06", "ccq-2.06", "ccq-2.5", "raw", "raw"]);
    let tensor = container.tensor("ernie.layers.7.mlp.experts.0.down_proj.weight").unwrap();
    assert_eq!(tensor.info().dtype(), ccq::format::Dtype::F16);
    assert_eq!(tensor.matrix().unwrap().code().cluster(), Some(Cluster::F32));

    convert(&folder, "model.ccq", "out", &["--to", "fastdeploy", "--threads", "2"]).ok();
    let (source, found) = (
        fs::read(folder.path("model/model.safetensors")).unwrap(),
        fs::read(folder.path("out/model.safetensors")).unwrap(),
    );
    let theirs = SafeTensors::deserialize(&source).unwrap();
    let ours = SafeTensors::deserialize(&found).unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (name, tensor) in theirs.iter() {
        let out = ours.tensor(name).unwrap();
        assert_eq!((out.dtype(), out.shape()), (tensor.dtype(), tensor.shape()), "{name}");
        assert!(out.data() == tensor.data(), "{name}");
    }
    for name in ["config.json", "tokenizer.model"] {
        let path = |from: &str| fs::read(folder.path(&format!("{from}/{name}"))).unwrap();
        assert_eq!(path("out"), path("model"));
    }
    // What was exported once comes back as the same files.
    convert(&folder, "out", "again.ccq", &[]).ok();
    let read = |name: &str| fs::read(folder.path(name)).unwrap();
    assert!(read("again.ccq") == read("model.ccq"));
    convert(&folder, "again.ccq", "again", &["--to", "fastdeploy"]).ok();
    assert!(read("again/model.safetensors") == found);
    assert_eq!(check_against_python(&folder, &folder.path("out/model.safetensors"), "model.ccq"), 4);
    assert_eq!(folder.names(), ["again", "again.ccq", "decoded", "model", "model.ccq", "out"]);
}

/// Layers that this tool has quantized, cluster parameters in integers included.
#[test]
fn our_own_layers_can_be_served() {
    for (encoding, args) in
        [("paper", &["--method", "paper"][..]), ("q8", &[]), ("wint2.5", &["--encoding", "ccq-2.5"])]
    {
        let layers = [
            matrix("m.layers.0.mlp.experts.0.down_proj.weight", 24, 192),
            bf16_tensor("m.layers.0.mlp.experts.1.up_gate_proj.weight", &[40, 128], &values(40 * 128, 3)),
            bf16_tensor("m.norm.weight", &[8], &values(8, 1)),
        ];
        let folder = folder_of(&layers);
        // The container keeps config.json as it was, and the tool says what is missing there.
        fs::write(folder.path("model/config.json"), "{}").unwrap();
        convert(&folder, "model", "model.ccq", &[args, &["--overwrite"]].concat()).ok();
        let run = convert(&folder, "model.ccq", "out", &["--to", "fastdeploy"]).ok();
        assert!(run.stderr().contains("config.json has no quantization_config"), "{}", run.stderr());
        let exported = folder.path("out/model.safetensors");
        assert_eq!(check_against_python(&folder, &exported, "model.ccq"), 2, "{encoding}");
        // Read again, the same weights.
        convert(&folder, "out", "again.ccq", &[]).ok();
        assert_eq!(check_against_python(&folder, &exported, "again.ccq"), 2, "{encoding}");
    }
}

#[test]
fn what_fastdeploy_has_no_place_for_is_refused() {
    let expert = "m.layers.0.mlp.experts.0.down_proj.weight";
    for (name, columns, args, said) in [
        ("m.layers.0.q_proj.weight", 128, &[][..], "it is called neither"),
        (expert, 128, &["--encoding", "wint4"], "it is wint4"),
        (expert, 128, &["--group-size", "32"], "it is ccq-2.06 g32"),
        (expert, 128, &["--encoding", "ccq-2.75"], "it is ccq-2.75"),
        (expert, 128, &["--encoding", "ccq-3.31"], "it is ccq-3.31; convert it to ccq-2.06 or ccq-2.5"),
        (expert, 128, &["--encoding", "ccq-5.5"], "it is ccq-5.5; convert it to ccq-2.06 or ccq-2.5"),
        (expert, 100, &[], "a multiple of 64 columns"),
    ] {
        let folder = folder_of(&[matrix(name, 64, columns)]);
        convert(&folder, "model", "model.ccq", args).ok();
        let message = format!("tensor {name:?} cannot be stored the way FastDeploy does: ");
        convert(&folder, "model.ccq", "out", &["--to", "fastdeploy"]).failed(1, &[&message, said]);
        assert_eq!(folder.names(), ["model", "model.ccq"]);
    }
    let folder = folder_of(&[matrix(expert, 64, 128)]);
    convert(&folder, "model", "model.ccq", &["--encoding", "raw"]).ok();
    fs::create_dir(folder.path("out")).unwrap();
    let again = convert(&folder, "model.ccq", "out", &["--to", "fastdeploy"]);
    again.failed(1, &["exists; remove it, or choose another name for the folder"]);
    fs::remove_dir(folder.path("out")).unwrap();
    fs::create_dir(folder.path("out.partial")).unwrap();
    let again = convert(&folder, "model.ccq", "out", &["--to", "fastdeploy"]);
    again.failed(1, &["out.partial: exists; remove it"]);
    let missing = folder.path("no/out");
    let missing = run([
        folder.path("model.ccq").as_os_str(),
        missing.as_os_str(),
        "--to".as_ref(),
        "fastdeploy".as_ref(),
    ]);
    missing.failed(1, &["no such folder"]);
    assert_eq!(folder.names(), ["model", "model.ccq", "out.partial"]);
}

/// A damaged container leaves no folder behind.
#[test]
fn damage_is_found_before_anything_is_left() {
    let folder = folder_of(&checkpoint());
    convert(&folder, "model", "model.ccq", &[]).ok();
    let mut file = fs::read(folder.path("model.ccq")).unwrap();
    let last = file.len() - 1;
    file[last] ^= 1;
    fs::write(folder.path("model.ccq"), file).unwrap();
    convert(&folder, "model.ccq", "out", &["--to", "fastdeploy"]).failed(3, &["model.ccq: "]);
    assert_eq!(folder.names(), ["model", "model.ccq"]);
}
