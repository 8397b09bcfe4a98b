//! `--extract-blobs`: the model's own files, out of the container and into a folder.
//!
//! The names come from a stranger's file. Nothing that is there is opened, replaced or walked through: the first part
//! of every name has to be free, so whatever lies below it was made here. That leaves no link to follow, unless
//! somebody else may write to the folder meanwhile.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ccq::format::PlaneKind;
use ccq_cli::Exit;

use crate::failure::{self, Failure, Stdout};

/// Characters that have a meaning in paths of one system or another.
const SPECIAL: [char; 8] = ['\\', ':', '*', '?', '"', '<', '>', '|'];

/// Checks the blobs' bytes and names, then writes all of them below `folder`, which is made if it is missing.
///
/// # Errors
/// Before anything is written, where a blob is damaged, has a name that is no plain relative path on every system,
/// or stands in for something in the folder; where the system refuses.
pub fn run(file: &Path, folder: &Path) -> Result<Exit, Failure> {
    let model = failure::open_set(file)?;
    for (path, container) in model.files() {
        let mut chunks = container.chunks().filter(|chunk| chunk.plane == PlaneKind::Blob);
        chunks.try_for_each(|chunk| chunk.verify()).map_err(|error| Failure::container(path, &error))?;
    }
    let mut blobs = Vec::new();
    for (name, bytes) in model.blobs() {
        let path = relative_path(name).map_err(|why| {
            let file = file.display();
            Failure::Failed(
                Exit::InvalidFile,
                format!("{file}: blob `{name}`: the name {why}: not extracted"),
            )
        })?;
        blobs.push((path, bytes));
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Failure::io(folder, &error));
        }
        _ => {}
    }
    for first in blobs.iter().filter_map(|(path, _)| path.iter().next()) {
        refuse_existing(&folder.join(first))?;
    }
    let mut made = BTreeSet::new();
    for (path, bytes) in &blobs {
        write(folder, path, bytes, &mut made)?;
    }
    let written =
        |out: &mut Stdout, _| writeln!(out, "{} files written to {}", blobs.len(), folder.display());
    failure::print(false, || (), written)?;
    Ok(Exit::Ok)
}

/// A blob's name as a path that stays below the folder it is joined to, on every system.
fn relative_path(name: &str) -> Result<PathBuf, &'static str> {
    name.split('/').map(plain_part).collect()
}

/// One part of a path, or what is wrong with it. Opening the container has refused most of these before.
fn plain_part(part: &str) -> Result<&str, &'static str> {
    if part.is_empty() {
        return Err("is absolute or has an empty part");
    }
    if matches!(part, "." | "..") {
        return Err("leads out of its folder");
    }
    if part.contains(SPECIAL) || part.contains(char::is_control) {
        return Err("holds a character that has a meaning in paths");
    }
    if part.ends_with(['.', ' ']) || is_device(part) {
        return Err("means something else on Windows");
    }
    Ok(part)
}

/// Whether Windows takes the name, whatever its extension, for a device.
fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    let digit = |text: &str| {
        matches!(text, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered.is_some_and(digit)
}

/// Fails where there is anything of that name; a link counts, wherever it leads.
fn refuse_existing(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(exists(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io(path, &error)),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::runtime(format!("{} exists: choose an empty folder", path.display()))
}

/// Writes a new file, in folders that are new or were made here.
fn write(folder: &Path, path: &Path, bytes: &[u8], made: &mut BTreeSet<PathBuf>) -> Result<(), Failure> {
    let failed = |path: &Path, error: &io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::io(path, error),
    };
    let mut parent = folder.to_path_buf();
    for part in path.parent().into_iter().flat_map(Path::iter) {
        parent.push(part);
        if made.insert(parent.clone()) {
            fs::create_dir(&parent).map_err(|error| failed(&parent, &error))?;
        }
    }
    let path = folder.join(path);
    // Neither an existing file nor a link passes `create_new`.
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file.map_err(|error| failed(&path, &error))?;
    file.write_all(bytes).map_err(|error| {
        // Half a file would pass for the whole one; there is no remedy where it cannot be removed either.
        let _ = fs::remove_file(&path);
        Failure::io(&path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_their_folder_on_every_system() {
        for name in
            ["config.json", "a/b/c.txt", "..a", "a..", "…", ".hidden", "com", "COM10", "console", "a b"]
        {
            match relative_path(name) {
                Ok(path) => assert_eq!(path, Path::new(name)),
                Err(why) => assert_eq!((name, why), ("a..", "means something else on Windows")),
            }
        }
        for name in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "../a",
            "a/../b",
            "./a",
            "a/.",
            "a\\b",
            "C:",
            "C:/a",
            "a:b",
            "a\0",
            "a\n",
            "nul",
            "AUX.json",
            "aux .txt",
            "a/con",
            "com1",
            "LPT9.txt",
            "COM¹",
            "a.",
            "a ",
            "a./b",
            "*",
            "CONIN$",
            "\\\\server\\share",
        ] {
            assert!(relative_path(name).is_err(), "{name:?}");
        }
    }
}
