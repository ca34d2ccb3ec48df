//! `model.safetensors.index.json`: which shard of a checkpoint holds which tensor.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::format::FormatError;

const FILE: &str = "model.safetensors.index.json";
/// Longest index that is read: a hundred thousand tensors.
const MAX_BYTES: usize = 16 << 20;

/// The index of a sharded checkpoint; shard names are plain file names.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Wire {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the index.
    ///
    /// # Errors
    /// [`FormatError::Damaged`] when it is no index, empty, or names a shard outside the directory.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |why: String| FormatError::Damaged { what: FILE, why };
        if bytes.len() > MAX_BYTES {
            return Err(damaged(format!("it has {} bytes, the limit is {MAX_BYTES}", bytes.len())));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if wire.weight_map.is_empty() {
            return Err(damaged("weight_map is empty".to_owned()));
        }
        if let Some(shard) = wire.weight_map.values().find(|shard| !is_plain_name(shard)) {
            return Err(damaged(format!("shard {shard:?} is not a plain file name")));
        }
        Ok(Self { weight_map: wire.weight_map })
    }

    /// The index as text, keys sorted. `weight_map` is tensor name to shard name; `total_size` counts the bytes
    /// of all tensors.
    pub fn to_json(weight_map: &BTreeMap<&str, &str>, total_size: u64) -> String {
        let value = serde_json::json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
        crate::format::json::sorted_text(&value)
    }

    /// Shard names, sorted, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Tensor name and shard name, by tensor name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &str)> {
        self.weight_map.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
    }
}

/// One component of a path: no separators, not `.` or `..`, not empty.
pub fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_refuses() {
        let good =
            br#"{"metadata": {"total_size": 3}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}"#;
        let index = ShardIndex::parse(good).unwrap();
        assert_eq!(index.shards().into_iter().collect::<Vec<_>>(), ["1.safetensors", "2.safetensors"]);
        let map = index.tensors().collect();
        assert_eq!(ShardIndex::parse(ShardIndex::to_json(&map, 3).as_bytes()).unwrap(), index);
        for bad in [
            r#"{"weight_map": {}}"#,
            r#"{}"#,
            "[]",
            r#"{"weight_map": {"a": "../x"}}"#,
            r#"{"weight_map": {"a": ".."}}"#,
            r#"{"weight_map": {"a": "/etc/passwd"}}"#,
            r#"{"weight_map": {"a": 3}}"#,
        ] {
            assert!(ShardIndex::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
