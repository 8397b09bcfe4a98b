//! C programs against both libraries: compiled with every warning an error, run under AddressSanitizer, which also
//! finds what is leaked.
#![cfg(unix)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use ccq::Container;
use ccq::format::{Contents, Layout, Shard, TensorSpec, Writer};

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

/// A model of testdata in three files, beside it; below, sets that are none.
#[test]
fn sets_are_opened_by_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let (golden, path) = (testdata().join("golden/mixed.ccq"), |name: &str| folder.path().join(name));
    fs::copy(&golden, path("mixed.ccq")).unwrap();
    let files = split(&Container::read(&golden).unwrap(), &path("x.ccq"), true);
    let files: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    let third = fs::read(path(files[2])).unwrap();
    let faulty = |fault: &str, third: Option<&[u8]>| {
        fs::create_dir(path(fault)).unwrap();
        for file in &files[..2] {
            fs::copy(path(file), path(fault).join(file)).unwrap();
        }
        third.into_iter().for_each(|bytes| fs::write(path(fault).join(files[2]), bytes).unwrap());
    };
    faulty("missing", None);
    faulty("twice", Some(&fs::read(path(files[1])).unwrap()));
    faulty("short", Some(&third[..third.len() - 1]));
    let mut damaged = third.clone();
    *damaged.last_mut().unwrap() ^= 1;
    faulty("damaged", Some(&damaged));
    faulty("foreign", None);
    let other = split(&Container::read(&golden).unwrap(), &path("other.ccq"), false);
    fs::copy(&other[2], path("foreign").join(files[2])).unwrap();
    faulty("renamed", Some(&third));
    fs::rename(path("renamed").join(files[0]), path("renamed/y.ccq")).unwrap();
    run("tests/c/sets.c", folder.path());
    let printed = run("examples/read.c", &path(files[1]));
    assert_eq!(printed, run("examples/read.c", &golden));
}

/// Writes a container as three files, each with every third tensor, the blobs in one of them or left out.
fn split(model: &Container<'_>, path: &Path, with_blobs: bool) -> Vec<PathBuf> {
    let blobs = |index| model.blobs().filter(move |_| index == 2 && with_blobs);
    let tensors = |index: u32| model.tensors().skip(index as usize).step_by(3);
    let paths: Vec<_> = (0..3).map(|index| ccq::shard_path(path, index, 3)).collect();
    let writer = |index| {
        let specs = tensors(index).map(|tensor| TensorSpec {
            name: tensor.info().name().into(),
            shape: tensor.info().shape().into(),
            dtype: tensor.info().dtype(),
            encoding: tensor.info().encoding(),
        });
        let contents = Contents {
            tensors: specs.collect(),
            blobs: blobs(index).map(|(name, bytes)| (name.into(), bytes.len() as u64)).collect(),
            metadata: model.index().metadata().iter().collect(),
            shard: Some(Shard { index, count: 3, set_id: [0; 16] }),
        };
        let file = File::create(&paths[index as usize]).unwrap();
        let mut writer = Writer::new(file, Layout::new(contents).unwrap()).unwrap();
        for tensor in tensors(index) {
            let planes = tensor.info().planes().iter().map(|plane| tensor.plane(plane.kind));
            writer.write(tensor.info().name(), &planes.collect::<Vec<_>>()).unwrap();
        }
        blobs(index).for_each(|(name, bytes)| writer.write(name, &[bytes]).unwrap());
        writer
    };
    Writer::finish_set((0..3).map(writer).collect()).unwrap();
    paths
}

#[test]
fn the_example_runs() {
    let printed = run("examples/read.c", &testdata().join("golden/mixed.ccq"));
    let line = "layer.0.weight [4, 130] ccq-2.06 from BF16, 3.569 bpw, 192 bytes of 8-bit words, 48 a row, row 0 begins 3.29999971, times ones ";
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
