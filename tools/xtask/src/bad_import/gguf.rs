//! GGUF files.

use super::safetensors::text_mode;
use super::{Case, non_finite, open, read, taken};
use crate::gguf::{ARRAY, BOOL, F32, Gguf, STRING, U32, f32s, pair, text};

const Q8_0: u32 = 8;
const Q4_K: u32 = 12;

fn good() -> Gguf {
    Gguf::new("llama").tensor("a.weight", &[2, 2], F32, f32s(&[1.0; 4])).tensor(
        "b.weight",
        &[2],
        F32,
        f32s(&[1.0; 2]),
    )
}

fn changed(change: impl FnOnce(&mut Gguf)) -> Vec<u8> {
    let mut gguf = good();
    change(&mut gguf);
    gguf.bytes()
}

fn patched(at: usize, value: u64) -> Vec<u8> {
    let mut bytes = good().bytes();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

pub fn cases() -> Vec<Case> {
    [records(), tensors(), weights()].into_iter().flatten().collect()
}

fn records() -> Vec<Case> {
    let bytes = good().bytes();
    let key = |name, expected, pair: Vec<u8>| open(name, expected, changed(|gguf| gguf.pairs.push(pair)));
    let deep = |depth: usize| {
        let level = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        pair("deep", ARRAY, &[level.repeat(depth), U32.to_le_bytes().into(), vec![0; 8]].concat())
    };
    let huge = |kind: u32| [&kind.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    vec![
        open("empty.gguf", "Gguf{Record}", Vec::new()),
        open("magic.gguf", "Gguf{Record}", [b"GGML", &bytes[4..]].concat()),
        open("magic-byte-swapped.gguf", "Gguf{Record}", [b"FUGG", &bytes[4..]].concat()),
        open("zeros.gguf", "Gguf{Record}", vec![0; 64]),
        // A key of ten bytes, which is a newline.
        open(
            "text-mode.gguf",
            "Gguf{Record}",
            text_mode(&changed(|gguf| gguf.pairs.push(pair("ten.letter", U32, &[0; 4])))),
        ),
        open("version-zero.gguf", "Gguf{Record}", changed(|gguf| gguf.version = 0)),
        open("version.gguf", "Gguf{Record}", changed(|gguf| gguf.version = 9)),
        open("byte-swapped.gguf", "Gguf{Record}", changed(|gguf| gguf.version = 3u32.swap_bytes())),
        open("truncated-header.gguf", "Gguf{Record}", bytes[..20].into()),
        open("truncated-metadata.gguf", "Gguf{Record}", bytes[..67].into()),
        open("truncated-entry.gguf", "Gguf{Record}", bytes[..80].into()),
        open("count-tensors.gguf", "Gguf{Counts}", patched(8, 1000)),
        open("count-tensors-huge.gguf", "Gguf{Counts}", patched(8, u64::MAX)),
        open("count-pairs.gguf", "Gguf{Counts}", patched(16, 1000)),
        open("count-pairs-huge.gguf", "Gguf{Counts}", patched(16, u64::MAX)),
        key("key-empty.gguf", "Gguf{Record}", pair("", U32, &[0; 4])),
        key("key-huge.gguf", "Gguf{Record}", [&u64::MAX.to_le_bytes()[..], &[b'k'; 20]].concat()),
        key("key-not-utf8.gguf", "Gguf{Record}", [&text([0xFF]), &U32.to_le_bytes()[..], &[0; 4]].concat()),
        key("key-twice.gguf", "Gguf{DuplicateKey}", pair("general.architecture", U32, &[0; 4])),
        key("value-type.gguf", "Gguf{Record}", pair("k", 99, &[0; 8])),
        key("value-bool.gguf", "Gguf{Record}", pair("k", BOOL, &[2])),
        key("value-string-huge.gguf", "Gguf{Record}", pair("k", STRING, &u64::MAX.to_le_bytes())),
        key("value-string-not-utf8.gguf", "Gguf{Record}", pair("k", STRING, &text([0xFF]))),
        key("value-array-huge.gguf", "Gguf{Record}", pair("k", ARRAY, &huge(U32))),
        key("value-array-of-strings-huge.gguf", "Gguf{Record}", pair("k", ARRAY, &huge(STRING))),
        key("value-array-deep.gguf", "Gguf{Record}", deep(200)),
        key("alignment-zero.gguf", "Gguf{Alignment}", pair("general.alignment", U32, &[0; 4])),
        key("alignment-odd.gguf", "Gguf{Alignment}", pair("general.alignment", U32, &[24, 0, 0, 0])),
        key("alignment-text.gguf", "Gguf{Alignment}", pair("general.alignment", STRING, &text("32"))),
        key("alignment-huge.gguf", "Gguf{OutOfBounds}", pair("general.alignment", U32, &[0, 0, 0, 0x80])),
        key("split.gguf", "Gguf{Split}", pair("split.count", U32, &[2, 0, 0, 0])),
    ]
}

fn tensors() -> Vec<Case> {
    let entry = |name, expected, change: fn(&mut crate::gguf::Tensor)| {
        open(name, expected, changed(|gguf| change(&mut gguf.tensors[1])))
    };
    vec![
        entry("name-empty.gguf", "Gguf{Entry}", |tensor| tensor.name.clear()),
        entry("name-newline.gguf", "Gguf{BadName}", |tensor| tensor.name = b"b\n.weight".into()),
        entry("name-nul.gguf", "Gguf{BadName}", |tensor| tensor.name = b"b\0".into()),
        entry("name-long.gguf", "Gguf{Record}", |tensor| tensor.name = vec![b'b'; 65]),
        entry("name-not-utf8.gguf", "Gguf{Record}", |tensor| tensor.name = vec![0xFF]),
        entry("tensor-twice.gguf", "Gguf{DuplicateTensor}", |tensor| tensor.name = b"a.weight".into()),
        entry("type-not-read.gguf", "Gguf{TensorType}", |tensor| tensor.kind = 19),
        entry("type-unknown.gguf", "Gguf{TensorType}", |tensor| tensor.kind = 0x7FFF_FFFF),
        entry("rank-zero.gguf", "Gguf{Entry}", |tensor| tensor.dimensions.clear()),
        entry("rank-nine.gguf", "Gguf{Entry}", |tensor| tensor.dimensions = vec![1; 9]),
        entry("dimension-zero.gguf", "Gguf{Dimensions}", |tensor| tensor.dimensions = vec![2, 0]),
        entry("dimensions-overflow.gguf", "Gguf{Entry}", |tensor| tensor.dimensions = vec![1 << 32; 2]),
        entry("dimensions-overflow-bytes.gguf", "Gguf{Entry}", |tensor| {
            tensor.dimensions = vec![1 << 31, (1 << 31) + 1];
        }),
        entry("dimensions-overflow-behind-zero.gguf", "Gguf{Dimensions}", |tensor| {
            tensor.dimensions = vec![0, 1 << 32, 1 << 32];
        }),
        entry("dimensions-absurd.gguf", "Gguf{Dimensions}", |tensor| {
            tensor.dimensions = vec![1 << 31, 1 << 30]
        }),
        entry("row-of-half-a-block.gguf", "Gguf{Entry}", |tensor| {
            (tensor.kind, tensor.dimensions, tensor.data) = (Q8_0, vec![48], vec![0; 51]);
        }),
        entry("offset-hole.gguf", "Gguf{Offset}", |tensor| tensor.shift = 32),
        entry("offset-overlap.gguf", "Gguf{Offset}", |tensor| tensor.shift = 32u64.wrapping_neg()),
        entry("offset-misaligned.gguf", "Gguf{Offset}", |tensor| tensor.shift = 1),
        entry("offset-huge.gguf", "Gguf{Offset}", |tensor| tensor.shift = u64::MAX - 32),
        entry("data-past-end.gguf", "Gguf{OutOfBounds}", |tensor| tensor.dimensions = vec![9]),
        entry("data-absurd.gguf", "Gguf{OutOfBounds}", |tensor| tensor.dimensions = vec![1 << 40]),
        open(
            "offset-inside-header.gguf",
            "Gguf{Offset}",
            changed(|gguf| gguf.tensors[0].shift = 64u64.wrapping_neg()),
        ),
        open(
            "offset-unsorted.gguf",
            "Gguf{Offset}",
            changed(|gguf| (gguf.tensors[0].shift, gguf.tensors[1].shift) = (32, 32u64.wrapping_neg())),
        ),
        open("trailing.gguf", "Gguf{TrailingBytes}", changed(|gguf| gguf.trailing = vec![0])),
    ]
}

fn weights() -> Vec<Case> {
    let block = |scale: [u8; 2]| [&scale[..], &[127; 32]].concat();
    let unpadded = good().bytes();
    vec![
        read(
            "overflow-f16.gguf",
            "Overflow",
            Gguf::new("llama").tensor("a.weight", &[32], Q8_0, block([0xFF, 0x7B])).bytes(),
        ),
        non_finite(
            "weights-nan.gguf",
            "blk.0.ffn_up.weight",
            f32::NAN,
            0,
            &f32::NAN.to_le_bytes(),
            Gguf::new("llama").tensor("blk.0.ffn_up.weight", &[64, 2], F32, f32s(&[f32::NAN; 128])).bytes(),
        ),
        non_finite(
            "block-scale-infinite.gguf",
            "blk.0.ffn_up.weight",
            f32::INFINITY,
            0,
            &[0, 0x7C],
            Gguf::new("llama")
                .tensor("blk.0.ffn_up.weight", &[64, 2], Q8_0, block([0, 0x7C]).repeat(4))
                .bytes(),
        ),
        non_finite(
            "block-minimum-nan.gguf",
            "blk.0.ffn_up.weight",
            f32::NAN,
            0,
            &[0, 0x7E],
            Gguf::new("llama")
                .tensor(
                    "blk.0.ffn_up.weight",
                    &[256, 2],
                    Q4_K,
                    [&[0x66, 0x2E, 0, 0x7E][..], &[0x11; 140]].concat().repeat(2),
                )
                .bytes(),
        ),
        taken("unpadded.gguf", unpadded[..unpadded.len() - 24].into()),
        taken("no-tensors.gguf", Gguf::new("gpt-oss").bytes()),
    ]
}
