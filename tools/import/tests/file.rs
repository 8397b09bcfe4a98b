//! A single safetensors file: what is accepted, and the error of everything that is not.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ccq::format::Dtype;
use ccq_import::{Carried, DecodeError, Error, Model, NameProblem, SourceTensor};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype as TheirDtype, SafeTensors};
use tempfile::TempDir;

/// A file of that content, in a folder of its own.
struct Input {
    _folder: TempDir,
    path: PathBuf,
}

impl Input {
    fn new(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    fn open(&self) -> Result<Model, Error> {
        Model::open(&self.path)
    }
}

/// A safetensors file of that header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend((0..data).map(|at| at as u8));
    bytes
}

fn elements<'a>(model: &'a Model, tensor: &SourceTensor) -> Cow<'a, [u8]> {
    model.elements(tensor, 0..tensor.element_count()).unwrap()
}

fn decode(model: &Model, tensor: &SourceTensor, out: &mut Vec<f32>) -> Result<(), Error> {
    model.decode_f32(tensor, 0..tensor.element_count(), out)
}

fn error_of(header: &str, data: usize) -> Error {
    let input = Input::new(&file(header, data));
    let error = input.open().expect_err(header);
    assert!(error.to_string().contains("model.safetensors: "), "{error}");
    error
}

fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn what_the_safetensors_crate_writes_is_read_back() {
    let f32s: Vec<u8> =
        [1.0f32, -2.5, 3.0, f32::MAX, 0.0, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let f16s: Vec<u8> = [0x3C00u16, 0x0001, 0xFBFF].iter().flat_map(|x| x.to_le_bytes()).collect();
    let i64s = 7i64.to_le_bytes().to_vec();
    let tensors = [
        ("z.weight", TensorView::new(TheirDtype::F32, vec![2, 3], &f32s).unwrap()),
        ("a.half", TensorView::new(TheirDtype::F16, vec![3], &f16s).unwrap()),
        ("a.empty", TensorView::new(TheirDtype::BF16, vec![0, 4], &[]).unwrap()),
        ("m.scalar", TensorView::new(TheirDtype::I64, vec![], &i64s).unwrap()),
    ];
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let input = Input::new(&safetensors::serialize(tensors, Some(metadata)).unwrap());
    let model = input.open().unwrap();

    let names: Vec<_> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a.empty", "a.half", "m.scalar", "z.weight"]);
    assert_eq!(model.metadata()["safetensors.format"], Carried::String("pt".into()));
    assert_eq!(model.input_files(), std::slice::from_ref(&input.path));
    assert!(model.blobs().is_empty() && model.ignored_files().is_empty());

    let weight = model.tensor("z.weight").unwrap();
    assert_eq!((weight.dtype, weight.shape.as_slice()), (Dtype::F32, [2, 3].as_slice()));
    assert_eq!(*elements(&model, weight), f32s);
    assert_eq!(model.file(weight), input.path);
    let mut out = Vec::new();
    decode(&model, weight, &mut out).unwrap();
    assert_eq!(out, [1.0, -2.5, 3.0, f32::MAX, 0.0, -0.0]);
    decode(&model, model.tensor("a.half").unwrap(), &mut out).unwrap();
    assert_eq!(out, [1.0, 2f32.powi(-24), -65504.0]);
    decode(&model, model.tensor("a.empty").unwrap(), &mut out).unwrap();
    assert!(out.is_empty());

    let scalar = model.tensor("m.scalar").unwrap();
    assert!(scalar.shape.is_empty());
    assert_eq!(*elements(&model, scalar), i64s);
    let error = decode(&model, scalar, &mut out).unwrap_err();
    assert!(
        matches!(&error, Error::Decode { source: DecodeError::UnsupportedDtype(Dtype::I64), .. }),
        "{error}"
    );
    assert!(model.tensor("z").is_none());

    model.decode_f32(weight, 1..3, &mut out).unwrap();
    assert_eq!(out, [-2.5, 3.0]);
    let error = model.elements(weight, 5..7).unwrap_err();
    assert!(error.to_string().ends_with(r#"tensor "z.weight" has 6 elements, not 5..7"#), "{error}");
}

#[test]
fn the_real_layer_opens() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/all-minilm-l6-v2-layer0.safetensors");
    let model = Model::open(&path).unwrap();
    assert_eq!(model.tensors().len(), 6);
    let mut out = Vec::new();
    for tensor in model.tensors() {
        decode(&model, tensor, &mut out).unwrap();
        assert_eq!(out.len() as u64, tensor.shape.iter().product::<u64>());
        assert_eq!(ccq_import::first_non_finite(&out), None);
        let mean_square = out.iter().map(|x| x * x).sum::<f32>() / out.len() as f32;
        assert!((1e-4..1e-1).contains(&mean_square), "{}: {mean_square}", tensor.name);
    }
}

#[test]
fn unaligned_and_unsorted_tensors_are_read() {
    let one = entry("one", "U8", "[1]", 4, 5);
    let (two, three) = (entry("two", "F32", "[1]", 5, 9), entry("three", "F16", "[2]", 0, 4));
    let bytes = file(&format!("{{{two},{three},{one}}}  "), 9);
    let input = Input::new(&bytes);
    let model = input.open().unwrap();
    let two = model.tensor("two").unwrap();
    assert_eq!(*elements(&model, two), [5, 6, 7, 8]);
    let mut out = Vec::new();
    decode(&model, two, &mut out).unwrap();
    assert_eq!(out, [f32::from_le_bytes([5, 6, 7, 8])]);
}

#[test]
fn every_dtype_is_known() {
    for dtype in Dtype::ALL {
        let bytes = dtype.tensor_bytes(&[8]).unwrap();
        let input =
            Input::new(&file(&format!("{{{}}}", entry("x", dtype.name(), "[8]", 0, bytes)), bytes as usize));
        let model = input.open().unwrap();
        assert_eq!(model.tensors()[0].dtype, *dtype);
        SafeTensors::deserialize(&std::fs::read(&input.path).unwrap()).unwrap();
    }
}

#[test]
fn short_files_are_truncated() {
    for len in 0..8 {
        let error = Input::new(&vec![b'{'; len]).open().unwrap_err();
        assert!(matches!(error, Error::Truncated { expected: 8, found, .. } if found == len as u64));
    }
    let header = format!("{{{}}}", entry("x", "U8", "[4]", 0, 4));
    let whole = file(&header, 4);
    for len in 8..whole.len() {
        let error = Input::new(&whole[..len]).open().unwrap_err();
        let in_header = len < 8 + header.len();
        assert!(
            if in_header {
                matches!(error, Error::Truncated { .. })
            } else {
                matches!(error, Error::OutOfBounds { data, .. } if data == (len - 8 - header.len()) as u64)
            },
            "{len}: {error}"
        );
    }
    let huge = Input::new(&[0xFF; 64]).open().unwrap_err();
    assert!(matches!(huge, Error::HeaderTooLarge { found: u64::MAX, .. }));
}

#[test]
fn damaged_headers_are_refused() {
    assert!(matches!(error_of("", 0), Error::HeaderStart { found: None, .. }));
    assert!(matches!(error_of(" {}", 0), Error::HeaderStart { found: Some(' '), .. }));
    for header in [
        "{",
        "{}x",
        r#"{"x":1}"#,
        r#"{"x":{"dtype":"U8","shape":[1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}}"#,
        r#"{"x":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#,
        r#"{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616]}}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":null}"#,
    ] {
        let error = error_of(header, 1);
        assert!(matches!(error, Error::Header { .. }), "{header}: {error}");
        assert!(!header.contains(r#""x":{"#) || error.to_string().contains(r#"tensor "x""#), "{error}");
    }
    let mut not_utf8 = file(r#"{"x":1}"#, 0);
    not_utf8[10] = 0xFF;
    assert!(matches!(Input::new(&not_utf8).open(), Err(Error::Header { .. })));
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    assert!(matches!(error_of(&deep, 0), Error::Header { .. }));
}

#[test]
fn duplicates_are_refused() {
    let (first, second) = (entry("x", "U8", "[1]", 0, 1), entry("x", "I8", "[1]", 0, 1));
    let error = error_of(&format!("{{{first},{second}}}"), 1);
    assert!(matches!(error, Error::DuplicateTensor { tensor, .. } if tensor == "x"));
    // Two spellings of one name.
    let escaped = entry("\\u0078", "U8", "[1]", 1, 2);
    let error = error_of(&format!("{{{first},{escaped}}}"), 2);
    assert!(matches!(error, Error::DuplicateTensor { tensor, .. } if tensor == "x"));
    let error = error_of(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0);
    assert!(matches!(error, Error::DuplicateMetadata { key, .. } if key == "k"));
    let error = error_of(r#"{"__metadata__":{},"__metadata__":{}}"#, 0);
    assert!(matches!(error, Error::DuplicateMetadata { key, .. } if key == "__metadata__"));
}

#[test]
fn bad_names_are_refused() {
    for (name, expected) in [
        ("", NameProblem::Empty),
        (&"n".repeat(1025), NameProblem::TooLong),
        ("a\\u0000b", NameProblem::ControlCharacter),
        ("a\\nb", NameProblem::ControlCharacter),
        ("\\u001b[2J", NameProblem::ControlCharacter),
        ("\\u009b", NameProblem::ControlCharacter),
    ] {
        let error = error_of(&format!("{{{}}}", entry(name, "U8", "[1]", 0, 1)), 1);
        assert!(!error.to_string().contains(char::is_control));
        assert!(matches!(error, Error::BadName { problem, .. } if problem == expected), "{name}");
    }
}

#[test]
fn bad_tensors_are_refused() {
    let error = |dtype, shape: &str, begin, end, data| {
        error_of(&format!("{{{}}}", entry("x", dtype, shape, begin, end)), data)
    };
    assert!(matches!(error("F33", "[1]", 0, 4, 4), Error::UnknownDtype { found, .. } if found == "F33"));
    assert!(matches!(error("U8", "[2]", 0, 1, 1), Error::SizeMismatch { expected: 2, found: 1, .. }));
    assert!(matches!(error("U8", "[0]", 0, 1, 1), Error::SizeMismatch { expected: 0, found: 1, .. }));
    assert!(matches!(error("U8", "[1]", 1, 0, 1), Error::OutOfBounds { begin: 1, end: 0, .. }));
    assert!(matches!(error("U8", "[2]", 0, 2, 1), Error::OutOfBounds { end: 2, data: 1, .. }));
    assert!(matches!(error("U8", "[1]", 1, 2, 2), Error::Gap { expected: 0, found: 1, .. }));
    assert!(matches!(error("U8", "[1]", 0, 1, 3), Error::TrailingBytes { expected: 1, found: 3, .. }));
    let most = u64::MAX;
    let huge = most / 8;
    assert!(matches!(error("U8", &format!("[{huge}]"), 0, huge, 1), Error::OutOfBounds { .. }));
    for (dtype, shape) in [
        ("U8", format!("[{most}]")),
        ("U8", format!("[{most},2]")),
        ("U8", format!("[0,{most},2]")),
        ("F4", "[3]".into()),
    ] {
        assert!(matches!(error(dtype, &shape, 0, 0, 0), Error::BadShape { .. }), "{dtype} {shape}");
    }
    let rank = |dimensions: usize| format!("[{}1]", "1,".repeat(dimensions - 1));
    assert!(matches!(error("U8", &rank(33), 0, 1, 1), Error::TooManyDimensions { limit: 32, found: 33, .. }));
    let widest = Input::new(&file(&format!("{{{}}}", entry("x", "U8", &rank(32), 0, 1)), 1));
    assert_eq!(widest.open().unwrap().tensors()[0].shape, [1; 32]);
}

/// Eight tensors whose sizes add up to almost 2^64: the end of the data is no sum of untrusted numbers.
#[test]
fn offsets_near_the_end_of_u64_are_refused() {
    let size = u64::MAX / 8;
    let tensors: Vec<_> =
        (0..8).map(|n| entry(&n.to_string(), "U8", &format!("[{size}]"), n * size, (n + 1) * size)).collect();
    assert!(matches!(error_of(&format!("{{{}}}", tensors.join(",")), 1), Error::OutOfBounds { .. }));
}

#[test]
fn overlaps_are_refused() {
    let pair = |a: (u64, u64), b: (u64, u64)| {
        let shape = |(begin, end): (u64, u64)| format!("[{}]", end - begin);
        let (first, second) = (entry("a", "U8", &shape(a), a.0, a.1), entry("b", "U8", &shape(b), b.0, b.1));
        Input::new(&file(&format!("{{{first},{second}}}"), 8)).open()
    };
    assert!(matches!(pair((0, 8), (0, 8)), Err(Error::Gap { expected: 8, found: 0, .. })));
    assert!(matches!(pair((0, 5), (4, 8)), Err(Error::Gap { expected: 5, found: 4, .. })));
    assert!(matches!(pair((0, 3), (4, 8)), Err(Error::Gap { expected: 3, found: 4, .. })));
    assert!(matches!(pair((0, 8), (3, 3)), Err(Error::Gap { expected: 8, found: 3, .. })));
    assert_eq!(pair((3, 8), (0, 3)).unwrap().tensors().len(), 2);
    assert_eq!(pair((8, 8), (0, 8)).unwrap().tensors().len(), 2);
}

#[test]
fn other_inputs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    assert!(matches!(Model::open(&path), Err(Error::Io { file, .. }) if file == path));
    std::fs::write(&path, "PK").unwrap();
    assert!(matches!(Model::open(&path), Err(Error::UnknownInput { file }) if file == path));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Damage ends in an error or in a model that the safetensors crate reads the same way.
    #[test]
    fn damage_never_panics_and_agrees_with_the_safetensors_crate(
        damage in prop::collection::vec((0usize..200, any::<u8>()), 0..4),
    ) {
        let header = format!(
            r#"{{"__metadata__":{{"k":"v"}},{},{}}}"#,
            entry("a", "F16", "[2,1]", 0, 4),
            entry("b", "F32", "[1]", 4, 8),
        );
        let mut bytes = file(&header, 8);
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(model) = Input::new(&bytes).open() {
            let theirs = SafeTensors::deserialize(&bytes).unwrap();
            prop_assert_eq!(theirs.len(), model.tensors().len());
            for tensor in model.tensors() {
                let view = theirs.tensor(&tensor.name).unwrap();
                let shape: Vec<u64> = view.shape().iter().map(|&dimension| dimension as u64).collect();
                prop_assert_eq!(view.data(), &*elements(&model, tensor));
                prop_assert_eq!(&shape, &tensor.shape);
                prop_assert_eq!(view.dtype().to_string(), tensor.dtype.name());
            }
        }
    }
}
