//! Models in several files, and in parts that processes of their own convert.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ccq::{Container, Set};
use common::{Folder, bf16_tensor, f32_tensor, matrix, run, tool, values, write};

fn model(folder: &Folder, name: &str, seed: u64) -> PathBuf {
    let path = folder.path(name);
    fs::create_dir(&path).unwrap();
    let mut tensors: Vec<_> =
        (0..9).map(|i| matrix(&format!("layers.{i}.down_proj.weight"), 400 + 100 * i, 256)).collect();
    tensors.push(bf16_tensor("experts.up_proj", &[3, 64, 256], &values(3 * 64 * 256, seed)));
    tensors.push(f32_tensor("norm.weight", &[256], &values(256, 5)));
    tensors.push(matrix("embed_tokens.weight", 100, 256));
    write(&path.join("model.safetensors"), &tensors);
    fs::write(path.join("config.json"), "{}").unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The files of a set in order.
fn shards(folder: &Folder, stem: &str) -> Vec<PathBuf> {
    let is_shard = |name: &String| name.starts_with(&format!("{stem}-0")) && name.ends_with(".ccq");
    folder.names().into_iter().filter(is_shard).map(|name| folder.path(&name)).collect()
}

#[test]
fn a_set_is_opened_by_any_of_its_files() {
    let folder = Folder::new();
    let model = model(&folder, "model", 1);
    let (one, set) = (folder.path("one.ccq"), folder.path("set.ccq"));
    run([text(&model), text(&one)]).ok();
    let json = run([text(&model), text(&set), "--split-max-size", "200kB", "--json"]).ok().json();
    let files = shards(&folder, "set");
    assert!(files.len() > 2, "{files:?}");
    let named: Vec<_> = files.iter().map(|file| text(file)).collect();
    assert_eq!(json["files"], serde_json::json!(named));
    let mut lens = 0;
    for file in &files {
        let len = fs::metadata(file).unwrap().len();
        assert!(len <= 200_000, "{}: {len}", file.display());
        lens += len;
    }
    assert_eq!(json["total"]["bytes_out"], lens);

    let whole = Container::open(&one).unwrap();
    for file in &files {
        let set = Set::open(file).unwrap();
        set.verify().unwrap();
        assert_eq!(set.tensors().count(), whole.tensors().len());
        for (a, b) in set.tensors().zip(whole.tensors()) {
            assert_eq!((a.info().name(), a.info().encoding()), (b.info().name(), b.info().encoding()));
            assert!(b.info().planes().iter().all(|plane| a.plane(plane.kind) == b.plane(plane.kind)));
        }
        assert_eq!(set.blob("config.json"), Some(&b"{}"[..]));
        assert!(set.metadata().unwrap().iter().eq(whole.index().metadata().iter()));
    }

    let (from_one, from_set) = (folder.path("one.safetensors"), folder.path("set.safetensors"));
    run([&one, &from_one]).ok();
    run([&files[1], &from_set]).ok();
    assert!(fs::read(from_one).unwrap() == fs::read(from_set).unwrap());

    fs::remove_file(&files[2]).unwrap();
    let said = [text(&files[2]), "shard 3 of", "is missing"];
    run([text(&files[0]), text(&folder.path("x.safetensors"))]).failed(3, &said);
}

/// The independent reader of the specification agrees.
#[test]
fn the_reference_reads_sets() {
    let folder = Folder::new();
    let model = model(&folder, "model", 1);
    run([text(&model), text(&folder.path("set.ccq")), "--split-max-size", "200kB"]).ok();
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/reference");
    let script = "import sys, ccq\n\
        files = [ccq.open(path) for path in sys.argv[1:]]\n\
        ccq.check_set(files)\n\
        [file.verify() for file in files]\n\
        try: ccq.check_set(files[1:])\n\
        except ccq.FormatError as error: print(error.kind)\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).args(shards(&folder, "set")).current_dir(reference);
    let done = python.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "Shard\n", "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_file_too_small_for_a_tensor_is_refused() {
    let folder = Folder::new();
    let model = model(&folder, "model", 1);
    let said = ["--split-max-size 60000", "tensor \"embed_tokens.weight\" alone takes a file of"];
    run([text(&model), text(&folder.path("o.ccq")), "--split-max-size", "60000"]).failed(2, &said);
    assert_eq!(folder.names(), ["model"]);
}

#[test]
fn parts_make_the_same_bytes_as_one_run() {
    let folder = Folder::new();
    let model = model(&folder, "model", 1);
    let one = folder.path("one.ccq");
    run([text(&model), text(&one)]).ok();
    run([text(&model), text(&folder.path("set.ccq")), "--split-max-size", "200kB"]).ok();
    for count in [1, 3, 20] {
        let parts: Vec<_> =
            (1..=count).map(|part| folder.path(&format!("part-{count}-{part}.ccq"))).collect();
        // At the same time, as a cluster does.
        let children: Vec<_> = (1..=count)
            .zip(&parts)
            .map(|(part, out)| {
                let args = [text(&model), text(out), "--part", &format!("{part}/{count}"), "--threads", "1"];
                tool().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let sizes: Vec<u64> =
            parts.iter().map(|part| Container::open(part).unwrap().index().parameters()).collect();
        assert_eq!(sizes.iter().sum::<u64>(), Container::open(&one).unwrap().index().parameters());

        let merged = folder.path(&format!("merged-{count}.ccq"));
        let mut args: Vec<_> =
            ["merge"].into_iter().chain(parts.iter().rev().map(|part| text(part))).collect();
        args.push(text(&merged));
        run(&args).ok();
        assert!(fs::read(&merged).unwrap() == fs::read(&one).unwrap(), "{count} parts");

        let split = folder.path(&format!("split-{count}.ccq"));
        *args.last_mut().unwrap() = text(&split);
        args.extend(["--split-max-size", "200kB", "--quiet"]);
        assert!(run(&args).ok().stderr().is_empty());
        let (from_parts, from_one) = (shards(&folder, &format!("split-{count}")), shards(&folder, "set"));
        assert!(from_one.len() > 2 && from_parts.len() == from_one.len());
        for (a, b) in from_parts.iter().zip(&from_one) {
            assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{}", a.display());
        }
    }
}

#[test]
fn parts_that_do_not_make_a_whole_are_named() {
    let folder = Folder::new();
    let (model, other) = (model(&folder, "model", 1), model(&folder, "other", 2));
    let part = |model: &Path, name: &str, args: &[&str]| {
        let out = folder.path(name);
        run([&[text(model), text(&out)], args].concat()).ok();
        out
    };
    let parts = ["1/3", "2/3", "3/3"].map(|n| part(&model, &format!("p{}.ccq", &n[..1]), &["--part", n]));
    let out = folder.path("out.ccq");
    let merge = |files: &[&Path]| {
        let files = files.iter().map(|file| text(file)).chain([text(&out)]);
        run(["merge"].into_iter().chain(files))
    };
    let [a, b, c] = parts.each_ref().map(PathBuf::as_path);
    merge(&[a, c]).failed(3, &["part 2/3 is missing"]);
    merge(&[b]).failed(3, &["part 1/3 is missing, and 1 more"]);
    merge(&[a, b, b]).failed(3, &["p2.ccq: is part 2/3, which", "p2.ccq is too"]);
    let foreign = part(&other, "q2.ccq", &["--part", "2/3"]);
    merge(&[a, &foreign, c]).failed(3, &["q2.ccq: is a part of another job than", "p1.ccq"]);
    let best = part(&model, "b2.ccq", &["--part", "2/3", "--quality", "fast"]);
    merge(&[a, &best, c]).failed(3, &["b2.ccq: is a part of another job"]);
    let four = part(&model, "f2.ccq", &["--part", "2/4"]);
    merge(&[a, &four, c]).failed(3, &["f2.ccq: is a part of another job"]);
    let whole = part(&model, "whole.ccq", &[]);
    merge(&[a, &whole, c]).failed(3, &["whole.ccq: is no part of a model"]);
    run([a, &folder.path("a.safetensors")]).failed(3, &["p1.ccq: part 1/3 of a model", "ccq-convert merge"]);

    let mut damaged = fs::read(b).unwrap();
    let end = damaged.len();
    damaged[end - 200] ^= 1;
    fs::write(b, &damaged).unwrap();
    merge(&[a, b, c]).failed(3, &["p2.ccq", "the file is damaged"]);
    assert!(!out.exists());
    let args = ["merge", text(a), text(c), text(a)];
    run([&args[..], &["--overwrite"]].concat()).failed(3, &["part 2/3 is missing"]);
}
