//! Small matrices of any weights, and a code for them.

use std::collections::BTreeMap;
use std::io::Cursor;

use arbitrary::Arbitrary;
use ccq::code::{Code, Family};
use ccq::codec::Matrix;
use ccq::format::{Contents, Dtype, Encoding, Layout, TensorSpec, Writer};
use ccq_quantize::{Options, Quality, QuantizedMatrix, quantize};

/// A matrix to be quantized.
#[derive(Arbitrary, Debug)]
pub struct Weights {
    code: u8,
    quality: u8,
    in_features: u8,
    values: Values,
}

#[derive(Arbitrary, Debug)]
enum Values {
    /// As weights are: all of about the same size.
    Even(Vec<i8>, i8),
    /// Whatever an f32 can be.
    Any(Vec<f32>),
}

impl Weights {
    /// Whole rows, at most 2048 weights.
    pub fn values(&self) -> Vec<f32> {
        let mut values: Vec<f32> = match &self.values {
            Values::Even(values, exponent) => {
                let unit = f32::from_bits(u32::from(exponent.unsigned_abs()) << 23 | 1 << 23);
                values.iter().map(|&value| f32::from(value) * unit).collect()
            }
            Values::Any(values) => values.clone(),
        };
        values.truncate(2048);
        values.truncate(values.len() - values.len() % self.in_features());
        values
    }

    /// Weights of a row.
    pub fn in_features(&self) -> usize {
        usize::from(self.in_features) + 1
    }

    fn code(&self) -> Option<Code> {
        let family = Family::ALL[usize::from(self.code) % Family::ALL.len()];
        family.code([0, 32, 64, 128][usize::from(self.code >> 4) % 4]).ok()
    }

    /// What the quantizer makes of it, `None` where it need not take them.
    pub fn quantize(&self) -> Option<QuantizedMatrix> {
        let values = self.values();
        let quality = Quality::ALL[usize::from(self.quality) % Quality::ALL.len()];
        let options = Options::new(self.code()?).with_quality(quality);
        match quantize(&values, self.in_features(), &options) {
            Ok(matrix) if matrix.rows > 0 => Some(matrix),
            Ok(_) => None,
            Err(ccq_quantize::Error::NonFinite { row, column, .. }) => {
                assert!(!values[row * self.in_features() + column].is_finite());
                None
            }
            Err(error) => panic!("finite weights in whole rows are refused: {error}"),
        }
    }
}

/// The matrix alone in a container, under the name `w`.
pub fn container(matrix: &QuantizedMatrix) -> Vec<u8> {
    let shape = vec![matrix.rows as u64, matrix.in_features as u64];
    let encoding = Encoding::Coded(matrix.code);
    let tensors = vec![TensorSpec { name: "w".into(), shape, dtype: Dtype::F32, encoding }];
    let layout = Layout::new(Contents { tensors, blobs: BTreeMap::new(), ..Contents::default() });
    let layout = layout.expect("a matrix with rows fits a container");
    let mut writer = Writer::new(Cursor::new(Vec::new()), layout).expect("memory can be written");
    let planes = matrix.planes();
    let all = [planes.code, planes.local_scale, planes.super_scale, planes.cluster];
    let planes: Vec<_> = all.into_iter().filter(|plane| !plane.is_empty()).collect();
    writer.write("w", &planes).expect("planes of the layout");
    writer.finish().expect("everything was written").into_inner()
}

/// Every weight.
pub fn decode(matrix: &Matrix<'_>) -> Vec<f32> {
    let mut values = vec![f32::NAN; matrix.rows() * matrix.in_features()];
    matrix.decode_rows_into(0..matrix.rows(), &mut values).expect("all rows");
    values
}
