//! The lossy search of ccq: weights in, the planes of a quantized matrix out.
//!
//! [`quantize`] minimises, for each output channel (a row) by itself, the squared error of exactly what
//! `ccq::codec` decodes: `w' = fl32((state - 2^(L-1)) * fl32(local_scale * super_scale))`. A *step* is that product of
//! scales. What there is to choose, from the inside out:
//!
//! ```text
//! for each row, scaled by a power of two                                           module row
//!     lattices = the code cluster's parameter pairs that do best on a sample       module rank, lattices
//!     for each of them, or once for a code without cluster                         module scale
//!         probe steps in every group, refit them by equation (4) of the paper
//!         choose the super scale and the integer local scales together
//!         settle: re-encode with neighbouring local scales, refit the super scale
//!             each time, the states of a group for its step, exactly               modules viterbi, cluster, plain
//!     keep the best, pack it
//! ```
//!
//! The encoding searches give the argmin of the paper's Algorithm 1 without a codebook. The searches around them
//! are heuristics that only ever keep what lowered the error.
//!
//! Results do not depend on the number of threads, on the machine or on its features: f32 and f64 arithmetic in a
//! fixed order, square roots, and nothing else from a mathematics library.
//!
//! ```
//! use ccq::code::Family;
//! use ccq::codec::Matrix;
//! use ccq_quantize::{ErrorStats, Options, gaussian, quantize};
//!
//! let weights = gaussian(1, 16 * 512);
//! let code = Family::Ccq206.default_code()?;
//! let matrix = quantize(&weights, 512, &Options::new(code))?;
//!
//! let mut decoded = vec![0.0; weights.len()];
//! Matrix::new(code, 16, 512, matrix.planes())?.decode_rows_into(0..16, &mut decoded)?;
//! let stats = ErrorStats::of_rows(&weights, &decoded, 512);
//! assert!(stats.relative_mse().unwrap() < 0.11);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cluster;
mod gaussian;
mod kernel;
mod lattice;
mod lattices;
mod plain;
mod rank;
mod row;
mod scale;
mod score;
mod viterbi;
mod words;

pub use gaussian::gaussian;
pub use score::ErrorStats;

use ccq::code::{Code, CodeError, PlaneSizes};
use ccq::codec::{Planes, RowMut};
use rayon::prelude::*;
use row::{Plan, RowSearch};

/// How to quantize.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The code of the result.
    pub code: Code,
}

impl Options {
    /// The default search for `code`.
    pub fn new(code: Code) -> Self {
        Self { code }
    }
}

/// Why a matrix was not quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A weight is NaN or infinite; it is the first one in row-major order.
    #[error("weight {value} at row {row}, column {column}")]
    NonFinite {
        /// Row, counted from 0.
        row: usize,
        /// Position in the row, counted from 0.
        column: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The weights are not whole rows.
    #[error("{weights} weights are no whole number of rows of {in_features}")]
    Shape {
        /// Weights given.
        weights: usize,
        /// Weights of a row.
        in_features: usize,
    },
    /// There is no search for this code: a cluster other than `q8` over four states and 15 bits.
    #[error("the code {0} can be read but not written")]
    Unsupported(Code),
    /// The planes would not fit the address space.
    #[error(transparent)]
    Size(#[from] CodeError),
    /// The progress hook asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A quantized matrix that owns its planes.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    /// The code description.
    pub code: Code,
    /// Output channels.
    pub rows: usize,
    /// Weights of a row.
    pub in_features: usize,
    /// The code plane, rows of [`PlaneSizes::row_stride`] bytes.
    pub code_plane: Vec<u8>,
    /// The local-scale plane; empty where scales are embedded or absent.
    pub local_scale: Vec<u8>,
    /// The super-scale plane, a little-endian f32 a row.
    pub super_scale: Vec<u8>,
    /// The cluster plane; empty without a cluster.
    pub cluster: Vec<u8>,
    /// The squared error over all weights that the search accounts for. Rounding apart, it is what
    /// [`ErrorStats`] finds after decoding.
    pub squared_error: f64,
}

impl QuantizedMatrix {
    /// The planes, as `ccq::codec::Matrix::new` and the container's writer take them.
    pub fn planes(&self) -> Planes<'_> {
        Planes {
            code: &self.code_plane,
            local_scale: &self.local_scale,
            super_scale: &self.super_scale,
            cluster: &self.cluster,
        }
    }
}

