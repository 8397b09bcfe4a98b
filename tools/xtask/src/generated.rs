//! Generated files that are checked in: written, or compared with what is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Makes `folder` hold exactly these files; with `check`, fails where it does not.
pub fn sync_folder(
    folder: &Path,
    files: &BTreeMap<String, Vec<u8>>,
    command: &str,
    check: bool,
) -> Result<()> {
    if !check {
        fs::create_dir_all(folder)?;
    }
    for (name, bytes) in files {
        sync_file(&folder.join(name), bytes, command, check)?;
    }
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let expected =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| files.contains_key(name));
        if expected {
            continue;
        }
        ensure!(!check, "{} is not generated: run `cargo xtask {command}`", path.display());
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        println!("removed {}", path.display());
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
    fs::write(path, bytes).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}
