//! GGUF files as models.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use ccq::format::Dtype;
use ccq_import::{Carried, Error, GgufError, Model, Transpose};
use common::{Folder, bytes, check_ranges, decode, f32s, names};
use proptest::prelude::*;

/// Where the Python with `gguf` is that CI installs.
const PYTHON: &str = "CCQ_ORACLE_PYTHON";

/// A GGUF file to be.
#[derive(Clone)]
struct Gguf {
    pairs: Vec<Vec<u8>>,
    /// Name, dimensions innermost first, type, data.
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    alignment: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    fn new() -> Self {
        let mut gguf = Self { pairs: Vec::new(), tensors: Vec::new(), alignment: 32 };
        gguf.pair("general.architecture", 8, &text("command-r"));
        gguf
    }

    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.pairs.push([&text(key), &kind.to_le_bytes()[..], value].concat());
    }

    fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, data: Vec<u8>) {
        self.tensors.push((name.into(), dimensions.into(), kind, data));
    }

    /// Everything before the padding and the data, and all of it.
    fn header_and_bytes(&self) -> (usize, Vec<u8>) {
        let mut bytes = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        for count in [self.tensors.len(), self.pairs.len()] {
            bytes.extend((count as u64).to_le_bytes());
        }
        bytes.extend(self.pairs.iter().flatten());
        let mut data = Vec::new();
        for (name, dimensions, kind, content) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(content);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        let header = bytes.len();
        bytes.resize(header.next_multiple_of(self.alignment), 0);
        bytes.extend(data);
        (header, bytes)
    }

    fn bytes(&self) -> Vec<u8> {
        self.header_and_bytes().1
    }

    fn error(&self) -> GgufError {
        error_of(&self.bytes())
    }
}

fn open(folder: &Folder, bytes: &[u8]) -> Result<Model, Error> {
    folder.write("model.gguf", bytes);
    Model::open(&folder.path("model.gguf"))
}

