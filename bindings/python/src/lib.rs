//! The native half of the Python package `ccq`; `python/ccq/__init__.py` is what users see.
//!
//! Objects share the model and look their tensor up by name, so that nothing borrows across the border. The only
//! bytes handed out are those of [`Plane`], read-only, which keeps the model alive as long as a view of it lives.

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccq::code::{Cluster, LocalScale};
use ccq::codec::{Activations, SizeError};
use ccq::format::{Encoding, PlaneKind, Value};
use ccq::{Access, OpenOptions, Set, SetError};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyKeyError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use pyo3::{create_exception, ffi};

create_exception!(
    ccq,
    Error,
    PyValueError,
    "A file that is no valid .ccq file. The message names the clause."
);

/// An open file, or all files of a model that is in several.
#[pyclass(frozen)]
struct File {
    model: Arc<Set>,
}

/// Opens the model that a file is, or is one file of.
#[pyfunction]
fn open(py: Python<'_>, path: PathBuf, load: &str, access: &str, huge_pages: bool) -> PyResult<File> {
    let options = match load {
        "map" => OpenOptions::map(),
        "memory" => OpenOptions::memory(),
        _ => return Err(PyValueError::new_err(format!("load={load:?}, expected \"map\" or \"memory\""))),
    };
    let access = match access {
        "normal" => Access::Normal,
        "sequential" => Access::Sequential,
        "random" => Access::Random,
        _ => {
            let message = format!("access={access:?}, expected \"normal\", \"sequential\" or \"random\"");
            return Err(PyValueError::new_err(message));
        }
    };
    let options = options.access(access).huge_pages(huge_pages);
    match py.detach(|| Set::open_with(&path, options)) {
        Ok(set) => Ok(File { model: Arc::new(set) }),
        Err(error) => Err(failed(error, &path)),
    }
}

/// The exception for an error of a model; it names the file where that is not the given one.
fn failed(error: SetError, given: &Path) -> PyErr {
    let SetError { file, source } = &error;
    match source {
        // Python picks the subclass, such as FileNotFoundError, by the number.
        ccq::Error::Io(source) => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, source.to_string(), file.clone())),
            None => PyOSError::new_err(error.to_string()),
        },
        source if file == given => Error::new_err(source.to_string()),
        _ => Error::new_err(error.to_string()),
    }
}

#[pymethods]
impl File {
    fn keys(&self) -> Vec<&str> {
        self.model.tensors().map(|tensor| tensor.info().name()).collect()
    }

    fn __len__(&self) -> usize {
        self.model.tensors().count()
    }

    fn tensor(&self, name: String) -> Option<Tensor> {
        let found = self.model.tensor(&name).is_some();
        found.then(|| Tensor { model: Arc::clone(&self.model), name })
    }

    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metadata = PyDict::new(py);
        for (key, value) in self.model.metadata().into_iter().flat_map(|metadata| metadata.iter()) {
            match value {
                Value::Bool(value) => metadata.set_item(key, value)?,
                Value::U64(value) => metadata.set_item(key, value)?,
                Value::I64(value) => metadata.set_item(key, value)?,
                Value::F64(value) => metadata.set_item(key, value)?,
                Value::String(value) => metadata.set_item(key, value)?,
                Value::Bytes(value) => metadata.set_item(key, PyBytes::new(py, value))?,
                _ => {
                    return Err(PyTypeError::new_err(format!(
                        "{key}: a type that this package does not know"
                    )));
                }
            }
        }
        Ok(metadata)
    }

    fn blobs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let blobs = PyDict::new(py);
        for (name, _) in self.model.blobs() {
            let model = Arc::clone(&self.model);
            blobs.set_item(name, Plane { model, name: name.into(), kind: PlaneKind::Blob })?;
        }
        Ok(blobs)
    }

    fn parameters(&self) -> u64 {
        self.model.parameters()
    }

    fn format_version(&self) -> (u16, u16) {
        self.model.files().next().map_or((0, 0), |(_, first)| first.index().version())
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        // A file that is the only one needs no name.
        let mut files = self.model.files();
        let given = files.next().filter(|_| files.next().is_none()).map_or(Path::new(""), |(path, _)| path);
        py.detach(|| self.model.verify()).map_err(|error| failed(error, given))
    }
}

/// A tensor of an open file.
#[pyclass(frozen)]
struct Tensor {
    model: Arc<Set>,
    name: String,
}

/// Segments, word bits, scale placement, scale bits, group size, cluster.
type CodeFields = (Vec<(u8, u8, u8)>, u32, &'static str, u8, usize, &'static str);

impl Tensor {
    fn refused(&self, error: &SizeError) -> PyErr {
        PyValueError::new_err(format!("{}: {error}", self.name))
    }

    fn get(&self) -> PyResult<ccq::Tensor<'_>> {
        self.model.tensor(&self.name).ok_or_else(|| PyKeyError::new_err(self.name.clone()))
    }
}

#[pymethods]
impl Tensor {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn shape(&self) -> PyResult<Vec<u64>> {
        Ok(self.get()?.info().shape().to_vec())
    }

