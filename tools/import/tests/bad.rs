//! Every file of testdata/bad-import is refused in its phase, with its error, its byte and its message, in little memory;
//! what is odd but right is taken. The files and the table come from `cargo xtask bad`.

#[path = "../../../tests/common/peak.rs"]
mod peak;
#[path = "../../xtask/src/refusal.rs"]
mod refusal;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What opening and reading any of these may allocate; the largest has 4 KiB.
const MEMORY: usize = 64 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bad-import")
}

/// Name, phase, error, byte, message.
fn rows() -> Vec<[String; 5]> {
    let table = fs::read_to_string(folder().join("expected.txt")).unwrap();
    let row =
        |line: &str| line.splitn(5, " | ").map(String::from).collect::<Vec<_>>().try_into().expect(line);
    table.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

#[test]
fn every_file_has_a_row_and_every_row_a_file() {
    let rows: BTreeSet<_> = rows().into_iter().map(|[name, ..]| name).collect();
    let entries = fs::read_dir(folder()).unwrap();
    let files: BTreeSet<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "expected.txt")
        .collect();
    assert_eq!(rows, files);
}

#[test]
fn every_bad_file_is_refused() {
    for [name, phase, error, byte, message] in rows() {
        // The converter's tests have those.
        if phase == "recipe" {
            continue;
        }
        let path = folder().join(&name);
        let (found, memory) = peak::measure(|| match phase.as_str() {
            "importance" => refusal::of_importance(&path),
            _ => refusal::of_model(&path),
        });
        assert!(memory <= MEMORY, "{name}: {memory} bytes");
        match (phase.as_str(), found) {
            // What the converter refuses, this package takes.
            ("taken" | "convert", None) => {}
            (_, Some(found)) => {
                assert!(found.is_placed(), "{name}: {byte}");
                let said = found.message.replace(&format!("{}/", folder().display()), "");
                let place = found.place();
                let found = [found.phase, &found.error, &place, &said];
                assert_eq!(found, [phase.as_str(), &error, &byte, &message], "{name}");
            }
            (_, None) => panic!("{name} is taken"),
        }
    }
}

/// Whatever is damaged, an error that names a byte names one of the file, and says so.
#[test]
fn damage_is_found_within_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let mut placed = 0;
    for name in ["fp8-scale-nan.safetensors", "unpadded.gguf", "importance-count-nan.gguf"] {
        let whole = fs::read(folder().join(name)).unwrap();
        let path = scratch.path().join(name);
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        let changed = (0..whole.len()).flat_map(|at| {
            let whole = &whole;
            [0x01, 0xFF].map(|bits| {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                bytes
            })
        });
        for bytes in cut.chain(changed) {
            fs::write(&path, bytes).unwrap();
            let found = match name.starts_with("importance") {
                true => refusal::of_importance(&path),
                false => refusal::of_model(&path),
            };
            let Some(found) = found else { continue };
            assert!(found.is_placed(), "{} {}", found.place(), found.message);
            placed += usize::from(found.offset.is_some());
        }
    }
    assert!(placed > 1000, "{placed}");
}
