//! The file alone: structure, payload, the command line.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use ccq::Container;
use ccq::format::{Contents, Dtype, Encoding, Layout, PlaneKind, TensorSpec, Writer};

use crate::fixture::{Folder, Run, tensors};

#[test]
fn a_valid_file_is_listed_and_praised() {
    let run = Folder::model().run(&["model.ccq"]).expect(
        0,
        &["layer.10.weight", "ccq-2.75", "2x3x64", "all 14 checksums match", "paddings are zero", "100%"],
    );
    assert!(!run.out.contains("relative MSE"), "{run:#?}");
    let json = Folder::model().run(&["model.ccq", "--json"]).expect(0, &[]);
    assert_eq!(json.err, "");
    let json = json.json();
    assert_eq!(json["checksums"], serde_json::json!({"checked": 14, "damaged": 0}));
    assert!(json["total"]["relative_mse"].is_null());
    assert!(json["tensors"][3]["relative_mse"].is_null());
    let quiet = Folder::model().run(&["model.ccq", "--quiet"]).expect(0, &[]);
    assert_eq!((quiet.err.as_str(), quiet.out), ("", run.out));
}

#[test]
fn damage_names_tensor_plane_and_chunk() {
    let folder = Folder::model();
    let mut bytes = folder.read("model.ccq");
    let container = Container::read(folder.path("model.ccq")).unwrap();
    let plane =
        |name: &str, kind| container.tensor(name).unwrap().info().plane(kind).unwrap().offset as usize;
    bytes[plane("layer.0.weight", PlaneKind::Code) + 3] ^= 1;
    bytes[plane("layer.10.weight", PlaneKind::SuperScale)] ^= 1;
    folder.write("damaged.ccq", &bytes);
    let texts = [
        "error: damaged.ccq: [5.9] `layer.0.weight`",
        "code plane, chunk 0",
        "`layer.10.weight`",
        "super-scale plane, chunk 0",
        "2 of 14 checksums do not match",
    ];
    folder.run(&["damaged.ccq"]).expect(3, &texts);
    let args = ["damaged.ccq", "--source", "source.safetensors", "--json", "--max-error", "0"];
    let json = folder.run(&args).expect(3, &[]).json();
    assert_eq!(json["problems"].as_array().unwrap().len(), 2);
    assert_eq!(json["problems"][0]["kind"], "damaged");
    assert_eq!(json["problems"][0]["name"], "layer.0.weight");
    assert!(json["tensors"][0]["relative_mse"].is_null());
}

#[test]
fn damaged_padding_is_found() {
    let folder = Folder::model();
    let mut bytes = folder.read("model.ccq");
    let container = Container::read(folder.path("model.ccq")).unwrap();
    let embedding = *container.tensor("a.embedding").unwrap().info().plane(PlaneKind::Raw).unwrap();
    let counts = *container.tensor("b.counts").unwrap().info().plane(PlaneKind::Raw).unwrap();
    assert!(embedding.end() <= counts.offset);
    let after = container.tensor("c.empty").unwrap().info().plane(PlaneKind::Raw).unwrap().offset;
    assert!(counts.end() < after);
    bytes[counts.end() as usize] = 1;
    folder.write("padding.ccq", &bytes);
    folder.run(&["padding.ccq"]).expect(3, &["error: padding.ccq: [5.2] padding before a plane", "all 14"]);
}

#[test]
fn damage_in_several_tensors_is_all_named() {
    let folder = Folder::model();
    let mut bytes = folder.read("model.ccq");
    let container = Container::read(folder.path("model.ccq")).unwrap();
    let plane = |name, kind| *container.tensor(name).unwrap().info().plane(kind).unwrap();
    let scales = plane("layer.0.weight", PlaneKind::SuperScale);
    bytes[scales.offset as usize..][..4].fill(0xFF);
    let rows = plane("layer.10.weight", PlaneKind::Code);
    bytes[(rows.offset + rows.row_stride - 1) as usize] = 1;
    folder.write("rows.ccq", &bytes);
    let texts = [
        "error: rows.ccq: [5.6] `layer.0.weight`",
        "NaN is not a finite number",
        "error: rows.ccq: [5.4] padding of a row at `layer.10.weight`",
        "2 of 14",
    ];
    folder.run(&["rows.ccq", "--threads", "2"]).expect(3, &texts);
}

#[test]
fn files_that_are_no_containers_are_refused() {
    let folder = Folder::model();
    let bytes = folder.read("model.ccq");
    folder.write("short.ccq", &bytes[..bytes.len() - 1]);
    folder.run(&["short.ccq"]).expect(3, &["error: short.ccq: ", "cut short"]);
    folder.write("empty.ccq", &[]);
    folder.run(&["empty.ccq"]).expect(3, &["error: empty.ccq: "]);
    folder.write("longer.ccq", &[&bytes[..], &[0]].concat());
    folder.run(&["longer.ccq"]).expect(3, &["bytes after the end"]);
    folder.run(&["source.safetensors"]).expect(3, &["error: source.safetensors: ", "not a .ccq file"]);
    folder.run(&["none.ccq"]).expect(1, &["error: none.ccq: ", "check the path"]);
    folder.run(&["."]).expect(1, &["error: .: is a folder, expected a .ccq file"]);
    folder.run(&["list", "source.safetensors"]).expect(3, &["not a .ccq file"]);
    folder.run(&["list", "none.ccq"]).expect(1, &["check the path"]);
}

