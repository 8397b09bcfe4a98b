//! Every instruction set of the machine against the portable decoder and against products in f64, over codes, shapes,
//! ranges of rows, and planes and buffers that begin anywhere.

use super::*;
use crate::code::{Cluster, Code, Family, GROUP_SIZES, LocalScale, Segment};
use crate::codec::activations::CHUNK;
use crate::codec::portable::Decoder;
use crate::codec::{Activations, Element, Matrix, Planes};
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;
use std::ops::Range;

/// A matrix of any bits, in planes that begin at any address.
#[derive(Clone, Debug)]
struct Case {
    code: Code,
    rows: usize,
    in_features: usize,
    range: Range<usize>,
    offset: usize,
    seed: u64,
    /// Whether scales and cluster parameters are any bits too, or such as quantizers write.
    wild: bool,
}

/// Every named code, with both kinds of cluster, and some without a name.
fn codes() -> Vec<Code> {
    let mut codes = Vec::new();
    for family in Family::ALL {
        for group in GROUP_SIZES {
            let Ok(code) = family.code(group.into()) else { continue };
            codes.push(code);
            if let Some(Cluster::Q8) = code.cluster() {
                let code =
                    Code::new(code.segments(), 8, group, code.local_scale(), Some(Cluster::F32)).unwrap();
                codes.push(code);
            }
        }
    }
    // Some without a name; the groups of the second have the most bytes that a scale can be embedded in.
    let segments = [Segment::new(5, 2, 3)];
    codes.push(Code::new(&segments, 8, 64, LocalScale::Nibble, None).unwrap());
    let segments = [Segment::new(8, 3, 4)];
    codes.push(Code::new(&segments, 16, 32, LocalScale::Embedded { bits: 4 }, None).unwrap());
    codes
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1usize..5, prop_oneof![1usize..300, Just(2048), 2000usize..4300]);
    (prop::sample::select(codes()), shape, any::<[u8; 2]>(), 0usize..34, any::<u64>(), any::<bool>())
        .prop_map(|(code, (rows, in_features), range, offset, seed, wild)| {
            let first = usize::from(range[0]) % (rows + 1);
            let range = first..first + usize::from(range[1]) % (rows + 1 - first);
            Case { code, rows, in_features, range, offset, seed, wild }
        })
}

impl Case {
    /// Calls `use_matrix` with the matrix, its planes at the end of what they are cut from.
    fn with_matrix(&self, use_matrix: impl FnOnce(Matrix<'_>)) {
        let sizes = self.code.plane_sizes(self.rows as u64, self.in_features as u64).unwrap();
        let mut random = Random(self.seed | 1);
        let mut plane = |bytes: u64| -> Vec<u8> {
            (0..self.offset + bytes as usize).map(|_| random.next() as u8).collect()
        };
        let code = plane(sizes.code);
        let local_scale = plane(sizes.local_scale);
        let mut super_scale = plane(sizes.super_scale);
        let mut cluster = plane(sizes.cluster);
        if !self.wild {
            for scale in super_scale[self.offset..].chunks_exact_mut(4) {
                scale.copy_from_slice(&((random.next() % 1000) as f32 / 3e5 - 1e-3).to_le_bytes());
            }
            if let Some(Cluster::F32) = self.code.cluster() {
                for pair in cluster[self.offset..].chunks_exact_mut(8) {
                    pair[..4].copy_from_slice(&120.003f32.to_le_bytes());
                    pair[4..].copy_from_slice(&1234.25f32.to_le_bytes());
                }
            }
        }
        let planes = Planes {
            code: &code[self.offset..],
            local_scale: &local_scale[self.offset..],
            super_scale: &super_scale[self.offset..],
            cluster: &cluster[self.offset..],
        };
        use_matrix(Matrix::new(self.code, self.rows, self.in_features, planes).unwrap());
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32
    }

    /// Numbers of several magnitudes.
    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len)
            .map(|_| (self.next() % 2001) as f32 / 1000.0 - 1.0 + 0.3 * (self.next() % 2) as f32)
            .collect()
    }
}

/// Values as bits, all NaNs being the same.
trait Bits: Element {
    fn bits(self) -> u32;
}

impl Bits for f32 {
    fn bits(self) -> u32 {
        if self.is_nan() { u32::MAX } else { self.to_bits() }
    }
}

