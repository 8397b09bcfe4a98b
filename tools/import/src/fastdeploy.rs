//! FastDeploy's CCQ tensors of an expert's layer, `PREFIX.experts.N.{up_gate_proj,down_proj}`, as planes.
//!
//! With K input and N output features:
//!
//! | tensor | WINT2 | WINT2.5 |
//! |---|---|---|
//! | `.quant_weight` | U8 `[K/4, N]` | U16 `[K/64 * 10, N]` |
//! | `.weight_scale` | U8 `[ceil(K/128), N]`, even group in the high nibble | |
//! | `.super_scales` | BF16, F16 or F32 `[N]` | the same |
//! | `.code_scale`, `.code_zp` | F32 `[N]` | |
//!
//! They become one tensor, `….weight` of shape `[N, K]`: WINT2 as `ccq-2.06` with f32 cluster parameters, WINT2.5 as
//! `ccq-2.5`, groups of 64. The codes, scales and parameters are the same bits, columns turned into rows; the dtype
//! on record is that of the super scales, so that they can go back as they were.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ccq::code::{Cluster, Code, Family, LocalScale};
use ccq::format::Dtype;

use crate::assemble::Stored;
use crate::decode::decode_f32;
use crate::error::Error;
use crate::tensor::{CodedRows, Piece};
use crate::transpose::columns_to_rows;

/// Weights of a group.
const GROUP: u64 = 64;
const QUANT_WEIGHT: &str = ".quant_weight";
const WEIGHT_SCALE: &str = ".weight_scale";
const SUPER_SCALES: &str = ".super_scales";
const CODE_SCALE: &str = ".code_scale";
const CODE_ZP: &str = ".code_zp";

/// Why FastDeploy's tensors cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FastDeployError {
    /// One of the tensors that belong together is not there.
    #[error("tensor {tensor:?} is missing beside {beside:?}; open the whole model, with all of its shards")]
    MissingPart {
        /// The tensor that is missing.
        tensor: String,
        /// One that is there.
        beside: String,
    },
    /// A tensor has not the dtype or shape that the others call for.
    #[error(
        "tensor {tensor:?} is {found}, expected {expected}; the model is damaged, or of a newer FastDeploy"
    )]
    Part {
        /// The tensor.
        tensor: String,
        /// What the others call for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Two names for one tensor.
    #[error(
        "tensor {tensor:?} is there twice: as weights, and as the codes of {codes:?}; remove one of them"
    )]
    NameTaken {
        /// The weights.
        tensor: String,
        /// The codes.
        codes: String,
    },
    /// With an odd number of groups, the last nibble of a column of scales belongs to no group.
    #[error(
        "tensor {tensor:?}: output channel {channel} has {found} in the unused last nibble, expected 0; the model is damaged"
    )]
    Padding {
        /// The scales.
        tensor: String,
        /// The channel.
        channel: u64,
        /// The nibble.
        found: u8,
    },
    /// A scale or cluster parameter is NaN or infinite.
    #[error(
        "tensor {tensor:?}: output channel {channel} has {found}, expected a finite number; the model is damaged"
    )]
    NonFinite {
        /// The scales or parameters.
        tensor: String,
        /// The channel.
        channel: u64,
        /// The value.
        found: f32,
    },
}

impl FastDeployError {
    /// The fault where a tensor's bytes begin.
    fn at(self, piece: &Piece) -> Fault {
        self.at_byte(piece, 0)
    }

    /// The fault at a byte of a tensor.
    fn at_byte(self, piece: &Piece, byte: usize) -> Fault {
        let at = piece.range.start.saturating_add(byte) as u64;
        Fault { place: Some((piece.file, at)), source: self }
    }
}

/// What is wrong with FastDeploy's tensors; and in which of the model's files, at which byte, unless it lies at none.
#[derive(Debug)]
pub(crate) struct Fault {
    place: Option<(usize, u64)>,
    source: FastDeployError,
}

impl Fault {
    /// As an error of the model at `origin`, which has those files.
    pub(crate) fn within(self, files: &[PathBuf], origin: &Path) -> Error {
        let file = self.place.and_then(|(file, _)| files.get(file));
        let at = self.place.map(|(_, at)| at);
        Error::FastDeploy { file: file.cloned().unwrap_or_else(|| origin.into()), at, source: self.source }
    }
}

impl From<FastDeployError> for Fault {
    fn from(source: FastDeployError) -> Self {
        Self { place: None, source }
    }
}

/// Which of the two codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    code: Code,
}

impl Kind {
    pub(crate) fn code(self) -> Code {
        self.code
    }
}

/// `ccq-2.06` as FastDeploy has it: groups of 64, two f32 cluster parameters a channel.
pub(crate) fn wint2() -> Option<Code> {
    let code = Family::Ccq206.default_code().ok()?;
    Code::new(code.segments(), 8, 64, LocalScale::Nibble, Some(Cluster::F32)).ok()
}

