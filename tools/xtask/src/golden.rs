//! `cargo xtask golden`: small containers that every reader must read the same way, one an encoding.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use ccq::code::{Cluster, Code, Family, LocalScale, Segment};
use ccq::format::{Dtype, Shard, TensorSpec, Value};
use ccq::{Container, Limits};

use crate::container::{FreeBits, Recipe, coded, raw, with_f32_cluster};
use crate::dump::dump;
use crate::generated::sync_folder;
use crate::parts::Parts;

/// Bytes that no golden file may exceed.
const SIZE_CAP: usize = 40 << 10;

/// Writes or checks the folder.
pub fn run(folder: &Path, check: bool) -> Result<()> {
    let mut files = BTreeMap::new();
    for (name, bytes) in files_by_name()? {
        ensure!(bytes.len() <= SIZE_CAP, "{name}.ccq has {} bytes, the cap is {SIZE_CAP}", bytes.len());
        let container = Container::from_bytes(&bytes, &Limits::DEFAULT)?;
        container.verify()?;
        files.insert(format!("{name}.txt"), dump(&container).into_bytes());
        files.insert(format!("{name}.ccq"), bytes);
    }
    sync_folder(folder, &files, "golden", check)
}

fn files_by_name() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let lowest = |tensors| Recipe { tensors, ..Recipe::default() }.write(FreeBits::Lowest);
    Ok(vec![
        ("empty", Recipe::default().write(FreeBits::Lowest)?),
        ("ccq-2.75", lowest(family(Family::Ccq275)?)?),
        ("ccq-2.5", lowest(family(Family::Ccq25)?)?),
        ("ccq-2.06", lowest(family(Family::Ccq206)?)?),
        ("ccq-3.31", lowest(family(Family::Ccq331)?)?),
        ("ccq-5.5", lowest(family(Family::Ccq55)?)?),
        ("ccq-2.06-f32", lowest(f32_cluster()?)?),
        ("wint8", lowest(plain(Family::Wint8)?)?),
        ("wint4", lowest(plain(Family::Wint4)?)?),
        ("int2", lowest(plain(Family::Int2)?)?),
        ("general", lowest(general()?)?),
        ("free-bits", Recipe { tensors: free_bits()?, ..Recipe::default() }.write(FreeBits::Random)?),
        ("mixed", mixed()?.write(FreeBits::Lowest)?),
        ("shard-00002-of-00003", shard()?.write(FreeBits::Lowest)?),
        ("later-minor", later_minor()?),
    ])
}

/// A family at every group size, with tails: rows of less than a word, a group, two groups; whole groups; stacked.
fn family(family: Family) -> Result<Vec<TensorSpec>> {
    let mut tensors = Vec::new();
    for group in [32, 64, 128] {
        let code = family.code(group)?;
        for shape in [&[1][..], &[6, 33], &[5, 100], &[2, 384]] {
            tensors.push(coded(format!("g{group}.{}", product(shape)), code, shape));
        }
    }
    tensors.push(coded("stacked.2x3x200", family.code(64)?, &[2, 3, 200]));
    Ok(tensors)
}

fn f32_cluster() -> Result<Vec<TensorSpec>> {
    [(32, &[7, 33][..]), (64, &[3, 2, 100]), (128, &[5, 300])]
        .into_iter()
        .map(|(group, shape)| {
            let code = with_f32_cluster(Family::Ccq206.code(group)?)?;
            Ok(coded(format!("g{group}.{}", product(shape)), code, shape))
        })
        .collect()
}

/// A family without overlap, per channel and at every group size.
fn plain(family: Family) -> Result<Vec<TensorSpec>> {
    let mut tensors = Vec::new();
    for (group, label) in [(0, "channel"), (32, "g32"), (64, "g64"), (128, "g128")] {
        for shape in [&[1][..], &[5, 33], &[3, 100]] {
            tensors.push(coded(format!("{label}.{}", product(shape)), family.code(group)?, shape));
        }
    }
    tensors.push(coded("stacked.2x2x3x65", family.code(64)?, &[2, 2, 3, 65]));
    Ok(tensors)
}

