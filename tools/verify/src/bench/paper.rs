//! Table 4 of the paper (arXiv:2507.07145): GEMV kernels on an NVIDIA H20.

use ccq::code::Family;
use serde::Serialize;

use super::args::Shape;
use super::operation::Operation;

/// The paper's card.
pub const CARD: &str = "NVIDIA H20";

/// What to know when reading the paper's figures beside others.
pub const NOTE: &str = "paper: table 4 of arXiv:2507.07145, one GEMV on an NVIDIA H20; it does not say which of its \
                        codes `CCQ` is. Another device than this one: not a comparison of decoders";

/// The table's shapes, which it gives as input x output.
pub const SHAPES: [Shape; 4] = [
    Shape { rows: 4096, in_features: 4096 },
    Shape { rows: 1024, in_features: 4096 },
    Shape { rows: 8192, in_features: 8192 },
    Shape { rows: 1024, in_features: 8192 },
];

/// The paper's codes at both ends, and plain two-bit integers.
pub const ENCODINGS: [Family; 3] = [Family::Ccq206, Family::Ccq275, Family::Int2];

/// Its columns.
pub const OPERATIONS: [Operation; 2] = [Operation::Product { tokens: 1 }, Operation::Product { tokens: 4 }];

/// Rows, input features, M; milliseconds of VPTQ, WINT2 and CCQ.
const TABLE: [(usize, usize, usize, [f64; 3]); 8] = [
    (4096, 4096, 1, [0.058, 0.027, 0.034]),
    (1024, 4096, 1, [0.033, 0.015, 0.017]),
    (8192, 8192, 1, [0.174, 0.073, 0.090]),
    (1024, 8192, 1, [0.061, 0.019, 0.022]),
    (4096, 4096, 4, [0.205, 0.028, 0.035]),
    (1024, 4096, 4, [0.112, 0.015, 0.017]),
    (8192, 8192, 4, [0.641, 0.076, 0.104]),
    (1024, 8192, 4, [0.216, 0.019, 0.024]),
];

/// The paper's figures for a product.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// What they were measured on.
    pub card: &'static str,
    /// Its convolutional code.
    pub ccq_seconds: f64,
    /// Plain two-bit integers.
    pub wint2_seconds: f64,
    /// Vector quantization.
    pub vptq_seconds: f64,
}

/// What the paper has for this, if anything.
pub fn figures(shape: Shape, operation: Operation) -> Option<Figures> {
    let due = (shape.rows, shape.in_features, operation.tokens()?);
    let (.., millis) = TABLE.into_iter().find(|row| (row.0, row.1, row.2) == due)?;
    let [vptq_seconds, wint2_seconds, ccq_seconds] = millis.map(|millis| millis / 1e3);
    Some(Figures { card: CARD, ccq_seconds, wint2_seconds, vptq_seconds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq_cuda::Element;

    #[test]
    fn every_row_has_figures() {
        for shape in SHAPES {
            for operation in OPERATIONS {
                let Figures { ccq_seconds, wint2_seconds, vptq_seconds, .. } =
                    figures(shape, operation).unwrap();
                assert!(wint2_seconds < ccq_seconds && ccq_seconds < vptq_seconds);
            }
        }
        assert_eq!(figures(SHAPES[0], Operation::DequantizeRows(Element::F32)), None);
        assert_eq!(figures(SHAPES[2], OPERATIONS[0]).unwrap().ccq_seconds, 0.090 / 1e3);
    }
}