#[test]
fn wrong_sources_are_refused() {
    let folder = Folder::model();
    folder
        .run(&["model.ccq", "--source", "none.safetensors"])
        .expect(1, &["none.safetensors", "check the path"]);
    folder
        .run(&["model.ccq", "--source", "model.ccq"])
        .expect(3, &["error: model.ccq: expected a .safetensors"]);
    folder.write("bad.safetensors", b"\x08\0\0\0\0\0\0\0not json");
    folder.run(&["model.ccq", "--source", "bad.safetensors"]).expect(3, &["error: bad.safetensors: "]);
}

#[test]
fn the_command_line_is_checked() {
    let folder = Folder::model();
    let wrong: [&[&str]; 9] = [
        &[],
        &["model.ccq", "--max-error", "0.1"],
        &["model.ccq", "--source", "source.safetensors", "--max-error", "-1"],
        &["model.ccq", "--source", "source.safetensors", "--max-error", "inf"],
        &["model.ccq", "--threads", "0"],
        &["model.ccq", "other.ccq"],
        &["model.ccq", "--no-such-option"],
        &["list"],
        &["list", "model.ccq", "--source", "source.safetensors"],
    ];
    for args in wrong {
        let run = folder.run(args).expect(2, &["error: "]);
        assert_eq!(run.out, "", "{args:?}");
    }
    folder.run(&["--help"]).expect(0, &["Examples:", "--max-error", "Exit codes:", "list"]);
    folder.run(&["list", "--help"]).expect(0, &["Examples:", "--json"]);
    folder.run(&["--version"]).expect(0, &[concat!("ccq-verify ", env!("CARGO_PKG_VERSION"))]);
    fs::copy(folder.path("model.ccq"), folder.path("list")).unwrap();
    folder.run(&["./list"]).expect(0, &["all 14 checksums match"]);
    folder.run(&["list", "list"]).expect(0, &["a.embedding"]);
}

#[test]
fn a_reader_that_goes_early_is_no_failure() {
    let folder = Folder::model();
    for args in [&["model.ccq", "--quiet"][..], &["list", "model.ccq"], &["model.ccq", "--json"]] {
        let mut child = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let folder = Folder::model();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = folder.command(&["model.ccq", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: standard output: "));
}

#[test]
fn forty_columns_are_enough() {
    let folder = Folder::model();
    for args in [
        &["model.ccq", "--quiet"][..],
        &["model.ccq", "--quiet", "--source", "source.safetensors"],
        &["list", "model.ccq"],
    ] {
        let run = Run::of(folder.command(args).env("COLUMNS", "40")).expect(0, &["layer.2.self", "bpw: "]);
        for line in run.out.lines() {
            assert!(line.chars().count() <= 40, "{args:?}: {line}");
        }
    }
}

#[test]
fn names_cannot_move_the_cursor() {
    let folder = Folder::new();
    let mut named = tensors();
    named[0].name = "a\u{202E}gnp.weight".into();
    folder.container("model.ccq", &named);
    folder.source("source.safetensors", &tensors());
    for args in [&["model.ccq", "--source", "source.safetensors"][..], &["list", "model.ccq"]] {
        let run = folder.run(args);
        let run =
            if args[0] == "list" { run.expect(0, &[]) } else { run.expect(1, &["is not in the source"]) };
        let said = run.out + &run.err;
        assert!(said.contains("a\\u{202e}gnp.weight") && !said.contains('\u{202E}'), "{said}");
    }
}

/// Every file of `testdata/bad` is refused.
#[test]
fn bad_files_are_refused() {
    let bad = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bad");
    let Ok(entries) = fs::read_dir(bad) else { return };
    let folder = Folder::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "ccq") {
            let path = path.to_str().unwrap();
            let run = folder.run(&[path]).expect(3, &["error: ", path]);
            assert!(run.err.lines().all(|line| line.starts_with("error: ") || line.starts_with("100%")));
        }
    }
}

/// The signal is sent as soon as the handler is there, long before two gigabytes are checked.
#[cfg(target_os = "linux")]
#[test]
fn interrupts_end_the_check() {
    let folder = Folder::new();
    sparse(&folder, "sparse.ccq", 2 << 30);
    let args = ["sparse.ccq", "--threads", "1", "--quiet"];
    let mut child = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let catches_interrupts = || {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 0b10 != 0
    };
    while !catches_interrupts() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &id.to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "interrupted\n");
    assert!(output.stdout.is_empty());
}

/// A container whose one tensor is a hole of so many bytes.
#[cfg(target_os = "linux")]
fn sparse(folder: &Folder, name: &str, len: usize) {
    /// Leaves holes where zeros are written.
    struct Sparse(File);
    impl std::io::Write for Sparse {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if bytes.len() < 1 << 20 {
                return self.0.write(bytes);
            }
            let end = std::io::Seek::seek(&mut self.0, std::io::SeekFrom::Current(bytes.len() as i64))?;
            self.0.set_len(end)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    impl std::io::Seek for Sparse {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let (dtype, encoding) = (Dtype::U8, Encoding::Raw);
    let tensor = TensorSpec { name: "hole".into(), shape: vec![len as u64], dtype, encoding };
    let layout = Layout::new(Contents { tensors: vec![tensor], ..Contents::default() }).unwrap();
    let mut writer = Writer::new(Sparse(File::create(folder.path(name)).unwrap()), layout).unwrap();
    writer.write("hole", &[&vec![0; len]]).unwrap();
    writer.finish().unwrap();
}
