//! The operations in blocks of rows: what goes to a device, what is launched on it, and what becomes of
//! the results. Needs no device: `tests/sim.rs` runs blocks through the simulator.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

use ccq::codec::{Matrix, Planes, SizeError};

use crate::Error;
use crate::plan::{
    self, DequantizeArgs, Element, GemvArgs, Launch, MoeGemvArgs, PLANE_ALIGN, Plan, RowError,
    SquaredErrorArgs,
};

pub use crate::moe::{MoeGemv, Routing};

/// A file of kernels: `cu/NAME.cu`, `ptx/NAME.ptx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFile {
    /// `dequantize`.
    Dequantize,
    /// `squared_error`.
    SquaredError,
    /// `gemv`.
    Gemv,
    /// `moe_gemv`.
    MoeGemv,
}

/// A kernel's one parameter.
#[derive(Clone, Copy, Debug)]
pub enum Args {
    /// Of a kernel of [`KernelFile::Dequantize`].
    Dequantize(DequantizeArgs),
    /// Of a kernel of [`KernelFile::SquaredError`].
    SquaredError(SquaredErrorArgs),
    /// Of a kernel of [`KernelFile::Gemv`].
    Gemv(GemvArgs),
    /// Of a kernel of [`KernelFile::MoeGemv`].
    MoeGemv(MoeGemvArgs),
}

impl Args {
    /// Where the parameter is, valid as long as `self` is.
    pub fn as_ptr(&self) -> *const c_void {
        match self {
            Self::Dequantize(args) => ptr::from_ref(args).cast(),
            Self::SquaredError(args) => ptr::from_ref(args).cast(),
            Self::Gemv(args) => ptr::from_ref(args).cast(),
            Self::MoeGemv(args) => ptr::from_ref(args).cast(),
        }
    }

    /// Whose parameter it is.
    pub fn file(&self) -> KernelFile {
        match self {
            Self::Dequantize(_) => KernelFile::Dequantize,
            Self::SquaredError(_) => KernelFile::SquaredError,
            Self::Gemv(_) => KernelFile::Gemv,
            Self::MoeGemv(_) => KernelFile::MoeGemv,
        }
    }
}

/// Bytes that blocks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockBytes {
    /// Going to the device with each row.
    pub row_input: usize,
    /// Coming back with each row.
    pub row_output: usize,
    /// Going to the device with each block, besides.
    pub extra_input: usize,
}

pub(crate) mod sealed {
    /// What is launched comes from this module's plans alone.
    pub trait Sealed {}
    impl Sealed for super::Dequantize<'_> {}
    impl Sealed for super::SquaredError<'_> {}
    impl Sealed for super::Gemv<'_> {}
    impl Sealed for super::MoeGemv<'_> {}
}

/// What is done with a matrix, a block of rows at a time.
pub trait Operation: sealed::Sealed {
    /// The rows that it is done with.
    fn rows(&self) -> Range<usize>;
    /// What blocks need.
    fn block_bytes(&self) -> BlockBytes;
    /// Writes the input of these rows; returns the bytes used.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    fn fill(&mut self, rows: Range<usize>, input: &mut [u8]) -> Result<usize, Error>;
    /// What to launch on these rows, their input and output being at these addresses, multiples of
    /// [`PLANE_ALIGN`].
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    fn launch(&self, rows: Range<usize>, input: u64, output: u64) -> Result<(Launch, Args), Error>;
    /// What to launch afterwards on the same input, to be timed by itself; its output is not taken.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    fn launch_afterwards(&self, _rows: Range<usize>, _input: u64) -> Result<Option<(Launch, Args)>, Error> {
        Ok(None)
    }
    /// Takes the output of these rows.
    fn drain(&mut self, rows: Range<usize>, output: &[u8]);
}

/// The weights that a matrix came from: rows x in_features elements, little-endian, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Their type.
    pub element: Element,
    /// The elements.
    pub bytes: &'a [u8],
}

/// Activations: tokens x in_features elements of f16 or bf16, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Their type.
    pub element: Element,
    /// 1 to 16.
    pub tokens: usize,
    /// The elements.
    pub bytes: &'a [u8],
}

/// Decodes rows.
#[derive(Debug)]
pub struct Dequantize<'a> {
    matrix: &'a Matrix<'a>,
    element: Element,
    row_input: usize,
    rows: Range<usize>,
    out: &'a mut [u8],
}