/// `ccq-2.5` in groups of 64.
pub(crate) fn wint25() -> Option<Code> {
    Family::Ccq25.code(64).ok()
}

/// The tensors of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The name without `.quant_weight`.
    pub base: String,
    pub kind: Kind,
    pub rows: u64,
    pub in_features: u64,
    pub quant_weight: Piece,
    pub weight_scale: Option<Piece>,
    pub super_scales: Piece,
    pub super_dtype: Dtype,
    /// `code_scale` and `code_zp`.
    pub cluster: Option<[Piece; 2]>,
}

/// Takes FastDeploy's tensors out of `stored` and returns them joined.
pub(crate) fn take(stored: &mut BTreeMap<String, Stored>) -> Result<Vec<Parts>, Fault> {
    let bases: Vec<String> = stored.keys().filter_map(|name| base(name)).map(String::from).collect();
    let mut all = Vec::new();
    for base in bases {
        // Codes for other kernels (I8) are carried as they are.
        let Some(dtype) = stored.get(&format!("{base}{QUANT_WEIGHT}")).map(|codes| codes.dtype) else {
            continue;
        };
        let parts = match dtype {
            Dtype::U8 => join(stored, &base, wint2(), true)?,
            Dtype::U16 => join(stored, &base, wint25(), false)?,
            _ => None,
        };
        all.extend(parts);
    }
    for name in stored.keys() {
        // Only these two names belong to nothing else.
        let Some(base) = [CODE_SCALE, CODE_ZP].iter().find_map(|end| name.strip_suffix(end)) else {
            continue;
        };
        let tensor = format!("{base}{QUANT_WEIGHT}");
        if is_fastdeploy_layer(base) && !stored.contains_key(&tensor) {
            return Err(FastDeployError::MissingPart { tensor, beside: name.clone() }.into());
        }
    }
    Ok(all)
}

/// What comes before `.quant_weight` in the name of an expert's layer.
fn base(name: &str) -> Option<&str> {
    name.strip_suffix(QUANT_WEIGHT).filter(|base| is_fastdeploy_layer(base))
}

/// Whether a name is that of an expert's layer: `PREFIX.experts.N.up_gate_proj`.
pub fn is_fastdeploy_layer(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    let [layer, expert, experts] = [parts.next(), parts.next(), parts.next()];
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(layer, Some("up_gate_proj" | "down_proj"))
        && expert.is_some_and(number)
        && experts == Some("experts")
        && parts.next().is_some()
}

/// Joins the tensors of a layer. `None` for codes without super scales, which are another format's.
fn join(
    stored: &mut BTreeMap<String, Stored>,
    base: &str,
    code: Option<Code>,
    is_clustered: bool,
) -> Result<Option<Parts>, Fault> {
    let name = |end: &str| format!("{base}{end}");
    let codes_name = name(QUANT_WEIGHT);
    let ours = [SUPER_SCALES, CODE_SCALE, CODE_ZP];
    let (Some(code), true) = (code, ours.iter().any(|end| stored.contains_key(&name(end)))) else {
        return Ok(None);
    };
    if let Some(Stored { name, piece, .. }) = stored.get(&name(".weight")) {
        return Err(FastDeployError::NameTaken { tensor: name.clone(), codes: codes_name }.at(piece));
    }
    let mut part = |end: &str| {
        let missing = || FastDeployError::MissingPart { tensor: name(end), beside: codes_name.clone() };
        stored.remove(&name(end)).ok_or_else(missing)
    };
    let codes = part(QUANT_WEIGHT)?;
    let wrong = |part: &Stored, expected: String| {
        let (tensor, found) = (part.name.clone(), format!("{} {:?}", part.dtype, part.shape));
        FastDeployError::Part { tensor, expected, found }.at(&part.piece)
    };
    let [down, channels] = *codes.shape.as_slice() else {
        return Err(wrong(&codes, format!("{} of two dimensions", codes.dtype)));
    };
    // Sixteen bytes or ten words a group.
    let words = if is_clustered { 16 } else { 10 };
    let groups = down.checked_div(words).unwrap_or(0);
    if !down.is_multiple_of(words) || groups == 0 || channels == 0 {
        let expected = format!("{} [{words} for each group of {GROUP} input features, N]", codes.dtype);
        return Err(wrong(&codes, expected));
    }
    let expect = |part: Stored, dtypes: &[Dtype], shape: &[u64]| {
        if dtypes.contains(&part.dtype) && part.shape == shape {
            return Ok(part);
        }
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        Err(wrong(&part, format!("{} {shape:?}", names.join(" or "))))
    };
    let floats = [Dtype::Bf16, Dtype::F16, Dtype::F32];
    let super_scales = expect(part(SUPER_SCALES)?, &floats, &[channels])?;
    let (mut weight_scale, mut cluster) = (None, None);
    if is_clustered {
        let scale = part(WEIGHT_SCALE)?;
        weight_scale = Some(expect(scale, &[Dtype::U8], &[groups.div_ceil(2), channels])?.piece);
        let code_scale = expect(part(CODE_SCALE)?, &[Dtype::F32], &[channels])?;
        let code_zp = expect(part(CODE_ZP)?, &[Dtype::F32], &[channels])?;
        cluster = Some([code_scale.piece, code_zp.piece]);
    }
    Ok(Some(Parts {
        base: base.into(),
        kind: Kind { code },
        rows: channels,
        // The header's reader checked the bytes: no overflow below eight times as many weights.
        in_features: groups.saturating_mul(GROUP),
        quant_weight: codes.piece,
        weight_scale,
        super_scales: super_scales.piece,
        super_dtype: super_scales.dtype,
        cluster,
    }))
}

