//! `--recipe`, `--preset`, `--target-bpw`, `--target-size`, `--dry-run`.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ccq::Container;
use ccq::format::Value;
use common::{Folder, LAYER0, Run, f32_tensor, matrix, run, values, write};
use serde_json::Value as Json;

/// Two layers of a mixture of experts, with all that comes along.
fn small_model(folder: &Folder) -> PathBuf {
    let model = folder.path("m.safetensors");
    let mut tensors = vec![
        matrix("model.embed_tokens.weight", 32, 128),
        matrix("lm_head.weight", 32, 128),
        f32_tensor("model.norm.weight", &[128], &values(128, 3)),
    ];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(matrix(&name("self_attn.q_proj"), 64, 128));
        tensors.push(matrix(&name("mlp.gate"), 4, 128));
        tensors.extend((0..2).map(|expert| matrix(&name(&format!("mlp.experts.{expert}.up_proj")), 64, 128)));
    }
    write(&model, &tensors);
    model
}

fn with(model: &Path, args: &[&str]) -> Run {
    run([&[model.to_str().unwrap()], args].concat())
}

fn encodings(container: &Path) -> BTreeMap<String, String> {
    let container = Container::open(container).unwrap();
    container.verify().unwrap();
    let encoding =
        |tensor: ccq::Tensor<'_>| (tensor.info().name().to_owned(), tensor.info().encoding().to_string());
    container.tensors().map(encoding).collect()
}

fn stored_recipe(container: &Path) -> String {
    match Container::open(container).unwrap().index().metadata().get("ccq.recipe") {
        Some(Value::String(text)) => text.into(),
        other => panic!("{other:?}"),
    }
}

fn number(value: &Json) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn a_recipe_is_followed_stored_and_used_again() {
    let folder = Folder::new();
    let model = small_model(&folder);
    let recipe = folder.path("mix.toml");
    fs::write(
        &recipe,
        r#"
        [default]
        encoding = "wint8"

        [[rule]]
        tensor = "*.experts.*"
        layers = "0"
        encoding = "wint4"
        group-size = 32
        quality = "best"

        [[rule]]
        regex = '\.experts\.[1-9]\.'
        encoding = "raw"

        [[rule]]
        tensor = ["*.experts.*", "lm_head.*"]
        role = ["projection", "output-head"]
        encoding = "ccq-2.75"
        "#,
    )
    .unwrap();
    let (out, again) = (folder.path("out.ccq"), folder.path("again.ccq"));
    let written = folder.path("written.toml");
    let args = ["--recipe", recipe.to_str().unwrap(), "--write-recipe", written.to_str().unwrap()];
    let keep = ["--keep", "*.1.self_attn.*"];
    let done = with(&model, &[&[out.to_str().unwrap()], &args[..], &keep].concat()).ok();
    for said in ["rule 1: \"*.experts.*\", layers 0", "--keep *.1.self_attn.*", "router", "projection"] {
        assert!(done.stdout().contains(said), "{said}: {}", done.stdout());
    }
    let expected = [
        ("lm_head.weight", "ccq-2.75"),
        ("model.embed_tokens.weight", "raw"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", "wint4 g32"),
        ("model.layers.0.mlp.experts.1.up_proj.weight", "wint4 g32"),
        ("model.layers.0.mlp.gate.weight", "raw"),
        ("model.layers.0.self_attn.q_proj.weight", "wint8"),
        ("model.layers.1.mlp.experts.0.up_proj.weight", "ccq-2.75"),
        ("model.layers.1.mlp.experts.1.up_proj.weight", "raw"),
        ("model.layers.1.mlp.gate.weight", "raw"),
        ("model.layers.1.self_attn.q_proj.weight", "raw"),
        ("model.norm.weight", "raw"),
    ];
    assert_eq!(encodings(&out), expected.iter().map(|&(n, e)| (n.into(), e.into())).collect());

    // The container, its recipe in a file, and the original options all lead to the same bytes.
    assert_eq!(fs::read_to_string(&written).unwrap(), stored_recipe(&out));
    for source in [&written, &out] {
        let args = [again.to_str().unwrap(), "--overwrite", "--recipe", source.to_str().unwrap()];
        with(&model, &args).ok();
        assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap(), "{source:?}");
    }
    with(&model, &[again.to_str().unwrap(), "--overwrite", "--write-recipe", written.to_str().unwrap()]).ok();
    let uniform = "[default]\nencoding = \"ccq-2.06\"\ngroup-size = 64\nquality = \"balanced\"\n";
    assert_eq!(fs::read_to_string(&written).unwrap(), uniform);
    with(&model, &["--dry-run", "--write-recipe", written.to_str().unwrap()])
        .failed(1, &["written.toml: exists"]);
}