impl<'a> Dequantize<'a> {
    /// Rows of a matrix into `out`, `in_features` little-endian elements a row.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Bytes`], [`Error::TooLarge`].
    pub fn new(
        matrix: &'a Matrix<'a>,
        rows: Range<usize>,
        element: Element,
        out: &'a mut [u8],
    ) -> Result<Self, Error> {
        if rows.start > rows.end || rows.end > matrix.rows() {
            return Err(SizeError::Rows { start: rows.start, end: rows.end, rows: matrix.rows() }.into());
        }
        let row_input = planes_of_row(matrix)?;
        expect_bytes("an output buffer", rows.len() * matrix.in_features() * element.bytes(), out.len())?;
        Ok(Self { matrix, element, row_input, rows, out })
    }

    fn row_output(&self) -> usize {
        self.matrix.in_features() * self.element.bytes()
    }
}

impl Operation for Dequantize<'_> {
    fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    fn block_bytes(&self) -> BlockBytes {
        BlockBytes { row_input: self.row_input, row_output: self.row_output(), extra_input: PADDING }
    }

    fn fill(&mut self, rows: Range<usize>, input: &mut [u8]) -> Result<usize, Error> {
        fill_planes(self.matrix, &rows, input)
    }

    fn launch(&self, rows: Range<usize>, input: u64, output: u64) -> Result<(Launch, Args), Error> {
        let (launch, args) = plan_block(self.matrix, &rows, input)?.dequantize(self.element, output);
        Ok((launch, Args::Dequantize(args)))
    }

    fn drain(&mut self, rows: Range<usize>, output: &[u8]) {
        let start = (rows.start - self.rows.start) * self.row_output();
        self.out[start..start + output.len()].copy_from_slice(output);
    }
}

/// Compares a matrix with its source.
#[derive(Debug)]
pub struct SquaredError<'a> {
    matrix: &'a Matrix<'a>,
    source: Source<'a>,
    row_input: usize,
    sums: RowError,
}

impl<'a> SquaredError<'a> {
    /// All rows of a matrix with theirs of the source.
    ///
    /// # Errors
    /// [`Error::Bytes`], [`Error::TooLarge`].
    pub fn new(matrix: &'a Matrix<'a>, source: Source<'a>) -> Result<Self, Error> {
        let planes = planes_of_row(matrix)?;
        let row_source = matrix.in_features() * source.element.bytes();
        expect_bytes("a source", matrix.rows() * row_source, source.bytes.len())?;
        Ok(Self { matrix, source, row_input: planes + row_source, sums: RowError::default() })
    }

    /// The sums of the rows drained so far.
    pub fn sums(&self) -> RowError {
        self.sums
    }
}

impl Operation for SquaredError<'_> {
    fn rows(&self) -> Range<usize> {
        0..self.matrix.rows()
    }

    fn block_bytes(&self) -> BlockBytes {
        BlockBytes { row_input: self.row_input, row_output: size_of::<RowError>(), extra_input: PADDING }
    }

    fn fill(&mut self, rows: Range<usize>, input: &mut [u8]) -> Result<usize, Error> {
        let start = fill_planes(self.matrix, &rows, input)?;
        let width = self.matrix.in_features() * self.source.element.bytes();
        let source = &self.source.bytes[rows.start * width..rows.end * width];
        input[start..start + source.len()].copy_from_slice(source);
        Ok(start + source.len())
    }

    fn launch(&self, rows: Range<usize>, input: u64, output: u64) -> Result<(Launch, Args), Error> {
        let plan = plan_block(self.matrix, &rows, input)?;
        let source = input + plan.layout.bytes as u64;
        let (launch, args) = plan.squared_error(self.source.element, source, output);
        Ok((launch, Args::SquaredError(args)))
    }

    /// Decoding alone, over the source: it was compared, has the room, and is uploaded anew with each block.
    fn launch_afterwards(&self, rows: Range<usize>, input: u64) -> Result<Option<(Launch, Args)>, Error> {
        let plan = plan_block(self.matrix, &rows, input)?;
        let out = input + plan.layout.bytes as u64;
        let (launch, args) = plan.dequantize(self.source.element, out);
        Ok(Some((launch, Args::Dequantize(args))))
    }

    fn drain(&mut self, _rows: Range<usize>, output: &[u8]) {
        output.chunks_exact(size_of::<RowError>()).for_each(|row| self.sums.add(&RowError::from_bytes(row)));
    }
}

/// Multiplies activations with a matrix.
#[derive(Debug)]
pub struct Gemv<'a> {
    matrix: &'a Matrix<'a>,
    activations: Activations<'a>,
    row_input: usize,
    /// Bytes of a token's activations with their padding.
    padded: usize,
    out: &'a mut [f32],
}

