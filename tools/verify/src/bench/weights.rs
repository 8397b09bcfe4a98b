//! Copies of quantized weights, enough of them to exceed a cache.

use ccq::code::{Cluster, Code};
use ccq::codec::{ClusterParams, Matrix, Planes, SizeError};

/// Weights of a matrix at most: 1 GiB as f32.
pub const MOST_WEIGHTS: usize = 1 << 28;
/// Bytes of all copies together, unless one alone has more.
const MOST_BYTES: u64 = 1 << 30;

/// A matrix in several places of memory.
#[derive(Debug)]
pub struct Weights {
    code: Code,
    rows: usize,
    in_features: usize,
    sets: usize,
    cold: bool,
    stored: usize,
    planes: [Copies; 4],
}

/// One plane, over and over.
#[derive(Debug, Default)]
struct Copies {
    len: usize,
    bytes: Vec<u8>,
}

impl Copies {
    fn new(plane: &[u8], sets: usize) -> Self {
        Self { len: plane.len(), bytes: plane.repeat(sets) }
    }

    fn get(&self, set: usize) -> &[u8] {
        self.bytes.get(set * self.len..(set + 1) * self.len).unwrap_or_default()
    }
}

impl Weights {
    /// Random codes and scales.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn random(code: Code, rows: usize, in_features: usize, cache: u64) -> Result<Self, SizeError> {
        let sizes = code.plane_sizes(rows as u64, in_features as u64).map_err(|_| SizeError::TooLarge)?;
        let mut planes = [vec![], vec![], vec![], vec![]];
        let lens = [sizes.code, sizes.local_scale, sizes.super_scale, sizes.cluster];
        for (plane, len) in planes.iter_mut().zip(lens) {
            *plane = random_bytes(usize::try_from(len).map_err(|_| SizeError::TooLarge)?);
        }
        let [code_plane, local_scale, super_scale, cluster] = &mut planes;
        super_scale.chunks_exact_mut(4).for_each(|scale| scale.copy_from_slice(&0.01f32.to_le_bytes()));
        if let Some(kind) = code.cluster() {
            let params = match kind {
                Cluster::Q8 => ClusterParams::Q8 { a: 30_721, zp: 1234 },
                Cluster::F32 => ClusterParams::F32 { scale: 120.0, zp: 1234.0 },
            };
            let pairs = cluster.chunks_exact_mut(ClusterParams::stored_bytes(kind));
            pairs.for_each(|pair| params.write(pair));
        }
        let planes = Planes { code: code_plane, local_scale, super_scale, cluster };
        Self::copy(&Matrix::new(code, rows, in_features, planes)?, rows, cache)
    }

    /// The first rows of a matrix.
    ///
    /// # Errors
    /// None for rows that the matrix has.
    pub fn copy(matrix: &Matrix<'_>, rows: usize, cache: u64) -> Result<Self, SizeError> {
        let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
        let all = matrix.rows().max(1);
        let first = |plane: &'_ [u8]| plane.len() / all * rows.min(all);
        let planes = [code, local_scale, super_scale, cluster];
        let planes = planes.map(|plane| plane.get(..first(plane)).unwrap_or_default());
        let stored = planes.iter().map(|plane| plane.len()).sum::<usize>();
        let bytes = (stored as u64).max(1);
        let due = cache.saturating_mul(2).div_ceil(bytes).max(1) + 1;
        let sets = due.min((MOST_BYTES / bytes).max(1));
        let cold = sets * bytes >= cache.saturating_mul(2);
        let sets = sets as usize;
        let weights = Self {
            code: *matrix.code(),
            rows: rows.min(all),
            in_features: matrix.in_features(),
            sets,
            cold,
            stored,
            planes: planes.map(|plane| Copies::new(plane, sets)),
        };
        weights.matrix(0)?;
        Ok(weights)
    }

    /// One of the copies, in turn.
    ///
    /// # Panics
    /// Never: the planes were checked when they were copied.
    #[allow(clippy::expect_used)] // as said
    pub fn set(&self, run: usize) -> Matrix<'_> {
        self.matrix(run % self.sets).expect("the planes of a matrix")
    }

    fn matrix(&self, set: usize) -> Result<Matrix<'_>, SizeError> {
        let [code, local_scale, super_scale, cluster] = self.planes.each_ref().map(|plane| plane.get(set));
        let planes = Planes { code, local_scale, super_scale, cluster };
        Matrix::new(self.code, self.rows, self.in_features, planes)
    }

    /// Bytes of one copy.
    pub fn stored_bytes(&self) -> u64 {
        self.stored as u64
    }

    /// Copies.
    pub fn sets(&self) -> usize {
        self.sets
    }

    /// Whether the copies exceed twice the cache.
    pub fn is_cold(&self) -> bool {
        self.cold
    }
}

/// Bytes of a seeded generator.
fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.iter_mut().zip(state.to_le_bytes()).for_each(|(byte, random)| *byte = random);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq::code::Family;

    #[test]
    fn copies_exceed_the_cache() {
        for family in Family::ALL {
            let weights = Weights::random(family.default_code().unwrap(), 6, 200, 10_000).unwrap();
            assert!(weights.is_cold() && weights.sets() as u64 * weights.stored_bytes() >= 20_000);
            let (a, b) = (weights.set(0).planes(), weights.set(weights.sets() - 1).planes());
            assert!(a == b && a.code.as_ptr() != b.code.as_ptr());
            assert_eq!(weights.set(weights.sets()).planes().code.as_ptr(), a.code.as_ptr());

            let part = Weights::copy(&weights.set(0), 4, 0).unwrap();
            let matrix = part.set(5);
            assert_eq!((matrix.rows(), matrix.planes().code), (4, &a.code[..4 * matrix.row_stride()]));
        }
    }

    #[test]
    fn large_weights_are_copied_once() {
        let weights = Weights::random(Family::Wint8.default_code().unwrap(), 64, 1024, 1).unwrap();
        assert_eq!(weights.sets(), 2);
        let huge = Weights::random(Family::Wint8.default_code().unwrap(), 1, 64, u64::MAX / 4).unwrap();
        assert!(!huge.is_cold() && huge.sets() as u64 * huge.stored_bytes() <= MOST_BYTES);
    }
}
