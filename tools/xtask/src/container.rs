//! Containers from a seeded generator: planes that obey the specification, and no quantizer in sight, so that the
//! files stay the same when the quantizer gets better.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::Result;
use ccq::code::{Cluster, Code, LocalScale};
use ccq::codec::{ClusterParams, RowMut};
use ccq::format::{Contents, Dtype, Encoding, Layout, TensorInfo, TensorSpec, Value, Writer};

/// What the bits of a word hold that no weight of the row reads (spec, clause 6.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FreeBits {
    /// The lowest word with the same states, as writers must.
    Lowest,
    /// Anything, which decoders must ignore.
    Random,
}

/// A container to be written.
#[derive(Default)]
pub struct Recipe {
    /// Tensors, filled by the generator.
    pub tensors: Vec<TensorSpec>,
    /// Names and bytes.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Typed key-values.
    pub metadata: BTreeMap<&'static str, Value<'static>>,
    /// Place in a set.
    pub shard: Option<ccq::format::Shard>,
}

impl Recipe {
    /// The bytes of the file.
    pub fn write(self, free_bits: FreeBits) -> Result<Vec<u8>> {
        let Self { tensors, blobs, metadata, shard } = self;
        let lens = blobs.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect();
        let layout = Layout::new(Contents { tensors, blobs: lens, metadata, shard })?;
        let index = layout.index().clone();
        let mut writer = Writer::new(Cursor::new(Vec::new()), layout)?;
        for tensor in index.tensors() {
            let planes = fill(&tensor, free_bits)?;
            writer.write(tensor.name(), &planes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        }
        for (name, bytes) in &blobs {
            writer.write(name, &[bytes])?;
        }
        Ok(writer.finish()?.into_inner())
    }
}

/// A tensor of codes.
pub fn coded(name: impl Into<String>, code: Code, shape: &[u64]) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.into(), dtype: Dtype::Bf16, encoding: Encoding::Coded(code) }
}

/// A tensor kept as it is.
pub fn raw(name: impl Into<String>, dtype: Dtype, shape: &[u64]) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.into(), dtype, encoding: Encoding::Raw }
}

/// The same code with cluster parameters in f32.
pub fn with_f32_cluster(code: Code) -> Result<Code> {
    let group = u16::try_from(code.group_size().unwrap_or(0))?;
    Ok(Code::new(
        code.segments(),
        u8::try_from(code.word_bits())?,
        group,
        code.local_scale(),
        Some(Cluster::F32),
    )?)
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    /// A stream that depends on the name alone (FNV-1a), so that a new tensor leaves the others as they are.
    fn named(name: &str) -> Self {
        let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn word(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }
}

/// The planes of a tensor in file order.
fn fill(tensor: &TensorInfo<'_>, free_bits: FreeBits) -> Result<Vec<Vec<u8>>> {
    let mut random = Random::named(tensor.name());
    let mut planes: Vec<Vec<u8>> = tensor.planes().iter().map(|plane| vec![0; plane.len as usize]).collect();
    let (Encoding::Coded(code), Some((rows, in_features))) = (tensor.encoding(), tensor.rows_and_features())
    else {
        let mask = if tensor.dtype() == Dtype::Bool { 1 } else { 0xFF };
        planes.iter_mut().flatten().for_each(|byte| *byte = random.word() as u8 & mask);
        return Ok(planes);
    };
    let mut rows_of = planes.iter_mut().map(|plane| {
        let width = plane.len() / rows as usize;
        plane.chunks_exact_mut(width)
    });
    let has_scales = matches!(code.local_scale(), LocalScale::Nibble | LocalScale::Signed8);
    let mut code_rows = rows_of.next();
    let mut scale_rows = if has_scales { rows_of.next() } else { None };
    let mut super_rows = rows_of.next();
    let mut cluster_rows = rows_of.next();
    let in_features = usize::try_from(in_features)?;
    for row in 0..rows as usize {
        let cluster = code.cluster().map(|kind| cluster_params(kind, row, &mut random));
        let words = words(&code, in_features, cluster, free_bits, &mut random);
        let scales = local_scales(&code, code.groups(in_features), row, &mut random);
        let row_mut = RowMut {
            code: next_row(&mut code_rows),
            local_scale: next_row(&mut scale_rows),
            super_scale: next_row(&mut super_rows),
            cluster: next_row(&mut cluster_rows),
        };
        let super_scale = super_scale(row, &mut random);
        row_mut.pack(&code, code.words_per_group(in_features), &words, &scales, super_scale, cluster);
    }
    Ok(planes)
}

fn next_row<'a>(rows: &mut Option<std::slice::ChunksExactMut<'a, u8>>) -> &'a mut [u8] {
    rows.as_mut().and_then(Iterator::next).unwrap_or_default()
}