impl<'a> Gemv<'a> {
    /// `out[t * rows + r]` becomes token t's product with row r.
    ///
    /// # Errors
    /// [`Error::Activations`], [`Error::Tokens`], [`Error::Bytes`], [`Error::Size`], [`Error::TooLarge`].
    pub fn new(
        matrix: &'a Matrix<'a>,
        activations: Activations<'a>,
        out: &'a mut [f32],
    ) -> Result<Self, Error> {
        let Activations { element, tokens, bytes } = activations;
        expect_activations(element, tokens)?;
        let row_input = planes_of_row(matrix)?;
        expect_bytes("activations", tokens * matrix.in_features() * element.bytes(), bytes.len())?;
        let expected = tokens * matrix.rows();
        if out.len() != expected {
            return Err(SizeError::Output { expected, found: out.len() }.into());
        }
        let padded = plan::padded_activations(matrix.in_features()) * element.bytes();
        Ok(Self { matrix, activations, row_input, padded, out })
    }
}

impl Operation for Gemv<'_> {
    fn rows(&self) -> Range<usize> {
        0..self.matrix.rows()
    }

    fn block_bytes(&self) -> BlockBytes {
        let tokens = self.activations.tokens;
        BlockBytes {
            row_input: self.row_input,
            row_output: tokens * size_of::<f32>(),
            extra_input: PADDING + tokens * self.padded,
        }
    }

    fn fill(&mut self, rows: Range<usize>, input: &mut [u8]) -> Result<usize, Error> {
        let start = fill_planes(self.matrix, &rows, input)?;
        let used = start + self.activations.tokens * self.padded;
        let width = self.matrix.in_features() * self.activations.element.bytes();
        pad_activations(self.activations.bytes, width, self.padded, &mut input[start..used]);
        Ok(used)
    }

    fn launch(&self, rows: Range<usize>, input: u64, output: u64) -> Result<(Launch, Args), Error> {
        let plan = plan_block(self.matrix, &rows, input)?;
        let x = input + plan.layout.bytes as u64;
        let Activations { element, tokens, .. } = self.activations;
        let (launch, args) = plan.gemv(element, tokens, x, output, rows.len() as u32)?;
        Ok((launch, Args::Gemv(args)))
    }

    fn drain(&mut self, rows: Range<usize>, output: &[u8]) {
        let values = output.chunks_exact(4).map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]]));
        for (i, value) in values.enumerate() {
            let (token, row) = (i / rows.len(), i % rows.len());
            self.out[token * self.matrix.rows() + rows.start + row] = value;
        }
    }
}

/// What aligning four planes and what follows them can cost.
pub(crate) const PADDING: usize = 5 * PLANE_ALIGN;

pub(crate) fn expect_activations(element: Element, tokens: usize) -> Result<(), Error> {
    match (element, tokens) {
        (Element::F32, _) => Err(Error::Activations),
        (_, 1..=plan::MAX_TOKENS) => Ok(()),
        _ => Err(Error::Tokens { found: tokens }),
    }
}

/// Copies tokens of `width` bytes to places of `padded` bytes, filled up with zeros.
pub(crate) fn pad_activations(tokens: &[u8], width: usize, padded: usize, places: &mut [u8]) {
    places.fill(0);
    if width > 0 {
        for (token, place) in tokens.chunks_exact(width).zip(places.chunks_exact_mut(padded)) {
            place[..width].copy_from_slice(token);
        }
    }
}

pub(crate) fn expect_bytes(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Bytes { what, expected, found }) }
}

/// Bytes of all planes of a row; refuses what the kernels cannot index.
fn planes_of_row(matrix: &Matrix<'_>) -> Result<usize, Error> {
    let plan = Plan::new(matrix.code(), 1, matrix.in_features())?;
    Ok(plan.layout.lens.iter().sum())
}

/// The planes of a range of rows that lies within the matrix.
pub(crate) fn planes_of<'a>(matrix: &Matrix<'a>, rows: &Range<usize>) -> Planes<'a> {
    let part = |plane: &'a [u8]| {
        let width = plane.len().checked_div(matrix.rows()).unwrap_or(0);
        &plane[rows.start * width..rows.end * width]
    };
    let Planes { code, local_scale, super_scale, cluster } = matrix.planes();
    Planes {
        code: part(code),
        local_scale: part(local_scale),
        super_scale: part(super_scale),
        cluster: part(cluster),
    }
}

/// Plans a block and copies its planes to the front of `input`.
fn fill_planes(matrix: &Matrix<'_>, rows: &Range<usize>, input: &mut [u8]) -> Result<usize, Error> {
    let plan = Plan::new(matrix.code(), rows.len(), matrix.in_features())?;
    plan.layout.fill(&planes_of(matrix, rows), input);
    Ok(plan.layout.bytes)
}

fn plan_block(matrix: &Matrix<'_>, rows: &Range<usize>, input: u64) -> Result<Plan, Error> {
    Ok(Plan::new(matrix.code(), rows.len(), matrix.in_features())?.at(input))
}
