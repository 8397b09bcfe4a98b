use super::*;
use crate::format::{Contents, Dtype, Encoding, Layout, Shard, TensorSpec, Writer};
use std::fs;
use std::io::Cursor;
use std::string::ToString;
use std::{format, vec};

/// Writes a set of files with these tensors in each, and with `fill` for data.
fn write(folder: &Path, tensors: &[&[&str]], fill: u8) -> Vec<PathBuf> {
    let count = u32::try_from(tensors.len()).unwrap();
    let mut writers = Vec::new();
    for (index, names) in (0..count).zip(tensors) {
        let spec = |name: &&str| TensorSpec {
            name: name.to_string(),
            shape: vec![3],
            dtype: Dtype::U8,
            encoding: Encoding::Raw,
        };
        let contents = Contents {
            tensors: names.iter().map(spec).collect(),
            blobs: [(format!("{index}.json"), 1)].into(),
            shard: (count > 1).then_some(Shard { index, count, set_id: [0; 16] }),
            ..Contents::default()
        };
        let mut writer = Writer::new(Cursor::new(Vec::new()), Layout::new(contents).unwrap()).unwrap();
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        for name in sorted {
            writer.write(name, &[&[fill; 3]]).unwrap();
        }
        writer.write(&format!("{index}.json"), &[&[fill]]).unwrap();
        writers.push(writer);
    }
    let paths: Vec<_> = (0..count).map(|index| shard_path(&folder.join("m.x.ccq"), index, count)).collect();
    for (path, file) in paths.iter().zip(Writer::finish_set(writers).unwrap()) {
        fs::write(path, file.into_inner()).unwrap();
    }
    paths
}

fn refused(path: &Path) -> (String, ShardFault) {
    let SetError { file, source } = Set::open(path).unwrap_err();
    let Error::Shard { fault } = source else { panic!("{source}") };
    (file.file_name().unwrap().to_str().unwrap().into(), fault)
}

#[test]
fn any_file_opens_its_set() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(folder.path(), &[&["c", "a"], &["b"], &["d"]], 7);
    assert!(paths[1].ends_with("m.x-00002-of-00003.ccq"));
    for path in &paths {
        for set in [Set::open(path).unwrap(), Set::read(path).unwrap()] {
            set.verify().unwrap();
            assert_eq!(set.files().map(|(path, _)| path.to_path_buf()).collect::<Vec<_>>(), paths);
            let names: Vec<_> = set.tensors().map(|tensor| tensor.info().name().to_string()).collect();
            assert_eq!(names, ["a", "b", "c", "d"]);
            assert_eq!(set.tensor("d").unwrap().raw(), Some(&[7; 3][..]));
            assert!(set.tensor("e").is_none());
            assert_eq!(set.blobs().map(|blob| blob.0).collect::<Vec<_>>(), ["0.json", "1.json", "2.json"]);
            assert_eq!((set.blob("1.json"), set.blob("3.json")), (Some(&[7][..]), None));
            assert_eq!(set.parameters(), 12);
        }
    }
}

#[test]
fn a_file_that_stands_alone_is_a_set_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(folder.path(), &[&["a", "b"]], 7);
    assert!(paths[0].ends_with("m.x.ccq"));
    let set = Set::open(&paths[0]).unwrap();
    assert_eq!((set.files().len(), set.tensors().count()), (1, 2));
    assert_eq!(set.file_len(), fs::metadata(&paths[0]).unwrap().len());
}

#[test]
fn what_is_no_set_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(folder.path(), &[&["a"], &["b"], &["c"]], 7);
    let third = fs::read(&paths[2]).unwrap();

    fs::remove_file(&paths[2]).unwrap();
    let missing = ("m.x-00003-of-00003.ccq".into(), ShardFault::Missing { index: 2, count: 3 });
    assert_eq!(refused(&paths[0]), missing);
    assert_eq!(refused(&paths[1]), missing);
    let text = Set::open(&paths[0]).unwrap_err().to_string();
    assert!(text.ends_with("m.x-00003-of-00003.ccq: [3.7] shard 3 of 3 is missing: put it there"), "{text}");

    fs::copy(&paths[1], &paths[2]).unwrap();
    let (file, fault) = refused(&paths[0]);
    assert_eq!(file, "m.x-00003-of-00003.ccq");
    assert!(matches!(fault, ShardFault::Twice { index: 1, other } if other.contains("00002-of")));

    let elsewhere = tempfile::tempdir().unwrap();
    let others = write(elsewhere.path(), &[&["a"], &["b"], &["c"]], 8);
    fs::copy(&others[2], &paths[2]).unwrap();
    let (file, fault) = refused(&paths[0]);
    assert_eq!(file, "m.x-00003-of-00003.ccq");
    assert!(matches!(fault, ShardFault::OtherSet { first } if first.contains("00001-of")));

    fs::write(&paths[2], &third[..third.len() - 1]).unwrap();
    let SetError { file, source } = Set::open(&paths[0]).unwrap_err();
    assert!(matches!((file, source), (file, Error::Truncated { .. }) if file == paths[2]));

    fs::write(&paths[2], &third).unwrap();
    let renamed = folder.path().join("b.ccq");
    fs::rename(&paths[1], &renamed).unwrap();
    assert_eq!(refused(&renamed), ("b.ccq".into(), ShardFault::Name { index: 1, count: 3 }));

    let twice = tempfile::tempdir().unwrap();
    let paths = write(twice.path(), &[&["a"], &["b", "a"]], 7);
    let (file, fault) = refused(&paths[0]);
    assert_eq!(file, "m.x-00002-of-00002.ccq");
    let ShardFault::Repeated { what: "tensor", name, .. } = fault else { panic!("{fault}") };
    assert_eq!(name, "a");
}

#[test]
fn sets_are_joined_from_opened_files() {
    let folder = tempfile::tempdir().unwrap();
    let paths = write(folder.path(), &[&["a"], &["b"]], 7);
    let open = |path: &PathBuf| (path.clone(), Container::open(path).unwrap());
    assert_eq!(Set::new(paths.iter().rev().map(open).collect()).unwrap().tensors().count(), 2);
    let error = Set::new(vec![open(&paths[1])]).unwrap_err();
    assert_eq!(error.file, paths[0]);
    assert_eq!(Set::new(Vec::new()).unwrap().tensors().count(), 0);
}