impl Parts {
    /// The planes of some rows, read through `bytes`, which has the bytes of every piece.
    pub(crate) fn planes<'a>(
        &self,
        rows: Range<usize>,
        bytes: impl Fn(&Piece) -> &'a [u8],
    ) -> Result<CodedRows, Fault> {
        let code = self.kind.code;
        let width = usize::try_from(self.rows).unwrap_or(usize::MAX);
        let sizes = code.plane_sizes(rows.len() as u64, self.in_features);
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        let [stride, words, local_scale] =
            sizes.map_or([0; 3], |sizes| [sizes.row_stride, sizes.code, sizes.local_scale].map(length));

        let mut planes = CodedRows {
            code,
            words: vec![0; words],
            local_scale: vec![0; local_scale],
            super_scale: self.floats(&self.super_scales, self.super_dtype, SUPER_SCALES, &rows, &bytes)?,
            cluster: Vec::new(),
        };
        let codes = bytes(&self.quant_weight);
        columns_to_rows(codes, width, code.word_bytes(), rows.clone(), &mut planes.words, stride);
        if let Some(scale) = &self.weight_scale {
            let stride = local_scale.checked_div(rows.len()).unwrap_or(0);
            columns_to_rows(bytes(scale), width, 1, rows.clone(), &mut planes.local_scale, stride);
            self.check_padding(scale, &planes.local_scale, stride, rows.start)?;
        }
        if let Some([scale, zp]) = &self.cluster {
            let scale = self.floats(scale, Dtype::F32, CODE_SCALE, &rows, &bytes)?;
            let zp = self.floats(zp, Dtype::F32, CODE_ZP, &rows, &bytes)?;
            let pairs = scale.chunks_exact(4).zip(zp.chunks_exact(4));
            planes.cluster = pairs.flat_map(|(scale, zp)| [scale, zp]).flatten().copied().collect();
        }
        Ok(planes)
    }

    /// One number a channel, as f32 bytes.
    fn floats<'a>(
        &self,
        piece: &Piece,
        dtype: Dtype,
        part: &str,
        rows: &Range<usize>,
        bytes: &impl Fn(&Piece) -> &'a [u8],
    ) -> Result<Vec<u8>, Fault> {
        let size = if dtype == Dtype::F32 { 4usize } else { 2 };
        let range = rows.start.saturating_mul(size)..rows.end.saturating_mul(size);
        let mut values = Vec::new();
        // Whole elements of one of the three dtypes.
        let _ = decode_f32(dtype, bytes(piece).get(range).unwrap_or_default(), &mut values);
        if let Some((channel, &found)) =
            (rows.start as u64..).zip(&values).find(|(_, value)| !value.is_finite())
        {
            let tensor = format!("{}{part}", self.base);
            let byte = usize::try_from(channel).unwrap_or(0).saturating_mul(size);
            return Err(FastDeployError::NonFinite { tensor, channel, found }.at_byte(piece, byte));
        }
        Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// `scales` are those of rows from `first` on, of the tensor `piece`.
    fn check_padding(&self, piece: &Piece, scales: &[u8], stride: usize, first: usize) -> Result<(), Fault> {
        if self.in_features.is_multiple_of(2 * GROUP) {
            return Ok(());
        }
        let last = scales.chunks(stride.max(1)).map(|row| row.last().copied().unwrap_or(0) & 0xF);
        match (first..).zip(last).find(|(_, nibble)| *nibble != 0) {
            None => Ok(()),
            Some((channel, found)) => {
                // The last row of the tensor has them, a byte a channel.
                let width = usize::try_from(self.rows).unwrap_or(0);
                let byte = piece.range.len().saturating_sub(width).saturating_add(channel);
                let (tensor, channel) = (format!("{}{WEIGHT_SCALE}", self.base), channel as u64);
                Err(FastDeployError::Padding { tensor, channel, found }.at_byte(piece, byte))
            }
        }
    }
}