fn error_of(bytes: &[u8]) -> GgufError {
    match open(&Folder::new(), bytes) {
        Err(Error::Gguf { source, file, .. }) => {
            assert!(file.ends_with("model.gguf"));
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_model_opens_with_its_metadata_and_header() {
    let mut gguf = Gguf { alignment: 64, ..Gguf::new() };
    gguf.pair("general.alignment", 4, &64u32.to_le_bytes());
    gguf.pair("some.flag", 7, &[1]);
    gguf.pair("some.byte", 1, &[0xFF]);
    gguf.pair("some.float", 6, &0.5f32.to_le_bytes());
    gguf.pair("tokens", 9, &[&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &text("a"), &text("b")].concat());
    gguf.tensor("token_embd.weight", &[2, 3], 0, f32s((0..6).map(|at| at as f32)));
    gguf.tensor("blk.0.ffn_up_exps.weight", &[32, 2, 2], 8, bytes(136, 1));
    gguf.tensor("output_norm.weight", &[2], 1, vec![0, 0x3C, 0, 0xC0]);
    gguf.tensor("blk.0.bf16.weight", &[2, 1], 30, vec![0x80, 0x3F, 0, 0xC0]);
    let (header, all) = gguf.header_and_bytes();
    let folder = Folder::new();
    let model = open(&folder, &all).unwrap();

    let sorted = ["blk.0.bf16.weight", "blk.0.ffn_up_exps.weight", "output_norm.weight", "token_embd.weight"];
    assert_eq!(names(&model), sorted);
    let found: Vec<_> = model
        .tensors()
        .iter()
        .map(|t| (t.dtype, t.shape.clone(), t.quantized_as(), t.is_transposed()))
        .collect();
    assert_eq!(
        found,
        [
            (Dtype::Bf16, vec![1, 2], None, false),
            (Dtype::F16, vec![2, 2, 32], Some("Q8_0"), false),
            (Dtype::F16, vec![2], None, false),
            (Dtype::F32, vec![3, 2], None, false),
        ]
    );
    assert_eq!(decode(&model, &model.tensors()[0]), [1.0, -2.0]);
    assert_eq!(decode(&model, &model.tensors()[2]), [1.0, -2.0]);
    assert_eq!(decode(&model, &model.tensors()[3]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let metadata: Vec<_> =
        model.metadata().iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    assert_eq!(
        metadata,
        [
            ("gguf.general.alignment", Carried::U64(64)),
            ("gguf.general.architecture", Carried::String("command-r".into())),
            ("gguf.some.byte", Carried::I64(-1)),
            ("gguf.some.flag", Carried::Bool(true)),
            ("gguf.some.float", Carried::F64(0.5)),
        ]
    );
    assert_eq!((model.blobs().len(), model.blobs()[0].name.as_str()), (1, "gguf.header"));
    assert_eq!(model.blobs()[0].read().unwrap(), all[..header]);
    assert_eq!(model.input_files(), [folder.path("model.gguf")]);

    // In a folder, where it is the only model.
    folder.write("tokenizer.json", b"{}");
    let model = folder.open().unwrap();
    let blobs: Vec<_> = model.blobs().iter().map(|blob| blob.name.as_str()).collect();
    assert_eq!(blobs, ["gguf.header", "tokenizer.json"]);
    folder.write("other.gguf", b"GGUF");
    assert!(matches!(folder.open(), Err(Error::AmbiguousWeights { .. })));
    folder.write("model.safetensors", &common::safetensors(&[]));
    assert!(folder.open().unwrap().tensors().is_empty());
}

/// Blocks whose weights are easy to tell, without Python.
#[test]
fn blocks_decode() {
    let half = [0u8, 0x38]; // 0.5
    let q4_0: Vec<u8> = half.into_iter().chain((0..16).map(|at| at | (15 - at) << 4)).collect();
    let q8_0: Vec<u8> = half.into_iter().chain((0..32).map(|at| (at as i8 - 16) as u8)).collect();
    let mut gguf = Gguf::new();
    gguf.tensor("q4_0", &[32], 2, q4_0);
    gguf.tensor("q8_0", &[32], 8, q8_0);
    let folder = Folder::new();
    let model = open(&folder, &gguf.bytes()).unwrap();
    let low = (0..16).map(|at| (at as f32 - 8.0) * 0.5);
    let high = (0..16).map(|at| (7 - at) as f32 * 0.5);
    assert_eq!(decode(&model, &model.tensors()[0]), low.chain(high).collect::<Vec<_>>());
    let bytes: Vec<f32> = (0..32).map(|at| (at as f32 - 16.0) * 0.5).collect();
    assert_eq!(decode(&model, &model.tensors()[1]), bytes);
}

/// Random blocks of every type, bit for bit what PyPI's `gguf` makes of them.
#[test]
fn blocks_decode_as_the_reference_says() {
    let python = std::env::var_os(PYTHON).unwrap_or("python3".into());
    let there = Command::new(&python).args(["-c", "import gguf, numpy"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "{python:?} has no package gguf: CI installs it ({PYTHON})"
        );
        eprintln!("skipped: {python:?} has no package `gguf`; set {PYTHON} to a Python that has it");
        return;
    }
    let folder = Folder::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf_oracle.py");
    let run = Command::new(&python).arg(script).arg(folder.0.path()).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let model = Model::open(&folder.path("oracle.gguf")).unwrap();
    let listed = String::from_utf8(run.stdout).unwrap();
    let mut count = 0;
    for line in listed.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let tensor = model.tensor(name).unwrap();
        assert_eq!(tensor.shape, words.map(|word| word.parse().unwrap()).collect::<Vec<u64>>(), "{name}");
        let expected = fs::read(folder.path(&format!("{name}.f32"))).unwrap();
        assert_eq!(f32s(decode(&model, tensor)), expected, "{name}");
        if tensor.quantized_as().is_some() {
            let rounded = fs::read(folder.path(&format!("{name}.f16"))).unwrap();
            assert_eq!(*model.elements(tensor, 0..tensor.element_count()).unwrap(), rounded, "{name}");
        }
        check_ranges(&model, tensor);
        count += 1;
    }
    assert_eq!((count, model.tensors().len()), (13, 13));
    assert_eq!(model.metadata()["gguf.general.architecture"], Carried::String("gpt-oss".into()));
    assert_eq!(model.metadata()["gguf.some.number"], Carried::I64(-7));
    let header = model.blobs()[0].read().unwrap();
    assert!(header.windows(14).any(|window| window == b"{{ messages }}"));
}

#[test]
fn types_that_are_not_read_are_named() {
    for (number, text) in [(3, "3 (Q4_1)"), (10, "10 (Q2_K)"), (39, "39 (MXFP4)"), (4, "4"), (99, "99")] {
        let mut gguf = Gguf::new();
        gguf.tensor("blk.0.attn_q.weight", &[256], number, vec![0; 32]);
        let error = gguf.error();
        assert!(
            matches!(&error, GgufError::TensorType { tensor, found, .. }
                if tensor == "blk.0.attn_q.weight" && found == text),
            "{error}"
        );
        assert!(
            error.to_string().contains("expected F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K"),
            "{error}"
        );
    }
}

#[test]
fn what_is_wrong_with_places_is_named() {
    let mut gguf = Gguf::new();
    gguf.tensor("a", &[256, 2], 12, vec![1; 288]);
    gguf.tensor("b", &[32], 8, vec![2; 34]);
    let folder = Folder::new();
    assert_eq!(open(&folder, &gguf.bytes()).unwrap().tensors().len(), 2);

    let damaged = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = gguf.clone();
        change(&mut gguf);
        gguf.error()
    };
    // Rows that are no whole blocks.
    let error = damaged(&|gguf| gguf.tensors[0].1 = vec![2, 256]);
    assert!(matches!(&error, GgufError::Entry { tensor, .. } if tensor == "a"), "{error}");
    let error = damaged(&|gguf| gguf.tensors[0].1 = vec![256, 0]);
    assert!(matches!(error, GgufError::Dimensions { .. }), "{error}");
    let error = damaged(&|gguf| gguf.tensors[0].1 = vec![256, 1 << 61]);
    assert!(matches!(error, GgufError::Entry { .. } | GgufError::Dimensions { .. }), "{error}");
    // Another size than its place has: a hole, or a tensor that overlaps the next.
    let error = damaged(&|gguf| gguf.tensors[0].1 = vec![256]);
    assert!(matches!(&error, GgufError::Offset { tensor, .. } if tensor == "b"), "{error}");
    let error = damaged(&|gguf| {
        gguf.tensors[0].1 = vec![256, 3];
        gguf.tensors[1].3 = vec![2; 340];
    });
    assert!(matches!(&error, GgufError::Offset { tensor, .. } if tensor == "b"), "{error}");
    let error = damaged(&|gguf| gguf.tensors[1].1 = vec![32, 64]);
    assert!(matches!(&error, GgufError::OutOfBounds { tensor, .. } if tensor == "b"), "{error}");
    let error = damaged(&|gguf| gguf.tensors[1].0 = "a".into());
    assert!(matches!(error, GgufError::DuplicateTensor { .. }), "{error}");
    let error = damaged(&|gguf| gguf.pair("split.count", 2, &3u16.to_le_bytes()));
    assert!(matches!(error, GgufError::Split { count: 3 }), "{error}");
    let error = damaged(&|gguf| gguf.pair("general.alignment", 4, &24u32.to_le_bytes()));
    assert!(matches!(error, GgufError::Alignment { .. }), "{error}");
    let mut longer = gguf.bytes();
    longer.resize(longer.len() + 32, 0);
    assert!(matches!(error_of(&longer), GgufError::TrailingBytes { .. }));
    let mut old = gguf.bytes();
    old[4] = 2;
    assert!(matches!(error_of(&old), GgufError::Record { what: "header", .. }));
}

/// Matrices of plain elements can be turned, blocks cannot.
#[test]
fn plain_matrices_can_be_turned() {
    let mut gguf = Gguf::new();
    gguf.tensor("a", &[3, 2], 0, f32s((0..6).map(|at| at as f32)));
    gguf.tensor("b", &[32, 2], 8, bytes(68, 1));
    let folder = Folder::new();
    folder.write("model.gguf", &gguf.bytes());
    let open = |turned| Model::open_with(folder.0.path(), &Transpose::Rule(&move |name| name == turned));
    let model = open("a").unwrap();
    assert_eq!((&model.tensors()[0].shape[..], model.tensors()[0].is_transposed()), (&[3, 2][..], true));
    assert_eq!(decode(&model, &model.tensors()[0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert!(matches!(open("b"), Err(Error::CannotTranspose { tensor, .. }) if tensor == "b"));
}

/// Metadata may take a bounded amount of memory, whatever it is made of.
#[test]
fn metadata_beyond_the_bound_is_refused() {
    let mut gguf = Gguf::new();
    for key in ["a", "b"] {
        let count = 6_000_000u64;
        gguf.pair(
            key,
            9,
            &[&0u32.to_le_bytes()[..], &count.to_le_bytes(), &vec![1; count as usize]].concat(),
        );
    }
    let error = gguf.error();
    assert!(matches!(&error, GgufError::MetadataSize { key, .. } if key == "b"), "{error}");
}

/// A finite value whose scale is the largest binary16 overflows F16, and is exact in f32.
#[test]
fn a_weight_beyond_f16_is_refused_where_it_is_kept() {
    let mut gguf = Gguf::new();
    gguf.tensor("a", &[32], 8, [0xFF, 0x7B].into_iter().chain([2; 32]).collect());
    let folder = Folder::new();
    let model = open(&folder, &gguf.bytes()).unwrap();
    assert_eq!(decode(&model, &model.tensors()[0]), [131_008.0; 32]);
    let error = model.elements(&model.tensors()[0], 3..7).unwrap_err();
    assert!(matches!(error, Error::Overflow { element: 3, .. }), "{error}");
}

fn sample() -> Gguf {
    let mut gguf = Gguf { alignment: 8, ..Gguf::new() };
    gguf.pair("general.alignment", 4, &8u32.to_le_bytes());
    gguf.pair("tokens", 9, &[&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &text("a")].concat());
    gguf.tensor("a", &[32, 2], 2, bytes(36, 3));
    gguf.tensor("b", &[256], 14, bytes(210, 4));
    gguf.tensor("c", &[3], 1, bytes(6, 5));
    gguf
}

/// Asks for everything that a file has, whatever the answers.
fn use_all(folder: &Folder, bytes: &[u8]) -> bool {
    let Ok(model) = open(folder, bytes) else { return false };
    let mut out = Vec::new();
    for tensor in model.tensors() {
        let elements = tensor.element_count();
        assert!(elements <= bytes.len() as u64 * 2);
        let _ = model.decode_f32(tensor, 0..elements, &mut out);
        let _ = model.elements(tensor, elements / 2..elements);
    }
    assert!(model.blobs().iter().all(|blob| blob.read().is_ok()));
    true
}

#[test]
fn files_cut_short_are_refused() {
    let (folder, bytes) = (Folder::new(), sample().bytes());
    assert!(use_all(&folder, &bytes));
    let opened = (0..bytes.len()).filter(|&len| use_all(&folder, &bytes[..len])).count();
    // Only padding may be missing.
    assert!(opened < 8, "{opened}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn damage_never_panics(damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..5)) {
        let (folder, mut bytes) = (Folder::new(), sample().bytes());
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        use_all(&folder, &bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        use_all(&Folder::new(), &[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}
