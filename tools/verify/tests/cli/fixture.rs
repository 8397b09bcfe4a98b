//! Containers and the models they are made from, in a folder of their own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ccq::code::{Code, Family};
use ccq::format::{Contents, Dtype, Encoding, Layout, Shard, TensorSpec, Value, Writer};
use ccq_quantize::{Options, gaussian, quantize};
use half::{bf16, f16};
use safetensors::tensor::TensorView;

/// A tensor of a model, and what becomes of it.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    /// Stays raw without one.
    pub code: Option<Code>,
    /// Not what the quantizer makes of it, but this.
    pub planes: Option<Vec<Vec<u8>>>,
}

impl Tensor {
    /// An f32 tensor of seeded values.
    pub fn f32(name: &str, shape: &[usize], family: Option<Family>) -> Self {
        let values = gaussian(name.len() as u64, shape.iter().product());
        Self::of(name, shape, family, &values)
    }

    /// An f32 tensor of these values.
    pub fn of(name: &str, shape: &[usize], family: Option<Family>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let code = family.map(|family| family.default_code().unwrap());
        Self { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes, code, planes: None }
    }

    /// Its values as another floating point type.
    pub fn stored_as(mut self, dtype: Dtype) -> Self {
        let values = self.values();
        self.bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            _ => return self,
        };
        self.dtype = dtype;
        self
    }

    /// Its values as bfloat16.
    pub fn bf16(self) -> Self {
        self.stored_as(Dtype::Bf16)
    }

    /// Quantized with this code.
    pub fn coded(self, code: Code) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Other bytes of another type.
    pub fn bytes(mut self, dtype: Dtype, bytes: &[u8]) -> Self {
        (self.dtype, self.bytes) = (dtype, bytes.into());
        self
    }

    /// Stored as these planes; those that are empty are left out.
    pub fn with_planes(self, planes: &[Vec<u8>]) -> Self {
        Self { planes: Some(planes.to_vec()), ..self }
    }

    fn values(&self) -> Vec<f32> {
        let mut values = Vec::new();
        ccq_import::decode_f32(self.dtype, &self.bytes, &mut values).unwrap();
        values
    }

    /// The planes as they are written.
    fn planes(&self) -> Vec<Vec<u8>> {
        let Some(code) = self.code else { return vec![self.bytes.clone()] };
        let mut planes = self.planes.clone().unwrap_or_else(|| {
            let options = Options::new(code);
            let matrix = quantize(&self.values(), *self.shape.last().unwrap(), &options).unwrap();
            vec![matrix.code_plane, matrix.local_scale, matrix.super_scale, matrix.cluster]
        });
        planes.retain(|plane| !plane.is_empty());
        planes
    }
}

/// One tensor of each sort.
pub fn tensors() -> Vec<Tensor> {
    vec![
        Tensor::f32("a.embedding", &[5, 64], None),
        Tensor::f32("b.counts", &[3], None).bytes(Dtype::I64, &[7; 24]),
        Tensor::f32("c.empty", &[0, 4], None).bytes(Dtype::F16, &[]),
        Tensor::f32("layer.0.weight", &[6, 100], Some(Family::Ccq206)).bf16(),
        Tensor::f32("layer.10.weight", &[2, 3, 64], Some(Family::Ccq275)),
        Tensor::f32("layer.2.self.attention.output.dense.weight", &[500, 256], Some(Family::Wint8)),
        Tensor::of("zero", &[2, 64], Some(Family::Wint4), &[0.0; 128]),
    ]
}

/// A folder of files; it goes when the test ends.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Writes a container.
    pub fn container(&self, name: &str, tensors: &[Tensor]) {
        self.container_with(name, tensors, &[]);
    }

    /// Writes a container with more metadata.
    pub fn container_with(&self, name: &str, tensors: &[Tensor], more: &[(&str, &str)]) {
        self.writer(name, tensors, "config.json", more, None).finish().unwrap();
    }

    /// Writes a model in several files, these tensors in each and a blob `N.json`, and gives the names of the files.
    pub fn set(&self, name: &str, files: &[&[Tensor]]) -> Vec<String> {
        let count = files.len() as u32;
        let path = |index| ccq::shard_path(Path::new(name), index, count).display().to_string();
        let writer = |(index, tensors): (u32, &&[Tensor])| {
            let shard = Some(Shard { index, count, set_id: [0; 16] });
            self.writer(&path(index), tensors, &format!("{index}.json"), &[], shard)
        };
        Writer::finish_set((0..).zip(files).map(writer).collect()).unwrap();
        (0..count).map(path).collect()
    }

    /// Writes all of a container but its header.
    fn writer(
        &self,
        name: &str,
        tensors: &[Tensor],
        blob: &str,
        more: &[(&str, &str)],
        shard: Option<Shard>,
    ) -> Writer<File> {
        let contents = Contents {
            tensors: tensors.iter().map(spec).collect(),
            blobs: BTreeMap::from([(blob.to_string(), 2)]),
            metadata: [
                ("ccq.producer", Value::String("a test")),
                ("long", Value::String(TEXT)),
                ("whole", Value::U64(3)),
            ]
            .into_iter()
            .chain(more.iter().map(|&(key, text)| (key, Value::String(text))))
            .collect(),
            shard,
        };
        let file = File::create(self.path(name)).unwrap();
        let mut writer = Writer::new(file, Layout::new(contents).unwrap()).unwrap();
        let mut sorted: Vec<_> = tensors.iter().collect();
        sorted.sort_by_key(|tensor| &tensor.name);
        for tensor in sorted {
            let planes = tensor.planes();
            writer.write(&tensor.name, &planes.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        }
        writer.write(blob, &[b"{}"]).unwrap();
        writer
    }

    /// Writes the source model.
    pub fn source(&self, name: &str, tensors: &[Tensor]) {
        let views = tensors.iter().map(|tensor| {
            let dtype = serde_json::from_value(tensor.dtype.name().into()).unwrap();
            (&tensor.name, TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &self.path(name)).unwrap();
    }

    /// `model.ccq` of all sorts of tensors, and its `source.safetensors`.
    pub fn model() -> Self {
        let folder = Self::new();
        folder.container("model.ccq", &tensors());
        folder.source("source.safetensors", &tensors());
        folder
    }

    /// The tool, to be started in this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ccq-verify"));
        command.current_dir(self.0.path()).env_remove("COLUMNS").args(args).stdin(Stdio::null());
        command
    }

    /// Runs the tool in this folder.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }
}

/// A long metadata value.
pub const TEXT: &str =
    "a text that is much longer than what a table has room for, so that it is shown in part";

fn spec(tensor: &Tensor) -> TensorSpec {
    TensorSpec {
        name: tensor.name.clone(),
        shape: tensor.shape.iter().map(|&dimension| dimension as u64).collect(),
        dtype: tensor.dtype,
        encoding: tensor.code.map_or(Encoding::Raw, Encoding::Coded),
    }
}

/// What a run of the tool left.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts the exit code, and that what was said holds the texts.
    #[track_caller]
    pub fn expect(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for text in texts {
            assert!(self.out.contains(text) || self.err.contains(text), "{text:?} in {self:#?}");
        }
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// The one JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let value: serde_json::Value = serde_json::from_str(&self.out).unwrap();
        assert!(value.is_object());
        value
    }
}
