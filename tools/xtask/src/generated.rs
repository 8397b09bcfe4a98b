//! Generated files that are checked in: written, or compared with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Makes `folder` hold exactly these files, by their paths in it; with `check`, fails where it does not.
pub fn sync_folder(
    folder: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    command: &str,
    check: bool,
) -> Result<()> {
    for (name, bytes) in files {
        sync_file(&folder.join(name), bytes, command, check)?;
    }
    let expected: BTreeSet<_> = files.keys().map(|name| folder.join(name)).collect();
    remove_others(folder, &expected, command, check)
}

/// Writes files, by their paths in a folder.
pub fn write_files(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Removes what is not `expected`, and folders that are empty then.
fn remove_others(folder: &Path, expected: &BTreeSet<PathBuf>, command: &str, check: bool) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, expected, command, check)?;
            if !expected.iter().any(|file| file.starts_with(&path)) {
                ensure!(!check, "{} is not generated: run `cargo xtask {command}`", path.display());
                fs::remove_dir(&path).with_context(|| path.display().to_string())?;
            }
        } else if !expected.contains(&path) {
            ensure!(!check, "{} is not generated: run `cargo xtask {command}`", path.display());
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
            println!("removed {}", path.display());
        }
    }
    Ok(())
}

/// Makes a file hold exactly these bytes; with `check`, fails where it does not.
pub fn sync_file(path: &Path, bytes: &[u8], command: &str, check: bool) -> Result<()> {
    let found = match fs::read(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    if found.as_deref() == Some(bytes) {
        return Ok(());
    }
    ensure!(!check, "{} is not up to date: run `cargo xtask {command}`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}
