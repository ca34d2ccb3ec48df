//! The weight files of a checkpoint directory, mapped: one safetensors file, or shards with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::map::{check_absent, map_file, read_small_optional};
use crate::format::adapter::listed;
use crate::format::{ShardIndex, Tensor, TensorFile};

const SINGLE_FILE: &str = "model.safetensors";
/// Which shard holds what, where there are shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// All tensors of a directory, whatever the model is.
pub struct WeightFiles {
    directory: PathBuf,
    /// By file name.
    shards: BTreeMap<String, TensorFile>,
    /// Tensor name to shard name.
    locations: BTreeMap<String, String>,
    is_sharded: bool,
}

impl WeightFiles {
    /// Whether the directory has weights, of a kind that is read or not.
    pub fn is_at(directory: &Path) -> bool {
        [SINGLE_FILE, INDEX_FILE, PICKLES[0], PICKLES[1]].iter().any(|name| directory.join(name).is_file())
    }

    /// Opens the directory; tensors' bytes are not touched.
    ///
    /// # Errors
    /// [`StoreError`] with the file's path.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let mut files = Self {
            directory: directory.to_owned(),
            shards: BTreeMap::new(),
            locations: BTreeMap::new(),
            is_sharded: false,
        };
        // As transformers does: the single file wins.
        if directory.join(SINGLE_FILE).exists() {
            let file = files.map_shard(SINGLE_FILE)?;
            files.locations = file.names().map(|name| (name.to_owned(), SINGLE_FILE.to_owned())).collect();
            files.shards.insert(SINGLE_FILE.to_owned(), file);
            return Ok(files);
        }
        check_absent(&directory.join(SINGLE_FILE))?;
        let index_path = directory.join(INDEX_FILE);
        if let Some(bytes) = read_small_optional(&index_path)? {
            let index = ShardIndex::parse(&bytes).map_err(StoreError::format(&index_path))?;
            files.open_shards(&index)?;
            return Ok(files);
        }
        for name in PICKLES {
            let path = directory.join(name);
            if path.exists() {
                let advice =
                    "save the model as safetensors first: save_pretrained(DIR, safe_serialization=True)";
                return Err(StoreError::WrongWeights { path, advice });
            }
        }
        Err(StoreError::NoWeights { path: directory.to_owned() })
    }

    fn open_shards(&mut self, index: &ShardIndex) -> Result<(), StoreError> {
        self.is_sharded = true;
        let shards = index.shards();
        let missing: Vec<&str> =
            shards.iter().copied().filter(|shard| !self.directory.join(shard).exists()).collect();
        if !missing.is_empty() {
            let (path, count) = (self.directory.clone(), missing.len());
            return Err(StoreError::MissingShards { path, count, names: listed(&missing) });
        }
        for shard in shards {
            self.shards.insert(shard.to_owned(), self.map_shard(shard)?);
        }
        for (tensor, shard) in index.tensors() {
            if self.shards[shard].get(tensor).is_none() {
                let path = self.directory.join(shard);
                return Err(StoreError::NotInShard { path, tensor: tensor.to_owned() });
            }
            self.locations.insert(tensor.to_owned(), shard.to_owned());
        }
        Ok(())
    }

    fn map_shard(&self, name: &str) -> Result<TensorFile, StoreError> {
        let path = self.directory.join(name);
        TensorFile::parse(map_file(&path)?).map_err(StoreError::format(&path))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The tensor of that name, whichever shard holds it.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.shards.get(self.locations.get(name)?)?.get(name)
    }

    /// Tensor names in byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.locations.keys().map(String::as_str)
    }

    /// The name of the file that holds a tensor.
    pub fn shard_of(&self, name: &str) -> Option<&str> {
        self.locations.get(name).map(String::as_str)
    }

    /// The weight files by name.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &TensorFile)> {
        self.shards.iter().map(|(name, file)| (name.as_str(), file))
    }

    /// Whether there is an index.
    pub fn is_sharded(&self) -> bool {
        self.is_sharded
    }
}
