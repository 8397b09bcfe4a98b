//! A source model: one file, or several behind an index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::assemble::{Stored, assemble, turn};
use crate::carried::Carried;
use crate::config::Config;
use crate::error::Error;
use crate::files::{self, io_error};
use crate::folder::{self, Blob};
use crate::gguf;
use crate::header::{self, Contents};
use crate::index::{self, Index};
use crate::tensor::{Piece, SourceTensor, Storage};
use crate::transpose::{TRANSPOSED, Transpose};

/// The file that says how a folder's weights are stored.
const CONFIG: &str = "config.json";
/// What the keys of a safetensors file's `__metadata__` begin with in a container.
const SAFETENSORS: &str = "safetensors.";

/// An opened model: its tensors are checked and mapped, no weight has been read.
#[derive(Debug)]
pub struct Model {
    maps: Vec<Mmap>,
    /// The file of each map.
    pub(crate) files: Vec<PathBuf>,
    tensors: Vec<SourceTensor>,
    metadata: BTreeMap<String, Carried>,
    blobs: Vec<Blob>,
    input_files: Vec<PathBuf>,
    ignored_files: Vec<PathBuf>,
}

impl Model {
    /// Opens a `.safetensors` file, an index (`*.safetensors.index.json`), a `.gguf` file or a model folder.
    ///
    /// - A file or an index is read by itself; only a GGUF file has a blob, its header.
    /// - A folder holds `model.safetensors.index.json` with its shards, or `model.safetensors`, or one
    ///   safetensors file of another name, or one GGUF file. Its configuration, tokenizer and chat template are
    ///   its [`Model::blobs`]; what else lies there is in [`Model::ignored_files`]. Its config.json may say that
    ///   some matrices are stored the other way round ([`Transpose`]).
    ///
    /// Costs time and memory in proportion to the headers. The files stay mapped: nobody may cut them short
    /// before the model is dropped.
    ///
    /// # Errors
    /// [`Error`], for anything that is not as the format, or the index, says.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, &Transpose::Rule(&|_| false))
    }

    /// The same, with a say in which matrices are turned round.
    ///
    /// # Errors
    /// Those of [`Model::open`], and [`Error::CannotTranspose`].
    pub fn open_with(path: &Path, transpose: &Transpose<'_>) -> Result<Self, Error> {
        let mut files = Files::default();
        let (mut blobs, mut others, mut config) = (Vec::new(), Vec::new(), Config::default());
        if path.is_dir() {
            let folder = folder::read(path)?;
            files.open(&folder.weights)?;
            if let Some(blob) = folder.blobs.iter().find(|blob| blob.name == CONFIG) {
                config = Config::parse(&blob.read()?);
            }
            (blobs, others) = (folder.blobs, folder.others);
        } else {
            files.open(path)?;
        }
        let Files { maps, paths, stored, gguf, mut metadata, mut input_files } = files;
        input_files.extend(blobs.iter().map(|blob| blob.path.clone()));
        others.retain(|other| !input_files.contains(other));

        let mut tensors = assemble(stored, &paths, path, &config, transpose)?;
        if let Some((header, mut more)) = gguf {
            blobs.push(header);
            blobs.sort_by(|a, b| a.name.cmp(&b.name));
            more.iter_mut().try_for_each(|tensor| turn(tensor, &config, transpose, &paths))?;
            tensors.extend(more);
        }
        let turned: Vec<_> =
            tensors.iter().filter(|tensor| tensor.transposed).map(|t| t.name.as_str()).collect();
        if !turned.is_empty() {
            metadata.insert(TRANSPOSED.into(), Carried::String(turned.join("\n")));
        }
        Ok(Self { maps, files: paths, tensors, metadata, blobs, input_files, ignored_files: others })
    }

    /// Every tensor, sorted by the bytes of its name.
    ///
    /// Scales that belong to FP8 weights, and FastDeploy's scales and parameters, are no tensors of their own. A
    /// model with tied embeddings has one tensor for both, and so does what is made of it.
    pub fn tensors(&self) -> &[SourceTensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&SourceTensor> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(found)
    }

    /// Asks the system to read a range of the tensor's elements soon, without waiting for them. It does so where
    /// the file has the elements as they are.
    pub fn prefetch(&self, tensor: &SourceTensor, elements: Range<u64>) {
        let Storage::Plain(piece) = &tensor.storage else { return };
        if tensor.transposed {
            return;
        }
        let byte = |element: u64| {
            let within = usize::try_from(element.checked_mul(tensor.dtype.bits())? / 8).ok()?;
            piece.range.start.checked_add(within)
        };
        let range = byte(elements.start).zip(byte(elements.end));
        if let (Some(map), Some((start, end))) = (self.maps.get(piece.file), range) {
            files::prefetch(map, start..end.min(piece.range.end));
        }
    }

    /// Lets go of the memory that holds what was read of the files so far. It is of use while a model larger than
    /// memory is read from one end to the other: otherwise pages stay until the system needs them.
    pub fn release(&self) {
        self.maps.iter().for_each(files::release);
    }

    /// The file that the tensor is in.
    pub fn file(&self, tensor: &SourceTensor) -> &Path {
        self.file_of(tensor.storage.piece())
    }

    /// The file that a piece is in.
    pub(crate) fn file_of(&self, piece: &Piece) -> &Path {
        self.files.get(piece.file).map_or(Path::new(""), PathBuf::as_path)
    }

    /// The bytes of a piece.
    pub(crate) fn bytes(&self, piece: &Piece) -> &[u8] {
        self.maps.get(piece.file).and_then(|map| map.get(piece.range.clone())).unwrap_or_default()
    }

    /// Key-values to carry along, by the key that they have in a container.
    ///
    /// - `safetensors.KEY`: the files' `__metadata__`; where shards disagree about a key, that of the first shard
    ///   by name;
    /// - `gguf.KEY`: a GGUF file's metadata but for the arrays, which its header has;
    /// - [`TRANSPOSED`]: the tensors that are turned round, one a line.
    pub fn metadata(&self) -> &BTreeMap<String, Carried> {
        &self.metadata
    }

    /// What to carry with the weights, sorted by name: files of the model folder, and of a GGUF file everything
    /// but the weights, tokenizer included, as `gguf.header`.
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
}

