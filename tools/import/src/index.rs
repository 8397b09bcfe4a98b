//! `model.safetensors.index.json`: which shard has which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::files;
use crate::header::Pairs;

/// What an index promises.
#[derive(Debug)]
pub(crate) struct Index {
    /// Tensor name -> shard file name.
    pub weight_map: BTreeMap<String, String>,
}

/// Reads and checks an index by itself; its `metadata` (a total size that is often wrong) is not used.
pub(crate) fn read(index: &Path) -> Result<Index, Error> {
    let bytes = files::read_whole(index, "index")?;
    let file: File =
        serde_json::from_slice(&bytes).map_err(|source| Error::Index { index: index.into(), source })?;
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in file.weight_map.0 {
        if !is_shard_name(&shard) {
            return Err(Error::BadShardName { index: index.into(), tensor, shard });
        }
        if weight_map.contains_key(&tensor) {
            return Err(Error::DuplicateIndexEntry { index: index.into(), tensor });
        }
        weight_map.insert(tensor, shard);
    }
    Ok(Index { weight_map })
}

impl Index {
    /// The shards' file names, sorted.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// A tensor promised in `shard`.
    pub(crate) fn tensor_of(&self, shard: &str) -> String {
        self.weight_map.iter().find(|(_, at)| *at == shard).map(|(name, _)| name.clone()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct File {
    weight_map: Pairs,
}

/// A plain file name: it stays in the index's folder on every system.
fn is_shard_name(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
}
