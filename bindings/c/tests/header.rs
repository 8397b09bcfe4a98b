//! `include/ccq.h` is what the declarations say. `CCQ_REWRITE=1 cargo test -p ccq-c --test header` rewrites it.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in ["error.rs", "file.rs", "tensor.rs"] {
        builder = builder.with_src(folder.join("src").join(source));
    }
    let mut expected = Vec::new();
    builder.generate().unwrap().write(&mut expected);
    let expected = without_safety(&String::from_utf8(expected).unwrap());

    let path = folder.join("include/ccq.h");
    if std::env::var_os("CCQ_REWRITE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let remedy = "run `CCQ_REWRITE=1 cargo test -p ccq-c --test header`";
    assert!(found == expected, "{} is not up to date: {remedy}", path.display());
}

/// The header says once, at its top, what Rust's `# Safety` sections repeat for every function.
fn without_safety(header: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut skipping = false;
    for line in header.lines() {
        skipping = line == "// # Safety" || skipping && line.starts_with("//");
        if line == "// # Safety" {
            out.pop();
        }
        if !skipping {
            out.push(line);
        }
    }
    out.join("\n") + "\n"
}
