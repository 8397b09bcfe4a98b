//! An open container: an [`Index`] and the bytes of its file.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use core::ops::Range;
#[cfg(feature = "std")]
use std::path::Path;

#[cfg(feature = "std")]
use crate::OpenOptions;
use crate::codec::{Matrix, Planes, SizeError};
use crate::format::{BlobInfo, Encoding, Error, Index, Limits, Place, Plane, PlaneKind, TensorInfo, verify};
use crate::open::Bytes;
use crate::planes::TypedPlanes;

/// An open container.
///
/// Opening checks the structure and costs time and memory in proportion to the index, not to the file; after it
/// no accessor can fail. The payload is read when it is used and checked by [`Container::verify`].
#[derive(Debug)]
pub struct Container<'a> {
    bytes: Bytes<'a>,
    index: Index,
}

impl<'a> Container<'a> {
    /// Opens a container in memory, at any alignment.
    ///
    /// # Errors
    /// Every error of the specification's phase `open` (clause 9.2).
    pub fn from_bytes(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        Self::new(Bytes::Borrowed(bytes), limits)
    }

    pub(crate) fn new(bytes: Bytes<'a>, limits: &Limits) -> Result<Self, Error> {
        let index = Index::parse(bytes.get(), bytes.get().len() as u64, limits)?;
        for tensor in index.tensors() {
            check_addressable(&tensor)?;
        }
        Ok(Self { bytes, index })
    }
}

#[cfg(feature = "std")]
impl Container<'static> {
    /// Maps a file into memory and opens it: [`OpenOptions::map`].
    ///
    /// The file must not be modified or truncated while it is open: a reader of a truncated map is killed by the
    /// system. Use [`Container::read`] where that cannot be ruled out. Replacing the file by renaming another one
    /// over it, as this project's tools do, is fine: an open container goes on with the old one.
    ///
    /// # Errors
    /// `Io`, and those of [`Container::from_bytes`].
    #[cfg(feature = "mmap")]
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        OpenOptions::map().open(path)
    }

    /// Reads a whole file into memory and opens it: [`OpenOptions::memory`].
    ///
    /// # Errors
    /// `Io`, and those of [`Container::from_bytes`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        OpenOptions::memory().open(path)
    }
}

impl Container<'_> {
    #[cfg(feature = "mmap")]
    pub(crate) fn bytes(&self) -> &Bytes<'_> {
        &self.bytes
    }

    /// What the front of the file says.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Tensors in ascending order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.index.tensors().map(|info| Tensor { info, bytes: &self.bytes })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.index.tensor(name).map(|info| Tensor { info, bytes: &self.bytes })
    }

    /// Names and bytes of the model's own files, in ascending order of their names.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.index.blobs().map(|BlobInfo { name, plane }| (name, plane_bytes(self.bytes.get(), plane)))
    }

    /// The bytes of the blob of that name.
    pub fn blob(&self, name: &str) -> Option<&[u8]> {
        self.blobs().find(|blob| blob.0 == name).map(|blob| blob.1)
    }

    /// The checksummed pieces of the payload, which can be verified in parallel.
    pub fn chunks(&self) -> impl Iterator<Item = verify::Chunk<'_>> {
        verify::chunks(&self.index, self.bytes.get())
    }

    /// Reads the whole payload: checksums, padding, and scales that must be finite.
    ///
    /// # Errors
    /// The first `PayloadChecksum`, `Padding` or `NonFinite`.
    pub fn verify(&self) -> Result<(), Error> {
        self.chunks().try_for_each(|chunk| chunk.verify())?;
        self.verify_values()
    }

    /// The part of [`Container::verify`] that is not about checksums.
    ///
    /// # Errors
    /// The first `Padding` or `NonFinite`; [`Container::value_checks`] gives all of them.
    pub fn verify_values(&self) -> Result<(), Error> {
        self.value_checks().try_for_each(|part| part.verify())
    }

    /// The parts of [`Container::verify_values`], which can be checked in parallel.
    pub fn value_checks(&self) -> impl Iterator<Item = verify::ValueCheck<'_>> {
        verify::value_checks(&self.index, self.bytes.get())
    }
}

/// A tensor of an open container.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    info: TensorInfo<'a>,
    bytes: &'a Bytes<'a>,
}

impl<'a> Tensor<'a> {
    /// What the index says of it: name, shape, dtype, encoding, bpw.
    pub fn info(&self) -> &TensorInfo<'a> {
        &self.info
    }

    /// The stored bytes of a plane, empty where the tensor has none of that kind.
    pub fn plane(&self, kind: PlaneKind) -> &'a [u8] {
        self.info.plane(kind).map_or(&[], |plane| plane_bytes(self.bytes.get(), plane))
    }

    /// A quantized tensor as a matrix of output channels by input features, or `None` if it is raw.
    pub fn matrix(&self) -> Option<Matrix<'a>> {
        let (rows, in_features) = self.info.rows_and_features()?;
        let Encoding::Coded(code) = self.info.encoding() else { return None };
        let planes = Planes {
            code: self.plane(PlaneKind::Code),
            local_scale: self.plane(PlaneKind::LocalScale),
            super_scale: self.plane(PlaneKind::SuperScale),
            cluster: self.plane(PlaneKind::Cluster),
        };
        Matrix::new(code, rows.try_into().ok()?, in_features.try_into().ok()?, planes).ok()
    }

    /// The planes of a quantized tensor as the numbers they hold, or `None` if it is raw.
    pub fn planes(&self) -> Option<TypedPlanes<'a>> {
        self.matrix().as_ref().map(TypedPlanes::new)
    }

    /// Asks the system to load the tensor, without waiting for it: call it for the next layer while this one is
    /// being computed. A hint for mapped files; nothing happens where there is nothing to load.
    pub fn prefetch(&self) {
        if let [first, .., last] | [first @ last] = self.info.planes() {
            self.bytes.prefetch(first.offset, last.end());
        }
    }

    /// The source bytes of a raw tensor, or `None` if it is quantized.
    pub fn raw(&self) -> Option<&'a [u8]> {
        (self.info.encoding() == Encoding::Raw).then(|| self.plane(PlaneKind::Raw))
    }

    /// Decodes a range of rows of a quantized tensor into `out`, row-major.
    ///
    /// # Errors
    /// [`SizeError`] when the rows are not the tensor's (a raw one has none) or `out` has not their size.
    pub fn decode_rows_into(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), SizeError> {
        match self.matrix() {
            Some(matrix) => matrix.decode_rows_into(rows, out),
            None => Err(SizeError::Rows { start: rows.start, end: rows.end, rows: 0 }),
        }
    }
}

fn plane_bytes<'a>(file: &'a [u8], plane: &Plane) -> &'a [u8] {
    let range = usize::try_from(plane.offset).ok().zip(usize::try_from(plane.end()).ok());
    range.and_then(|(start, end)| file.get(start..end)).unwrap_or_default()
}

/// A decoded tensor must fit this machine's address space, so that [`Tensor::matrix`] cannot fail.
fn check_addressable(tensor: &TensorInfo<'_>) -> Result<(), Error> {
    let found = tensor.elements().saturating_mul(size_of::<f32>() as u64);
    let limit = isize::MAX as u64;
    if found > limit && tensor.encoding() != Encoding::Raw {
        let offset = tensor.planes().first().map_or(0, |plane| plane.offset);
        let at = Place::named(offset, tensor.name());
        return Err(Error::LimitExceeded { what: "bytes of a decoded tensor", at, limit, found });
    }
    Ok(())
}
