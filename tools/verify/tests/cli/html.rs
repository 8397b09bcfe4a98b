//! The page, as text.

use std::fs;

use serde_json::Value;

use crate::fixture::{Folder, tensors};

/// A folder with `page.html`, and the report as JSON.
fn page(args: &[&str]) -> (Folder, String, Value) {
    let folder = Folder::model();
    let json = folder.run(&[args, &["--json", "--html", "page.html"]].concat()).expect(0, &[]).json();
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    (folder, page, json)
}

/// The row of the tensor or encoding, cell by cell: its exact value, if any, and its text.
fn cells<'a>(page: &'a str, name: &str) -> Vec<(Option<&'a str>, &'a str)> {
    let start = format!("<tr><th scope=\"row\">{name}</th>");
    let row = page.split_once(&start).unwrap_or_else(|| panic!("{name} in {page}")).1;
    let row = row.split_once("</tr>").unwrap().0;
    let cell = |cell: &'a str| {
        let (attributes, text) = cell.split_once('>').unwrap();
        let exact = attributes.trim().strip_prefix("data-v=\"").and_then(|value| value.strip_suffix('"'));
        (exact, text.strip_suffix("</td>").unwrap())
    };
    row.split("<td").skip(1).map(cell).collect()
}

/// The titles of speeds in JSON.
const SPEEDS: [&str; 2] = ["weights_per_second", "stored_bytes_per_second"];

fn exact(cell: (Option<&str>, &str)) -> Option<f64> {
    cell.0.map(|value| value.parse().unwrap())
}

#[test]
fn figures_are_those_of_the_json() {
    let (_folder, page, json) = page(&["model.ccq", "--source", "source.safetensors"]);
    for tensor in json["tensors"].as_array().unwrap() {
        let cells = cells(&page, tensor["name"].as_str().unwrap());
        assert_eq!(
            (cells[0].1, cells[1].1),
            (tensor["encoding"].as_str().unwrap(), tensor["dtype"].as_str().unwrap())
        );
        let keys = ["bytes", "bpw", "relative_mse", "snr_db", "max_abs_error", "cosine"];
        for (key, cell) in keys.into_iter().zip(&cells[3..]) {
            assert_eq!(exact(*cell), tensor[key].as_f64(), "{key} of {tensor}");
            assert!(exact(*cell).is_some() || cell.1 == "-", "{cell:?}");
        }
        for (key, cell) in SPEEDS.into_iter().zip(&cells[9..]) {
            assert_eq!(exact(*cell), tensor["decode"][key].as_f64(), "{key} of {tensor}");
        }
        assert_eq!(cells[11].1, tensor["note"].as_str().unwrap_or_default());
    }
    let encodings = json["encodings"].as_array().unwrap();
    assert_eq!(encodings.len(), 5);
    for encoding in encodings {
        let cells = cells(&page, encoding["encoding"].as_str().unwrap());
        let keys = ["tensors", "parameters", "bytes", "bpw", "relative_mse"];
        for (key, cell) in keys.into_iter().zip(&cells) {
            assert_eq!(exact(*cell), encoding[key].as_f64(), "{key} of {encoding}");
        }
        for (key, cell) in SPEEDS.into_iter().zip(&cells[5..]) {
            assert_eq!(exact(*cell), encoding["decode"][key].as_f64(), "{key} of {encoding}");
        }
    }
    let sum = |key: &str| encodings.iter().map(|encoding| encoding[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(Some(sum("parameters")), json["total"]["parameters"].as_u64());
    for text in [
        "Valid, and as the source",
        "model.ccq",
        "source.safetensors",
        "all 14 checksums match",
        "<dd>1.0</dd>",
        "<figcaption>Decoding, Gweights/s</figcaption>",
        "<dt>Decoding</dt>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(page.find(">layer.2.self").unwrap() < page.find(">layer.10.weight").unwrap());
    assert!(page.contains("<path class=\"s0\"") && page.contains("<title>layer.0.weight: "));
}

#[test]
fn a_source_is_not_needed() {
    let (_folder, page, _) = page(&["model.ccq"]);
    assert!(page.contains("The file was not compared with a source.") && page.contains("Size by encoding"));
    assert!(!page.contains("Relative MSE") && !page.contains("SNR"), "{page}");
    assert_eq!(cells(&page, "layer.0.weight").len(), 5);
}

#[test]
fn pages_are_reproducible_and_load_nothing() {
    let (folder, page, _) = page(&["model.ccq", "--source", "source.safetensors"]);
    let again = |args: &[&str], name| {
        folder.run(&[&["model.ccq", "--quiet", "--html", name], args].concat()).expect(0, &[]);
        String::from_utf8(folder.read(name)).unwrap()
    };
    // All but the speeds.
    let errors = |page: &str| {
        let rest = page.split_once("<section aria-labelledby=\"layers\">").unwrap().1;
        rest.split_once("</section>").unwrap().0.to_string()
    };
    let compared = again(&["--source", "source.safetensors", "--threads", "1"], "compared.html");
    assert_eq!(errors(&page), errors(&compared));
    assert_eq!(again(&[], "a.html"), again(&["--threads", "1"], "b.html"));
    for text in ["://", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(text), "{text}");
    }
    assert!(!page.contains("{{") && page.contains("width=device-width"));
}

#[test]
fn names_from_files_are_only_text() {
    let folder = Folder::new();
    let mut named = tensors();
    named[3].name = "layer.0.<script>alert(1)</script>".into();
    folder.container("model.ccq", &named);
    folder.source("source.safetensors", &named);
    folder.run(&["model.ccq", "--source", "source.safetensors", "--html", "page.html"]).expect(0, &[]);
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<th scope=\"row\">layer.0.&lt;script&gt;alert(1)&lt;/script&gt;</th>"));
}

