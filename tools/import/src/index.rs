//! `model.safetensors.index.json`: which shard has which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::files;
use crate::json::{self, Pairs};

/// The object that says which tensor is where.
const WEIGHT_MAP: &str = "weight_map";

/// What an index promises.
#[derive(Debug)]
pub(crate) struct Index {
    /// Tensor name -> shard file name.
    pub weight_map: BTreeMap<String, String>,
    json: Vec<u8>,
}

/// Reads and checks an index by itself; its `metadata` (a total size that is often wrong) is not used.
pub(crate) fn read(index: &Path) -> Result<Index, Error> {
    let json = files::read_whole(index, "index")?;
    let failed = |source| Error::Index { index: index.into(), at: json::position(&json, &source), source };
    let file: File = serde_json::from_slice(&json).map_err(failed)?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in file.weight_map.0 {
        if weight_map.contains_key(&tensor) {
            let at = json::place(&json, &[WEIGHT_MAP, &tensor]);
            return Err(Error::DuplicateIndexEntry { index: index.into(), at, tensor });
        }
        weight_map.insert(tensor, shard);
    }
    if let Some((tensor, shard)) = weight_map.iter().find(|(_, shard)| !is_shard_name(shard)) {
        let at = json::place(&json, &[WEIGHT_MAP, tensor]);
        let (tensor, shard) = (tensor.clone(), shard.clone());
        return Err(Error::BadShardName { index: index.into(), at, tensor, shard });
    }
    Ok(Index { weight_map, json })
}

impl Index {
    /// The shards' file names, sorted.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// The byte of the index where it says where a tensor is.
    pub(crate) fn place(&self, tensor: &str) -> u64 {
        json::place(&self.json, &[WEIGHT_MAP, tensor])
    }

    /// A tensor promised in `shard`.
    pub(crate) fn tensor_of(&self, shard: &str) -> String {
        self.weight_map.iter().find(|(_, at)| *at == shard).map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct File {
    weight_map: Pairs<String, String>,
}

/// A plain file name: it stays in the index's folder on every system.
fn is_shard_name(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}
