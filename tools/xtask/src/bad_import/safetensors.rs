//! safetensors files.

use super::{Case, non_finite, open, read, taken};
use crate::gguf::f32s;

/// A file of that header and data.
pub fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// A file after a transfer that translated its line ends.
pub fn text_mode(bytes: &[u8]) -> Vec<u8> {
    let translated = |&byte: &u8| if byte == b'\n' { vec![b'\r', byte] } else { vec![byte] };
    bytes.iter().flat_map(translated).collect()
}

/// A file of tensors: name, dtype, shape, bytes.
pub fn tensors(tensors: &[(&str, &str, &[u64], Vec<u8>)]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend(bytes);
        entries.push(entry(name, dtype, &format!("{shape:?}"), begin, data.len()));
    }
    file(format!("{{{}}}", entries.join(",")), &data)
}

fn entry(name: &str, dtype: &str, shape: &str, begin: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

pub fn cases() -> Vec<Case> {
    [framing(), headers(), entries(), weights()].into_iter().flatten().collect()
}

fn framing() -> Vec<Case> {
    let good = tensors(&[("w", "F32", &[2], vec![0; 8])]);
    vec![
        open("truncated-empty.safetensors", "Truncated", Vec::new()),
        open("truncated-length.safetensors", "Truncated", good[..7].into()),
        open("truncated-header.safetensors", "Truncated", good[..30].into()),
        open("header-huge.safetensors", "HeaderTooLarge", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        open("header-beyond-limit.safetensors", "HeaderTooLarge", 100_000_001u64.to_le_bytes().into()),
        open("header-white-space.safetensors", "HeaderStart", file(" {}", b"")),
        open("header-byte-order-mark.safetensors", "HeaderStart", file("\u{feff}{}", b"")),
        open("header-none.safetensors", "HeaderStart", file("", b"")),
        open("header-zeros.safetensors", "HeaderStart", vec![0; 64]),
        open("header-byte-swapped.safetensors", "HeaderTooLarge", [&2u64.to_be_bytes()[..], b"{}"].concat()),
        // A length of ten, which is a newline.
        open("header-text-mode.safetensors", "Truncated", text_mode(&file("{}        ", b""))),
        open("header-not-json.safetensors", "Header", file("{w}", b"")),
        open("header-not-utf8.safetensors", "Header", file(b"{\"\xff\":0}", b"")),
        open("header-deep.safetensors", "Header", file(r#"{"w":"#.to_owned() + &"[".repeat(4000), b"")),
        open("header-and-more.safetensors", "Header", file("{}{}", b"")),
        open("other-name.bin", "UnknownInput", good),
    ]
}

fn headers() -> Vec<Case> {
    let with = |name: &str, header: &str| open(name, "Header", file(header, &[0; 4]));
    let ok = entry("w", "F32", "[1]", 0, 4);
    let number = |dimension: &str| format!("{{{}}}", entry("w", "F32", &format!("[{dimension}]"), 0, 4));
    vec![
        with("header-unknown-field.safetensors", &format!("{{{}}}", ok.replace('}', r#","stride":[1]}"#))),
        with("header-missing-field.safetensors", r#"{"w":{"dtype":"F32","shape":[1]}}"#),
        with("header-field-twice.safetensors", &format!("{{{}}}", ok.replace('}', r#","dtype":"F16"}"#))),
        with("header-three-offsets.safetensors", &format!("{{{}}}", ok.replace("[0,4]", "[0,4,4]"))),
        with("header-metadata-number.safetensors", r#"{"__metadata__":{"a":1}}"#),
        with("shape-negative.safetensors", &number("-1")),
        with("shape-fraction.safetensors", &number("1.0")),
        with("shape-huge-number.safetensors", &number("18446744073709551616")),
        open(
            "metadata-key-twice.safetensors",
            "DuplicateMetadata",
            file(r#"{"__metadata__":{"a":"b","a":"c"}}"#, b""),
        ),
        open(
            "metadata-twice.safetensors",
            "DuplicateMetadata",
            file(r#"{"__metadata__":{},"__metadata__":{}}"#, b""),
        ),
        open(
            "tensor-twice.safetensors",
            "DuplicateTensor",
            file(format!("{{{ok},{}}}", entry("w", "I32", "[1]", 0, 4)), &[0; 4]),
        ),
        open(
            "tensor-twice-escaped.safetensors",
            "DuplicateTensor",
            file(format!("{{{ok},{}}}", entry("\\u0077", "F32", "[1]", 4, 8)), &[0; 8]),
        ),
    ]
}

fn entries() -> Vec<Case> {
    let one = |name, expected, entry: String, data: usize| {
        open(name, expected, file(format!("{{{entry}}}"), &vec![0; data]))
    };
    let two = |first: (usize, usize), second: (usize, usize)| {
        let shape = |(begin, end): (usize, usize)| format!("[{}]", end - begin);
        let first = entry("a", "U8", &shape(first), first.0, first.1);
        first + "," + &entry("b", "U8", &shape(second), second.0, second.1)
    };
    let most = usize::MAX;
    let rank = |rank: usize| format!("[{}]", vec!["1"; rank].join(","));
    vec![
        one("name-empty.safetensors", "BadName{Empty}", entry("", "U8", "[1]", 0, 1), 1),
        one("name-long.safetensors", "BadName{TooLong}", entry(&"n".repeat(1025), "U8", "[1]", 0, 1), 1),
        one("name-nul.safetensors", "BadName{ControlCharacter}", entry("a\\u0000", "U8", "[1]", 0, 1), 1),
        one("name-newline.safetensors", "BadName{ControlCharacter}", entry("a\\nb", "U8", "[1]", 0, 1), 1),
        one("dtype-unknown.safetensors", "UnknownDtype", entry("w", "F24", "[1]", 0, 3), 3),
        one("rank-33.safetensors", "TooManyDimensions", entry("w", "U8", &rank(33), 0, 1), 1),
        one("shape-overflow.safetensors", "BadShape", entry("w", "U8", "[4294967296,4294967296]", 0, 0), 0),
        one(
            "shape-overflow-behind-zero.safetensors",
            "BadShape",
            entry("w", "U8", "[0,4294967296,4294967296]", 0, 0),
            0,
        ),
        one(
            "shape-overflow-bytes.safetensors",
            "BadShape",
            entry("w", "F32", "[4611686018427387904]", 0, 0),
            0,
        ),
        one("shape-partial-byte.safetensors", "BadShape", entry("w", "F4", "[3]", 0, 2), 2),
        one("size-short.safetensors", "SizeMismatch", entry("w", "F32", "[2]", 0, 4), 4),
        one("size-long.safetensors", "SizeMismatch", entry("w", "F32", "[1]", 0, 8), 8),
        one("size-absurd.safetensors", "SizeMismatch", entry("w", "U8", "[1000000000000]", 0, 1), 1),
        one("offsets-past-end.safetensors", "OutOfBounds", entry("w", "F32", "[2]", 0, 8), 7),
        one("offsets-backwards.safetensors", "OutOfBounds", entry("w", "U8", "[0]", 1, 0), 1),
        one("offsets-huge.safetensors", "OutOfBounds", entry("w", "U8", "[1]", most - 1, most), 1),
        one("hole.safetensors", "Gap", two((0, 1), (2, 3)), 3),
        one("hole-at-the-start.safetensors", "Gap", two((1, 2), (2, 3)), 3),
        one("overlap.safetensors", "Gap", two((0, 2), (1, 3)), 3),
        one("same-data.safetensors", "Gap", two((0, 2), (0, 2)), 2),
        one("trailing-byte.safetensors", "TrailingBytes", entry("w", "U8", "[1]", 0, 1), 2),
    ]
}

fn weights() -> Vec<Case> {
    let matrix = |values: [f32; 4]| {
        let values: Vec<f32> = values.iter().copied().cycle().take(128).collect();
        tensors(&[("a.up_proj.weight", "F32", &[2, 64], f32s(&values))])
    };
    let odd = tensors(&[
        ("bias", "U8", &[3], vec![1, 2, 3]),
        ("a.up_proj.weight", "F32", &[2, 64], f32s(&[0.5; 128])),
    ]);
    let unsorted = entry("a", "U8", "[1]", 1, 2) + "," + &entry("b", "U8", "[1]", 0, 1);
    let empty: Vec<_> = [&[0, 64][..], &[64, 0], &[0], &[2, 0, 64]].into_iter().enumerate().collect();
    let names: Vec<String> = empty.iter().map(|(at, _)| format!("a.{at}.up_proj.weight")).collect();
    let empty: Vec<_> = empty
        .iter()
        .zip(&names)
        .map(|((_, shape), name)| (name.as_str(), "F32", *shape, Vec::new()))
        .collect();
    vec![
        non_finite(
            "weights-nan.safetensors",
            "a.up_proj.weight",
            f32::NAN,
            2,
            &f32::NAN.to_le_bytes(),
            matrix([0.5, -1.0, f32::NAN, 2.0]),
        ),
        non_finite(
            "weights-infinite.safetensors",
            "a.up_proj.weight",
            f32::NEG_INFINITY,
            1,
            &f32::NEG_INFINITY.to_le_bytes(),
            matrix([0.5, f32::NEG_INFINITY, 1.0, 2.0]),
        ),
        taken("weights-zero.safetensors", matrix([0.0, -0.0, 0.0, 0.0])),
        taken("weights-equal.safetensors", matrix([-3.5; 4])),
        taken("weights-smallest.safetensors", matrix([f32::from_bits(1); 4])),
        taken("weights-largest.safetensors", matrix([f32::MAX, f32::MIN, 0.0, 1.0])),
        taken("unaligned.safetensors", odd),
        taken("unsorted.safetensors", file(format!("{{{unsorted}}}"), &[1, 2])),
        taken("empty-tensors.safetensors", tensors(&empty)),
        taken("no-tensors.safetensors", file("{}", b"")),
        taken("scalar.safetensors", tensors(&[("a.weight", "F32", &[], f32s(&[1.5]))])),
        read(
            "overflow-bf16.safetensors",
            "Overflow",
            tensors(&[
                ("w", "F8_E4M3", &[1, 2], vec![0x38; 2]),
                ("w_scale_inv", "F32", &[1, 1], f32s(&[3.4e38])),
            ]),
        ),
    ]
}
