//! How far decoded weights are from the original ones.

/// Sums over weights and their decoded values, in f64.
///
/// The sums of a matrix are those of its rows added in row order: [`ErrorStats::of`] a row at a time and
/// [`ErrorStats::merge`] in order give the same bits however the rows were spread over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorStats {
    /// Number of weights.
    pub weights: u64,
    /// Sum of (w - w')^2.
    pub squared_error: f64,
    /// Sum of w^2.
    pub energy: f64,
    /// Sum of w'^2.
    pub decoded_energy: f64,
    /// Sum of w w'.
    pub dot: f64,
    /// Largest |w - w'|; infinite when a decoded value is not finite.
    pub max_abs_error: f64,
}

/// Independent partial sums, so that the compiler may keep them in vector registers.
const LANES: usize = 8;

impl ErrorStats {
    /// The sums over one row, or any other run of weights that is always taken whole.
    ///
    /// # Panics
    /// When the slices differ in length.
    pub fn of(weights: &[f32], decoded: &[f32]) -> Self {
        Self::sums(weights, decoded, |_| 1.0)
    }

    /// The sums over one row, every term of each but `max_abs_error` times its column's importance.
    ///
    /// # Panics
    /// When the slices differ in length.
    pub fn of_weighted(weights: &[f32], decoded: &[f32], importance: &[f32]) -> Self {
        assert_eq!(weights.len(), importance.len(), "as many importances as weights");
        Self::sums(weights, decoded, |column| f64::from(importance[column]))
    }

    #[inline(always)]
    fn sums(weights: &[f32], decoded: &[f32], importance: impl Fn(usize) -> f64) -> Self {
        assert_eq!(weights.len(), decoded.len(), "as many decoded values as weights");
        let mut error = [0.0f64; LANES];
        let mut energy = [0.0f64; LANES];
        let mut decoded_energy = [0.0f64; LANES];
        let mut dot = [0.0f64; LANES];
        let mut max = [0.0f64; LANES];
        for (block, (weights, decoded)) in weights.chunks(LANES).zip(decoded.chunks(LANES)).enumerate() {
            for (i, (&w, &d)) in weights.iter().zip(decoded).enumerate() {
                let h = importance(block * LANES + i);
                let (w, d) = (f64::from(w), f64::from(d));
                let e = w - d;
                error[i] += e * e * h;
                energy[i] += w * w * h;
                decoded_energy[i] += d * d * h;
                dot[i] += w * d * h;
                let size = if e.is_nan() { f64::INFINITY } else { e.abs() };
                max[i] = if size > max[i] { size } else { max[i] };
            }
        }
        Self {
            weights: weights.len() as u64,
            squared_error: error.iter().sum(),
            energy: energy.iter().sum(),
            decoded_energy: decoded_energy.iter().sum(),
            dot: dot.iter().sum(),
            max_abs_error: max.iter().copied().fold(0.0, f64::max),
        }
    }

    /// The sums over a matrix of rows of `in_features` weights: those of its rows, merged in order.
    ///
    /// # Panics
    /// When the slices differ in length.
    pub fn of_rows(weights: &[f32], decoded: &[f32], in_features: usize) -> Self {
        assert_eq!(weights.len(), decoded.len(), "as many decoded values as weights");
        let mut total = Self::default();
        let width = in_features.max(1);
        for (weights, decoded) in weights.chunks(width).zip(decoded.chunks(width)) {
            total.merge(&Self::of(weights, decoded));
        }
        total
    }

    /// [`ErrorStats::of_rows`], each column's terms times its importance, as in [`ErrorStats::of_weighted`].
    ///
    /// # Panics
    /// When the slices differ in length, or there are not `in_features` importances.
    pub fn of_rows_weighted(
        weights: &[f32],
        decoded: &[f32],
        in_features: usize,
        importance: &[f32],
    ) -> Self {
        assert_eq!(weights.len(), decoded.len(), "as many decoded values as weights");
        let mut total = Self::default();
        let width = in_features.max(1);
        for (weights, decoded) in weights.chunks(width).zip(decoded.chunks(width)) {
            total.merge(&Self::of_weighted(weights, decoded, importance));
        }
        total
    }

