//! A model folder: which file holds the weights, and which other files belong to the model.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::files::{self, io_error};
use crate::index;

/// The name of the index of a sharded model.
const INDEX: &str = "model.safetensors.index.json";
/// The name of the weights of a model that is not sharded.
const SINGLE: &str = "model.safetensors";

/// The model's own files, by exact name: what a runtime needs besides weights to run the model.
const BLOB_NAMES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
];
/// The same, by ending: sentencepiece and tiktoken vocabularies (`tokenizer.model`, `qwen.tiktoken`).
const BLOB_ENDINGS: &[&str] = &[".model", ".tiktoken"];

/// A file of the model besides its weights, or a part of the weights' file, to be carried byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name in the model folder, or in a container.
    pub name: String,
    /// The file it is in.
    pub path: PathBuf,
    /// Where in the file; `None` for all of it.
    pub range: Option<Range<u64>>,
}

impl Blob {
    /// Reads it whole.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::TooLarge`] above 256 MiB.
    pub fn read(&self) -> Result<Vec<u8>, Error> {
        match &self.range {
            None => files::read_whole(&self.path, "blob"),
            Some(range) => files::read_range(&self.path, range.clone(), "blob"),
        }
    }
}

/// A folder's files by their part in the model.
#[derive(Debug)]
pub(crate) struct Folder {
    /// An index, or a single safetensors or GGUF file.
    pub weights: PathBuf,
    /// Sorted by name.
    pub blobs: Vec<Blob>,
    /// Everything else but hidden files, sorted; shards are still among them.
    pub others: Vec<PathBuf>,
}

/// Lists `folder` and decides where its weights are: in the index or `model.safetensors`, otherwise in the
/// only safetensors file there is, or the only GGUF file if there is none.
pub(crate) fn read(folder: &Path) -> Result<Folder, Error> {
    let names = list(folder)?;
    let weights = folder.join(weights(folder, &names)?);
    let mut found = Folder { weights, blobs: Vec::new(), others: Vec::new() };
    for name in names {
        let path = folder.join(&name);
        if is_blob(&name) && path.is_file() {
            found.blobs.push(Blob { name, path, range: None });
        } else if path != found.weights && !name.starts_with('.') {
            found.others.push(path);
        }
    }
    Ok(found)
}

/// The shards beside an index: the files named like `model-00001-of-00002.safetensors`.
pub(crate) fn shard_names(folder: &Path) -> Result<Vec<String>, Error> {
    Ok(list(folder)?.into_iter().filter(|name| looks_like_a_shard(name)).collect())
}

/// The names in a folder, sorted. A name that is not UTF-8 belongs to no model and shows with replacements.
fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let error = io_error(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(&error)? {
        names.push(entry.map_err(&error)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn weights<'a>(folder: &Path, names: &'a [String]) -> Result<&'a str, Error> {
    let has = |wanted: &str| names.iter().find(|name| *name == wanted).map(String::as_str);
    let ambiguous = |first: &str, second: &str| Error::AmbiguousWeights {
        folder: folder.into(),
        first: first.into(),
        second: second.into(),
    };
    match (has(INDEX), has(SINGLE)) {
        (Some(index), Some(single)) => {
            return match index::read(&folder.join(index))?.shards().contains(single) {
                true => Ok(index),
                false => Err(ambiguous(index, single)),
            };
        }
        (Some(only), None) | (None, Some(only)) => return Ok(only),
        (None, None) => {}
    }
    let any = |test: fn(&str) -> bool| names.iter().filter(move |name| test(name));
    let mut candidates = any(is_safetensors);
    let found = match (candidates.next(), candidates.next()) {
        (None, _) => {
            let mut candidates = any(is_gguf);
            (candidates.next(), candidates.next())
        }
        found => found,
    };
    match found {
        (None, _) => Err(Error::NoWeights { folder: folder.into() }),
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => Err(ambiguous(first, second)),
    }
}

/// Whether a file is in the safetensors format, or an index, going by its name.
pub(crate) fn is_safetensors(name: &str) -> bool {
    name.ends_with(".safetensors") || is_index(name)
}

/// Whether a file is in llama.cpp's format, going by its name.
pub(crate) fn is_gguf(name: &str) -> bool {
    name.ends_with(".gguf")
}

/// Whether a file is an index, going by its name.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(".safetensors.index.json")
}

fn is_blob(name: &str) -> bool {
    BLOB_NAMES.contains(&name)
        || BLOB_ENDINGS.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

/// `STEM-00001-of-00002.safetensors`
fn looks_like_a_shard(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_suffix(".safetensors")
        .and_then(|stem| stem.rsplit_once("-of-"))
        .and_then(|(stem, count)| Some((stem.rsplit_once('-')?.1, count)))
        .is_some_and(|(index, count)| number(index) && number(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert!(looks_like_a_shard("model-00001-of-00002.safetensors"));
        for other in ["model.safetensors", "a-of-b.safetensors", "model-1-of-2.bin", "-of-.safetensors"] {
            assert!(!looks_like_a_shard(other), "{other}");
        }
        for blob in ["config.json", "tokenizer.model", "sentencepiece.bpe.model", "qwen.tiktoken"] {
            assert!(is_blob(blob), "{blob}");
        }
        for other in ["README.md", "LICENSE", "model.safetensors", ".model", "pytorch_model.bin", INDEX] {
            assert!(!is_blob(other), "{other}");
        }
        assert!(BLOB_NAMES.is_sorted());
    }
}
