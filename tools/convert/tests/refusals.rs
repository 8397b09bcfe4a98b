//! What the tool refuses, with which exit code and in which words; and that nothing is left behind then.

mod common;

use std::fs;
use std::process::Stdio;

use ccq::Container;
use common::{Folder, LAYER0, matrix, run, tool, write};

#[test]
fn usage() {
    for (args, said) in [
        (&[][..], "Usage: ccq-convert"),
        (&["in.safetensors", "out.ccq", "--encoding", "ccq-2.6"][..], "possible values: ccq-2.06, ccq-2.5"),
        (&["in.safetensors", "out.ccq", "--encodin", "raw"], "a similar argument exists: '--encoding'"),
        (
            &["in.safetensors", "out.ccq", "--group-size", "channel"],
            "ccq-2.06 takes group sizes 32, 64 and 128",
        ),
        (
            &["in.safetensors", "out.ccq", "--encoding", "ccq-5.5", "--group-size", "channel"],
            "ccq-5.5 takes group sizes 32, 64 and 128",
        ),
        (&["in.safetensors", "out.gguf"], "must end in .ccq"),
        (&["in.ccq", "out.ccq"], "start from the source model"),
        (&["in.ccq", "out.safetensors", "--encoding", "raw"], "does not apply to a .ccq input"),
        (&["in.safetensors", "out.ccq", "--dtype", "f32"], "applies to the way back only"),
    ] {
        run(args).failed(2, &[said]);
    }
    let help = run(["--help"]).ok().stdout();
    for said in [
        "Examples:",
        "Exit codes:",
        "--keep <PATTERN>",
        "ccq-2.06, ccq-2.5, ccq-2.75, ccq-3.31, ccq-5.5, wint4, wint8",
    ] {
        assert!(help.contains(said), "{said}: {help}");
    }
    assert_eq!(run(["--version"]).ok().stdout(), concat!("ccq-convert ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn inputs() {
    let folder = Folder::new();
    let out = folder.path("out.ccq");
    let missing = folder.path("missing.safetensors");
    run([&missing, &out]).failed(1, &["missing.safetensors: no such file or folder; check the path"]);
    let typo = std::path::Path::new(LAYER0).with_file_name("layer0.safetensors");
    run([&typo, &out]).failed(1, &["there is", "all-minilm-l6-v2-layer0.safetensors"]);
    let empty = folder.path("empty");
    fs::create_dir(&empty).unwrap();
    run([&empty, &out]).failed(3, &["no .safetensors file in this folder", "convert the model"]);
    let other = folder.path("model.bin");
    fs::write(&other, "hello").unwrap();
    run([&other, &out]).failed(2, &["model.bin: expected a .safetensors file"]);
    let cut = folder.path("cut.safetensors");
    let layer = fs::read(LAYER0).unwrap();
    fs::write(&cut, &layer[..layer.len() - 1]).unwrap();
    run([&cut, &out]).failed(3, &["cut.safetensors", "cut short or damaged"]);
    assert_eq!(folder.names(), ["cut.safetensors", "empty", "model.bin"]);
}

#[test]
fn outputs() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(&model, &[matrix("a.weight", 8, 64)]);
    fs::write(&out, "precious").unwrap();
    run([&model, &out]).failed(1, &["out.ccq: exists", "--overwrite"]);
    assert_eq!(folder.names(), ["m.safetensors", "out.ccq"]);
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    run([model.as_os_str(), out.as_os_str(), "--overwrite".as_ref()]).ok();
    Container::open(&out).unwrap().verify().unwrap();

    let nowhere = folder.path("no/such/out.ccq");
    run([&model, &nowhere]).failed(1, &["no/such: no such folder; create it first"]);
    let taken = folder.path("folder.ccq");
    fs::create_dir(&taken).unwrap();
    run([model.as_os_str(), taken.as_os_str(), "--overwrite".as_ref()]).failed(1, &["is a folder"]);
    assert_eq!(folder.names(), ["folder.ccq", "m.safetensors", "out.ccq"]);
}

#[cfg(unix)]
#[test]
fn an_output_that_is_an_input() {
    let folder = Folder::new();
    let model = folder.path("m.safetensors");
    write(&model, &[matrix("a.weight", 8, 64)]);
    let before = fs::read(&model).unwrap();
    let (soft, hard, partial) =
        (folder.path("soft.ccq"), folder.path("hard.ccq"), folder.path("p.ccq.partial"));
    std::os::unix::fs::symlink(&model, &soft).unwrap();
    fs::hard_link(&model, &hard).unwrap();
    std::os::unix::fs::symlink(&model, partial).unwrap();
    for out in [soft, hard, folder.path("p.ccq")] {
        let args = [model.as_os_str(), out.as_os_str(), "--overwrite".as_ref()];
        run(args).failed(1, &["is the input", "choose another output"]);
    }
    assert_eq!(fs::read(&model).unwrap(), before);

    let container = folder.path("c.ccq");
    run([&model, &container]).ok();
    let before = fs::read(&container).unwrap();
    let link = folder.path("c.safetensors");
    fs::hard_link(&container, &link).unwrap();
    let args = [container.as_os_str(), link.as_os_str(), "--overwrite".as_ref()];
    run(args).failed(1, &["is the input"]);
    assert_eq!(fs::read(&container).unwrap(), before);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(&model, &[matrix("a.weight", 8, 64)]);
    let mut child = tool().args([&model, &out]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(out.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_printed_is_one() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(&model, &[matrix("a.weight", 8, 64)]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = tool().args([&model, &out]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("out.ccq is written, but the report cannot be printed"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_behind() {
    use std::process::Command;
    use std::time::Duration;

    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    // Several seconds of work on any machine.
    let layers: Vec<_> = (0..24).map(|layer| matrix(&format!("layers.{layer}.weight"), 1024, 1024)).collect();
    write(&model, &layers);
    let mut child = tool().args([&model, &out]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let partial = folder.path("out.ccq.partial");
    while !partial.exists() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(folder.names(), ["m.safetensors"]);
}
