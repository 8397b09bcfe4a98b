//! The lossy search of ccq: weights in, the planes of a quantized matrix out; and [`allocate`], which deals bytes
//! out to many matrices.
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
//!             each time, the states of a group for its step, exactly               modules viterbi, lattice, plain,
//!     keep the best, pack it                                                       words: many words at a time
//! ```
//!
//! The encoding searches give the argmin of the paper's Algorithm 1 without a codebook, on weights rounded to
//! 2^-12 of a step (2^-8 for clusters, not at all where rounding finds it: `ccq-3.31`, `ccq-5.5`). The searches
//! around them are heuristics.
//!
//! Results do not depend on the number of threads, on the machine or on its features: f32, f64 and integer
//! arithmetic in a fixed order, square roots, and nothing else from a mathematics library. On x86-64 AVX2 and
//! AVX-512 are used where they are found (modules isa, simd).
//!
//! # Qualities
//!
//! [`Quality`] sets how many steps, local scales and lattices are tried (module quality). Relative squared errors
//! with groups of 64, quantized scales included, on 256 x 4096 Gaussian weights and on the 36 encoder matrices of
//! all-MiniLM-L6-v2 (`examples/figures.rs`):
//!
//! | | fast | balanced | best |
//! |---|---|---|---|
//! | `ccq-2.06` | 0.1043, 0.1115 | 0.1039, 0.1079 | 0.1024, 0.1052 |
//! | `ccq-2.5` | 0.0951, 0.1059 | 0.0933, 0.1010 | 0.0928, 0.1005 |
//! | `ccq-2.75` | 0.0784, 0.0888 | 0.0769, 0.0856 | 0.0767, 0.0851 |
//! | `ccq-3.31` | 0.0297, 0.0346 | 0.0285, 0.0326 | 0.0284, 0.0322 |
//! | `ccq-5.5` | 0.00169, 0.00200 | 0.00167, 0.00195 | 0.00158, 0.00186 |
//! | `wint4` | 0.0088, 0.0099 | 0.00811, 0.00919 | 0.00806, 0.00915 |
//! | time, about | 1/3 to 1/2 | 1 | 3 to 19 |
//!
//! # Importance
//!
//! With [`Options::importance`] every squared error counts as much as its column's importance, in the encoding
//! searches, in equation (4), in the choice of scales and of lattices. A uniform importance gives the same bytes
//! as none. Columns may have none at all; a group of such columns is searched as if all counted alike. Rounding a
//! plain code to nearest stays what it is: there an importance moves scales only.
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

// Not those of arithmetic and indexing: the inner loops live by both, on shapes that `quantize_with` has checked.
#![cfg_attr(not(test), deny(clippy::expect_used, clippy::panic, clippy::unwrap_used))]

mod allocation;
mod compress;
mod gaussian;
mod isa;
mod kernel;
mod lattice;
mod lattices;
mod options;
mod paper;
mod plain;
mod quality;
mod rank;
mod row;
mod scale;
mod score;
mod simd;
mod viterbi;
mod words;

pub use allocation::{Allocation, AllocationError, Choice, allocate};
pub use gaussian::gaussian;
#[doc(hidden)]
pub use isa::Isa;
pub use options::{Method, Options, Quality};
#[doc(hidden)]
pub use row::stages::{Stage, bench_stage};
pub use score::ErrorStats;