/// A recipe, the exit code, and all of what is said.
#[test]
fn bad_recipes() {
    let folder = Folder::new();
    let model = small_model(&folder);
    let recipe = folder.path("mix.toml");
    for (text, said) in [
        ("[[rule]\n", &["mix.toml:1: "][..]),
        (
            "\n[[rule]]\ntensor = \"*\"\nencodin = \"raw\"",
            &["mix.toml:4, rule 1", "\"encodin\"", "\"encoding\""],
        ),
        (
            "[[rule]]\ntensor = \"*\"\nencoding = \"ccq-2.7\"",
            &["mix.toml:3, rule 1", "did you mean \"ccq-2.75\""],
        ),
        (
            "[[rule]]\ntensor = \"*\"\nencoding = \"ccq-3.3\"",
            &["mix.toml:3, rule 1", "did you mean \"ccq-3.31\""],
        ),
        (
            "[[rule]]\ntensor = \"*\"\nencoding = \"ccq-5.5\"\ngroup-size = \"channel\"",
            &["mix.toml:1, rule 1", "ccq-5.5 takes group sizes 32, 64 and 128"],
        ),
        (
            "[[rule]]\ntensor = \"*.expert.*\"\nencoding = \"raw\"",
            &[
                "mix.toml:1, rule 1: \"*.expert.*\" matches no tensor of",
                "no name has \"expert\" in it; did you mean \"experts\", as in \"model.layers.0.mlp.experts.0.up_",
            ],
        ),
        (
            "[[rule]]\ntensor = [\"*.experts.*\", \"model.norm.weigt\"]\nencoding = \"raw\"",
            &["rule 1: \"model.norm.weigt\" matches no tensor", "did you mean \"weight\""],
        ),
        (
            "[[rule]]\nregex = '^layers'\nencoding = \"raw\"",
            &["rule 1: /^layers/ matches no tensor of", "its names look like \"lm_head.weight\""],
        ),
        (
            "[[rule]]\ntensor = \"*.experts.*\"\nlayers = \"2-\"\nencoding = \"raw\"",
            &["rule 1: \"*.experts.*\", layers 2- matches no tensor", "of that name are in layers 0 to 1"],
        ),
        (
            "[[rule]]\ntensor = \"lm_head.weight\"\nencoding = \"wint8\"",
            &["\"lm_head.weight\" is no projection but: output head; give the rule role = \"output-head\""],
        ),
        (
            "[[rule]]\nlayers = 0\nencoding = \"raw\"\n[[rule]]\ntensor = \"*.0.mlp.*\"\nencoding = \"wint8\"",
            &["mix.toml:4, rule 2: \"*.0.mlp.*\" is never used: rule 1: layers 0 comes first and takes"],
        ),
    ] {
        fs::write(&recipe, text).unwrap();
        with(&model, &["--dry-run", "--recipe", recipe.to_str().unwrap()]).failed(2, said);
    }
    fs::write(&recipe, "[[rule]]\ntensor = \"*.bias\"\nencoding = \"raw\"\noptional = true").unwrap();
    with(&model, &["--dry-run", "--recipe", recipe.to_str().unwrap()]).ok();

    let missing = folder.path("none.toml");
    with(&model, &["--dry-run", "--recipe", missing.to_str().unwrap()])
        .failed(1, &["none.toml", "No such file"]);
    let no_container = folder.path("bad.ccq");
    fs::write(&no_container, "hello").unwrap();
    with(&model, &["--dry-run", "--recipe", no_container.to_str().unwrap()]).failed(3, &["bad.ccq"]);
    // What an option takes away from a preset's rule is no fault of the preset.
    with(&model, &["--dry-run", "--preset", "deepseek-moe", "--keep", "*.experts.*"]).ok();
    let llama = folder.path("llama.safetensors");
    write(&llama, &[matrix("model.layers.0.self_attn.q_proj.weight", 64, 128)]);
    with(&llama, &["--dry-run", "--preset", "ernie-w4w2"])
        .failed(2, &["preset ernie-w4w2:7, rule 1: /\\.experts\\.|_exps\\./, layers 0-6 matches no tensor"]);
}