/// The files of a model, being opened.
#[derive(Default)]
struct Files {
    maps: Vec<Mmap>,
    paths: Vec<PathBuf>,
    /// Of safetensors files.
    stored: Vec<Stored>,
    /// Of a GGUF file.
    gguf: Option<(Blob, Vec<SourceTensor>)>,
    metadata: BTreeMap<String, Carried>,
    input_files: Vec<PathBuf>,
}

impl Files {
    /// Opens a file of weights or an index.
    fn open(&mut self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if folder::is_gguf(&name) {
            self.open_gguf(path)
        } else if folder::is_index(&name) {
            self.open_index(path)
        } else if folder::is_safetensors(&name) {
            self.add_shard(path)
        } else {
            std::fs::metadata(path).map_err(io_error(path))?;
            Err(Error::UnknownInput { file: path.into() })
        }
    }

    fn open_gguf(&mut self, path: &Path) -> Result<(), Error> {
        let map = files::map(path)?;
        let gguf::Source { tensors, metadata, header } = gguf::source(path, &map)?;
        self.metadata = metadata;
        self.gguf = Some((header, tensors));
        self.add(path, map);
        Ok(())
    }

    fn open_index(&mut self, path: &Path) -> Result<(), Error> {
        let index = index::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for shard in index.shards() {
            let file = folder.join(shard);
            if !file.is_file() {
                let tensor = index.tensor_of(shard);
                let (index, at, shard) = (path.into(), index.place(&tensor), shard.into());
                return Err(Error::MissingShard { index, at, shard, tensor });
            }
            self.add_shard(&file)?;
        }
        self.agree_with(path, &index)?;
        // `read_dir` takes no empty path, which is the parent of a bare file name.
        let listed = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        for shard in folder::shard_names(listed)? {
            if !index.shards().contains(shard.as_str()) {
                return Err(Error::UnlistedShard { index: path.into(), shard });
            }
        }
        self.input_files.push(path.into());
        Ok(())
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), Error> {
        let map = files::map(path)?;
        let Contents { tensors, metadata } = header::read(path, &map)?;
        let file = self.maps.len();
        self.stored.extend(tensors.into_iter().map(|entry| Stored {
            name: entry.name,
            shape: entry.shape,
            dtype: entry.dtype,
            piece: Piece { file, range: entry.range },
        }));
        for (key, value) in metadata {
            self.metadata.entry(format!("{SAFETENSORS}{key}")).or_insert(Carried::String(value));
        }
        self.add(path, map);
        Ok(())
    }

    fn add(&mut self, path: &Path, map: Mmap) {
        self.maps.push(map);
        self.paths.push(path.into());
        self.input_files.push(path.into());
    }

    /// Every tensor is where the index says, and only there.
    fn agree_with(&mut self, path: &Path, index: &Index) -> Result<(), Error> {
        let path = || path.to_path_buf();
        self.stored.sort_by(|a, b| (&a.name, a.piece.file).cmp(&(&b.name, b.piece.file)));
        for pair in self.stored.windows(2) {
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
        for tensor in &self.stored {
            let (name, found) = (tensor.name.clone(), self.shard_name(tensor));
            match index.weight_map.get(&name) {
                None => return Err(Error::UnlistedTensor { index: path(), tensor: name, shard: found }),
                Some(expected) if *expected != found => {
                    let (at, expected) = (index.place(&name), expected.clone());
                    return Err(Error::MisplacedTensor { index: path(), at, tensor: name, expected, found });
                }
                Some(_) => {}
            }
        }
        let is_there =
            |name: &str| self.stored.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).is_ok();
        match index.weight_map.iter().find(|(name, _)| !is_there(name)) {
            None => Ok(()),
            Some((tensor, shard)) => {
                let (at, tensor, shard) = (index.place(tensor), tensor.clone(), shard.clone());
                Err(Error::MissingTensor { index: path(), at, tensor, shard })
            }
        }
    }

    fn shard_name(&self, tensor: &Stored) -> String {
        let path = self.paths.get(tensor.piece.file);
        let name = path.and_then(|path| path.file_name());
        name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
