//! Importance vectors: both kinds of files, which vector a tensor gets, and the error of everything else.

use std::path::PathBuf;

use ccq_import::{Error, GgufError, Importance, ImportanceError};
use safetensors::Dtype as TheirDtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// A file of that name and content, in a folder of its own.
struct Input {
    _folder: TempDir,
    path: PathBuf,
}

impl Input {
    fn new(name: &str, content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    fn open(&self) -> Result<Importance, ImportanceError> {
        Importance::open(&self.path)
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A safetensors file of F32 tensors.
fn safetensors_file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let bytes: Vec<_> = tensors.iter().map(|(_, _, values)| f32s(values)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.to_string(), TensorView::new(TheirDtype::F32, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A GGUF file to be.
struct Gguf {
    pairs: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, Vec<f32>)>,
    alignment: usize,
}

impl Gguf {
    fn imatrix() -> Self {
        let mut gguf = Self { pairs: Vec::new(), tensors: Vec::new(), alignment: 32 };
        gguf.pair("general.type", 8, &text("imatrix"));
        gguf.pair("imatrix.datasets", 9, &[&[8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &*text("a.txt")].concat());
        gguf.pair("imatrix.chunk_count", 4, &7u32.to_le_bytes());
        gguf.pair("imatrix.chunk_size", 4, &512u32.to_le_bytes());
        gguf
    }

    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.pairs.push([&text(key), &kind.to_le_bytes()[..], value].concat());
    }

    fn tensor(&mut self, name: &str, dimensions: &[u64], values: &[f32]) {
        self.tensors.push((name.into(), dimensions.into(), values.into()));
    }

    /// Sums and counts, as llama.cpp lays them out.
    fn entry(&mut self, name: &str, width: usize, sums: &[f32], counts: &[f32]) {
        let (vectors, dense) = (counts.len() as u64, counts.len() == 1);
        let (width, one) = (width as u64, 1);
        let (long, short) = ([width, vectors], [one, vectors]);
        let (sum_dims, count_dims) = if dense { (&long[..1], &short[..1]) } else { (&long[..], &short[..]) };
        self.tensor(&format!("{name}.in_sum2"), sum_dims, sums);
        self.tensor(&format!("{name}.counts"), count_dims, counts);
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.pairs.len() as u64];
        let mut bytes = [b"GGUF".as_slice(), &3u32.to_le_bytes()].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes.extend(self.pairs.iter().flatten());
        let mut data = Vec::new();
        for (name, dimensions, values) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((dimensions.len() as u32).to_le_bytes());
            bytes.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            bytes.extend(0u32.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(f32s(values));
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(data);
        bytes
    }

    fn open(&self) -> Result<Importance, ImportanceError> {
        Input::new("imatrix.gguf", &self.bytes()).open()
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// The vectors of a tensor, one expert after the other.
fn get(importance: &Importance, tensor: &str, experts: usize, in_features: usize) -> Vec<f32> {
    let vectors = importance.get(tensor, experts, in_features).unwrap().expect(tensor);
    (0..experts).flat_map(|expert| vectors.of(expert)).copied().collect()
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn a_safetensors_file_gives_vectors_by_name() {
    let bytes = safetensors_file(&[
        ("one.weight", &[3], &[1.0, 0.0, 2.5]),
        ("experts.down_proj", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
    ]);
    // Told apart by content: any name will do.
    for name in ["vectors.safetensors", "vectors.bin"] {
        let importance = Input::new(name, &bytes).open().unwrap();
        assert_eq!(importance.names().collect::<Vec<_>>(), ["experts.down_proj", "one.weight"]);
        assert_eq!(importance.calibration(), None);
        assert!(importance.ignored().is_empty());
        assert_eq!(get(&importance, "one.weight", 1, 3), [1.0, 0.0, 2.5]);
        assert_eq!(get(&importance, "one.weight", 2, 3), [1.0, 0.0, 2.5, 1.0, 0.0, 2.5]);
        assert_eq!(get(&importance, "experts.down_proj", 2, 2), [1.0, 2.0, 3.0, 4.0]);
        assert!(importance.get("experts.down_proj", 2, 2).unwrap().unwrap().of(2).is_empty());
        assert_eq!(importance.get("other.weight", 1, 3).unwrap(), None);
        assert_eq!(importance.unknown(["one.weight", "other"]), ["experts.down_proj"]);
        assert!(importance.unknown(["one.weight", "other", "experts.down_proj"]).is_empty());
    }
}

#[test]
fn halves_decode() {
    let f16 = [0x3C00u16, 0x0001].map(u16::to_le_bytes).concat();
    let bf16 = [0x3FC0u16, 0x4000].map(u16::to_le_bytes).concat();
    let tensors = [
        ("f16", TensorView::new(TheirDtype::F16, vec![2], &f16).unwrap()),
        ("bf16", TensorView::new(TheirDtype::BF16, vec![1, 2], &bf16).unwrap()),
    ];
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let importance = Input::new("halves.safetensors", &bytes).open().unwrap();
    assert_eq!(get(&importance, "f16", 1, 2), [1.0, 2f32.powi(-24)]);
    assert_eq!(get(&importance, "bf16", 1, 2), [1.5, 2.0]);
}

#[test]
fn llama_cpps_names_are_not_looked_for_in_a_safetensors_file() {
    let bytes = safetensors_file(&[("blk.0.attn_q.weight", &[1], &[1.0])]);
    let importance = Input::new("v.safetensors", &bytes).open().unwrap();
    let tensor = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(importance.get(tensor, 1, 1).unwrap(), None);
    assert_eq!(importance.unknown([tensor]), ["blk.0.attn_q.weight"]);
}

#[test]
fn an_imatrix_gives_sums_over_counts() {
    let mut gguf = Gguf::imatrix();
    gguf.entry("blk.0.attn_q.weight", 3, &[2.0, 4.0, 0.0], &[2.0]);
    gguf.tensor("blk.0.attn_q.weight.in_sum", &[3], &[-1.0, f32::NAN, 1.0]);
    gguf.entry("blk.0.ffn_up_exps.weight", 2, &[3.0, 6.0, 5.0, 10.0], &[3.0, 5.0]);
    gguf.entry("plain.weight", 1, &[1.0], &[4.0]);
    gguf.tensor("news", &[1], &[1.0]);
    let importance = gguf.open().unwrap();

    let calibration = importance.calibration().unwrap();
    assert_eq!(calibration.datasets, ["a.txt"]);
    assert_eq!((calibration.chunk_count, calibration.chunk_size), (Some(7), Some(512)));
    assert_eq!(importance.ignored(), ["news"]);

    let (q, k) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight");
    assert_eq!(get(&importance, q, 1, 3), [1.0, 2.0, 0.0]);
    assert_eq!(get(&importance, "blk.0.attn_q.weight", 1, 3), [1.0, 2.0, 0.0]);
    assert_eq!(get(&importance, "plain.weight", 1, 1), [0.25]);
    assert_eq!(importance.get(k, 1, 3).unwrap(), None);

    let expert = |expert| format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
    assert_eq!(get(&importance, &expert(0), 1, 2), [1.0, 2.0]);
    assert_eq!(get(&importance, &expert(1), 1, 2), [1.0, 2.0]);
    assert_eq!(get(&importance, "model.layers.0.mlp.experts.up_proj", 2, 2), [1.0, 2.0, 1.0, 2.0]);
    let error = importance.get(&expert(2), 1, 2).unwrap_err();
    assert!(matches!(&error, ImportanceError::NoExpert { expert: 2, found: 2, .. }), "{error}");
    for (experts, in_features) in [(1, 3), (2, 2)] {
        let error = importance.get(&expert(0), experts, in_features).unwrap_err();
        assert!(matches!(&error, ImportanceError::WrongLength { found: [2, 2], .. }), "{error}");
    }

    assert_eq!(importance.unknown([q, "plain.weight"]), ["blk.0.ffn_up_exps.weight"]);
    assert!(importance.unknown([q, "plain.weight", &expert(1)]).is_empty());
}

#[test]
fn experts_that_calibration_never_chose() {
    let mut gguf = Gguf::imatrix();
    gguf.entry("blk.0.ffn_up_exps.weight", 2, &[2.0, 6.0, 0.0, 0.0], &[2.0, 0.0]);
    gguf.entry("blk.0.ffn_down_exps.weight", 1, &[0.0, 0.0], &[0.0, 0.0]);
    gguf.entry("blk.0.ffn_gate_exps.weight", 1, &[0.0, 0.0], &[3.0, 0.0]);
    let importance = gguf.open().unwrap();
    assert_eq!(get(&importance, "model.layers.0.mlp.experts.up_proj", 2, 2), [1.0, 3.0, 2.0, 2.0]);
    assert_eq!(get(&importance, "model.layers.0.mlp.experts.gate_proj", 2, 1), [0.0, 1.0]);
    assert_eq!(importance.get("model.layers.0.mlp.experts.down_proj", 2, 1).unwrap(), None);
    let expert = |expert| format!("model.layers.0.mlp.experts.{expert}.up_proj.weight");
    assert_eq!(get(&importance, &expert(0), 1, 2), [1.0, 3.0]);
    assert_eq!(importance.get(&expert(1), 1, 2).unwrap(), None);
}

#[test]
fn one_count_may_stand_for_several_matrices() {
    let mut gguf = Gguf::imatrix();
    gguf.entry("row.weight", 6, &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0], &[2.0]);
    gguf.tensor("stack.weight.in_sum2", &[2, 2], &[2.0, 4.0, 6.0, 8.0]);
    gguf.tensor("stack.weight.counts", &[1, 1], &[2.0]);
    let importance = gguf.open().unwrap();
    assert_eq!(get(&importance, "row.weight", 1, 6), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(get(&importance, "row.weight", 3, 2), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(get(&importance, "stack.weight", 2, 2), [1.0, 2.0, 3.0, 4.0]);
    for (tensor, experts, in_features) in
        [("row.weight", 2, 2), ("row.weight", 1, 4), ("row.weight", 1, 0), ("stack.weight", 1, 4)]
    {
        let error = importance.get(tensor, experts, in_features).unwrap_err();
        assert!(matches!(&error, ImportanceError::WrongLength { .. }), "{error}");
    }
}

#[test]
fn names_that_the_model_explains_are_not_unknown() {
    let mut gguf = Gguf::imatrix();
    for name in ["output", "blk.1.attn_k_b", "blk.1.attn_v_b", "blk.1.ffn_gate", "blk.1.ffn_up"] {
        gguf.entry(&format!("{name}.weight"), 1, &[1.0], &[1.0]);
    }
    let importance = gguf.open().unwrap();
    let model = [
        "model.embed_tokens.weight",
        "model.layers.1.self_attn.kv_b_proj.weight",
        "model.layers.1.mlp.gate_up_proj.weight",
    ];
    assert!(importance.unknown(model).is_empty());
    assert_eq!(importance.get(model[0], 1, 1).unwrap(), None);
    assert_eq!(importance.get(model[1], 1, 1).unwrap(), None);
    assert_eq!(get(&importance, model[2], 1, 1), [1.0]);
    assert_eq!(importance.unknown([]).len(), 5);
}

#[test]
fn a_wrong_length_names_tensor_expected_and_found() {
    let bytes = safetensors_file(&[("w", &[3], &[1.0; 3]), ("e", &[2, 2], &[1.0; 4])]);
    let importance = Input::new("v.safetensors", &bytes).open().unwrap();
    for (tensor, experts, in_features) in [("w", 1, 4), ("w", 3, 1), ("e", 1, 2), ("e", 3, 2), ("e", 1, 4)] {
        let error = importance.get(tensor, experts, in_features).unwrap_err();
        assert!(matches!(&error, ImportanceError::WrongLength { .. }), "{error}");
    }
    let message = importance.get("w", 1, 4).unwrap_err().to_string();
    assert!(message.contains(r#"v.safetensors: "w" holds [1, 3] values, but tensor "w" needs 1 of 4;"#));
}

#[test]
fn bad_values_are_found_with_their_position() {
    for bad in [f32::NAN, f32::INFINITY, -1.0, -f32::MIN_POSITIVE] {
        let bytes = safetensors_file(&[("w", &[2, 2], &[0.0, -0.0, 1.0, bad])]);
        let error = Input::new("v.safetensors", &bytes).open().unwrap_err();
        assert!(matches!(&error, ImportanceError::BadValue { position: 3, .. }), "{error}");
        assert!(error.to_string().contains(r#"tensor "w": value 3 is "#), "{error}");

        for (sums, counts, at) in [([1.0, bad], [1.0, 0.0], 1), ([1.0, 1.0], [bad, 1.0], 0)] {
            let mut gguf = Gguf::imatrix();
            gguf.entry("w", 1, &sums, &counts);
            let error = gguf.open().unwrap_err();
            assert!(
                matches!(&error, ImportanceError::BadValue { position, .. } if *position == at),
                "{error}"
            );
        }
    }
    let mut gguf = Gguf::imatrix();
    gguf.entry("w", 2, &[1.0, f32::MAX], &[0.5]);
    let error = gguf.open().unwrap_err();
    assert!(matches!(&error, ImportanceError::BadValue { position: 1, .. }), "{error}");
}

#[test]
fn what_is_no_vector_is_refused() {
    let integers = [0; 8];
    let scalar = safetensors_file(&[("w", &[], &[1.0])]);
    let cube = safetensors_file(&[("w", &[1, 1, 1], &[1.0])]);
    let empty = safetensors_file(&[("w", &[0], &[])]);
    let view = TensorView::new(TheirDtype::I64, vec![1], &integers).unwrap();
    let whole = safetensors::serialize([("w", view)], None).unwrap();
    for bytes in [scalar, cube, empty, whole] {
        let error = Input::new("v.safetensors", &bytes).open().unwrap_err();
        assert!(matches!(&error, ImportanceError::NotAVector { .. }), "{error}");
    }
    let error = Input::new("v.safetensors", &safetensors_file(&[])).open().unwrap_err();
    assert!(matches!(&error, ImportanceError::Empty { .. }), "{error}");
    let error = Gguf::imatrix().open().unwrap_err();
    assert!(matches!(&error, ImportanceError::Empty { .. }), "{error}");
}

#[test]
fn other_files_are_refused_with_a_remedy() {
    let mut old = [2i32, 5].map(i32::to_le_bytes).concat();
    old.extend(b"blk.0 and more");
    for (name, content) in [("imatrix.dat", &*old), ("imatrix", &*old), ("empty.dat", &[])] {
        let error = Input::new(name, content).open().unwrap_err();
        assert!(matches!(&error, ImportanceError::OldImatrix { .. }), "{error}");
        assert!(error.to_string().contains("llama-imatrix --in-file OLD.dat -o NEW.gguf"), "{error}");
    }
    for content in [&b""[..], b"GGU", b"\x01\0\0\0", b"\x01\0\0\0\x09\0\0\0a", b"text, and nothing more"] {
        let error = Input::new("file.gguf", content).open().unwrap_err();
        assert!(matches!(&error, ImportanceError::UnknownInput { .. }), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Importance::open(folder.path()), Err(ImportanceError::UnknownInput { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(Importance::open(&missing), Err(ImportanceError::Source(Error::Io { .. }))));
}

#[test]
fn an_imatrix_must_say_so_and_be_whole() {
    let mut model = Gguf { pairs: Vec::new(), ..Gguf::imatrix() };
    assert!(matches!(model.open(), Err(ImportanceError::NotAnImatrix { found: None, .. })));
    model.pair("general.type", 8, &text("model"));
    assert!(
        matches!(model.open(), Err(ImportanceError::NotAnImatrix { found: Some(found), .. }) if found == "model")
    );

    for (part, absent) in [("counts", ".in_sum2"), ("in_sum2", ".counts"), ("in_sum", ".in_sum2")] {
        let mut gguf = Gguf::imatrix();
        gguf.tensor(&format!("w.{part}"), &[1], &[1.0]);
        let error = gguf.open().unwrap_err();
        assert!(
            matches!(&error, ImportanceError::MissingPart { missing, .. } if *missing == absent),
            "{error}"
        );
    }
    let mut gguf = Gguf::imatrix();
    gguf.tensor("w.in_sum2", &[2, 3], &[1.0; 6]);
    gguf.tensor("w.counts", &[1, 2], &[1.0; 2]);
    let error = gguf.open().unwrap_err();
    assert!(matches!(&error, ImportanceError::Counts { expected: 3, found: 2, .. }), "{error}");

    for key in ["imatrix.datasets", "imatrix.chunk_count"] {
        let mut gguf = Gguf::imatrix();
        gguf.pairs.retain(|pair| !pair.windows(key.len()).any(|window| window == key.as_bytes()));
        gguf.pair(key, 0, &[1]);
        let error = gguf.open().unwrap_err();
        assert!(matches!(&error, ImportanceError::Metadata { key: found, .. } if *found == key), "{error}");
    }
}

/// What the GGUF reader says of a small imatrix after a change.
fn gguf_error(change: impl FnOnce(&mut Gguf), damage: impl FnOnce(&mut Vec<u8>)) -> GgufError {
    let mut gguf = Gguf::imatrix();
    gguf.entry("w", 2, &[1.0, 2.0], &[2.0]);
    change(&mut gguf);
    let mut bytes = gguf.bytes();
    damage(&mut bytes);
    match Input::new("imatrix.gguf", &bytes).open() {
        Err(ImportanceError::Source(Error::Gguf { source, .. })) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn places_in_a_gguf_file_are_checked() {
    let same = |_: &mut Gguf| {};
    let keep = |_: &mut Vec<u8>| {};
    let error = gguf_error(same, |bytes| bytes[4] = 9);
    assert!(matches!(error, GgufError::Record { what: "header", .. }), "{error}");
    let error = gguf_error(same, |bytes| bytes.truncate(20));
    assert!(matches!(error, GgufError::Record { what: "header", len: 20, .. }), "{error}");
    for count in [8, 16] {
        let error = gguf_error(same, |bytes| bytes[count + 7] = 1);
        assert!(matches!(error, GgufError::Counts { .. }), "{error}");
    }
    let error = gguf_error(|gguf| gguf.pair("general.type", 8, &text("imatrix")), keep);
    assert!(matches!(error, GgufError::DuplicateKey { .. }), "{error}");
    let error = gguf_error(|gguf| gguf.pair("", 8, &text("imatrix")), keep);
    assert!(matches!(error, GgufError::Record { what: "metadata", .. }), "{error}");
    let error = gguf_error(|gguf| gguf.tensor("w.counts", &[1; 5], &[1.0]), keep);
    assert!(matches!(error, GgufError::Entry { .. }), "{error}");
    let error = gguf_error(|gguf| gguf.pair("general.alignment", 4, &24u32.to_le_bytes()), keep);
    assert!(matches!(error, GgufError::Alignment { .. }), "{error}");
    for (kind, bad) in [(4, &[0, 0, 0, 0][..]), (4, &[3, 0, 0, 0]), (10, &[64, 0, 0, 0, 0, 0, 0, 0])] {
        let error = gguf_error(|gguf| gguf.pair("general.alignment", kind, bad), keep);
        assert!(matches!(error, GgufError::Alignment { .. }), "{error}");
    }
    let error = gguf_error(|gguf| gguf.tensor("a\nb", &[1], &[1.0]), keep);
    assert!(matches!(error, GgufError::BadName { .. }), "{error}");
    let error = gguf_error(|gguf| gguf.tensor("w.counts", &[1], &[1.0]), keep);
    assert!(matches!(error, GgufError::DuplicateTensor { .. }), "{error}");
    for dimensions in [&[0][..], &[0, 1 << 40, 1 << 40]] {
        let error = gguf_error(|gguf| gguf.tensor("v", dimensions, &[]), keep);
        assert!(matches!(error, GgufError::Dimensions { .. }), "{error}");
    }
    let error = gguf_error(|gguf| gguf.tensor("v", &[1 << 40, 1 << 40], &[]), keep);
    assert!(matches!(error, GgufError::Entry { .. }), "{error}");
    let error = gguf_error(|gguf| gguf.tensor("v", &[1 << 40], &[]), keep);
    assert!(matches!(error, GgufError::OutOfBounds { end: 0x400_0000_0040, data: 64, .. }), "{error}");

    // A record of a tensor of one dimension ends in type and offset.
    let tail = |width: u64, kind: u32, offset: u64| {
        [&width.to_le_bytes()[..], &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    let error = gguf_error(same, |bytes| replace(bytes, &tail(2, 0, 0), &tail(2, 1, 0)));
    assert!(matches!(&error, GgufError::TensorType { found, .. } if found == "F16"), "{error}");
    for offset in [0, 16, 64] {
        let error = gguf_error(same, |bytes| replace(bytes, &tail(1, 0, 32), &tail(1, 0, offset)));
        assert!(matches!(error, GgufError::Offset { expected: 32, found, .. } if found == offset), "{error}");
    }
    let error = gguf_error(same, |bytes| bytes.push(0));
    assert!(matches!(error, GgufError::TrailingBytes { expected: 64, found: 65 }), "{error}");
}

#[test]
fn the_padding_at_the_end_may_be_missing_and_the_alignment_another() {
    for alignment in [8usize, 64, 4096] {
        let mut gguf = Gguf { alignment, ..Gguf::imatrix() };
        gguf.pair("general.alignment", 4, &(alignment as u32).to_le_bytes());
        gguf.entry("w", 3, &[2.0, 4.0, 6.0], &[2.0]);
        let bytes = gguf.bytes();
        for len in [bytes.len(), bytes.len() - (alignment - 4)] {
            let importance = Input::new("imatrix.gguf", &bytes[..len]).open().unwrap();
            assert_eq!(get(&importance, "w", 1, 3), [1.0, 2.0, 3.0]);
        }
    }
}

/// Asks for everything that a file has, whatever the answers.
fn use_all(name: &str, bytes: &[u8]) -> bool {
    let Ok(importance) = Importance::from_bytes(name.as_ref(), bytes.to_vec()) else {
        return false;
    };
    for name in importance.names() {
        for (experts, in_features) in [(1, 2), (2, 2), (1, 0), (0, 1), (usize::MAX, 2), (2, usize::MAX)] {
            if let Ok(Some(vectors)) = importance.get(name, experts, in_features) {
                assert!(vectors.of(0).iter().all(|value| value.is_finite() && *value >= 0.0));
            }
        }
    }
    importance.unknown(["model.layers.0.mlp.experts.1.up_proj.weight"]);
    true
}

#[test]
fn damaged_files_are_answered() {
    let mut gguf = Gguf { alignment: 8, ..Gguf::imatrix() };
    gguf.pair("general.alignment", 4, &8u32.to_le_bytes());
    gguf.entry("blk.0.ffn_up_exps.weight", 2, &[2.0, 6.0, 0.0, 0.0], &[2.0, 0.0]);
    gguf.entry("w", 2, &[2.0, 6.0], &[2.0]);
    let vectors = safetensors_file(&[("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), ("v", &[2], &[5.0, 6.0])]);
    for (name, bytes) in [("v.gguf", gguf.bytes()), ("v.safetensors", vectors)] {
        assert!(use_all(name, &bytes));
        let mut opened = 0;
        for len in 0..bytes.len() {
            opened += usize::from(use_all(name, &bytes[..len]));
        }
        // Only padding may be missing.
        assert!(opened <= 4, "{opened}");
        let mut damaged = bytes.clone();
        for at in 0..bytes.len() {
            for change in 1..=255 {
                damaged[at] = bytes[at] ^ change;
                use_all(name, &damaged);
            }
            damaged[at] = bytes[at];
        }
    }
}