#[test]
fn a_dry_run_says_what_comes_out_and_writes_nothing() {
    let folder = Folder::new();
    let model = small_model(&folder);
    let args = ["--preset", "deepseek-moe", "--keep", "*.experts.1.*", "--json"];
    let planned = with(&model, &[&["--dry-run"], &args[..]].concat()).ok().json();
    let out = folder.path("out.ccq");
    let with_output = with(&model, &[&[out.to_str().unwrap(), "--dry-run"], &args[..]].concat()).ok().json();
    assert_eq!(planned, with_output);
    assert_eq!(folder.names(), ["m.safetensors"]);

    let done = with(&model, &[&[out.to_str().unwrap()], &args[..]].concat()).ok().json();
    let total = &planned["total"];
    assert_eq!(total["bytes"], fs::metadata(&out).unwrap().len());
    assert_eq!(planned["needs"]["disk"], total["bytes"]);
    assert!(planned["needs"]["memory"].as_u64().unwrap() >= 64 * 128 * 4);
    assert_eq!(planned["recipe"], stored_recipe(&out));
    for key in ["parameters", "bpw", "quantized", "quantized_bpw"] {
        assert_eq!(total[key], done["total"][key], "{key}");
    }
    let (planned, done) = (planned["tensors"].as_array().unwrap(), done["tensors"].as_array().unwrap());
    assert_eq!(planned.len(), done.len());
    for (planned, done) in planned.iter().zip(done) {
        for key in ["name", "shape", "dtype", "encoding", "bytes", "bpw", "reason"] {
            assert_eq!(planned[key], done[key], "{key}");
        }
    }
    let table = with(&model, &["--dry-run"]).ok().stdout();
    for said in ["nothing was written", "  disk     ", "  memory   ", "11: 6 quantized, 5 raw"] {
        assert!(table.contains(said), "{said}: {table}");
    }
}

/// Relative errors, weighted by parameters, of what a conversion reported; raw tensors have none.
fn error(report: &Json) -> f64 {
    let tensors = report["tensors"].as_array().unwrap();
    let sums = tensors.iter().fold((0.0, 0.0), |(error, parameters), tensor| {
        let shape = tensor["shape"].as_array().unwrap();
        let count: f64 = shape.iter().map(number).product();
        (error + count * tensor["relative_mse"].as_f64().unwrap_or(0.0), parameters + count)
    });
    sums.0 / sums.1
}

