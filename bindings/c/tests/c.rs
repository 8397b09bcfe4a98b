//! C programs against both libraries: compiled with every warning an error, run under AddressSanitizer, which also
//! finds what is leaked.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

fn testdata() -> PathBuf {
    Path::new(PACKAGE).join("../../testdata").canonicalize().unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Library {
    Static,
    Shared,
}

/// Compiles a program of this package against a library that cargo has put beside the tests.
fn compile(source: &str, library: Library, folder: &Path) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let libraries = tests.parent().unwrap();
    let program = folder.join(Path::new(source).file_stem().unwrap());
    let mut cc = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-D_POSIX_C_SOURCE=200809L"])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg("-I")
        .arg(Path::new(PACKAGE).join("include"))
        .arg(Path::new(PACKAGE).join(source))
        .arg("-o")
        .arg(&program);
    match library {
        Library::Static => cc.arg(libraries.join("libccq_c.a")).args(["-lpthread", "-ldl", "-lm"]),
        Library::Shared => cc
            .arg(libraries.join("libccq_c.so"))
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .arg("-lpthread"),
    };
    let output = cc.output().expect("a C compiler");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

/// What a program prints, once for each library.
fn run(source: &str, argument: &Path) -> String {
    let mut printed = String::new();
    for library in [Library::Static, Library::Shared] {
        let folder = tempfile::tempdir().unwrap();
        let program = compile(source, library, folder.path());
        let output = Command::new(&program).arg(argument).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{source}, {library:?}: {}\n{errors}", output.status);
        assert_eq!(errors, "", "{source}, {library:?}");
        printed = String::from_utf8(output.stdout).unwrap();
    }
    printed
}

#[test]
fn every_error_reaches_c() {
    run("tests/c/errors.c", &testdata());
}

#[test]
fn contents_reach_c() {
    run("tests/c/contents.c", &testdata());
}

#[test]
fn threads_read_at_once() {
    run("tests/c/threads.c", &testdata());
}

#[test]
fn the_example_runs() {
    let printed = run("examples/read.c", &testdata().join("golden/mixed.ccq"));
    let line = "layer.0.weight [4, 130] ccq-2.06 from BF16, 3.569 bpw, 192 bytes of 8-bit words, 48 a row, row 0 begins 3.29999971\n";
    assert!(printed.contains(line), "{printed}");
    assert!(printed.contains("raw.F32 [2, 4] raw from F32, 32.000 bpw\n"), "{printed}");
}

/// A header for C++ as well.
#[test]
fn the_header_is_cpp_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.cpp");
    fs::write(&source, "#include <ccq.h>\nint main() { return ccq_status_name(0)[0] != 'O'; }\n").unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let output = Command::new(compiler)
        .args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(Path::new(PACKAGE).join("include"))
        .arg(&source)
        .output()
        .expect("a C++ compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every line of the README's C snippet stands in the example, in this order.
#[test]
fn the_readme_quotes_the_example() {
    let readme = fs::read_to_string(Path::new(PACKAGE).join("../../README.md")).unwrap();
    let snippet = readme.split("```c\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let example = fs::read_to_string(Path::new(PACKAGE).join("examples/read.c")).unwrap();
    let mut lines = example.lines().map(str::trim);
    for line in snippet.lines().map(str::trim) {
        assert!(lines.any(|found| found == line), "not in examples/read.c, or not in its place: {line}");
    }
}
