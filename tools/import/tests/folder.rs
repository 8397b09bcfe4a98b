//! Model folders and indexes.

use std::fs;
use std::path::Path;

use ccq_import::{Carried, Error, Model};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

/// Shards as (file name, tensors); each tensor holds one byte, the length of its name.
fn folder(shards: &[(&str, &[&str])], weight_map: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (shard, names) in shards {
        let data: Vec<[u8; 1]> = names.iter().map(|name| [name.len() as u8]).collect();
        let views = names
            .iter()
            .zip(&data)
            .map(|(name, byte)| (*name, TensorView::new(Dtype::U8, vec![1], byte).unwrap()));
        let metadata = Some([("shard".to_string(), shard.to_string())].into());
        write(&folder, shard, &safetensors::serialize(views, metadata).unwrap());
    }
    if let Some(map) = weight_map {
        let text = format!(r#"{{"metadata":{{"total_size":2}},"weight_map":{{{map}}}}}"#);
        write(&folder, "model.safetensors.index.json", text.as_bytes());
    }
    folder
}

fn write(folder: &TempDir, name: &str, content: &[u8]) {
    fs::write(folder.path().join(name), content).unwrap();
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn error_of(folder: &TempDir) -> Error {
    let error = Model::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    error
}

#[test]
fn a_sharded_model_opens_as_one() {
    let map = format!(r#""bb":"{TWO}","a":"{ONE}","ccc":"{ONE}""#);
    let folder = folder(&[(ONE, &["ccc", "a"]), (TWO, &["bb"])], Some(&map));
    let files =
        ["tokenizer.json", "config.json", "README.md", ".gitattributes", "tokenizer.model", "LICENSE"];
    for name in files.into_iter().chain(["generation_config.json", "chat_template.jinja"]) {
        write(&folder, name, name.as_bytes());
    }
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let model = Model::open(folder.path()).unwrap();

    let names: Vec<_> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "bb", "ccc"]);
    for tensor in model.tensors() {
        assert_eq!(*model.elements(tensor, 0..1).unwrap(), [tensor.name.len() as u8]);
    }
    assert_eq!(model.file(model.tensor("bb").unwrap()), folder.path().join(TWO));
    assert_eq!(model.metadata()["safetensors.shard"], Carried::String(ONE.into()));

    let blobs: Vec<_> = model.blobs().iter().map(|blob| blob.name.as_str()).collect();
    let expected =
        ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model"];
    assert_eq!(blobs, expected);
    assert_eq!(model.blobs()[1].read().unwrap(), b"config.json");
    let paths = |names: &[&str]| names.iter().map(|name| folder.path().join(name)).collect::<Vec<_>>();
    assert_eq!(model.ignored_files(), paths(&["1_Pooling", "LICENSE", "README.md"]));
    assert_eq!(model.input_files().len(), 8);

    // The index by itself is the same model, without blobs.
    let model = Model::open(&folder.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!((model.tensors().len(), model.blobs().len(), model.input_files().len()), (3, 0, 3));
}

#[test]
fn a_single_file_is_found() {
    let open = |shards: &[(&str, &[&str])]| Model::open(folder(shards, None).path());
    assert_eq!(open(&[("weights.safetensors", &["a"])]).unwrap().tensors().len(), 1);
    let model = open(&[("model.safetensors", &["a"]), ("adapter.safetensors", &["b", "c"])]).unwrap();
    assert_eq!(model.tensors().len(), 1);
    assert!(model.ignored_files()[0].ends_with("adapter.safetensors"));
    let ambiguous = open(&[("x.safetensors", &["a"]), ("y.safetensors", &["b"])]);
    assert!(matches!(ambiguous, Err(Error::AmbiguousWeights { first, second, .. })
        if (first.as_str(), second.as_str()) == ("x.safetensors", "y.safetensors")));
    assert!(matches!(open(&[]), Err(Error::NoWeights { .. })));
}

#[test]
fn an_index_beside_a_single_file_must_name_it() {
    let single = "model.safetensors";
    let named = folder(&[(single, &["a"])], Some(&format!(r#""a":"{single}""#)));
    assert_eq!(Model::open(named.path()).unwrap().tensors().len(), 1);
    let other = folder(&[(single, &["a"]), (ONE, &["a"])], Some(&format!(r#""a":"{ONE}""#)));
    assert!(matches!(error_of(&other), Error::AmbiguousWeights { .. }));
}

#[test]
fn an_index_that_disagrees_with_its_shards_is_refused() {
    let both = format!(r#""a":"{ONE}","b":"{TWO}""#);
    let missing_shard = folder(&[(ONE, &["a"])], Some(&both));
    assert!(matches!(error_of(&missing_shard), Error::MissingShard { shard, tensor, .. }
        if shard == TWO && tensor == "b"));
    let missing_tensor = folder(&[(ONE, &["a"]), (TWO, &[])], Some(&both));
    assert!(matches!(error_of(&missing_tensor), Error::MissingTensor { tensor, shard, .. }
        if tensor == "b" && shard == TWO));
    let unlisted = folder(&[(ONE, &["a"]), (TWO, &["b", "c"])], Some(&both));
    assert!(matches!(error_of(&unlisted), Error::UnlistedTensor { tensor, .. } if tensor == "c"));
    let swapped = folder(&[(ONE, &["b"]), (TWO, &["a"])], Some(&both));
    assert!(matches!(error_of(&swapped), Error::MisplacedTensor { tensor, expected, found, .. }
        if (tensor.as_str(), expected.as_str(), found.as_str()) == ("a", ONE, TWO)));
    let twice = folder(&[(ONE, &["a"]), (TWO, &["a", "b"])], Some(&both));
    assert!(matches!(error_of(&twice), Error::TensorInTwoShards { first, second, .. }
        if first == ONE && second == TWO));
    let extra = folder(&[(ONE, &["a"]), (TWO, &["b"])], Some(&format!(r#""a":"{ONE}""#)));
    assert!(matches!(error_of(&extra), Error::UnlistedShard { shard, .. } if shard == TWO));
}

#[test]
fn a_bad_index_is_refused() {
    let error = |map: &str| error_of(&folder(&[(ONE, &["a"])], Some(map)));
    assert!(matches!(error(r#""a":1"#), Error::Index { .. }));
    assert!(
        matches!(error(&format!(r#""a":"{ONE}","a":"{ONE}""#)), Error::DuplicateIndexEntry { tensor, .. }
        if tensor == "a")
    );
    for shard in [
        "../model.safetensors",
        "/model.safetensors",
        "a\\\\b.safetensors",
        "",
        "model.bin",
        "C:x.safetensors",
    ] {
        let error = error(&format!(r#""a":"{shard}""#));
        assert!(matches!(error, Error::BadShardName { .. }), "{shard}: {error}");
    }
    let no_map = folder(&[(ONE, &["a"])], None);
    write(&no_map, "model.safetensors.index.json", br#"{"metadata":{}}"#);
    assert!(matches!(error_of(&no_map), Error::Index { .. }));
}

#[test]
fn a_damaged_shard_is_named() {
    let folder = folder(&[(ONE, &["a"])], Some(&format!(r#""a":"{ONE}""#)));
    write(&folder, ONE, b"short");
    assert!(matches!(error_of(&folder), Error::Truncated { file, .. } if file.ends_with(ONE)));
}

#[test]
fn relative_paths_open() {
    // Cargo runs tests in the package's folder.
    let model = Model::open(Path::new("../../testdata/all-minilm-l6-v2-layer0.safetensors")).unwrap();
    assert_eq!(model.tensors().len(), 6);
}