#[test]
fn problems_are_on_the_page() {
    let folder = Folder::model();
    let mut bytes = folder.read("model.ccq");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    folder.write("damaged.ccq", &bytes);
    folder.run(&["damaged.ccq", "--html", "page.html"]).expect(3, &["config.json"]);
    let page = String::from_utf8(folder.read("page.html")).unwrap();
    assert!(
        page.contains("<p class=\"verdict bad\">1 problem</p>") && page.contains("<li>[5.9] `config.json`")
    );
}

#[test]
fn existing_files_and_inputs_are_kept() {
    let folder = Folder::model();
    folder.write("page.html", b"mine");
    let refused = folder.run(&["model.ccq", "--html", "page.html"]);
    let refused = refused.expect(1, &["error: page.html: exists: choose another name, or give --overwrite"]);
    assert_eq!((refused.out.as_str(), folder.read("page.html")), ("", b"mine".to_vec()));
    folder.run(&["model.ccq", "--html", "page.html", "--overwrite"]).expect(0, &[]);
    assert!(folder.read("page.html").starts_with(b"<!DOCTYPE html>"));

    fs::create_dir(folder.path("model")).unwrap();
    fs::copy(folder.path("source.safetensors"), folder.path("model/model.safetensors")).unwrap();
    folder.write("model/config.json", b"{}");
    for (source, page) in [
        ("source.safetensors", "model.ccq"),
        ("source.safetensors", "./model.ccq"),
        ("source.safetensors", "source.safetensors"),
        ("model", "model/model.safetensors"),
        ("model", "model/config.json"),
        ("model", "model"),
    ] {
        let before = folder.path(page).is_file().then(|| folder.read(page));
        let args = ["model.ccq", "--source", source, "--html", page, "--overwrite"];
        folder.run(&args).expect(1, &["is an input: choose another name for the page"]);
        assert_eq!(folder.path(page).is_file().then(|| folder.read(page)), before, "{page}");
    }
    folder.run(&["model.ccq", "--html", "model", "--overwrite"]).expect(1, &["is a folder"]);
    folder
        .run(&["model.ccq", "--html", "no/page.html"])
        .expect(1, &["no/page.html.partial", "check the path"]);
    folder.run(&["model.ccq", "--overwrite"]).expect(2, &["--html"]);
    folder.run(&["short.ccq", "--html", "other.html"]).expect(1, &[]);
    let left = fs::read_dir(folder.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().ends_with(".partial")));
    assert!(!folder.path("other.html").exists());
}
