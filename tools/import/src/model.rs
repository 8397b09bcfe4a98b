//! A source model: one safetensors file, or several behind an index.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ccq::format::{Dtype, element_count};
use memmap2::Mmap;

use crate::decode;
use crate::error::Error;
use crate::files::{self, io_error};
use crate::folder::{self, Blob};
use crate::header::{self, Contents};
use crate::index::{self, Index};

/// An opened model: its tensors are checked and mapped, no weight has been read.
#[derive(Debug)]
pub struct Model {
    shards: Vec<Shard>,
    tensors: Vec<SourceTensor>,
    metadata: BTreeMap<String, String>,
    blobs: Vec<Blob>,
    input_files: Vec<PathBuf>,
    ignored_files: Vec<PathBuf>,
}

/// A tensor of a [`Model`]; [`Model::elements`] has its data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceTensor {
    /// Its name: not empty, no control characters.
    pub name: String,
    /// Its dimensions, outermost first; none for a scalar.
    pub shape: Vec<u64>,
    /// Its element type.
    pub dtype: Dtype,
    shard: usize,
    range: Range<usize>,
}

impl SourceTensor {
    /// How many elements it has.
    pub fn element_count(&self) -> u64 {
        // The header's reader has checked the product.
        element_count(&self.shape).unwrap_or(0)
    }