/// Valid code descriptions that have no name.
fn general() -> Result<Vec<TensorSpec>> {
    let segment = Segment::new;
    let codes = [
        ("one-bit", Code::new(&[segment(1, 16, 1)], 16, 32, LocalScale::Nibble, None)?),
        ("one-state", Code::new(&[segment(16, 1, 16)], 16, 0, LocalScale::None, None)?),
        ("four-segments", Code::new(&[segment(4, 1, 4); 4], 16, 64, LocalScale::Signed8, None)?),
        ("signed-trellis", Code::new(&[segment(4, 3, 2)], 8, 32, LocalScale::Signed8, None)?),
        ("nibble-wint4", Code::new(&[segment(4, 2, 4)], 8, 64, LocalScale::Nibble, None)?),
        ("embedded-trellis", Code::new(&[segment(8, 3, 4)], 16, 32, LocalScale::Embedded { bits: 4 }, None)?),
        ("channel-trellis", Code::new(&[segment(4, 3, 2)], 8, 0, LocalScale::None, None)?),
        ("uneven", Code::new(&[segment(7, 2, 1), segment(5, 2, 3)], 16, 32, LocalScale::Nibble, None)?),
        ("nine-bit-cluster", Code::new(&[segment(3, 4, 2)], 8, 64, LocalScale::Nibble, Some(Cluster::Q8))?),
        ("wide-cluster", Code::new(&[segment(4, 4, 4)], 8, 32, LocalScale::Signed8, Some(Cluster::F32))?),
        ("channel-cluster", Code::new(&[segment(6, 4, 3)], 8, 0, LocalScale::None, Some(Cluster::Q8))?),
    ];
    Ok(codes.map(|(name, code)| coded(name, code, &[4, 70])).into())
}

fn free_bits() -> Result<Vec<TensorSpec>> {
    let mut tensors = Vec::new();
    for family in Family::ALL {
        for group in [32, 64, 128] {
            let shape = [2, 65];
            tensors.push(coded(format!("{}.g{group}", family.name()), family.code(group)?, &shape));
        }
    }
    Ok(tensors)
}

/// Everything a model folder may hold: raw tensors of every dtype, metadata of every type, nested blobs.
fn mixed() -> Result<Recipe> {
    let mut tensors: Vec<_> =
        Dtype::ALL.iter().map(|&dtype| raw(format!("raw.{dtype}"), dtype, &[2, 4])).collect();
    tensors.extend([
        raw("scalar", Dtype::F64, &[]),
        raw("empty", Dtype::F16, &[3, 0, 5]),
        raw("large-and-empty", Dtype::I64, &[u64::MAX, 0]),
        raw("line", Dtype::F4, &[6]),
        coded("layer.0.weight", Family::Ccq206.code(64)?, &[4, 130]),
        coded("layer.1.weight", Family::Wint8.code(0)?, &[4, 130]),
        raw("layer.10.weight", Dtype::Bf16, &[4, 13]),
        raw("ünïcödé.重み", Dtype::U8, &[1]),
    ]);
    let blobs = [
        ("config.json", "{\"hidden_size\": 130}\n"),
        ("tokenizer/merges.txt", "#version: 0.2\n"),
        ("tokenizer/empty", ""),
        ("scalar", "a blob with the name of a tensor"),
    ];
    let metadata = [
        ("bool.false", Value::Bool(false)),
        ("bool.true", Value::Bool(true)),
        ("bytes", Value::Bytes(&[0, 1, 2, 0xFF])),
        ("bytes.empty", Value::Bytes(&[])),
        ("ccq.producer", Value::String("golden")),
        ("ccq.recipe", Value::String("")),
        ("f64", Value::F64(-0.1)),
        ("f64.nan", Value::F64(f64::from_bits(0x7ff8_0000_0000_0001))),
        ("i64", Value::I64(i64::MIN)),
        ("string", Value::String("one line\nand another\0")),
        ("u64", Value::U64(u64::MAX)),
        ("ключ", Value::String("значение")),
    ];
    Ok(Recipe {
        tensors,
        blobs: blobs.map(|(name, text)| (name.into(), text.into())).into(),
        metadata: metadata.into(),
        shard: None,
    })
}

fn shard() -> Result<Recipe> {
    Ok(Recipe {
        tensors: vec![coded("part", Family::Ccq25.code(64)?, &[3, 64])],
        shard: Some(Shard { index: 1, count: 3, set_id: *b"sixteen bytes id" }),
        ..Recipe::default()
    })
}

/// A file of a later minor version: compatible features, and ignorable sections before, among and after the others.
fn later_minor() -> Result<Vec<u8>> {
    let recipe = Recipe { tensors: vec![raw("bias", Dtype::F32, &[3])], ..Recipe::default() };
    let mut parts = Parts::parse(&recipe.write(FreeBits::Lowest)?)?;
    parts.header.minor.set(7);
    parts.header.compat.set(u64::MAX);
    for (at, kind, text) in [(0, 100, "before"), (3, 1 << 31, ""), (7, 6, "after the payload")] {
        parts.insert_ignorable(at, kind, text.as_bytes());
    }
    Ok(parts.assemble())
}

fn product(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}
