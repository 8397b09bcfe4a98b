//! `--extract-blobs`: names from a file never lead anywhere but to new files below the folder.

use std::collections::BTreeMap;
use std::fs::{self, File};

use ccq::format::{Contents, Layout, Writer};

use crate::fixture::Folder;

/// A folder with a container that holds these blobs alone, each with its own name as its content.
fn with_blobs(names: &[&str]) -> Folder {
    let folder = Folder::new();
    let blobs: BTreeMap<_, _> = names.iter().map(|name| (name.to_string(), name.len() as u64)).collect();
    let layout = Layout::new(Contents { blobs: blobs.clone(), ..Contents::default() }).unwrap();
    let mut writer = Writer::new(File::create(folder.path("model.ccq")).unwrap(), layout).unwrap();
    blobs.keys().for_each(|name| writer.write(name, &[name.as_bytes()]).unwrap());
    writer.finish().unwrap();
    folder
}

#[test]
fn blobs_become_files() {
    let names = ["config.json", "a/b/one", "a/b/two", "a/three"];
    let folder = with_blobs(&names);
    folder.run(&["model.ccq", "--extract-blobs", "out"]).expect(0, &["4 files written to out"]);
    for name in names {
        assert_eq!(folder.read(&format!("out/{name}")), name.as_bytes());
    }
    folder.run(&["model.ccq", "--extract-blobs", "out"]).expect(1, &["exists: choose an empty folder"]);
    fs::create_dir(folder.path("empty")).unwrap();
    folder.run(&["model.ccq", "--extract-blobs", "empty"]).expect(0, &[]);
    folder.run(&["model.ccq", "--extract-blobs", "no/such"]).expect(1, &["no/such"]);
}

#[test]
fn what_is_there_is_left_alone() {
    let folder = with_blobs(&["a", "b/c"]);
    fs::create_dir_all(folder.path("out/b")).unwrap();
    let args = ["model.ccq", "--extract-blobs", "out"];
    folder.run(&args).expect(1, &["out/b exists"]);
    assert!(!folder.path("out/a").exists(), "something was written before everything was checked");
    fs::remove_dir(folder.path("out/b")).unwrap();
    folder.write("out/a", b"mine");
    folder.run(&args).expect(1, &["out/a exists"]);
    assert_eq!(folder.read("out/a"), b"mine");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;

    let args = ["model.ccq", "--extract-blobs", "out"];
    // To a file, to nothing, and to a folder that a name goes through.
    for (link, target) in [("a", "victim"), ("a", "missing"), ("b", ".")] {
        let folder = with_blobs(&["a", "b/c"]);
        folder.write("victim", b"mine");
        fs::create_dir(folder.path("out")).unwrap();
        symlink(folder.path(target), folder.path(&format!("out/{link}"))).unwrap();
        folder.run(&args).expect(1, &[&format!("out/{link} exists")]);
        assert_eq!(folder.read("victim"), b"mine");
        assert!(!folder.path("missing").exists() && !folder.path("c").exists());
    }
}

#[test]
fn names_that_mean_something_are_refused() {
    for name in ["aux.json", "dir/nul", "what?", "trailing."] {
        let folder = with_blobs(&["config.json", name]);
        let args = ["model.ccq", "--extract-blobs", "out"];
        folder.run(&args).expect(3, &[&format!("blob `{name}`"), "not extracted"]);
        assert!(!folder.path("out").exists());
    }
}

/// The format itself refuses the worst names: such a file does not open.
#[test]
fn names_that_lead_out_do_not_open() {
    let folder = with_blobs(&["xx/evil"]);
    let mut bytes = folder.read("model.ccq");
    let at = bytes.windows(7).position(|name| name == b"xx/evil").unwrap();
    for name in [b"../evil", b"//evils", b"/../bad"] {
        bytes[at..at + 7].copy_from_slice(name);
        ccq::format::seal(&mut bytes);
        folder.write("evil.ccq", &bytes);
        folder.run(&["evil.ccq", "--extract-blobs", "out"]).expect(3, &["not a plain relative path"]);
        assert!(!folder.path("out").exists());
    }
}

#[test]
fn damaged_blobs_are_not_written() {
    let folder = with_blobs(&["config.json"]);
    let mut bytes = folder.read("model.ccq");
    *bytes.last_mut().unwrap() ^= 1;
    folder.write("damaged.ccq", &bytes);
    let args = ["damaged.ccq", "--extract-blobs", "out"];
    folder.run(&args).expect(3, &["damaged.ccq: [5.9] `config.json`"]);
    assert!(!folder.path("out").exists());
    folder.run(&["model.ccq", "--extract-blobs", "out", "--json"]).expect(2, &["cannot be used with"]);
}