impl Bits for f16 {
    fn bits(self) -> u32 {
        if self.is_nan() { u32::MAX } else { self.to_bits().into() }
    }
}

impl Bits for bf16 {
    fn bits(self) -> u32 {
        if self.is_nan() { u32::MAX } else { self.to_bits().into() }
    }
}

/// Decodes in all instruction sets, to a place `offset` values into a buffer.
fn check_decoding<T: Bits>(case: &Case, matrix: &Matrix<'_>, narrow: impl Fn(f32) -> T) {
    let width = matrix.in_features();
    let mut expected = vec![0.0f32; case.range.len() * width];
    let decoder = Decoder::new(matrix.code());
    for (row, out) in case.range.clone().zip(expected.chunks_exact_mut(width)) {
        decoder.decode_row(matrix.row(row).unwrap(), out);
    }
    let guard = narrow(-7.0);
    for isa in Isa::all() {
        for past_caches in [false, true] {
            let matrix = matrix.with_isa(isa);
            let mut found = vec![guard; case.offset + expected.len() + 3];
            let (_, out) = found.split_at_mut(case.offset);
            let (out, _) = out.split_at_mut(expected.len());
            kernel::decode(isa, &matrix, case.range.clone(), out, past_caches);
            for (at, (&found, &expected)) in found[case.offset..].iter().zip(&expected).enumerate() {
                assert_eq!(found.bits(), narrow(expected).bits(), "{} {} weight {at}", isa.name(), case.code);
            }
            let outside = found[..case.offset].iter().chain(&found[case.offset + expected.len()..]);
            assert!(outside.into_iter().all(|value| value.bits() == guard.bits()), "{}", isa.name());
        }
    }
}

/// To f32, f16 and bf16.
fn check_all_decoding(case: &Case, matrix: &Matrix<'_>) {
    check_decoding::<f32>(case, matrix, |weight| weight);
    check_decoding::<f16>(case, matrix, f16::from_f32);
    check_decoding::<bf16>(case, matrix, bf16::from_f32);
}

/// Multiplies in all instruction sets, with f32 vectors and with rounded ones.
fn check_products(case: &Case, matrix: &Matrix<'_>, vectors: usize) {
    let width = matrix.in_features();
    let x = Random(case.seed | 1).vector(vectors * width);
    let rounded = Activations::new(&x, width);
    let mut row = vec![0.0f32; width];
    for isa in Isa::all() {
        let matrix = matrix.with_isa(isa);
        let mut exact = vec![f32::NAN; case.range.len() * vectors];
        matrix.matvec_rows(case.range.clone(), &x, &mut exact).unwrap();
        let mut fast = exact.clone();
        matrix.matvec_int8_rows(case.range.clone(), &rounded, &mut fast).unwrap();
        for (at, r) in case.range.clone().enumerate() {
            Decoder::new(&case.code).decode_row(matrix.row(r).unwrap(), &mut row);
            for (m, x) in x.chunks_exact(width).enumerate() {
                let (expected, size) = product(&row, x);
                let found = f64::from(exact[at * vectors + m]);
                let tolerance = size / f64::from(1 << 20) + 1e-37;
                assert!((found - expected).abs() <= tolerance, "{} {found} {expected}", isa.name());

                let (near, rounding, terms) = rounded_product(&matrix, r, &row, &rounded, m);
                let found = f64::from(fast[at * vectors + m]);
                let tolerance = terms / f64::from(1 << 18) + 1e-37;
                assert!((found - near).abs() <= tolerance, "{} {found} {near}", isa.name());
                let off = (found - expected).abs();
                assert!(off <= rounding * 1.001 + tolerance, "{} {off} {rounding}", isa.name());
            }
        }
    }
}

/// The sum of a row's products and of their magnitudes.
fn product(weights: &[f32], x: &[f32]) -> (f64, f64) {
    let terms = || weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
    (terms().sum(), terms().map(f64::abs).sum())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 400 }))]

    #[test]
    fn decoding_is_the_portable_decoders(case in case()) {
        case.with_matrix(|matrix| check_all_decoding(&case, &matrix));
    }

    #[test]
    fn products_are_within_their_tolerance(case in case(), vectors in 1usize..17) {
        let case = Case { wild: false, ..case };
        case.with_matrix(|matrix| check_products(&case, &matrix, vectors));
    }
}

