//! `cargo xtask bench-open`: how long a file of many tensors takes to open, beside safetensors and GGUF files of the same
//! names and shapes. The payloads are holes: whoever reads them pays for it.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use ccq::Container;
use ccq::format::{Contents, Dtype, Encoding, Layout, TensorSpec, Writer};
use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::bench::{RUNS, best, machine, ratio};
use crate::sparse::Sparse;

const SHAPE: [u64; 2] = [50, 1024];
const TENSOR_BYTES: u64 = SHAPE[0] * SHAPE[1] * 2;

/// Prints a table of the three readers.
pub fn run(tensors: u32) -> Result<()> {
    let names: Vec<String> = (0..tensors).map(name).collect();
    let folder = tempfile::tempdir()?;
    let path = |extension: &str| folder.path().join("model").with_extension(extension);
    let (ours, safetensors, gguf) = (path("ccq"), path("safetensors"), path("gguf"));
    let fronts =
        [write_ccq(&names, &ours)?, write_safetensors(&names, &safetensors)?, write_gguf(&names, &gguf)?];
    let expected = names.len();

    let times = [
        best(|| same(expected, Container::open(&ours)?.tensors().len()))?,
        best(|| {
            let file = File::open(&safetensors)?;
            // SAFETY: a file of this process alone, which nobody changes.
            #[allow(unsafe_code)]
            let map = unsafe { Mmap::map(&file)? };
            same(expected, SafeTensors::deserialize(&map)?.len())
        })?,
        best(|| same(expected, gguf_rs_lib::reader::open_gguf_file(&gguf)?.tensor_count()))?,
    ];
    let mut front = vec![0; usize::try_from(fronts[0])?];
    File::open(&ours)?.read_exact(&mut front)?;
    let checksum = best(|| {
        black_box(crc32fast::hash(black_box(&front)));
        Ok(())
    })?;

    let length = fs::metadata(&ours)?.len() as f64 / 1e9;
    println!(
        "{}, 1 thread, {expected} tensors, {length:.1} GB of holes, in the cache, best of {RUNS}\n",
        machine()
    );
    println!("| reader | index, MB | opened in ms | of ccq | checks |\n|---|---:|---:|---:|---|");
    let readers = [
        ("ccq, mapped", "structure and checksums of the index"),
        ("safetensors, mapped", "structure"),
        ("gguf-rs-lib", "structure"),
    ];
    for ((time, front), (reader, checks)) in times.into_iter().zip(fronts).zip(readers) {
        let (megabytes, millis) = (front as f64 / 1e6, time.as_secs_f64() * 1e3);
        println!("| {reader} | {megabytes:.1} | {millis:.1} | {:.1} | {checks} |", ratio(time, times[0]));
    }
    println!("\nccq: {:.1} times the CRC-32 of its index", ratio(times[0], checksum));
    Ok(())
}

fn name(i: u32) -> String {
    format!("model.layers.{}.mlp.experts.{}.down_proj.weight", i / 256, i % 256)
}

fn same(expected: usize, found: usize) -> Result<()> {
    ensure!(found == expected, "{found} tensors, expected {expected}");
    Ok(())
}

/// Writes the container, checksums of its zeros included, and returns the length of its index.
fn write_ccq(names: &[String], path: &Path) -> Result<u64> {
    let spec = |name: &String| TensorSpec {
        name: name.clone(),
        shape: SHAPE.to_vec(),
        dtype: Dtype::Bf16,
        encoding: Encoding::Raw,
    };
    let contents = Contents { tensors: names.iter().map(spec).collect(), ..Contents::default() };
    let layout = Layout::new(contents)?;
    let front = layout.index().planes().first().map_or(0, |plane| plane.offset);
    let mut writer = Writer::new(Sparse(File::create(path)?), layout)?;
    let zeros = vec![0; TENSOR_BYTES as usize];
    while let Some(name) = writer.next_name().map(String::from) {
        writer.write(&name, &[&zeros])?;
    }
    writer.finish()?;
    Ok(front)
}

/// Writes the header and leaves out the rest, as for `write_gguf`.
fn write_safetensors(names: &[String], path: &Path) -> Result<u64> {
    let mut header = String::from("{");
    for (i, name) in (0u64..).zip(names) {
        let comma = if i == 0 { "" } else { "," };
        let (start, end) = (i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES);
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{SHAPE:?},\"data_offsets\":[{start},{end}]}}"
        );
    }
    header.push('}');
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut front = (header.len() as u64).to_le_bytes().to_vec();
    front.extend_from_slice(header.as_bytes());
    write_front(path, &front, names.len())
}

/// Writes version 3 of GGUF with the one key that readers ask for.
fn write_gguf(names: &[String], path: &Path) -> Result<u64> {
    const STRING: u32 = 8;
    const BF16: u32 = 30;
    let mut front = Vec::new();
    let text = |front: &mut Vec<u8>, text: &str| {
        front.extend_from_slice(&(text.len() as u64).to_le_bytes());
        front.extend_from_slice(text.as_bytes());
    };
    front.extend_from_slice(b"GGUF");
    front.extend_from_slice(&3u32.to_le_bytes());
    front.extend_from_slice(&(names.len() as u64).to_le_bytes());
    front.extend_from_slice(&1u64.to_le_bytes());
    text(&mut front, "general.architecture");
    front.extend_from_slice(&STRING.to_le_bytes());
    text(&mut front, "llama");
    for (i, name) in (0u64..).zip(names) {
        text(&mut front, name);
        front.extend_from_slice(&2u32.to_le_bytes());
        front.extend(SHAPE.iter().rev().flat_map(|dimension| dimension.to_le_bytes()));
        front.extend_from_slice(&BF16.to_le_bytes());
        front.extend_from_slice(&(i * TENSOR_BYTES).to_le_bytes());
    }
    front.resize(front.len().next_multiple_of(32), 0);
    write_front(path, &front, names.len())
}

fn write_front(path: &Path, front: &[u8], tensors: usize) -> Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(front)?;
    let file = file.into_inner()?;
    file.set_len(front.len() as u64 + tensors as u64 * TENSOR_BYTES)?;
    Ok(front.len() as u64)
}
