//! What a model's files have, put together: weights with their scales, codes with their parameters, views.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ccq::format::Dtype;

use crate::config::Config;
use crate::error::Error;
use crate::fastdeploy;
use crate::fp8::{self, Fp8Error, Grid, Scaled};
use crate::tensor::{Piece, SourceTensor, Storage};
use crate::transpose::{self, Transpose, Wanted};

/// A tensor as a file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub name: String,
    pub shape: Vec<u64>,
    pub dtype: Dtype,
    pub piece: Piece,
}

/// The tensors of the model at `origin`, sorted by name. The names of `stored` are unique; a piece's file is an
/// index of `files`.
pub(crate) fn assemble(
    stored: Vec<Stored>,
    files: &[PathBuf],
    origin: &Path,
    config: &Config,
    transpose: &Transpose<'_>,
) -> Result<Vec<SourceTensor>, Error> {
    let mut stored: BTreeMap<_, _> = stored.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let mut tensors = Vec::new();

    let layers = fastdeploy::take(&mut stored).map_err(|fault| fault.within(files, origin))?;
    tensors.extend(layers.into_iter().map(|parts| SourceTensor {
        name: format!("{}.weight", parts.base),
        shape: vec![parts.rows, parts.in_features],
        dtype: parts.super_dtype,
        storage: Storage::FastDeploy(Box::new(parts)),
        transposed: false,
    }));
    for (weights, scaled) in take_fp8(&mut stored, config, files)? {
        let Stored { name, shape, .. } = weights;
        let storage = Storage::Fp8(Box::new(scaled));
        tensors.push(SourceTensor { name, shape, dtype: Dtype::Bf16, storage, transposed: false });
    }
    tensors.extend(stored.into_values().map(|Stored { name, shape, dtype, piece }| SourceTensor {
        name,
        shape,
        dtype,
        storage: Storage::Plain(piece),
        transposed: false,
    }));
    for tensor in &mut tensors {
        turn(tensor, config, transpose, files)?;
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

/// Takes the FP8 weights that have scales, and their scales, out of `stored`.
fn take_fp8(
    stored: &mut BTreeMap<String, Stored>,
    config: &Config,
    files: &[PathBuf],
) -> Result<Vec<(Stored, Scaled)>, Error> {
    let weights: Vec<String> = stored
        .values()
        .filter(|tensor| fp8::is_fp8(tensor.dtype))
        .map(|tensor| tensor.name.clone())
        .collect();
    let mut all = Vec::new();
    for name in weights {
        let mut scales = fp8::SUFFIXES.iter().filter_map(|end| stored.get(&format!("{name}{end}"))).cloned();
        let (Some(scale), second) = (scales.next(), scales.next()) else { continue };
        let failed = |scale: &Stored, source| fp8_error(files, &scale.piece, source);
        if let Some(second) = second {
            let source = Fp8Error::TwoScales { tensor: name, first: scale.name, second: second.name.clone() };
            return Err(failed(&second, source));
        }
        let Some(weight) = stored.remove(&name) else { continue };
        if !fp8::is_scale(scale.dtype) {
            let source = Fp8Error::Dtype { tensor: scale.name.clone(), found: scale.dtype };
            return Err(failed(&scale, source));
        }
        let Some(grid) = Grid::new(&weight.shape, &scale.shape, config.weight_block_size) else {
            let (scales, found) = (scale.name.clone(), scale.shape.clone());
            let (shape, block) = (weight.shape, config.weight_block_size);
            return Err(failed(&scale, Fp8Error::Shape { tensor: name, shape, scales, found, block }));
        };
        stored.remove(&scale.name);
        let scaled = Scaled {
            weights: weight.piece.clone(),
            format: weight.dtype,
            scales: scale.piece,
            scales_name: scale.name,
            scale_dtype: scale.dtype,
            grid,
        };
        all.push((weight, scaled));
    }
    let left = stored.values().find(|tensor| tensor.name.ends_with(fp8::SUFFIXES[0]));
    match left {
        None => Ok(all),
        Some(Stored { name, piece, .. }) => {
            let weights = name.strip_suffix(fp8::SUFFIXES[0]).unwrap_or(name).into();
            Err(fp8_error(files, piece, Fp8Error::Leftover { tensor: name.clone(), weights }))
        }
    }
}

/// A fault of scales, where they begin.
fn fp8_error(files: &[PathBuf], scales: &Piece, source: Fp8Error) -> Error {
    Error::Fp8 { file: file_of(files, scales), at: scales.range.start as u64, source: Box::new(source) }
}

/// Turns a tensor round where that is wanted.
pub(crate) fn turn(
    tensor: &mut SourceTensor,
    config: &Config,
    transpose: &Transpose<'_>,
    files: &[PathBuf],
) -> Result<(), Error> {
    let wanted = transpose.of(config, &tensor.name, &tensor.shape);
    if wanted == Wanted::No {
        return Ok(());
    }
    let has_elements = matches!(tensor.storage, Storage::Plain(_) | Storage::Fp8(_));
    if has_elements && transpose::is_possible(&tensor.shape, tensor.dtype) {
        if let [.., rows, columns] = tensor.shape.as_mut_slice() {
            std::mem::swap(rows, columns);
        }
        tensor.transposed = true;
    } else if wanted == Wanted::Asked {
        let file = file_of(files, tensor.storage.piece());
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        return Err(Error::CannotTranspose { file, tensor: tensor.name.clone(), dtype, shape });
    }
    Ok(())
}

fn file_of(files: &[PathBuf], piece: &Piece) -> PathBuf {
    files.get(piece.file).cloned().unwrap_or_default()
}
