//! Every golden file opens in every way, verifies, and holds what the text beside it says. Both come from
//! `cargo xtask golden`, which rewrites them.
#![cfg(feature = "std")]

#[path = "../tools/xtask/src/dump.rs"]
mod dump;

use std::fs;
use std::path::{Path, PathBuf};

use ccq::{Container, Index, Limits};
use dump::{decode, dump};

/// The golden files, sorted.
fn golden() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ccq"));
    files.sort();
    assert!(files.len() >= 13, "golden files are missing: run `cargo xtask golden`");
    files
}

#[test]
fn golden_files_hold_what_their_text_says() {
    for path in golden() {
        let container = Container::read(&path).unwrap();
        container.verify().unwrap();
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        let found = dump(&container);
        for (line, (expected, found)) in (1..).zip(expected.lines().zip(found.lines())) {
            assert_eq!(expected, found, "{} line {line}", path.with_extension("txt").display());
        }
        assert_eq!(expected.len(), found.len(), "{}", path.with_extension("txt").display());
    }
}

#[test]
fn every_way_to_open_gives_the_same() {
    for path in golden() {
        let expected = fs::read_to_string(path.with_extension("txt")).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(dump(&Container::from_bytes(&bytes, &Limits::DEFAULT).unwrap()), expected);
        #[cfg(feature = "mmap")]
        assert_eq!(dump(&Container::open(&path).unwrap()), expected);
        for shift in [1, 2, 3, 7] {
            let mut shifted = vec![0xAA; shift];
            shifted.extend_from_slice(&bytes);
            let misaligned = Container::from_bytes(&shifted[shift..], &Limits::DEFAULT).unwrap();
            misaligned.verify().unwrap();
            assert_eq!(dump(&misaligned), expected);
        }
    }
}

#[test]
fn the_front_alone_gives_the_same_index() {
    for path in golden() {
        let bytes = fs::read(&path).unwrap();
        let len = bytes.len() as u64;
        let first = &bytes[..4096];
        let front = usize::try_from(Index::front_len(first, len, &Limits::DEFAULT).unwrap()).unwrap();
        let whole = Index::parse(&bytes, len, &Limits::DEFAULT).unwrap();
        let from_front = Index::parse(&bytes[..front], len, &Limits::DEFAULT).unwrap();
        assert_eq!(format!("{from_front:?}"), format!("{whole:?}"), "{}", path.display());
        assert_eq!(from_front.file_len(), len);
    }
}

#[test]
fn any_range_of_rows_decodes_to_the_same_values() {
    for path in golden() {
        let container = Container::read(&path).unwrap();
        for tensor in container.tensors() {
            let (Some(values), Some(matrix)) = (decode(&tensor), tensor.matrix()) else { continue };
            let (rows, width) = (matrix.rows(), matrix.in_features());
            for start in 0..=rows {
                for end in start..=rows {
                    let mut part = vec![f32::NAN; (end - start) * width];
                    tensor.decode_rows_into(start..end, &mut part).unwrap();
                    let bits =
                        |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&part), bits(&values[start * width..end * width]));
                }
            }
        }
    }
}

#[test]
fn names_are_found_and_others_are_not() {
    for path in golden() {
        let container = Container::read(&path).unwrap();
        for tensor in container.tensors() {
            let name = tensor.info().name();
            assert_eq!(container.tensor(name).unwrap().info().name(), name);
            assert!(container.tensor(&format!("{name}\0")).is_none());
        }
        for (name, bytes) in container.blobs() {
            assert_eq!(container.blob(name), Some(bytes));
        }
        assert!(container.tensor("").is_none());
        assert!(container.blob("").is_none());
    }
}
