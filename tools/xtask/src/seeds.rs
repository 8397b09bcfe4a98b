//! `cargo xtask seeds`: what the fuzz targets that take bytes begin with, in fuzz/corpus: the files of testdata, and valid
//! ones of other kinds that are as small as such files can be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::gguf::{self, Gguf};

/// Writes the seeds, beside what fuzzing has found before.
pub fn run(root: &Path) -> Result<()> {
    let corpus = root.join("fuzz/corpus");
    for folder in ["golden", "bad"] {
        for entry in fs::read_dir(root.join("testdata").join(folder))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
            if name.ends_with(".ccq") {
                let bytes = fs::read(&path)?;
                for target in ["open", "front", "c_abi"] {
                    write(&corpus.join(target), name, &bytes)?;
                }
            }
        }
    }
    for entry in fs::read_dir(root.join("testdata/bad-import"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
        let target = match name.rsplit_once('.') {
            _ if name.starts_with("importance-") => "importance",
            Some((_, "safetensors")) => "safetensors",
            Some((_, "gguf")) => "gguf",
            Some((_, "toml")) => "recipe",
            Some((_, "json")) => "index",
            _ => continue, // folders, and files that are known by their names to be none of these
        };
        write(&corpus.join(target), name, &fs::read(&path)?)?;
    }
    let tensors = [("matrix", TENSOR), ("all", ALL), ("empty", "{}")];
    for (name, header) in tensors {
        let bytes = safetensors(header);
        write(&corpus.join("safetensors"), name, &bytes)?;
        write(&corpus.join("importance"), name, &bytes)?;
    }
    write(&corpus.join("importance"), "imatrix", &Gguf::imatrix().bytes())?;
    write(&corpus.join("gguf"), "model", &model())?;
    write(&corpus.join("gguf"), "imatrix", &Gguf::imatrix().bytes())?;
    write(&corpus.join("recipe"), "all", RECIPE.as_bytes())?;
    for entry in fs::read_dir(root.join("tools/convert/presets"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
        write(&corpus.join("recipe"), name, &fs::read(&path)?)?;
    }
    for (name, index) in [("two", INDEX), ("empty", r#"{"weight_map":{}}"#)] {
        write(&corpus.join("index"), name, index.as_bytes())?;
    }
    println!("wrote seeds below {}", corpus.display());
    Ok(())
}

const TENSOR: &str = r#"{"a":{"dtype":"F32","shape":[2,4],"data_offsets":[0,32]}}"#;
const ALL: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[1,4],"data_offsets":[8,16]},"c":{"dtype":"F32","shape":[],"data_offsets":[16,20]},"d":{"dtype":"I64","shape":[0,3],"data_offsets":[20,20]},"e":{"dtype":"F8_E4M3","shape":[12],"data_offsets":[20,32]}}"#;
/// The two shards that the target `index` has.
const INDEX: &str = r#"{"metadata":{"total_size":2},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;

/// Every key of a recipe.
const RECIPE: &str = r#"[default]
encoding = "ccq-2.5"
group-size = 64
quality = "fast"

[[rule]]
tensor = ["*.experts.*", "lm_?ead.weight"]
layers = "0-6, 10, 40-"
role = ["projection", "router"]
encoding = "wint4"
group-size = "channel"

[[rule]]
regex = "layers\\.[0-9]+\\."
encoding = "ccq-2.06"
method = "paper"
optional = true

[[rule]]
tensor = "x"
role = "any"
encoding = "auto"
quality = "best"

[[rule]]
layers = 3
encoding = "raw"
"#;

/// A file of that header, whose tensors take 32 bytes if there are any.
fn safetensors(header: &str) -> Vec<u8> {
    let data = if header == "{}" { 0 } else { 32 };
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3F; data]].concat()
}

/// A model with a tensor of every type that is read.
fn model() -> Vec<u8> {
    let types = [
        (0, 4, 1),
        (1, 2, 1),
        (30, 2, 1),
        (2, 18, 32),
        (8, 34, 32),
        (12, 144, 256),
        (13, 176, 256),
        (14, 210, 256),
    ];
    let mut gguf = Gguf::new("a").pair("general.alignment", gguf::U32, &32u32.to_le_bytes());
    for (kind, size, weights) in types {
        gguf = gguf.tensor(format!("t{kind}"), &[weights, 2], kind, vec![0x3C; 2 * size]);
    }
    gguf.bytes()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}
