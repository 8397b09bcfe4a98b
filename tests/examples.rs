//! The examples run, and README.md quotes one of them.
#![cfg(feature = "mmap")]

use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What an example, which cargo builds beside the tests, prints.
fn run(example: &str, arguments: &[&str]) -> String {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(example);
    let output = Command::new(&program).args(arguments).output().unwrap_or_else(|error| {
        panic!("{}: {error}", program.display());
    });
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_run() {
    let file = &format!("{ROOT}/testdata/golden/mixed.ccq");
    let expect = |printed: String, parts: &[&str]| {
        for part in parts {
            assert!(printed.contains(part), "`{part}` is not in:\n{printed}");
        }
    };
    // Values as in testdata/golden/mixed.txt.
    expect(
        run("list", &[file]),
        &["layer.0.weight [4, 130] ccq-2.06 from BF16, 3.569 bpw", "scalar 32 bytes"],
    );
    expect(
        run("tensor", &[file, "layer.0.weight"]),
        &["row 0 begins [3.2999997, 3.1499999, 1.6499999, -0.74999994]"],
    );
    expect(run("tensor", &[file, "raw.F32"]), &[" bytes of F32", "which begin ["]);
    expect(
        run("gpu", &[file]),
        &["row_stride: 48, rows: 4, in_features: 130, group_size: 64", "16 bytes from 0x"],
    );
    expect(run("multiply", &[file]), &["layer.0.weight: y begins [", "layer.1.weight: y begins ["]);
}

/// Every line of the Rust snippet stands in an example, in this order.
#[test]
fn the_readme_quotes_an_example() {
    let readme = fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    let snippet = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let example = fs::read_to_string(format!("{ROOT}/examples/tensor.rs")).unwrap();
    let mut lines = example.lines().map(str::trim);
    for line in snippet.lines().map(str::trim) {
        assert!(lines.any(|found| found == line), "not in examples/tensor.rs, or not in its place: {line}");
    }
}