    #[getter]
    fn dtype(&self) -> PyResult<&'static str> {
        Ok(self.get()?.info().dtype().name())
    }

    #[getter]
    fn encoding(&self) -> PyResult<String> {
        Ok(self.get()?.info().encoding().to_string())
    }

    #[getter]
    fn stored_bytes(&self) -> PyResult<u64> {
        Ok(self.get()?.info().stored_bytes())
    }

    #[getter]
    fn bpw(&self) -> PyResult<Option<f64>> {
        Ok(self.get()?.info().bpw())
    }

    #[getter]
    fn rows_and_features(&self) -> PyResult<Option<(u64, u64)>> {
        Ok(self.get()?.info().rows_and_features())
    }

    #[getter]
    fn code(&self) -> PyResult<Option<CodeFields>> {
        let Encoding::Coded(code) = self.get()?.info().encoding() else { return Ok(None) };
        let segments =
            code.segments().iter().map(|segment| (segment.state_bits, segment.states, segment.shift));
        let (placement, scale_bits) = match code.local_scale() {
            LocalScale::None => ("none", 0),
            LocalScale::Embedded { bits } => ("embedded", bits),
            LocalScale::Nibble => ("nibble", 4),
            LocalScale::Signed8 => ("signed8", 8),
        };
        let cluster = match code.cluster() {
            None => "none",
            Some(Cluster::Q8) => "q8",
            Some(Cluster::F32) => "f32",
        };
        let group_size = code.group_size().unwrap_or(0);
        Ok(Some((segments.collect(), code.word_bits(), placement, scale_bits, group_size, cluster)))
    }

    /// The names of the planes, as `plane` takes them.
    fn plane_names(&self) -> PyResult<Vec<&'static str>> {
        Ok(self.get()?.info().planes().iter().map(|plane| plane_name(plane.kind)).collect())
    }

    fn plane(&self, name: &str) -> PyResult<Plane> {
        let planes = self.get()?.info().planes();
        let found = planes.iter().map(|plane| plane.kind).find(|kind| plane_name(*kind) == name);
        let kind = found.ok_or_else(|| PyKeyError::new_err(name.to_string()))?;
        Ok(Plane { model: Arc::clone(&self.model), name: self.name.clone(), kind })
    }

    /// Decodes rows into a writable, contiguous buffer of floats; other threads run meanwhile.
    fn decode(&self, py: Python<'_>, start: usize, end: usize, out: PyBuffer<f32>) -> PyResult<()> {
        let tensor = self.get()?;
        if out.readonly() || !out.is_c_contiguous() {
            return Err(PyBufferError::new_err("`out` must be writable and contiguous"));
        }
        // SAFETY: Python guarantees so many contiguous floats, which stay where they are while `out` is held. Nobody
        // else may write to them meanwhile: the package says so where it lets users pass their own.
        let values = unsafe { std::slice::from_raw_parts_mut(out.buf_ptr().cast::<f32>(), out.item_count()) };
        let decoded = py.detach(|| tensor.decode_rows_into(start..end, values));
        decoded.map_err(|error| self.refused(&error))
    }

    /// Multiplies rows with the vectors in a contiguous buffer of floats; `out` gets each row's products, one after the
    /// other. Other threads run meanwhile.
    fn matvec(
        &self,
        py: Python<'_>,
        rows: (usize, usize),
        x: PyBuffer<f32>,
        out: PyBuffer<f32>,
        int8: bool,
    ) -> PyResult<()> {
        let matrix = self.get()?.matrix().ok_or_else(|| PyValueError::new_err("not quantized"))?;
        if out.readonly() || !out.is_c_contiguous() || !x.is_c_contiguous() {
            return Err(PyBufferError::new_err("`out` must be writable, both contiguous"));
        }
        // SAFETY: Python guarantees so many contiguous floats, which stay where they are while the buffers are held.
        // `out` is the package's own, so that it is not in `x`; that nobody writes to `x` meanwhile, the package asks
        // of its users.
        let (x, y) = unsafe {
            (
                std::slice::from_raw_parts(x.buf_ptr().cast::<f32>().cast_const(), x.item_count()),
                std::slice::from_raw_parts_mut(out.buf_ptr().cast::<f32>(), out.item_count()),
            )
        };
        let rows = rows.0..rows.1;
        let multiplied = py.detach(|| match int8 {
            false => matrix.matvec_rows(rows, x, y),
            true => matrix.matvec_int8_rows(rows, &Activations::new(x, matrix.in_features()), y),
        });
        multiplied.map_err(|error| self.refused(&error))
    }

    fn prefetch(&self) -> PyResult<()> {
        self.get()?.prefetch();
        Ok(())
    }
}

fn plane_name(kind: PlaneKind) -> &'static str {
    match kind {
        PlaneKind::Code => "code",
        PlaneKind::LocalScale => "local_scale",
        PlaneKind::SuperScale => "super_scale",
        PlaneKind::Cluster => "cluster",
        PlaneKind::Raw => "raw",
        PlaneKind::Blob => "blob",
    }
}

/// The bytes of a plane or blob, through Python's buffer protocol.
#[pyclass(frozen)]
struct Plane {
    model: Arc<Set>,
    name: String,
    kind: PlaneKind,
}

#[pymethods]
impl Plane {
    /// # Safety
    /// Python calls it with a `view` to fill.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let plane = slf.get();
        let bytes = match plane.kind {
            PlaneKind::Blob => plane.model.blob(&plane.name),
            kind => plane.model.tensor(&plane.name).map(|tensor| tensor.plane(kind)),
        };
        let bytes = bytes.unwrap_or_default();
        let len = ffi::Py_ssize_t::try_from(bytes.len()).map_err(|_| PyBufferError::new_err("too large"))?;
        // SAFETY: the bytes belong to the model, which `slf` keeps alive, and `view` keeps `slf` alive. They are
        // marked read-only; a request to write is refused with a Python error.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), bytes.as_ptr().cast_mut().cast(), len, 1, flags)
        };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// The native half of the package.
#[pymodule]
mod _ccq {
    #[pymodule_export]
    use super::{Error, File, Plane, Tensor, open};
}
