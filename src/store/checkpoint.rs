//! A Hugging Face checkpoint directory, opened: its configuration and its weights.

use std::path::Path;

use super::StoreError;
use super::expected::Expected;
use super::map::{read_small, read_small_optional};
use super::mistaken::explain;
use super::weight_files::WeightFiles;
use crate::format::checkpoint::naming::{Place, places};
use crate::format::{
    CheckpointConfig, FormatError, Quantization, Tensor, TensorFile, parse_checkpoint_config,
};

const QUANTIZATION_FILE: &str = "hf_quant_config.json";

/// A checkpoint with its weights mapped.
pub struct Checkpoint {
    pub config: CheckpointConfig,
    /// The bytes of `config.json`.
    pub config_json: Vec<u8>,
    /// The bytes of `hf_quant_config.json`.
    pub quantization_json: Option<Vec<u8>>,
    weights: WeightFiles,
}

/// What AutoAWQ and GPTQ, or compressed-tensors, call a weight that they packed.
pub fn packed_names(weight: &str) -> Vec<String> {
    let module = weight.strip_suffix(".weight");
    module
        .iter()
        .flat_map(|module| ["qweight", "weight_packed"].map(|part| format!("{module}.{part}")))
        .collect()
}

impl Checkpoint {
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
        Self::open_files(directory).map_err(|error| explain(directory, Expected::Checkpoint, error))
    }

    fn open_files(directory: &Path) -> Result<Self, StoreError> {
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
        Ok(Self { config, config_json, quantization_json, weights: WeightFiles::open(directory)? })
    }

    pub fn directory(&self) -> &Path {
        self.weights.directory()
    }

    /// The tensor of that name, whichever shard holds it.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.weights.tensor(name)
    }

    /// The checkpoint's name for what an engine calls `name`, if it is there, and the rows of it that are meant.
    pub fn place(&self, name: &str) -> Option<Place> {
        let mut places = places(&self.config.architecture, name).into_iter();
        let is_packed =
            |name: &str| packed_names(name).iter().any(|name| self.weights.shard_of(name).is_some());
        let is_quantized = self.config.quantization.is_some();
        places.find(|place| {
            self.weights.shard_of(&place.tensor).is_some() || (is_quantized && is_packed(&place.tensor))
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
        self.weights.names()
    }

    /// The weight files by name, for digests.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &TensorFile)> {
        self.weights.shards()
    }
}