/// The words of a row, zero bits where an embedded scale goes.
fn words(
    code: &Code,
    in_features: usize,
    cluster: Option<ClusterParams>,
    free_bits: FreeBits,
    random: &mut Random,
) -> Vec<u16> {
    let (words_per_group, groups) = (code.words_per_group(in_features), code.groups(in_features));
    let group_size = code.group_size().unwrap_or(in_features);
    let word_mask = if code.word_bits() == 8 { 0xFF } else { 0xFFFF };
    let mut words = Vec::with_capacity(groups * words_per_group);
    for group in 0..groups {
        let weights = group_size.min(in_features - group * group_size);
        for index in 0..words_per_group {
            let first = index * code.states_per_word();
            let read = weights.saturating_sub(first).min(code.states_per_word());
            let used = code.states()[..read].iter().fold(0, |mask, state| mask | state.mask << state.shift);
            let word = random.word() & word_mask;
            let spare = if index + 1 == words_per_group { code.spare_bits() } else { 0 };
            words.push(match (free_bits, cluster) {
                (FreeBits::Random, _) => word >> spare << spare,
                (FreeBits::Lowest, None) => word & used as u16,
                (FreeBits::Lowest, Some(cluster)) => {
                    let states = |word: u16| cluster.code(word as u8) & used as u16;
                    (0..word).find(|&lower| states(lower) == states(word)).unwrap_or(word)
                }
            });
        }
    }
    words
}

/// Local scales of a row: the extremes first, then any.
fn local_scales(code: &Code, groups: usize, row: usize, random: &mut Random) -> Vec<i32> {
    let max = code.max_local_scale();
    let first = match code.local_scale() {
        LocalScale::None => return Vec::new(),
        LocalScale::Signed8 => [max, 0, -128, -1],
        LocalScale::Embedded { .. } | LocalScale::Nibble => [max, 0, 1, max / 2 + 1],
    };
    let any = |random: &mut Random| first[2].min(0) + random.below((max - first[2].min(0)) as u64 + 1) as i32;
    (0..groups).map(|group| first.get(row + group).copied().unwrap_or_else(|| any(random))).collect()
}

/// The super scale of a row: the special ones first, then any small one.
fn super_scale(row: usize, random: &mut Random) -> f32 {
    let special = [0.01, -2.5e-5, 1.0e-40, 0.0, 1.5e30];
    special.get(row).copied().unwrap_or_else(|| f32::from_bits(0x3a00_0000 + random.below(1 << 25) as u32))
}

/// Cluster parameters of a row: the special ones first, then any.
fn cluster_params(kind: Cluster, row: usize, random: &mut Random) -> ClusterParams {
    match kind {
        Cluster::Q8 => {
            let special = [(30721, 1234), (31165, 853), (300, -10), (65535, i16::MIN), (0, i16::MAX)];
            let any = || (random.word(), random.word().cast_signed());
            let (a, zp) = special.get(row).copied().unwrap_or_else(any);
            ClusterParams::Q8 { a, zp }
        }
        Cluster::F32 => {
            let special = [
                (120.003, 1234.0),
                // Fused and unfused evaluation differ (spec, clause A.4).
                (f32::from_bits(0x42e4_2018), f32::from_bits(0x44f5_84e8)),
                (121.737_1, -853.25),
                (-3.7, 30000.5),
                // Saturates to both ends of i32.
                (-1.0e30, 1.0e20),
            ];
            let any =
                || (random.below(1 << 24) as f32 / 65536.0, random.below(1 << 24) as f32 / 1024.0 - 4096.0);
            let (scale, zp) = special.get(row).copied().unwrap_or_else(any);
            ClusterParams::F32 { scale, zp }
        }
    }
}