use ccq::code::{Code, CodeError, PlaneSizes};
use ccq::codec::{Matrix, Planes, RowMut};
use rayon::prelude::*;
use row::{Plan, RowSearch};

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
    /// There is not one importance for each input feature.
    #[error("{found} importances for {expected} input features")]
    ImportanceLength {
        /// The matrix's input features.
        expected: usize,
        /// Importances given.
        found: usize,
    },
    /// An importance is negative, NaN or infinite; it is the first one.
    #[error("importance {value} of input feature {column}")]
    Importance {
        /// The input feature, counted from 0.
        column: usize,
        /// What it was given as.
        value: f32,
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
    /// The squared error over all weights: what [`ErrorStats`] finds after decoding, but for rounding.
    pub squared_error: f64,
    /// The same, each error times its input feature's importance; `squared_error` where none was given.
    pub weighted_squared_error: f64,
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
pub fn quantize(
    weights: &[f32],
    in_features: usize,
    options: &Options<'_>,
) -> Result<QuantizedMatrix, Error> {
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
    options: &Options<'_>,
    progress: &(dyn Fn(usize) -> bool + Sync),
) -> Result<QuantizedMatrix, Error> {
    let code = options.result_code();
    if in_features == 0 || !weights.len().is_multiple_of(in_features) {
        return Err(Error::Shape { weights: weights.len(), in_features });
    }
    if let Some(importance) = options.importance {
        check_importance(importance, in_features)?;
    }
    let rows = weights.len() / in_features;
    let plan = Plan::new(options, in_features).ok_or(Error::Unsupported(options.code))?;
    let sizes = code.plane_sizes(rows as u64, in_features as u64)?;
    let mut matrix = zeroed(code, rows, in_features, &sizes)?;
    let errors = rows_mut(&mut matrix)
        .into_par_iter()
        .zip(weights.par_chunks_exact(in_features))
        .map_init(
            || RowSearch::new(&plan),
            |search, (out, weights)| {
                let error = search.quantize(weights, out).ok_or(Stop::NonFinite)?;
                if progress(1) { Ok(error) } else { Err(Stop::Cancelled) }
            },
        )
        .collect::<Result<Vec<f64>, Stop>>();
    let errors = match errors {
        Ok(errors) => errors,
        Err(Stop::Cancelled) => return Err(Error::Cancelled),
        Err(Stop::NonFinite) => return Err(first_non_finite(weights, in_features)),
    };
    (matrix.squared_error, matrix.weighted_squared_error) = match (options.method, options.importance) {
        (Method::Search, None) => {
            let error = errors.iter().sum();
            (error, error)
        }
        // The search knows the error it minimised alone.
        _ => decoded_errors(&matrix, weights, options.importance),
    };
    Ok(matrix)
}

/// Why the rows that are left are left.
enum Stop {
    Cancelled,
    NonFinite,
}

/// Whichever row was the first to be looked at: the error names the first there is.
fn first_non_finite(weights: &[f32], in_features: usize) -> Error {
    let first = weights.iter().position(|weight| !weight.is_finite()).unwrap_or(0);
    let (row, column) = (first / in_features, first % in_features);
    Error::NonFinite { row, column, value: weights[first] }
}

fn check_importance(importance: &[f32], in_features: usize) -> Result<(), Error> {
    if importance.len() != in_features {
        return Err(Error::ImportanceLength { expected: in_features, found: importance.len() });
    }
    match importance.iter().position(|h| !h.is_finite() || *h < 0.0) {
        Some(column) => Err(Error::Importance { column, value: importance[column] }),
        None => Ok(()),
    }
}

/// The squared error after decoding, and the weighted one.
fn decoded_errors(matrix: &QuantizedMatrix, weights: &[f32], importance: Option<&[f32]>) -> (f64, f64) {
    let Ok(planes) = Matrix::new(matrix.code, matrix.rows, matrix.in_features, matrix.planes()) else {
        return (f64::NAN, f64::NAN);
    };
    let errors: Vec<(f64, f64)> = weights
        .par_chunks_exact(matrix.in_features)
        .enumerate()
        .map_init(
            || vec![0.0; matrix.in_features],
            |decoded, (row, weights)| {
                if planes.decode_rows_into(row..row + 1, decoded).is_err() {
                    return (f64::NAN, f64::NAN);
                }
                let error = ErrorStats::of(weights, decoded).squared_error;
                let weighted = importance.map(|h| ErrorStats::of_weighted(weights, decoded, h).squared_error);
                (error, weighted.unwrap_or(error))
            },
        )
        .collect();
    errors.iter().fold((0.0, 0.0), |total, error| (total.0 + error.0, total.1 + error.1))
}

/// Zeroed planes.
fn zeroed(code: Code, rows: usize, in_features: usize, sizes: &PlaneSizes) -> Result<QuantizedMatrix, Error> {
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
        weighted_squared_error: 0.0,
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