    /// Bytes of all its elements as [`SourceTensor::dtype`] has them.
    pub fn byte_len(&self) -> u64 {
        self.dtype.tensor_bytes(&self.shape).unwrap_or(0)
    }
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

impl Model {
    /// Opens a `.safetensors` file, an index (`*.safetensors.index.json`) or a model folder.
    ///
    /// - A file or an index is read by itself and has no blobs.
    /// - A folder holds `model.safetensors.index.json` with its shards, or `model.safetensors`, or one
    ///   safetensors file of another name. Its configuration, tokenizer and chat template are its
    ///   [`Model::blobs`]; what else lies there is in [`Model::ignored_files`].
    ///
    /// Costs time and memory in proportion to the headers. The files stay mapped: nobody may cut them short
    /// before the model is dropped.
    ///
    /// # Errors
    /// [`Error`], for anything that is not as the format, or the index, says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            let folder = folder::read(path)?;
            let mut model = Self::open_file(&folder.weights)?;
            model.input_files.extend(folder.blobs.iter().map(|blob| blob.path.clone()));
            model.ignored_files = folder.others;
            model.ignored_files.retain(|other| !model.input_files.contains(other));
            model.blobs = folder.blobs;
            return Ok(model);
        }
        Self::open_file(path)
    }

    /// Every tensor, sorted by the bytes of its name.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&SourceTensor> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(found)
    }

    /// A range of the tensor's elements as [`SourceTensor::dtype`] has them: little-endian, row-major, at any
    /// alignment. Borrowed where the file has them so.
    ///
    /// # Errors
    /// [`Error::Elements`] for a range that is not the tensor's.
    pub fn elements(&self, tensor: &SourceTensor, elements: Range<u64>) -> Result<Cow<'_, [u8]>, Error> {
        let bits = tensor.dtype.bits();
        let byte = |element: u64| usize::try_from(element.checked_mul(bits)? / 8).ok();
        let range = byte(elements.start).zip(byte(elements.end));
        let all = self.shards.get(tensor.shard).and_then(|shard| shard.map.get(tensor.range.clone()));
        let found = all.zip(range).and_then(|(all, (start, end))| all.get(start..end));
        found.map(Cow::Borrowed).ok_or_else(|| Error::Elements {
            file: self.file(tensor).into(),
            tensor: tensor.name.clone(),
            start: elements.start,
            end: elements.end,
            elements: tensor.element_count(),
        })
    }

    /// Decodes a range of the tensor's elements into `out`, replacing what it held.
    ///
    /// # Errors
    /// [`Error::Decode`] for a dtype other than F32, F16 and BF16, [`Error::Elements`].
    pub fn decode_f32(
        &self,
        tensor: &SourceTensor,
        elements: Range<u64>,
        out: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let bytes = self.elements(tensor, elements)?;
        decode::decode_f32(tensor.dtype, &bytes, out).map_err(|source| Error::Decode {
            file: self.file(tensor).into(),
            tensor: tensor.name.clone(),
            source,
        })
    }

    /// The file that the tensor is in.
    pub fn file(&self, tensor: &SourceTensor) -> &Path {
        self.shards.get(tensor.shard).map_or(Path::new(""), |shard| &shard.path)
    }

    /// The files' `__metadata__`; where shards disagree about a key, that of the first shard by name.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files of the model folder to carry with the weights, sorted by name.
    ///
    /// - `config.json`, `generation_config.json`;
    /// - the tokenizer: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
    ///   `added_tokens.json`, `vocab.json`, `vocab.txt`, `merges.txt`, `*.model`, `*.tiktoken`;
    /// - the chat template: `chat_template.json`, `chat_template.jinja`;
    /// - the processors: `preprocessor_config.json`, `processor_config.json`,
    ///   `video_preprocessor_config.json`;
    /// - sentence-transformers: `modules.json`, `sentence_bert_config.json`,
    ///   `config_sentence_transformers.json`.
    ///
    /// Nothing else is a blob; subfolders are not read.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Every file that the model is read from: weights, index, blobs. An output must be none of them.
    pub fn input_files(&self) -> &[PathBuf] {
        &self.input_files
    }

    /// What else lies in the model folder, hidden files left out, sorted: none of it is read.
    pub fn ignored_files(&self) -> &[PathBuf] {
        &self.ignored_files
    }

    /// Opens an index or a safetensors file.
    fn open_file(path: &Path) -> Result<Self, Error> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if !folder::is_weights(&name) {
            std::fs::metadata(path).map_err(io_error(path))?;
            return Err(Error::UnknownInput { file: path.into() });
        }
        if folder::is_index(&name) {
            return Self::open_index(path);
        }
        let mut model = Self::empty();
        model.add_shard(path)?;
        model.sort();
        Ok(model)
    }

    fn open_index(path: &Path) -> Result<Self, Error> {
        let index = index::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut model = Self::empty();
        for shard in index.shards() {
            let file = folder.join(shard);
            if !file.is_file() {
                let tensor = index.tensor_of(shard);
                return Err(Error::MissingShard { index: path.into(), shard: shard.into(), tensor });
            }
            model.add_shard(&file)?;
        }
        model.sort();
        model.agree_with(path, &index)?;
        // `read_dir` takes no empty path, which is the parent of a bare file name.
        let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for shard in folder::shard_names(listed)? {
            if !index.shards().contains(shard.as_str()) {
                return Err(Error::UnlistedShard { index: path.into(), shard });
            }
        }
        model.input_files.push(path.into());
        Ok(model)
    }

    fn empty() -> Self {
        Self {
            shards: Vec::new(),
            tensors: Vec::new(),
            metadata: BTreeMap::new(),
            blobs: Vec::new(),
            input_files: Vec::new(),
            ignored_files: Vec::new(),
        }
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), Error> {
        let map = files::map(path)?;
        let Contents { tensors, metadata } = header::read(path, &map)?;
        let shard = self.shards.len();
        self.tensors.extend(tensors.into_iter().map(|entry| SourceTensor {
            name: entry.name,
            shape: entry.shape,
            dtype: entry.dtype,
            shard,
            range: entry.range,
        }));
        for (key, value) in metadata {
            self.metadata.entry(key).or_insert(value);
        }
        self.shards.push(Shard { path: path.into(), map });
        self.input_files.push(path.into());
        Ok(())
    }

    fn sort(&mut self) {
        self.tensors.sort_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard)));
    }

    /// Every tensor is where the index says, and only there.
    fn agree_with(&self, path: &Path, index: &Index) -> Result<(), Error> {
        let path = || path.to_path_buf();
        for pair in self.tensors.windows(2) {
            if let [a, b] = pair
                && a.name == b.name
            {
                let (first, second) = (self.shard_name(a), self.shard_name(b));
                return Err(Error::TensorInTwoShards {
                    index: path(),
                    tensor: a.name.clone(),
                    first,
                    second,
                });
            }
        }
        for tensor in &self.tensors {
            let (name, found) = (tensor.name.clone(), self.shard_name(tensor));
            match index.weight_map.get(&name) {
                None => return Err(Error::UnlistedTensor { index: path(), tensor: name, shard: found }),
                Some(expected) if *expected != found => {
                    let expected = expected.clone();
                    return Err(Error::MisplacedTensor { index: path(), tensor: name, expected, found });
                }
                Some(_) => {}
            }
        }
        match index.weight_map.iter().find(|(name, _)| self.tensor(name).is_none()) {
            None => Ok(()),
            Some((tensor, shard)) => {
                Err(Error::MissingTensor { index: path(), tensor: tensor.clone(), shard: shard.clone() })
            }
        }
    }

    fn shard_name(&self, tensor: &SourceTensor) -> String {
        self.file(tensor).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
