//! Files for readers that take a path.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder of this process, emptied when it is made; memory-backed where the system has that.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder; `files` are put into it.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.into() } else { std::env::temp_dir() };
        let path = parent.join(format!("ccq-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder for the files");
        let folder = Self(path);
        files.iter().for_each(|(name, bytes)| drop(folder.write(name, bytes)));
        folder
    }

    /// Writes a file anew.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a file in the folder");
        path
    }

    /// What is in a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).expect("a file in the folder")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}