/// On the real layer, for a row of budgets, with the errors of what was written, not of what was measured before.
#[test]
fn a_budget_is_kept_and_beats_every_uniform_encoding() {
    let folder = Folder::new();
    let (out, recipe, again) = (folder.path("out.ccq"), folder.path("mix.toml"), folder.path("again.ccq"));
    let convert = |args: &[&str]| {
        let all = [&[out.to_str().unwrap(), "--overwrite", "--json"], args].concat();
        with(Path::new(LAYER0), &all).ok().json()
    };
    let encodings = ["ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "ccq-5.5", "wint4", "wint8", "int2"];
    let uniform: Vec<(u64, f64)> = encodings
        .iter()
        .flat_map(|encoding| ["32", "64", "128", "channel"].map(|size| (encoding, size)))
        .filter(|(encoding, size)| !(encoding.starts_with("ccq") && *size == "channel"))
        .map(|(encoding, size)| convert(&["--encoding", encoding, "--group-size", size]))
        .map(|report| (report["total"]["bytes_out"].as_u64().unwrap(), error(&report)))
        .collect();
    for bits in ["2.3", "2.5", "2.8", "3", "3.5", "4", "4.4", "5", "5.4"] {
        let args = ["--target-bpw", bits, "--write-recipe", recipe.to_str().unwrap()];
        let report = convert(&args);
        let (bytes, found) = (report["total"]["bytes_out"].as_u64().unwrap(), error(&report));
        assert_eq!(bytes, fs::metadata(&out).unwrap().len());
        assert_eq!(report["target"]["bytes"], bytes);
        let budget = bits.parse::<f64>().unwrap() * 1_769_472.0 / 8.0;
        assert!((0.99..=1.0).contains(&(bytes as f64 / budget)), "{bits}: {bytes} of {budget}");
        let fitting = uniform.iter().filter(|(size, _)| *size as f64 <= budget).map(|&(_, error)| error);
        let best = fitting.fold(f64::INFINITY, f64::min);
        assert!(found < best, "{bits}: {found}, uniform {best}");
        let measured = number(&report["target"]["error"]);
        assert!((measured / found - 1.0).abs() < 0.03, "{bits}: measured {measured}, found {found}");

        let args = [again.to_str().unwrap(), "--overwrite", "--recipe", recipe.to_str().unwrap()];
        with(Path::new(LAYER0), &args).ok();
        assert_eq!(fs::read(&out).unwrap(), fs::read(&again).unwrap(), "{bits}");
    }
    // Too little for one matrix more in eight bits: what is left stays unused, and the next size is named.
    let report = convert(&["--target-bpw", "6.1"]);
    let warning = report["warnings"][0].as_str().unwrap();
    let (_, named) = warning.split_once("no choice of these candidates has less error below ").unwrap();
    let bytes = named.split(' ').next().unwrap();
    let next = convert(&["--target-size", bytes]);
    assert_eq!(next["total"]["bytes_out"].to_string(), bytes);
    assert!(error(&next) < error(&report) && next["warnings"].as_array().unwrap().is_empty(), "{warning}");
    let best = ["--target-size", "600KiB", "--quality", "best", "--candidates", "ccq-2.5,ccq-2.75,wint4"];
    let best = |threads| convert(&[&best[..], &["--threads", threads]].concat());
    let report = best("1");
    let bytes = report["total"]["bytes_out"].as_f64().unwrap();
    assert!((0.99..=1.0).contains(&(bytes / 614_400.0)), "{bytes}");
    // All rows were measured, so that what was measured is what came out.
    assert!((number(&report["target"]["error"]) / error(&report) - 1.0).abs() < 1e-9);
    let one = fs::read(&out).unwrap();
    best("2");
    assert_eq!(fs::read(&out).unwrap(), one);
}

#[test]
fn budgets_that_make_no_sense() {
    let folder = Folder::new();
    let model = small_model(&folder);
    let small = ["the smallest file of these candidates has", "(", "bpw)", "--candidates", "--quantize"];
    with(&model, &["--dry-run", "--target-bpw", "2"]).failed(2, &small);
    let args = ["--dry-run", "--target-bpw", "20", "--keep", "*.layers.*"];
    with(&model, &args).failed(2, &["--target-bpw 20 has nothing to choose"]);
    let done = with(&model, &["--dry-run", "--json", "--target-bpw", "60"]).ok().json();
    assert!(done["tensors"].as_array().unwrap().iter().all(|tensor| tensor["encoding"] == "raw"));
    assert!(done["warnings"][0].as_str().unwrap().contains("smaller than --target-bpw 60 allows"), "{done}");
    let recipe = folder.path("auto.toml");
    let text = "[[rule]]\ntensor = \"lm_head.*\"\nrole = \"any\"\nencoding = \"auto\"\n[[rule]]\nlayers = 1\nencoding = \"raw\"";
    fs::write(&recipe, text).unwrap();
    let recipe = ["--dry-run", "--recipe", recipe.to_str().unwrap()];
    with(&model, &recipe).failed(2, &["auto.toml:1, rule 1: encoding \"auto\" needs a budget"]);
    let args = ["--target-bpw", "22", "--json", "--candidates", "wint8:64,wint4"];
    let json = with(&model, &[&recipe[..], &args].concat()).ok().json();
    let encoding = |name: &str| {
        let tensors = json["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["encoding"].as_str().unwrap().to_owned()
    };
    assert!(encoding("lm_head.weight").starts_with("wint"));
    assert_eq!(encoding("model.layers.1.self_attn.q_proj.weight"), "raw");
    assert!(encoding("model.layers.0.self_attn.q_proj.weight").starts_with("wint"));
}

/// Of matrices that are alike, the one whose inputs matter gets the bits.
#[test]
fn importance_moves_the_budget() {
    let folder = Folder::new();
    let (model, importance) = (folder.path("m.safetensors"), folder.path("i.safetensors"));
    let names: Vec<String> = (0..4).map(|layer| format!("layers.{layer}.weight")).collect();
    let weights = values(128 * 256, 1);
    let tensors: Vec<_> = names.iter().map(|name| f32_tensor(name, &[128, 256], &weights)).collect();
    write(&model, &tensors);
    for favourite in [0, 2] {
        let vector = |layer: usize| vec![if layer == favourite { 50.0 } else { 1.0 }; 256];
        let vectors: Vec<_> =
            names.iter().enumerate().map(|(layer, name)| f32_tensor(name, &[256], &vector(layer))).collect();
        write(&importance, &vectors);
        let args =
            ["--dry-run", "--json", "--target-size", "80KB", "--importance", importance.to_str().unwrap()];
        let json = with(&model, &args).ok().json();
        let bytes: Vec<u64> =
            json["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).collect();
        let largest = bytes.iter().max().unwrap();
        assert!(
            bytes[favourite] == *largest && bytes.iter().filter(|b| *b == largest).count() == 1,
            "{bytes:?}"
        );
    }
}
