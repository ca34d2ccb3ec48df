//! A Hugging Face checkpoint directory, opened: one safetensors file or shards with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::map::{map_file, read_small, read_small_optional};
use crate::format::adapter::listed;
use crate::format::naming::{Place, places};
use crate::format::{
    CheckpointConfig, FormatError, Quantization, ShardIndex, Tensor, TensorFile, parse_checkpoint_config,
};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const QUANTIZATION_FILE: &str = "hf_quant_config.json";
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// A checkpoint with its weights mapped.
pub struct Checkpoint {
    directory: PathBuf,
    pub config: CheckpointConfig,
    /// The bytes of `config.json`.
    pub config_json: Vec<u8>,
    /// The bytes of `hf_quant_config.json`.
    pub quantization_json: Option<Vec<u8>>,
    /// By file name.
    shards: BTreeMap<String, TensorFile>,
    /// Tensor name to shard name.
    locations: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Whether the directory looks like a checkpoint.
    pub fn is_at(directory: &Path) -> bool {
        [SINGLE_FILE, INDEX_FILE, PICKLES[0], PICKLES[1]].iter().any(|name| directory.join(name).is_file())
    }

    /// Opens a directory with plain weights; tensors' bytes are not touched.
    ///
    /// # Errors
    /// [`StoreError`] with the file's path.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let checkpoint = Self::open_any(directory)?;
        if checkpoint.config.quantization.is_some() {
            let hf_quant_config = directory.join(QUANTIZATION_FILE);
            let path = if hf_quant_config.exists() { hf_quant_config } else { directory.join("config.json") };
            let advice =
                "the checkpoint is quantized; give the original f32, f16 or bf16 one (build takes both)";
            return Err(StoreError::WrongWeights { path, advice });
        }
        Ok(checkpoint)
    }

    /// Opens a directory whose weights may be quantized; tensors' bytes are not touched.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_any(directory: &Path) -> Result<Self, StoreError> {
        let config_path = directory.join("config.json");
        let config_json = read_small(&config_path)?;
        let mut config = parse_checkpoint_config(&config_json).map_err(StoreError::format(&config_path))?;
        let generation_path = directory.join("generation_config.json");
        if let Some(bytes) = read_small_optional(&generation_path)? {
            config = config.with_generation_config(&bytes).map_err(StoreError::format(&generation_path))?;
        }
        let quantization_path = directory.join(QUANTIZATION_FILE);
        let quantization_json = read_small_optional(&quantization_path)?;
        if let Some(bytes) = &quantization_json {
            let quantization = Quantization::from_hf_quant_config(bytes);
            config.quantization = Some(quantization.map_err(StoreError::format(&quantization_path))?);
        }
        let mut checkpoint = Self {
            quantization_json,
            directory: directory.to_owned(),
            config,
            config_json,
            shards: BTreeMap::new(),
            locations: BTreeMap::new(),
        };
        checkpoint.open_weights()?;
        Ok(checkpoint)
    }

    fn open_weights(&mut self) -> Result<(), StoreError> {
        // As transformers does: the single file wins.
        if self.directory.join(SINGLE_FILE).exists() {
            let file = self.map_shard(SINGLE_FILE)?;
            self.locations = file.names().map(|name| (name.to_owned(), SINGLE_FILE.to_owned())).collect();
            self.shards.insert(SINGLE_FILE.to_owned(), file);
            return Ok(());
        }
        let index_path = self.directory.join(INDEX_FILE);
        if let Some(bytes) = read_small_optional(&index_path)? {
            let index = ShardIndex::parse(&bytes).map_err(StoreError::format(&index_path))?;
            return self.open_shards(&index);
        }
        for name in PICKLES {
            let path = self.directory.join(name);
            if path.exists() {
                let advice =
                    "save the model as safetensors first: save_pretrained(DIR, safe_serialization=True)";
                return Err(StoreError::WrongWeights { path, advice });
            }
        }
        Err(StoreError::NoWeights { path: self.directory.clone() })
    }

    fn open_shards(&mut self, index: &ShardIndex) -> Result<(), StoreError> {
        let shards = index.shards();
        let missing: Vec<&str> =
            shards.iter().copied().filter(|shard| !self.directory.join(shard).exists()).collect();
        if !missing.is_empty() {
            return Err(StoreError::MissingShards { path: self.directory.clone(), names: listed(&missing) });
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

    /// The checkpoint's name for what an engine calls `name`, if it is there, and the rows of it that are meant.
    pub fn place(&self, name: &str) -> Option<Place> {
        let mut places = places(&self.config.architecture, name).into_iter();
        // AutoAWQ and GPTQ call what they packed otherwise.
        let packed = |name: &str| name.strip_suffix(".weight").map(|module| format!("{module}.qweight"));
        let is_packed = |name: &str| packed(name).is_some_and(|name| self.locations.contains_key(&name));
        let is_quantized = self.config.quantization.is_some();
        places.find(|place| {
            self.locations.contains_key(&place.tensor) || (is_quantized && is_packed(&place.tensor))
        })
    }

    /// The tensor that an engine calls `name`: as a whole, or as rows of a fused one. None where it is missing.
    ///
    /// # Errors
    /// [`FormatError::Shape`] when a fused tensor has not as many rows as its parts.
    pub fn find(&self, name: &str) -> Result<Option<Tensor>, FormatError> {
        let Some(place) = self.place(name) else { return Ok(None) };
        let Some(tensor) = self.tensor(&place.tensor) else { return Ok(None) };
        let Some(fused) = place.fused else { return Ok(Some(tensor)) };
        let part = tensor.rows(fused.rows).filter(|_| tensor.shape() == fused.shape);
        let wrong = || FormatError::Shape {
            name: place.tensor,
            wanted: fused.shape.to_vec(),
            found: tensor.shape().to_vec(),
        };
        part.map(Some).ok_or_else(wrong)
    }

    /// Tensor names in byte order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.locations.keys().map(String::as_str)
    }

    /// The weight files by name, for digests.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &TensorFile)> {
        self.shards.iter().map(|(name, file)| (name.as_str(), file))
    }
}