/// In f64: the product with the rounded vector, what rounding may be off by, and the sum of all magnitudes with those
/// of the zero point.
fn rounded_product(
    matrix: &Matrix<'_>,
    row: usize,
    weights: &[f32],
    x: &Activations,
    vector: usize,
) -> (f64, f64, f64) {
    let zero_point = f64::from(matrix.code().states()[0].zero_point);
    let super_scale = f32::from_le_bytes(*matrix.row(row).unwrap().super_scale.first_chunk().unwrap());
    let (mut sum, mut rounding, mut terms) = (0.0, 0.0, 0.0);
    let most =
        f64::from(matrix.code().max_local_scale().max(128)) * f64::from(super_scale.abs()) * zero_point;
    for (block, weights) in weights.chunks(plan::BLOCK).enumerate() {
        let chunk = &x.chunks(vector)[block / CHUNK];
        let (values, scale) = (chunk.values[block % CHUNK], chunk.scales[block % CHUNK]);
        for (&weight, value) in weights.iter().zip(values) {
            let (weight, value) = (f64::from(weight), f64::from(value) * f64::from(scale));
            sum += weight * value;
            rounding += weight.abs() * f64::from(scale) / 2.0;
            terms += weight.abs() * value.abs() + most * value.abs();
        }
    }
    (sum, rounding, terms)
}

/// Windows and last words that reach past the plane's end, for every place in a block at which a row may end. That nothing
/// is read from behind the plane is an assertion of `Row::window`.
#[test]
fn planes_end_anywhere_in_a_window() {
    const BLOCKS: [usize; 4] = [0, 1, 2, CHUNK];
    let widths =
        || BLOCKS.into_iter().flat_map(|blocks| (1..=plan::BLOCK).map(move |w| blocks * plan::BLOCK + w));
    for code in codes() {
        for in_features in widths().step_by(if cfg!(miri) { 97 } else { 1 }) {
            let seed = 1 + in_features as u64;
            let case = Case { code, rows: 2, in_features, range: 0..2, offset: 0, seed, wild: false };
            case.with_matrix(|matrix| {
                check_all_decoding(&case, &matrix);
                check_products(&case, &matrix, 1);
            });
        }
    }
}

/// The lattice's step is a whole unsigned number of 16 bits, of which the registers multiply a signed one.
#[test]
fn codes_of_every_lattice_are_the_same() {
    let code = Family::Ccq206.default_code().unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let mut random = Random(7);
    for step in 0..if cfg!(miri) { 3 } else { 3000u32 } {
        let a = if step < 2 { 32_767 + step as u16 } else { random.next() as u16 };
        let mut cluster = Vec::from(a.to_le_bytes());
        cluster.extend((random.next() as u16).to_le_bytes());
        let scales = [0x11; 8];
        let super_scale = 1.0f32.to_le_bytes();
        let planes =
            Planes { code: &bytes, local_scale: &scales, super_scale: &super_scale, cluster: &cluster };
        let matrix = Matrix::new(code, 1, 1024, planes).unwrap();
        let decode = |isa| {
            let mut out = vec![0.0f32; 1024];
            matrix.with_isa(isa).decode_rows_into(0..1, &mut out).unwrap();
            out
        };
        let expected = decode(Isa::PORTABLE);
        Isa::all().for_each(|isa| assert!(decode(isa) == expected, "{} a {a}", isa.name()));
    }
}

#[test]
fn vectors_of_another_width_are_refused() {
    use crate::codec::SizeError;
    let code = Family::Wint8.default_code().unwrap();
    let planes = Planes { code: &[0; 32], super_scale: &[0; 8], ..Planes::default() };
    let matrix = Matrix::new(code, 2, 16, planes).unwrap();
    let refused = |found| Err(SizeError::Input { expected: 16, found });
    assert_eq!(matrix.matvec(&[0.0; 17], &mut [0.0; 2]), refused(17));
    assert_eq!(matrix.matvec(&[], &mut []), refused(0));
    assert_eq!(matrix.matvec_int8(&Activations::new(&[0.0; 8], 8), &mut [0.0; 2]), refused(8));
    let x = Activations::new(&[0.0; 16], 16);
    let rows = Err(SizeError::Rows { start: 1, end: 3, rows: 2 });
    assert_eq!(matrix.matvec_int8_rows(1..3, &x, &mut [0.0; 2]), rows);
    assert_eq!(matrix.matvec(&[0.0; 32], &mut [0.0; 3]), Err(SizeError::Output { expected: 4, found: 3 }));
}
