//! Models in several files, by any of them; parts of a job.

use std::fs;

use ccq::Container;
use ccq::code::Family;
use ccq::format::PlaneKind;
use serde_json::{Value, json};

use crate::fixture::{Folder, Run, Tensor, tensors};

/// The model of [`Folder::model`] in three files, and its source.
fn folder() -> (Folder, Vec<String>) {
    let (folder, all) = (Folder::new(), tensors());
    let files = folder.set("model.ccq", &[&all[..3], &all[3..6], &all[6..]]);
    folder.source("source.safetensors", &all);
    (folder, files)
}

const AGAINST: [&str; 5] = ["--source", "source.safetensors", "--device", "cpu", "--json"];

#[test]
fn any_file_stands_for_all() {
    let (folder, files) = folder();
    assert_eq!(files[1], "model-00002-of-00003.ccq");
    let len = |file: &String| folder.read(file).len() as u64;
    let bytes: u64 = files.iter().map(len).sum();
    let of_one = Folder::model().run(&[&["model.ccq"], &AGAINST[..]].concat()).expect(0, &[]).json();
    for file in &files {
        let report = folder.run(&[&[file.as_str()], &AGAINST[..]].concat()).expect(0, &[]).json();
        assert_eq!((&report["file"], &report["part"]), (&json!(file), &Value::Null));
        let tensors = [3, 3, 1];
        let expected = files.iter().zip(tensors);
        let expected: Vec<_> = expected
            .map(|(file, tensors)| json!({"file": file, "tensors": tensors, "bytes": len(file)}))
            .collect();
        assert_eq!(report["files"], json!(expected));
        assert_eq!(report["total"]["bytes"], bytes);
        assert_eq!(report["checksums"], json!({"checked": 16, "damaged": 0}));
        // The figures are those of the same model in one file.
        for pointer in ["/total/parameters", "/total/relative_mse", "/format_version", "/problems"] {
            assert_eq!(report.pointer(pointer), of_one.pointer(pointer), "{pointer}");
        }
        let figures = |report: &Value| {
            let rows = report["tensors"].as_array().unwrap().iter();
            rows.map(|row| (row["name"].clone(), row["relative_mse"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(figures(&report), figures(&of_one));
    }
    let args =
        [files[2].as_str(), "--source", "source.safetensors", "--device", "cpu", "--html", "page.html"];
    let run = folder.run(&args).expect(0, &["all 16 checksums match", "as the source"]);
    assert!(files.iter().all(|file| run.out.contains(file.as_str())), "{}", run.out);
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    assert!(page.contains("<dt>Files</dt><dd>3</dd>"));
    let narrow =
        Run::of(folder.command(&[&files[0], "--quiet"]).env("COLUMNS", "40")).expect(0, &["00003.ccq"]);
    assert!(narrow.out.lines().all(|line| line.chars().count() <= 40), "{}", narrow.out);
    let args = [files[0].as_str(), "--html", &files[1], "--overwrite"];
    folder.run(&args).expect(1, &[&format!("{}: is an input", files[1])]);
}

#[test]
fn problems_name_their_file() {
    let (folder, files) = folder();
    let container = Container::read(folder.path(&files[1])).unwrap();
    let plane = *container.tensor("layer.0.weight").unwrap().info().plane(PlaneKind::Code).unwrap();
    let whole = folder.read(&files[1]);
    let mut bytes = whole.clone();
    bytes[plane.offset as usize] ^= 1;
    folder.write(&files[1], &bytes);
    let said = format!("error: {}: [5.9] `layer.0.weight`", files[1]);
    folder.run(&[&files[0]]).expect(3, &[&said, "1 of 16 checksums"]);
    let report = folder.run(&[&files[2], "--json", "--html", "page.html"]).expect(3, &[]).json();
    assert_eq!((&report["problems"][0]["file"], &report["file"]), (&json!(files[1]), &json!(files[2])));
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    assert!(page.contains(&format!("<li>{}: [5.9]", files[1])), "{page}");
    folder.write(&files[1], &whole);

    // A tensor of the third file is another one in the source, one of the source is in no file.
    let mut theirs = tensors();
    theirs[6] = Tensor::of("zero", &[2, 32], None, &[0.0; 64]);
    theirs.push(Tensor::f32("more", &[4], None));
    folder.source("source.safetensors", &theirs);
    let args = [&files[0], "--source", "source.safetensors", "--device", "cpu"];
    let said = [
        format!("error: {}: tensor `zero`: shape [2, 64]", files[2]),
        format!("error: {}: tensor `more`: is in the source, but not in the files", files[0]),
    ];
    folder.run(&args).expect(1, &said.each_ref().map(String::as_str));
}

#[test]
fn what_is_no_set_is_refused() {
    let (folder, files) = folder();
    let refused = |texts: &[&str]| {
        let commands: [&[&str]; 4] = [
            &[&files[0]],
            &[&files[0], "--source", "source.safetensors", "--json"],
            &["bench", &files[0], "--device", "cpu"],
            &[&files[0], "--extract-blobs", "out"],
        ];
        for command in commands {
            let run = folder.run(command).expect(3, texts);
            assert_eq!(run.out, "", "{command:?}");
        }
        assert!(!folder.path("out").exists());
    };
    let third = folder.read(&files[2]);
    fs::remove_file(folder.path(&files[2])).unwrap();
    refused(&["error: model-00003-of-00003.ccq: [3.7] shard 3 of 3 is missing"]);
    folder.write(&files[2], &folder.read(&files[1]));
    refused(&["error: model-00003-of-00003.ccq: [3.7] ", "model-00002-of-00003.ccq"]);
    let other = Folder::new();
    let all = tensors();
    other.set("model.ccq", &[&all[..3], &all[3..6], &all[5..6]]);
    folder.write(&files[2], &other.read(&files[2]));
    refused(&["error: model-00003-of-00003.ccq: [3.7] ", "model-00001-of-00003.ccq"]);
    folder.write(&files[2], &third[..third.len() - 1]);
    refused(&["error: model-00003-of-00003.ccq: ", "cut short"]);
    folder.write(&files[2], &third);
    folder.run(&[&files[0]]).expect(0, &[]);

    fs::rename(folder.path(&files[0]), folder.path("other.ccq")).unwrap();
    folder.run(&["other.ccq"]).expect(3, &["error: other.ccq: [3.7] "]);
    folder.run(&[&files[1]]).expect(3, &["error: model-00001-of-00003.ccq: [3.7] shard 1 of 3 is missing"]);
}

#[test]
fn one_file_of_a_set_is_listed_alone() {
    let (folder, files) = folder();
    for file in [&files[0], &files[2]] {
        fs::remove_file(folder.path(file)).unwrap();
    }
    let run = folder.run(&["list", &files[1]]).expect(0, &["shard 2 of 3", "layer.10.weight", "1.json"]);
    assert!(!run.out.contains("a.embedding"), "{}", run.out);
    let json = folder.run(&["list", &files[1], "--json"]).expect(0, &[]).json();
    assert_eq!(json["shard"], json!({"index": 1, "count": 3}));
    assert_eq!(json["total"]["bytes"], folder.read(&files[1]).len());
    let digests = folder.run(&["list", &files[1], "--sha256"]).expect(0, &["layer.10.weight"]);
    assert!(!digests.out.contains("a.embedding"), "{}", digests.out);
}

#[test]
fn every_file_has_layers_and_blobs() {
    let (folder, files) = folder();
    folder.run(&[&files[1], "--extract-blobs", "out"]).expect(0, &["3 files written to out"]);
    assert!(["out/0.json", "out/1.json", "out/2.json"].iter().all(|blob| folder.read(blob) == b"{}"));
    let args = ["bench", &files[0], "--device", "cpu", "--seconds", "0.01", "--json"];
    let report = folder.run(&args).expect(0, &[]).json();
    let rows = report["results"].as_array().unwrap();
    for name in ["layer.0.weight", "zero"] {
        assert!(rows.iter().any(|row| row["name"] == name), "{name}");
    }

    let mut bytes = folder.read(&files[2]);
    *bytes.last_mut().unwrap() ^= 1;
    folder.write(&files[2], &bytes);
    let args = [files[0].as_str(), "--extract-blobs", "other"];
    folder.run(&args).expect(3, &[&format!("error: {}: [5.9] `2.json`", files[2])]);
    assert!(!folder.path("other").exists());
}

/// What is in the source and not in the part is in another part of the job.
#[test]
fn parts_of_a_job_are_no_whole_model() {
    let folder = Folder::new();
    let all =
        [Tensor::f32("a", &[4, 64], Some(Family::Wint4)), Tensor::f32("bc", &[4, 64], Some(Family::Wint4))];
    folder.source("source.safetensors", &all);
    let key = ("ccq.part", "2/3 0123456789abcdef0123456789abcdef");
    folder.container_with("part.ccq", &all[1..], &[key]);
    let args = ["part.ccq", "--source", "source.safetensors", "--device", "cpu"];
    folder.run(&args).expect(0, &["part 2/3 of a job", "as the source"]);
    let report = folder.run(&[&args[..], &["--json"]].concat()).expect(0, &[]).json();
    assert_eq!((&report["part"], &report["problems"]), (&json!("2/3"), &json!([])));

    folder.container("whole.ccq", &all[1..]);
    let args = ["whole.ccq", "--source", "source.safetensors", "--device", "cpu"];
    folder.run(&args).expect(1, &["tensor `a`: is in the source, but not in the file"]);
    // What is there is compared all the same.
    folder.source("source.safetensors", &[all[0].clone(), Tensor::f32("bc", &[4, 32], None)]);
    let args = ["part.ccq", "--source", "source.safetensors", "--device", "cpu"];
    folder.run(&args).expect(1, &["tensor `bc`: shape [4, 64]"]);
}
