//! Launch plans: which kernel, with which arguments, for which matrix. Needs no device, and the simulator of
//! `tests/sim.rs` runs the same plans.

use ccq::code::{Cluster, Code, Family, LocalScale, MAX_STATES, PlaneSizes};
use ccq::codec::Planes;

use crate::Error;
use crate::walk::{self, Walk};

/// Warps of a block; `cu/platform.cuh` has the same figure.
pub const WARPS: u32 = 4;
/// Lanes of a warp.
pub const LANES: u32 = 32;
/// The most tokens [`Plan::gemv`] takes.
pub const MAX_TOKENS: usize = 16;
/// The widest row that the kernels' 32-bit indices reach.
pub const MAX_IN_FEATURES: usize = 1 << 30;
/// Planes start at multiples of this many bytes in a block's memory.
pub const PLANE_ALIGN: usize = 256;
/// Activations of a token are padded to a multiple of this many.
const ACTIVATION_ALIGN: usize = 8;
/// And by this many more: what a row's last tile can lack, and a vector that begins within it.
const ACTIVATION_PADDING: usize = walk::TILE_WEIGHTS + 16;

/// An element type of weights that kernels write or compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Element {
    /// Every element type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// The kernels' `struct Matrix` (`cu/matrix.cuh`). Pointers are device addresses; 0 until they are known.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MatrixArgs {
    code: u64,
    local_scale: u64,
    super_scale: u64,
    cluster: u64,
    row_stride: u64,
    rows: u32,
    in_features: u32,
    group_size: u32,
    words_per_group: u32,
    groups: u32,
    local_stride: u32,
    chunks: u32,
    tiles: u32,
    tile_floats: u32,
    placement: u32,
    scale_bits: u32,
    word_bytes: u32,
    states: u32,
    cluster_kind: u32,
    shift: [u32; MAX_STATES],
    mask: [u32; MAX_STATES],
}
const _: () = assert!(size_of::<MatrixArgs>() == 224);

/// The kernels' `struct DequantizeArgs`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DequantizeArgs {
    matrix: MatrixArgs,
    out: u64,
}
const _: () = assert!(size_of::<DequantizeArgs>() == 232);

/// The kernels' `struct SquaredErrorArgs`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SquaredErrorArgs {
    matrix: MatrixArgs,
    source: u64,
    out: u64,
}
const _: () = assert!(size_of::<SquaredErrorArgs>() == 240);

/// The kernels' `struct GemvArgs`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GemvArgs {
    matrix: MatrixArgs,
    walk: Walk,
    x: u64,
    y: u64,
    x_stride: u32,
    y_stride: u32,
    tokens: u32,
}
const _: () = assert!(size_of::<GemvArgs>() == 296);

/// The kernels' `struct MoeGemvArgs`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MoeGemvArgs {
    gemv: GemvArgs,
    expert: u64,
    expert_rows: u32,
    top_k: u32,
    first: u32,
}
const _: () = assert!(size_of::<MoeGemvArgs>() == 320);

/// Which products [`Plan::moe_gemv`] is to make of a stack of experts.
#[derive(Clone, Copy, Debug)]
pub struct MoeProducts {
    /// How many.
    pub count: u32,
    /// Rows of an expert.
    pub expert_rows: u32,
    /// Products of a token, one after the other.
    pub top_k: u32,
    /// Products of the first token that come before the first one here.
    pub first: u32,
    /// Address of the experts of the products, a `u32` each, below the number of experts in the stack.
    pub experts: u64,
}

/// The kernels' `struct RowError`: the sums of one row, in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct RowError {
    /// Sum of (w - w')^2.
    pub squared_error: f64,
    /// Sum of w^2.
    pub energy: f64,
    /// Sum of w'^2.
    pub decoded_energy: f64,
    /// Sum of w w'.
    pub dot: f64,
    /// Largest |w - w'|; infinite where one is NaN.
    pub max_abs_error: f64,
}
const _: () = assert!(size_of::<RowError>() == 40);

impl RowError {
    /// The sums of a row as a kernel wrote them.
    ///
    /// # Panics
    /// Unless `bytes` are 40.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), size_of::<Self>(), "the bytes of one row");
        let mut sums = bytes.as_chunks::<8>().0.iter().map(|&sum| f64::from_le_bytes(sum));
        let mut next = || sums.next().unwrap_or_default();
        Self {
            squared_error: next(),
            energy: next(),
            decoded_energy: next(),
            dot: next(),
            max_abs_error: next(),
        }
    }

    /// Adds the sums of the next row.
    pub fn add(&mut self, row: &Self) {
        self.squared_error += row.squared_error;
        self.energy += row.energy;
        self.decoded_energy += row.decoded_energy;
        self.dot += row.dot;
        self.max_abs_error = self.max_abs_error.max(row.max_abs_error);
    }
}

