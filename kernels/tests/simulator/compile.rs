//! Compiles a file of `kernels` to a shared library; tests of other packages include this file, too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, process};

/// Compiles `source`, a path in `kernels`, to `library`, a path in the build folder's tmp; once a library.
pub fn compile(source: &str, library: &str, defines: &[&str]) -> PathBuf {
    static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(library);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if built.contains(&library) {
        return library;
    }
    let unfinished = library.with_extension(process::id().to_string());
    fs::create_dir_all(library.parent().expect("a path in a folder")).expect("a folder in the build folder");
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    let status = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unknown-pragmas", "-shared", "-fPIC", "-x", "c++"])
        .args(defines)
        .arg(kernels().join(source))
        .arg("-o")
        .arg(&unfinished)
        .status()
        .unwrap_or_else(|error| panic!("{compiler}: {error}: install a C++17 compiler or set CXX"));
    assert!(status.success(), "{compiler} does not compile {source}");
    fs::rename(&unfinished, &library).expect("renaming the library that was just built");
    built.push(library.clone());
    library
}

fn kernels() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("kernels"));
    folders
        .into_iter()
        .find(|folder| folder.join("sim/driver.cpp").is_file())
        .expect("a folder of the workspace")
}