/// Quantizes a row-major matrix of `weights.len() / in_features` rows, on the threads of the current rayon pool.
///
/// # Errors
/// See [`Error`].
pub fn quantize(weights: &[f32], in_features: usize, options: &Options) -> Result<QuantizedMatrix, Error> {
    quantize_with(weights, in_features, options, &|_| true)
}

/// [`quantize`], calling `progress` with the number of rows just finished, from any of the threads; when it
/// returns false, the rows still waiting are left and the result is [`Error::Cancelled`].
///
/// # Errors
/// See [`Error`].
pub fn quantize_with(
    weights: &[f32],
    in_features: usize,
    options: &Options,
    progress: &(dyn Fn(usize) -> bool + Sync),
) -> Result<QuantizedMatrix, Error> {
    let code = options.code;
    if in_features == 0 || !weights.len().is_multiple_of(in_features) {
        return Err(Error::Shape { weights: weights.len(), in_features });
    }
    let rows = weights.len() / in_features;
    let plan = Plan::new(&code, in_features).ok_or(Error::Unsupported(code))?;
    if let Some(first) = weights.par_iter().position_first(|weight| !weight.is_finite()) {
        let (row, column) = (first / in_features, first % in_features);
        return Err(Error::NonFinite { row, column, value: weights[first] });
    }
    let sizes = code.plane_sizes(rows as u64, in_features as u64)?;
    let mut matrix = allocate(code, rows, in_features, &sizes)?;
    let errors: Vec<f64> = rows_mut(&mut matrix)
        .into_par_iter()
        .zip(weights.par_chunks_exact(in_features))
        .map_init(
            || RowSearch::new(&plan),
            |search, (out, weights)| {
                let error = search.quantize(weights, out);
                if progress(1) { Ok(error) } else { Err(Error::Cancelled) }
            },
        )
        .collect::<Result<_, _>>()?;
    matrix.squared_error = errors.iter().sum();
    Ok(matrix)
}

/// Zeroed planes.
fn allocate(
    code: Code,
    rows: usize,
    in_features: usize,
    sizes: &PlaneSizes,
) -> Result<QuantizedMatrix, Error> {
    let plane = |bytes: u64| usize::try_from(bytes).map(|n| vec![0; n]).map_err(|_| CodeError::TooLarge);
    Ok(QuantizedMatrix {
        code,
        rows,
        in_features,
        code_plane: plane(sizes.code)?,
        local_scale: plane(sizes.local_scale)?,
        super_scale: plane(sizes.super_scale)?,
        cluster: plane(sizes.cluster)?,
        squared_error: 0.0,
    })
}

/// The planes cut into rows.
fn rows_mut(matrix: &mut QuantizedMatrix) -> Vec<RowMut<'_>> {
    let rows = matrix.rows;
    let width = |plane: &Vec<u8>| plane.len() / rows.max(1);
    let widths = [&matrix.code_plane, &matrix.local_scale, &matrix.super_scale, &matrix.cluster].map(width);
    let mut rest = [
        &mut matrix.code_plane[..],
        &mut matrix.local_scale[..],
        &mut matrix.super_scale[..],
        &mut matrix.cluster[..],
    ];
    (0..rows)
        .map(|_| {
            let mut cut = widths.iter();
            let [code, local_scale, super_scale, cluster] = rest.each_mut().map(|plane| {
                let (head, tail) = std::mem::take(plane).split_at_mut(cut.next().copied().unwrap_or(0));
                *plane = tail;
                head
            });
            RowMut { code, local_scale, super_scale, cluster }
        })
        .collect()
}