/// What to start, besides the kernel's one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name, in the module of its operation.
    pub kernel: String,
    /// Blocks of the grid.
    pub blocks: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Where the planes of a block of rows are in one run of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// First byte of the code, local-scale, super-scale and cluster planes.
    pub offsets: [usize; 4],
    /// Bytes of the planes.
    pub lens: [usize; 4],
    /// Bytes of the whole, a multiple of [`PLANE_ALIGN`].
    pub bytes: usize,
}

impl Layout {
    /// Lays planes of these sizes out.
    pub fn new(lens: [usize; 4]) -> Self {
        let mut bytes = 0;
        let offsets = lens.map(|len| {
            let offset = bytes;
            bytes += len.next_multiple_of(PLANE_ALIGN);
            offset
        });
        Self { offsets, lens, bytes }
    }

    /// Copies the planes to their places.
    ///
    /// # Panics
    /// When `memory` is shorter than [`Layout::bytes`] or a plane has not the length laid out.
    pub fn fill(&self, planes: &Planes<'_>, memory: &mut [u8]) {
        self.fill_parts(std::slice::from_ref(planes), memory);
    }

    /// [`Layout::fill`] with planes that are in parts, one behind the other.
    pub(crate) fn fill_parts(&self, parts: &[Planes<'_>], memory: &mut [u8]) {
        let mut places = self.offsets;
        for part in parts {
            let planes = [part.code, part.local_scale, part.super_scale, part.cluster];
            for (plane, place) in planes.into_iter().zip(&mut places) {
                memory[*place..*place + plane.len()].copy_from_slice(plane);
                *place += plane.len();
            }
        }
        let filled = self.offsets.into_iter().zip(self.lens).map(|(offset, len)| offset + len);
        assert!(places.into_iter().eq(filled), "planes of other lengths than those laid out");
    }
}

/// The kernels that serve a code: a suffix of their names, and how they divide a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeKernel {
    /// Between the operation's name and the element's.
    pub suffix: &'static str,
    /// Bytes that a lane loads at a time.
    chunk: u32,
}

impl CodeKernel {
    /// The kernels for a code: those of its family where its states are a family's, else the general ones.
    pub fn of(code: &Code) -> Self {
        let named = Family::ALL.into_iter().find(|family| {
            family.default_code().is_ok_and(|known| {
                known.segments() == code.segments()
                    && known.word_bits() == code.word_bits()
                    && known.cluster().is_some() == code.cluster().is_some()
            })
        });
        let suffix = match (named, code.cluster()) {
            (Some(Family::Ccq275), _) => "ccq275",
            (Some(Family::Ccq25), _) => "ccq25",
            (Some(Family::Ccq206), Some(Cluster::F32)) => "ccq206_f32",
            (Some(Family::Ccq206), _) => "ccq206_q8",
            (Some(Family::Ccq331), _) => "ccq331",
            (Some(Family::Ccq55), _) => "ccq55",
            (Some(Family::Int2), _) => "int2",
            (Some(Family::Wint4), _) => "wint4",
            (Some(Family::Wint8), _) => "wint8",
            _ => return Self::GENERAL,
        };
        Self { suffix, chunk: 16 }
    }

    /// The kernels that serve every code.
    pub const GENERAL: Self = Self { suffix: "general", chunk: 4 };
}

/// A matrix, or a block of its rows, planned but for its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    kernel: CodeKernel,
    args: MatrixArgs,
    /// What serves the code's products, which is not what decodes it where its scales are not for tensor cores.
    product: CodeKernel,
    product_args: MatrixArgs,
    walk: Option<Walk>,
    /// Where the planes go.
    pub layout: Layout,
}

impl Plan {
    /// Plans for `rows` rows of a matrix.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond [`MAX_IN_FEATURES`] or what 32-bit grids and this machine's addresses hold.
    pub fn new(code: &Code, rows: usize, in_features: usize) -> Result<Self, Error> {
        Self::with_kernel(CodeKernel::of(code), code, rows, in_features)
    }

