//! Runs the built binary on small models made here.
#![allow(dead_code)] // every test file uses its own part

pub mod sparse;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// The real layer: six matrices, f16.
pub const LAYER0: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/all-minilm-l6-v2-layer0.safetensors");

/// The tool, to be given arguments.
pub fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ccq-convert"))
}

/// The tool, run by a user whom permissions bind: where the tests are run by root, a copy of it, by nobody. All others
/// may look into the folder then.
#[cfg(unix)]
pub fn bound_tool(folder: &Folder) -> Command {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    // A folder just made belongs to whoever runs this.
    if std::fs::metadata(folder.0.path()).unwrap().uid() != 0 {
        return tool();
    }
    let copy = folder.path("ccq-convert");
    if !copy.exists() {
        // Not by this process: its other threads' children would hold the file open as it is run.
        assert!(Command::new("cp").arg(tool().get_program()).arg(&copy).status().unwrap().success());
    }
    let open = std::fs::Permissions::from_mode(0o755);
    for path in [&copy, folder.0.path()] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    let mut command = Command::new(copy);
    command.uid(NOBODY).gid(NOBODY);
    command
}

/// Runs the tool with arguments.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    Run(tool().args(args).output().unwrap())
}

/// How a run ended.
pub struct Run(pub Output);

impl Run {
    pub fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The run succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{}", self.stderr());
        self
    }

    /// The run failed with that code and said all of that.
    #[track_caller]
    pub fn failed(self, code: i32, said: &[&str]) -> Self {
        let stderr = self.stderr();
        assert_eq!(self.code(), code, "{stderr}");
        assert!(self.0.stdout.is_empty(), "{}", self.stdout());
        for said in said {
            assert!(stderr.contains(said), "{said:?} is not in: {stderr}");
        }
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout()).unwrap()
    }
}

/// A folder that is removed at the end.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A tensor of a model to be written.
pub struct Source {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Seeded values that look like weights: a sum of uniform ones.
pub fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 0.05).collect()
}

pub fn f32_tensor(name: &str, shape: &[usize], values: &[f32]) -> Source {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Source { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes }
}

/// The upper half of every value: exact in both.
pub fn bf16_tensor(name: &str, shape: &[usize], values: &[f32]) -> Source {
    let bytes = values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect();
    Source { name: name.into(), dtype: Dtype::BF16, shape: shape.into(), bytes }
}

/// A weight matrix of seeded values.
pub fn matrix(name: &str, rows: usize, in_features: usize) -> Source {
    f32_tensor(name, &[rows, in_features], &values(rows * in_features, name.len() as u64))
}

/// Writes a safetensors file.
pub fn write(path: &Path, tensors: &[Source]) {
    let views = tensors.iter().map(|source| {
        let view = TensorView::new(source.dtype, source.shape.clone(), &source.bytes).unwrap();
        (source.name.as_str(), view)
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize_to_file(views, Some(metadata), path).unwrap();
}
