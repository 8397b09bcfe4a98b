//! The index alone.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use ccq::Container;
use serde_json::json;

use crate::fixture::{Folder, Run, TEXT, tensors};

#[test]
fn tensors_metadata_and_blobs_are_listed() {
    let folder = Folder::model();
    let run = folder.run(&["list", "model.ccq"]).expect(
        0,
        &[
            "layer.10.weight",
            "ccq-2.75",
            "BF16",
            "2x3x64",
            "format 1.0",
            "ccq.producer",
            "a test",
            "config.json",
        ],
    );
    assert_eq!(run.err, "");
    assert!(!run.out.contains(TEXT) && run.out.contains("…"), "{}", run.out);

    let report = folder.run(&["list", "model.ccq", "--json"]).expect(0, &[]).json();
    assert_eq!(report["format_version"], "1.0");
    assert_eq!(report["tensors"].as_array().unwrap().len(), tensors().len());
    let layer = &report["tensors"][3];
    assert_eq!(layer["name"], "layer.0.weight");
    assert_eq!(layer["shape"], json!([6, 100]));
    assert_eq!((&layer["encoding"], &layer["dtype"]), (&json!("ccq-2.06"), &json!("BF16")));
    assert!(layer["offset"].as_u64().unwrap() > 4096 && layer["bpw"].as_f64().unwrap() > 2.0);
    assert_eq!(report["metadata"], json!({"ccq.producer": "a test", "long": TEXT, "whole": 3}));
    assert_eq!(
        (&report["blobs"][0]["name"], &report["blobs"][0]["bytes"]),
        (&json!("config.json"), &json!(2))
    );
}

#[test]
fn the_payload_is_not_needed() {
    let folder = Folder::model();
    let whole = folder.run(&["list", "model.ccq", "--json"]).expect(0, &[]).json();
    let bytes = folder.read("model.ccq");
    let front = whole["tensors"][0]["offset"].as_u64().unwrap() as usize;
    folder.write("model.ccq", &bytes[..front]);
    let run = folder.run(&["list", "model.ccq", "--json"]).expect(0, &["warning: model.ccq: cut short"]);
    assert_eq!(run.json(), whole);
    folder.run(&["model.ccq"]).expect(3, &["cut short"]);

    let mut damaged = bytes.clone();
    damaged[front..].fill(0xFF);
    folder.write("model.ccq", &damaged);
    let run = folder.run(&["list", "model.ccq", "--json"]).expect(0, &[]);
    assert_eq!((run.err.as_str(), run.json()), ("", whole));
}

/// Against Python's SHA-256, whose digests of the file's own ranges must be the same.
#[test]
fn digests_are_those_of_the_ranges() {
    const DIGEST: &str = "
import hashlib, json, sys
data = open(sys.argv[1], 'rb').read()
for part in json.load(sys.stdin):
    print(hashlib.sha256(data[part['offset']:part['offset'] + part['bytes']]).hexdigest(), end='  ')
    print((part['plane'] + '  ' + part['name']).strip())
";
    let folder = Folder::model();
    let later = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/later-minor.ccq");
    std::fs::copy(later, folder.path("later.ccq")).unwrap();
    for file in ["model.ccq", "later.ccq"] {
        let json = folder.run(&["list", file, "--sha256", "--json"]).expect(0, &[]).out;
        folder.write("parts.json", json.as_bytes());
        let mut python = Command::new("python3");
        python.arg("-c").arg(DIGEST).arg(folder.path(file));
        let expected = Run::of(python.stdin(File::open(folder.path("parts.json")).unwrap()));
        assert_eq!(folder.run(&["list", file, "--sha256"]).expect(0, &[]).out, expected.expect(0, &[]).out);
    }
    let found = folder.run(&["list", "model.ccq", "--sha256", "--json"]).expect(0, &[]).out;
    let parts: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap();
    let bytes: u64 = parts.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    let container = Container::read(folder.path("model.ccq")).unwrap();
    let front = container.index().sections().last().unwrap().offset;
    assert_eq!(bytes, front + container.index().planes().iter().map(|plane| plane.len).sum::<u64>());
    folder.write("short.ccq", &folder.read("model.ccq")[..20_000]);
    folder.run(&["list", "short.ccq", "--sha256"]).expect(3, &["cut short"]);
}

#[test]
fn a_damaged_front_is_refused() {
    let folder = Folder::model();
    let bytes = folder.read("model.ccq");
    for len in [0, 7, 100, 4095, 4096, 5000] {
        folder.write("short.ccq", &bytes[..len]);
        folder.run(&["list", "short.ccq"]).expect(3, &["error: short.ccq: "]);
    }
    for at in [0, 8, 32, 40, 130, 4100] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        folder.write("damaged.ccq", &damaged);
        folder.run(&["list", "damaged.ccq"]).expect(3, &["error: damaged.ccq: "]);
    }
}
