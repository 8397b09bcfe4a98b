//! Every damaged file of testdata/bad is refused in its phase, with its error, the byte it is about and its message, in little memory.
//! The files and the table come from `cargo xtask bad`.

#![cfg(feature = "std")]

#[path = "../tools/xtask/src/classify.rs"]
mod classify;
#[path = "common/peak.rs"]
mod peak;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ccq::{Container, Error, Index, Limits};
use classify::classify;

/// What opening any of these files may allocate; the largest front among them has 20 KiB.
const MEMORY: usize = 64 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bad")
}

struct Row {
    file: String,
    phase: String,
    error: String,
    offset: String,
    message: String,
}

fn rows() -> Vec<Row> {
    let table = fs::read_to_string(folder().join("expected.txt")).unwrap();
    let row = |line: &str| {
        let [file, phase, error, offset, message] =
            line.splitn(5, " | ").map(String::from).collect::<Vec<_>>().try_into().expect(line);
        Row { file, phase, error, offset, message }
    };
    table.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

#[test]
fn every_file_has_a_row_and_every_row_a_file() {
    let rows: BTreeSet<_> = rows().into_iter().map(|row| row.file).collect();
    let files: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "expected.txt")
        .collect();
    assert_eq!(rows, files);
}

#[test]
fn every_bad_file_is_refused() {
    for Row { file, phase, error, offset, message } in rows() {
        let bytes = fs::read(folder().join(&file)).unwrap();
        let (container, memory) = peak::measure(|| Container::from_bytes(&bytes, &Limits::DEFAULT));
        assert!(memory <= MEMORY, "{file}: opening took {memory} bytes");
        let (found_phase, found) = match container {
            Err(found) => ("open", found),
            Ok(container) => {
                let (found, memory) = peak::measure(|| container.verify());
                assert!(memory <= MEMORY, "{file}: verifying took {memory} bytes");
                ("verify", found.expect_err(&file))
            }
        };
        assert_eq!((classify(&found), found_phase), (error, phase.as_str()), "{file}: {found}");
        assert_eq!(found.offset().map(|offset| offset.to_string()), Some(offset), "{file}: {found}");
        assert_eq!(found.to_string(), message, "{file}");
    }
}

#[test]
fn every_way_to_open_says_the_same() {
    for Row { file, phase, error, .. } in rows() {
        let path = folder().join(&file);
        let bytes = fs::read(&path).unwrap();
        let _ = Index::front_len(&bytes, bytes.len() as u64, &Limits::DEFAULT);
        let parsed = Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).map(drop);
        let read = Container::read(&path).map(drop);
        #[cfg(feature = "mmap")]
        let mapped = Container::open(&path).map(drop);
        #[cfg(not(feature = "mmap"))]
        let mapped = Container::read(&path).map(drop);
        let shifted: Vec<u8> = [0].into_iter().chain(bytes).collect();
        let misaligned = Container::from_bytes(&shifted[1..], &Limits::DEFAULT).map(drop);
        for result in [parsed, read, mapped, misaligned] {
            let found = result.err().map(|error| classify(&error));
            assert_eq!(found, (phase == "open").then(|| error.clone()), "{file}");
        }
    }
}

/// A front that ends anywhere is refused: the length of the file alone does not make it whole.
#[test]
fn a_shorter_front_is_truncated() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/mixed.ccq");
    let bytes = fs::read(golden).unwrap();
    let len = bytes.len() as u64;
    let front = usize::try_from(Index::front_len(&bytes, len, &Limits::DEFAULT).unwrap()).unwrap();
    for cut in 0..front {
        let error = Index::parse(&bytes[..cut], len, &Limits::DEFAULT).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "front of {cut} bytes: {error}");
    }
    Index::parse(&bytes[..front], len, &Limits::DEFAULT).unwrap();
}

/// Metadata beyond its limit takes a file of more than 64 MiB, so the limits are lowered instead.
#[test]
fn every_limit_holds_exactly() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden/mixed.ccq");
    let bytes = fs::read(golden).unwrap();
    let index = Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).unwrap();
    let names = index.tensors().map(|tensor| tensor.name()).chain(index.blobs().map(|blob| blob.name));
    let longest =
        names.chain(index.metadata().iter().map(|(key, _)| key)).map(str::len).max().unwrap() as u64;
    let mut exact = Limits::DEFAULT;
    exact.tensors = index.tensors().len() as u64;
    exact.blobs = index.blobs().len() as u64;
    exact.name_len = longest;
    exact.rank = index.tensors().map(|tensor| tensor.shape().len()).max().unwrap() as u64;
    exact.metadata_len = index.sections()[2].len;
    exact.sections = index.sections().len() as u64;
    Container::from_bytes(&bytes, &exact).unwrap();

    type Field = fn(&mut Limits) -> &mut u64;
    let lowered: [(&str, Field); 6] = [
        ("LimitExceeded{tensors}", |limits| &mut limits.tensors),
        ("LimitExceeded{blobs}", |limits| &mut limits.blobs),
        ("LimitExceeded{bytes of a name}", |limits| &mut limits.name_len),
        ("LimitExceeded{dimensions of a tensor}", |limits| &mut limits.rank),
        ("LimitExceeded{bytes of metadata}", |limits| &mut limits.metadata_len),
        ("LimitExceeded{section records}", |limits| &mut limits.sections),
    ];
    for (expected, field) in lowered {
        let mut limits = exact;
        *field(&mut limits) -= 1;
        let error = Container::from_bytes(&bytes, &limits).unwrap_err();
        assert_eq!(classify(&error), expected);
    }
}
