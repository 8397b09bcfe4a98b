//! Files of importance vectors.

use super::safetensors::{file, tensors};
use super::{Case, open};
use crate::gguf::{F32, Gguf, STRING, U32, f32s, pair, text};

fn imatrix(change: impl FnOnce(&mut Gguf)) -> Vec<u8> {
    let mut gguf = Gguf::imatrix();
    change(&mut gguf);
    gguf.bytes()
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, expected, bytes| Case {
        phase: "importance",
        ..open(&format!("importance-{name}"), expected, bytes)
    };
    let gguf = |name, expected, change: fn(&mut Gguf)| case(name, expected, imatrix(change));
    let vector = |name, expected, dtype: &str, shape: &[u64], bytes| {
        case(name, expected, tensors(&[("a.weight", dtype, shape, bytes)]))
    };
    let old = [&2i32.to_le_bytes()[..], &1i32.to_le_bytes(), b"a", &[0; 16]].concat();
    vec![
        case("other.bin", "UnknownInput", b"hello".into()),
        case("old.dat", "OldImatrix", old.clone()),
        case("old.imatrix", "OldImatrix", old),
        case("cut.safetensors", "Truncated", vec![9; 4]),
        case("empty.safetensors", "Empty", file("{}", b"")),
        case(
            "name-nul.safetensors",
            "BadName{ControlCharacter}",
            tensors(&[("a\\u0000", "F32", &[1], f32s(&[1.0]))]),
        ),
        case("trailing.safetensors", "TrailingBytes", file("{}", &[0])),
        vector("integers.safetensors", "NotAVector", "I32", &[2], vec![0; 8]),
        vector("rank-3.safetensors", "NotAVector", "F32", &[1, 1, 2], vec![0; 8]),
        vector("no-channels.safetensors", "NotAVector", "F32", &[2, 0], vec![]),
        vector("nan.safetensors", "BadValue", "F32", &[2], f32s(&[1.0, f32::NAN])),
        vector("infinite.safetensors", "BadValue", "BF16", &[2], vec![0x80, 0x3F, 0x80, 0x7F]),
        vector("negative.safetensors", "BadValue", "F32", &[2], f32s(&[1.0, -0.5])),
        case("model.gguf", "NotAnImatrix", Gguf::new("llama").bytes()),
        gguf("type.gguf", "NotAnImatrix", |gguf| gguf.pairs[0] = pair("general.type", U32, &[0; 4])),
        gguf("version.gguf", "Gguf{Record}", |gguf| gguf.version = 9),
        gguf("datasets.gguf", "Metadata", |gguf| {
            gguf.pairs[1] = pair("imatrix.datasets", STRING, &text("a"))
        }),
        gguf("chunk-count.gguf", "Metadata", |gguf| {
            gguf.pairs[2] = pair("imatrix.chunk_count", STRING, &text("7"));
        }),
        gguf("no-entries.gguf", "Empty", |gguf| gguf.tensors.clear()),
        gguf("no-counts.gguf", "MissingPart", |gguf| drop(gguf.tensors.pop())),
        gguf("no-sums.gguf", "MissingPart", |gguf| drop(gguf.tensors.remove(0))),
        gguf("three-counts.gguf", "Counts", |gguf| {
            (gguf.tensors[1].dimensions, gguf.tensors[1].data) = (vec![1, 3], f32s(&[1.0; 3]));
        }),
        gguf("halves.gguf", "Gguf{TensorType}", |gguf| gguf.tensors[0].kind = 1),
        gguf("sum-negative.gguf", "BadValue", |gguf| gguf.tensors[0].data = f32s(&[1.0, -1.0])),
        gguf("count-nan.gguf", "BadValue", |gguf| gguf.tensors[1].data = f32s(&[f32::NAN])),
        gguf("quotient-overflows.gguf", "BadValue", |gguf| {
            (gguf.tensors[0].data, gguf.tensors[1].data) = (f32s(&[f32::MAX; 2]), f32s(&[0.5]));
        }),
        gguf("damaged.gguf", "Gguf{Offset}", |gguf| gguf.tensors[1].shift = 32),
        gguf("entry-twice.gguf", "Gguf{DuplicateTensor}", |gguf| gguf.tensors[1].name = b"a.in_sum2".into()),
        gguf("count-negative.gguf", "BadValue", |gguf| gguf.tensors[1].data = f32s(&[-4.0])),
        case(
            "cut.gguf",
            "Gguf{Record}",
            Gguf::imatrix().tensor("b.counts", &[1], F32, vec![]).bytes()[..150].into(),
        ),
    ]
}
