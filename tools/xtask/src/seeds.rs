//! `cargo xtask seeds`: what the fuzz targets that take bytes begin with, in fuzz/corpus. Containers come from testdata;
//! the other files are as small as files of their kind can be.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes the seeds, beside what fuzzing has found before.
pub fn run(root: &Path) -> Result<()> {
    let corpus = root.join("fuzz/corpus");
    for folder in ["golden", "bad"] {
        for entry in fs::read_dir(root.join("testdata").join(folder))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
            if name.ends_with(".ccq") {
                let bytes = fs::read(&path)?;
                for target in ["open", "front"] {
                    write(&corpus.join(target), name, &bytes)?;
                }
            }
        }
    }
    let tensors = [("matrix", TENSOR), ("all", ALL), ("empty", "{}")];
    for (name, header) in tensors {
        let bytes = safetensors(header);
        write(&corpus.join("safetensors"), name, &bytes)?;
        write(&corpus.join("importance"), name, &bytes)?;
    }
    write(&corpus.join("importance"), "imatrix", &imatrix())?;
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

/// A file of that header, whose tensors take 32 bytes if there are any.
fn safetensors(header: &str) -> Vec<u8> {
    let data = if header == "{}" { 0 } else { 32 };
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0x3F; data]].concat()
}

/// llama.cpp's sums and counts of one tensor with two input channels.
fn imatrix() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let tensor = |name, offset: u64, width: u64| {
        let (rank, f32_type) = (1u32.to_le_bytes(), 0u32.to_le_bytes());
        [&*text(name), &rank, &width.to_le_bytes(), &f32_type, &offset.to_le_bytes()].concat()
    };
    let (string, array, u32_type) = (8u32.to_le_bytes(), 9u32.to_le_bytes(), 4u32.to_le_bytes());
    let datasets = [&string[..], &1u64.to_le_bytes(), &text("a.txt")].concat();
    let mut file = [
        b"GGUF".as_slice(),
        &3u32.to_le_bytes(),
        &2u64.to_le_bytes(),
        &4u64.to_le_bytes(),
        &[&text("general.type"), &string[..], &text("imatrix")].concat(),
        &[&text("imatrix.datasets"), &array[..], &datasets].concat(),
        &[&text("imatrix.chunk_count"), &u32_type[..], &7u32.to_le_bytes()].concat(),
        &[&text("imatrix.chunk_size"), &u32_type[..], &512u32.to_le_bytes()].concat(),
        &tensor("a.in_sum2", 0, 2),
        &tensor("a.counts", 32, 1),
    ]
    .concat();
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend([2.0f32, 8.0].iter().flat_map(|sum| sum.to_le_bytes()));
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(4.0f32.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(name);
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}