    /// [`Plan::new`] with the general kernels, which take any code.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn general(code: &Code, rows: usize, in_features: usize) -> Result<Self, Error> {
        Self::with_kernel(CodeKernel::GENERAL, code, rows, in_features)
    }

    fn with_kernel(kernel: CodeKernel, code: &Code, rows: usize, in_features: usize) -> Result<Self, Error> {
        let too_large = || Error::TooLarge { rows, in_features };
        let sizes = code.plane_sizes(rows as u64, in_features as u64).map_err(|_| too_large())?;
        if in_features > MAX_IN_FEATURES || isize::try_from(sizes.total().unwrap_or(u64::MAX)).is_err() {
            return Err(too_large());
        }
        let args = matrix_args(kernel, code, rows, in_features, &sizes).ok_or_else(too_large)?;
        // The largest grid has a warp a tile.
        args.rows.checked_mul(args.tiles.max(1)).filter(|&warps| warps < 1 << 31).ok_or_else(too_large)?;
        let len = |bytes: u64| bytes as usize; // their sum is an isize
        let layout = Layout::new([sizes.code, sizes.local_scale, sizes.super_scale, sizes.cluster].map(len));
        let walk = Walk::new(kernel, code, args.in_features);
        let product = if walk.is_some() { kernel } else { CodeKernel::GENERAL };
        let product_args = matrix_args(product, code, rows, in_features, &sizes).ok_or_else(too_large)?;
        Ok(Self { kernel, args, product, product_args, walk, layout })
    }

    /// The kernels chosen.
    pub fn kernel(&self) -> CodeKernel {
        self.kernel
    }

    /// Tells the kernels where the planes are: laid out from `address` on, a multiple of [`PLANE_ALIGN`].
    #[must_use]
    pub fn at(mut self, address: u64) -> Self {
        let [code, local_scale, super_scale, cluster] = self.layout.offsets.map(|o| address + o as u64);
        for args in [&mut self.args, &mut self.product_args] {
            *args = MatrixArgs { code, local_scale, super_scale, cluster, ..*args };
        }
        self
    }

    /// Decodes to `out`, which holds rows x in_features elements.
    pub fn dequantize(&self, element: Element, out: u64) -> (Launch, DequantizeArgs) {
        let kernel = format!("dequantize_{}_{}", self.kernel.suffix, element.name());
        (self.launch(kernel, self.args.rows * self.args.tiles), DequantizeArgs { matrix: self.args, out })
    }

    /// Compares with `source`, rows x in_features elements, and writes a [`RowError`] a row to `out`.
    pub fn squared_error(&self, element: Element, source: u64, out: u64) -> (Launch, SquaredErrorArgs) {
        let kernel = format!("squared_error_{}_{}", self.kernel.suffix, element.name());
        (self.launch(kernel, self.args.rows), SquaredErrorArgs { matrix: self.args, source, out })
    }

    /// Multiplies with `tokens` rows of activations, each padded with zeros to
    /// [`padded_activations`] elements, and writes value r of token t to `y[t * y_stride + r]`.
    ///
    /// # Errors
    /// [`Error::Tokens`] unless 1 to [`MAX_TOKENS`], [`Error::Activations`] for f32 activations.
    pub fn gemv(
        &self,
        element: Element,
        tokens: usize,
        x: u64,
        y: u64,
        y_stride: u32,
    ) -> Result<(Launch, GemvArgs), Error> {
        if !(1..=MAX_TOKENS).contains(&tokens) {
            return Err(Error::Tokens { found: tokens });
        }
        // The general kernel makes a product a row and token, the others eight at once.
        let few = if self.walk.is_some() { 8 } else { 1 };
        let most = if tokens <= few { few } else { MAX_TOKENS };
        let args = self.products(element, x, y, y_stride, tokens as u32)?;
        let kernel = format!("gemv_{}_{}_{most}", self.product.suffix, element.name());
        Ok((self.launch_products(kernel, args.matrix.rows, 1), args))
    }

    /// Multiplies rows of activations, each padded as for [`Plan::gemv`], with the experts chosen for them out of
    /// this matrix, and writes value r of product p to `y[p * y_stride + r]`.
    ///
    /// # Errors
    /// [`Error::Activations`] for f32 activations.
    pub fn moe_gemv(
        &self,
        element: Element,
        products: MoeProducts,
        x: u64,
        y: u64,
        y_stride: u32,
    ) -> Result<(Launch, MoeGemvArgs), Error> {
        let MoeProducts { count, expert_rows, top_k, first, experts } = products;
        let gemv = self.products(element, x, y, y_stride, 1)?;
        let kernel = format!("moe_gemv_{}_{}", self.product.suffix, element.name());
        let args = MoeGemvArgs { gemv, expert: experts, expert_rows, top_k, first };
        Ok((self.launch_products(kernel, expert_rows, count), args))
    }

    fn products(
        &self,
        element: Element,
        x: u64,
        y: u64,
        y_stride: u32,
        tokens: u32,
    ) -> Result<GemvArgs, Error> {
        if element == Element::F32 {
            return Err(Error::Activations);
        }
        let matrix = self.product_args;
        let x_stride = padded_activations(matrix.in_features as usize) as u32;
        Ok(GemvArgs { matrix, walk: self.walk.unwrap_or_default(), x, y, x_stride, y_stride, tokens })
    }

    /// A launch that makes `count` products of so many rows.
    fn launch_products(&self, kernel: String, rows: u32, count: u32) -> Launch {
        let (block_rows, shared_bytes) = match self.walk {
            Some(walk) => (walk::BLOCK_ROWS, walk.shared_bytes()),
            None => (WARPS, WARPS * self.product_args.tile_floats * 4),
        };
        Launch { kernel, blocks: rows.div_ceil(block_rows) * count, shared_bytes }
    }

    /// A launch of `warps` warps.
    fn launch(&self, kernel: String, warps: u32) -> Launch {
        let shared_bytes = WARPS * self.args.tile_floats * 4;
        Launch { kernel, blocks: warps.div_ceil(WARPS), shared_bytes }
    }
}

