//! The planes of a matrix as the numbers they hold, without a copy (spec, chapter 5).
//!
//! The numbers are little-endian and at any alignment, as they lie in the file, so that these views exist on every
//! machine. [`as_f32s`] turns them into the machine's own floats where they are the same bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use zerocopy::little_endian::{F32, I16, U16};

use crate::code::{Cluster, LocalScale};
use crate::codec::Matrix;

/// The planes of a matrix, typed as its code says.
///
/// ```
/// # fn main() -> Result<(), ccq::Error> {
/// use ccq::planes::{Clusters, LocalScales, as_f32s};
///
/// # let bytes = include_bytes!("../testdata/golden/ccq-2.06.ccq");
/// # let model = ccq::Container::from_bytes(bytes, &ccq::Limits::DEFAULT)?;
/// # let tensor = model.tensors().next().unwrap();
/// let planes = tensor.planes().expect("a quantized tensor");
/// let (Clusters::Q8(clusters), LocalScales::Nibbles(_)) = (planes.clusters, planes.local_scales) else { panic!() };
/// assert_eq!(clusters.len(), planes.super_scales.len()); // one a row
/// println!("row 0: scale {}, step {}/256", planes.super_scales[0], clusters[0].step);
/// # let owned: Option<&[f32]> =
/// as_f32s(planes.super_scales); // `Some` where the machine is little-endian and the file aligned in memory
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TypedPlanes<'a> {
    /// The code plane: packed words, padding at the end of each row included.
    pub words: Words<'a>,
    /// Local scales outside the words.
    pub local_scales: LocalScales<'a>,
    /// One a row.
    pub super_scales: &'a [F32],
    /// Cluster parameters, one pair a row.
    pub clusters: Clusters<'a>,
}

/// Packed words.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Words<'a> {
    /// Words of 8 bits.
    Bits8(&'a [u8]),
    /// Words of 16 bits.
    Bits16(&'a [U16]),
}

/// The local-scale plane.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum LocalScales<'a> {
    /// There is none: the scales are embedded in the words, or the row is one group.
    None,
    /// Unsigned 4-bit integers, two a byte, the even group in the high nibble; each row begins with a new byte.
    Nibbles(&'a [u8]),
    /// Signed 8-bit integers.
    Signed8(&'a [i8]),
}

/// The cluster plane.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Clusters<'a> {
    /// There is none.
    None,
    /// Integers.
    Q8(&'a [ClusterQ8]),
    /// Floats.
    F32(&'a [ClusterF32]),
}

/// Cluster parameters of a row: `code = (step q + 256 zero_point + 128) >> 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ClusterQ8 {
    /// `a` of the specification: the code's step in 256ths.
    pub step: U16,
    /// The code of q = 0.
    pub zero_point: I16,
}

/// Cluster parameters of a row: `code = floor(fma(q, code_scale, code_zero_point + 0.5))`.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ClusterF32 {
    /// The code's step.
    pub code_scale: F32,
    /// The code of q = 0.
    pub code_zero_point: F32,
}

const _: () = assert!(size_of::<ClusterQ8>() == 4 && size_of::<ClusterF32>() == 8);

impl<'a> TypedPlanes<'a> {
    /// The planes of a matrix, whose lengths were checked when it was made.
    pub fn new(matrix: &Matrix<'a>) -> Self {
        let (code, planes) = (matrix.code(), matrix.planes());
        Self {
            words: if code.word_bytes() == 1 {
                Words::Bits8(planes.code)
            } else {
                Words::Bits16(view(planes.code))
            },
            local_scales: match code.local_scale() {
                LocalScale::None | LocalScale::Embedded { .. } => LocalScales::None,
                LocalScale::Nibble => LocalScales::Nibbles(planes.local_scale),
                LocalScale::Signed8 => LocalScales::Signed8(view(planes.local_scale)),
            },
            super_scales: view(planes.super_scale),
            clusters: match code.cluster() {
                None => Clusters::None,
                Some(Cluster::Q8) => Clusters::Q8(view(planes.cluster)),
                Some(Cluster::F32) => Clusters::F32(view(planes.cluster)),
            },
        }
    }
}

/// Floats as this machine has them, or `None` where that would take a copy: the bytes are not whole floats, lie at
/// an odd address, or the machine is big-endian. For bytes as well as for [`F32`].
pub fn as_f32s<T: IntoBytes + Immutable>(values: &[T]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    <[f32]>::ref_from_bytes(values.as_bytes()).ok()
}

/// Every byte of a plane: the lengths are multiples of the element's, as `Matrix::new` saw to.
fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8]) -> &[T] {
    <[T]>::ref_from_bytes(bytes).unwrap_or_default()
}
