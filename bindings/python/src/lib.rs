//! The native half of the Python package `ccq`; `python/ccq/__init__.py` is what users see.
//!
//! Objects share the container and look their tensor up by name, so that nothing borrows across the border. The only
//! bytes handed out are those of [`Plane`], read-only, which keeps the container alive as long as a view of it lives.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;

use ccq::code::{Cluster, LocalScale};
use ccq::format::{Encoding, PlaneKind, Value};
use ccq::{Access, Container, OpenOptions};
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

/// An open file.
#[pyclass(frozen)]
struct File {
    container: Arc<Container<'static>>,
}

/// Opens a file.
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
    let opened = py.detach(|| options.access(access).huge_pages(huge_pages).open(&path));
    match opened {
        Ok(container) => Ok(File { container: Arc::new(container) }),
        // Python picks the subclass, such as FileNotFoundError, by the number.
        Err(ccq::Error::Io(error)) => match error.raw_os_error() {
            Some(number) => Err(PyOSError::new_err((number, error.to_string(), path))),
            None => Err(PyOSError::new_err(format!("{}: {error}", path.display()))),
        },
        Err(error) => Err(invalid(error)),
    }
}

fn invalid(error: ccq::Error) -> PyErr {
    Error::new_err(error.to_string())
}

#[pymethods]
impl File {
    fn keys(&self) -> Vec<&str> {
        self.container.index().tensors().map(|tensor| tensor.name()).collect()
    }

    fn __len__(&self) -> usize {
        self.container.index().tensors().len()
    }

    fn tensor(&self, name: String) -> Option<Tensor> {
        let found = self.container.tensor(&name).is_some();
        found.then(|| Tensor { container: Arc::clone(&self.container), name })
    }

    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metadata = PyDict::new(py);
        for (key, value) in self.container.index().metadata().iter() {
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
        for (name, _) in self.container.blobs() {
            let container = Arc::clone(&self.container);
            blobs.set_item(name, Plane { container, name: name.into(), kind: PlaneKind::Blob })?;
        }
        Ok(blobs)
    }

    fn parameters(&self) -> u64 {
        self.container.index().parameters()
    }

    fn format_version(&self) -> (u16, u16) {
        self.container.index().version()
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.container.verify()).map_err(invalid)
    }
}

/// A tensor of an open file.
#[pyclass(frozen)]
struct Tensor {
    container: Arc<Container<'static>>,
    name: String,
}

/// Segments, word bits, scale placement, scale bits, group size, cluster.
type CodeFields = (Vec<(u8, u8, u8)>, u32, &'static str, u8, usize, &'static str);

impl Tensor {
    fn get(&self) -> PyResult<ccq::Tensor<'_>> {
        self.container.tensor(&self.name).ok_or_else(|| PyKeyError::new_err(self.name.clone()))
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
        Ok(Plane { container: Arc::clone(&self.container), name: self.name.clone(), kind })
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
        decoded.map_err(|error| PyValueError::new_err(format!("{}: {error}", self.name)))
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
    container: Arc<Container<'static>>,
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
            PlaneKind::Blob => plane.container.blob(&plane.name),
            kind => plane.container.tensor(&plane.name).map(|tensor| tensor.plane(kind)),
        };
        let bytes = bytes.unwrap_or_default();
        let len = ffi::Py_ssize_t::try_from(bytes.len()).map_err(|_| PyBufferError::new_err("too large"))?;
        // SAFETY: the bytes belong to the container, which `slf` keeps alive, and `view` keeps `slf` alive. They are
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