/// Elements of a token's activations with their padding.
pub const fn padded_activations(in_features: usize) -> usize {
    in_features.next_multiple_of(ACTIVATION_ALIGN) + ACTIVATION_PADDING
}

fn matrix_args(
    kernel: CodeKernel,
    code: &Code,
    rows: usize,
    in_features: usize,
    sizes: &PlaneSizes,
) -> Option<MatrixArgs> {
    let states = code.states();
    let per_word = code.states_per_word() as u32;
    let word_bytes = code.word_bytes() as u32;
    let row_bytes = |plane: u64| u32::try_from(plane.checked_div(rows as u64).unwrap_or(0)).ok();
    let chunks = u32::try_from(sizes.row_stride / u64::from(kernel.chunk)).ok()?;
    let tile = LANES * (kernel.chunk / word_bytes) * per_word;
    let (placement, scale_bits) = match code.local_scale() {
        LocalScale::None => (0, 0),
        LocalScale::Embedded { bits } => (1, bits.into()),
        LocalScale::Nibble => (2, 0),
        LocalScale::Signed8 => (3, 0),
    };
    Some(MatrixArgs {
        code: 0,
        local_scale: 0,
        super_scale: 0,
        cluster: 0,
        row_stride: sizes.row_stride,
        rows: u32::try_from(rows).ok()?,
        in_features: u32::try_from(in_features).ok()?,
        group_size: u32::try_from(code.group_size().unwrap_or(in_features)).ok()?,
        words_per_group: u32::try_from(code.words_per_group(in_features)).ok()?,
        groups: u32::try_from(code.groups(in_features)).ok()?,
        local_stride: row_bytes(sizes.local_scale)?,
        chunks,
        tiles: chunks.div_ceil(LANES),
        tile_floats: tile + tile / LANES,
        placement,
        scale_bits,
        word_bytes,
        states: per_word,
        cluster_kind: match code.cluster() {
            None => 0,
            Some(Cluster::Q8) => 1,
            Some(Cluster::F32) => 2,
        },
        shift: states.map(|state| state.shift),
        mask: states.map(|state| state.mask),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq::code::Segment;

    #[test]
    fn families_have_kernels_of_their_own() {
        let suffixes = Family::ALL.map(|family| CodeKernel::of(&family.default_code().unwrap()).suffix);
        assert_eq!(suffixes, ["ccq206_q8", "ccq25", "ccq275", "ccq331", "ccq55", "wint4", "wint8", "int2"]);
        let custom = Code::new(&[Segment::new(5, 4, 1)], 8, 64, LocalScale::Nibble, None).unwrap();
        assert_eq!(CodeKernel::of(&custom), CodeKernel::GENERAL);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let code = Family::Wint4.default_code().unwrap();
        assert!(matches!(Plan::new(&code, 1, MAX_IN_FEATURES + 1), Err(Error::TooLarge { .. })));
        assert!(matches!(Plan::new(&code, usize::MAX, 64), Err(Error::TooLarge { .. })));
        assert!(matches!(Plan::new(&code, 1 << 30, 1 << 12), Err(Error::TooLarge { .. })));
        let plan = Plan::new(&code, 3, 64).unwrap();
        assert!(matches!(plan.gemv(Element::F16, 17, 0, 0, 3), Err(Error::Tokens { found: 17 })));
        assert!(matches!(plan.gemv(Element::F16, 0, 0, 0, 3), Err(Error::Tokens { found: 0 })));
        assert!(matches!(plan.gemv(Element::F32, 1, 0, 0, 3), Err(Error::Activations)));
    }

    /// A block's shared memory fits what every device gives without being asked.
    #[test]
    fn shared_memory_is_within_48_kib() {
        let bytes = 32 * 64 * 33 / 32 * 4 * WARPS;
        assert!(bytes <= 48 << 10);
        for family in Family::ALL {
            let plan = Plan::new(&family.default_code().unwrap(), 1, 4096).unwrap();
            assert!(plan.dequantize(Element::F32, 0).0.shared_bytes <= bytes, "{family:?}");
        }
    }
}