    /// Adds the sums of the rows that follow.
    pub fn merge(&mut self, next: &Self) {
        self.weights += next.weights;
        self.squared_error += next.squared_error;
        self.energy += next.energy;
        self.decoded_energy += next.decoded_energy;
        self.dot += next.dot;
        self.max_abs_error = self.max_abs_error.max(next.max_abs_error);
    }

    /// Relative mean squared error, `sum (w - w')^2 / sum w^2`; `None` where the weights are all zero or a
    /// decoded value is not finite.
    pub fn relative_mse(&self) -> Option<f64> {
        defined(self.squared_error / self.energy)
    }

    /// Signal to noise ratio in decibels, `-10 log10(relative_mse)`; `None` where that is undefined or the
    /// reproduction is exact.
    pub fn snr_db(&self) -> Option<f64> {
        self.relative_mse().and_then(|mse| defined(-10.0 * mse.log10()))
    }

    /// Cosine similarity between the weights and the decoded values; `None` where either are all zero.
    pub fn cosine(&self) -> Option<f64> {
        defined(self.dot / (self.energy.sqrt() * self.decoded_energy.sqrt())).map(|cos| cos.clamp(-1.0, 1.0))
    }
}

/// The value, if it is a finite number.
fn defined(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_known_pair() {
        let stats = ErrorStats::of(&[3.0, -4.0], &[3.0, -3.0]);
        assert_eq!((stats.weights, stats.squared_error, stats.energy), (2, 1.0, 25.0));
        assert_eq!(stats.max_abs_error, 1.0);
        assert_eq!(stats.relative_mse(), Some(0.04));
        assert!((stats.snr_db().unwrap() - 13.9794).abs() < 1e-4);
        assert!((stats.cosine().unwrap() - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-15);
    }

    #[test]
    fn importance_weights_the_sums() {
        let plain = ErrorStats::of(&[3.0, -4.0, 1.0], &[3.0, -3.0, 2.0]);
        let ones = ErrorStats::of_rows_weighted(&[3.0, -4.0, 1.0], &[3.0, -3.0, 2.0], 3, &[1.0; 3]);
        assert_eq!(plain, ones);
        let stats = ErrorStats::of_weighted(&[3.0, -4.0, 1.0], &[3.0, -3.0, 2.0], &[0.0, 2.0, 0.5]);
        assert_eq!((stats.squared_error, stats.energy), (2.5, 32.5));
        assert_eq!(stats.max_abs_error, 1.0);
    }

    #[test]
    fn undefined_figures_are_none() {
        let zero = ErrorStats::of(&[0.0; 3], &[0.0; 3]);
        assert_eq!((zero.relative_mse(), zero.snr_db(), zero.cosine()), (None, None, None));
        let exact = ErrorStats::of(&[2.0], &[2.0]);
        assert_eq!((exact.relative_mse(), exact.snr_db(), exact.cosine()), (Some(0.0), None, Some(1.0)));
        let broken = ErrorStats::of(&[1.0, 1.0], &[f32::NAN, 1.0]);
        assert_eq!((broken.relative_mse(), broken.cosine()), (None, None));
        assert_eq!(broken.max_abs_error, f64::INFINITY);
        assert_eq!(ErrorStats::of(&[], &[]), ErrorStats::default());
    }

    #[test]
    fn rows_merge_to_the_same_bits_in_any_partition() {
        let weights = crate::gaussian(3, 30 * 41);
        let decoded: Vec<f32> = weights.iter().map(|w| (w * 3.0).round() / 3.0).collect();
        let whole = ErrorStats::of_rows(&weights, &decoded, 41);
        for rows in [1, 7, 30] {
            let mut total = ErrorStats::default();
            for (weights, decoded) in weights.chunks(rows * 41).zip(decoded.chunks(rows * 41)) {
                for (weights, decoded) in weights.chunks(41).zip(decoded.chunks(41)) {
                    total.merge(&ErrorStats::of(weights, decoded));
                }
            }
            assert_eq!(total, whole);
        }
    }
}
