//! An engine directory, opened: configuration read, weights mapped, text files at hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::digest::sha256;
pub use super::engine_files::{
    CHAT_TEMPLATE_FILE, CONFIG_FILE, PROCESSED_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    TOKENIZER_TABLE_FILE, TOOL_TEMPLATE_FILE, WEIGHTS_FILE, cubin_file, cubin_files,
};
use super::expected::Expected;
use super::map::{FileMap, Generation, read_small, read_small_optional};
use super::mistaken::explain;
use crate::format::engine::EMBEDDING;
use crate::format::{Bytes, EngineConfig, TensorFile};

/// Which content an engine directory had: that of each of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineGeneration(Vec<Option<Generation>>);

impl EngineGeneration {
    /// What the directory holds now.
    pub fn of(directory: &Path) -> Self {
        let names = [
            WEIGHTS_FILE,
            CONFIG_FILE,
            TOKENIZER_FILE,
            TOKENIZER_TABLE_FILE,
            TOKENIZER_CONFIG_FILE,
            CHAT_TEMPLATE_FILE,
            PROCESSED_TEMPLATE_FILE,
            TOOL_TEMPLATE_FILE,
        ];
        Self(names.iter().map(|name| Generation::at(&directory.join(name))).collect())
    }
}

/// What an engine directory holds. The shapes of the tensors are checked by who builds a model of them.
pub struct Engine {
    pub config: EngineConfig,
    pub tensors: TensorFile,
    /// Missing only for a checkpoint that had none: such an engine knows token ids, but no text.
    pub tokenizer_json: Option<Bytes>,
    /// Not checked here, nor whether it belongs to the file above.
    pub tokenizer_table: Option<Bytes>,
    pub tokenizer_config: Option<Bytes>,
    pub chat_template: Option<String>,
    pub processed_chat_template: Option<Bytes>,
    pub tool_template: Option<Bytes>,
    /// What stays mapped: the weights, and the tokenizer's table.
    pub maps: Vec<Arc<FileMap>>,
    directory: PathBuf,
    /// Taken before the files were opened: if they change meanwhile, it is not that of the directory any more.
    pub generation: EngineGeneration,
}

impl Engine {
    /// Opens the directory.
    ///
    /// # Errors
    /// [`StoreError`] with the file's path; [`StoreError::MixedEngine`] after a build that was interrupted
    /// between its renames; [`StoreError::Mistaken`] for a path that leads to something else.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_files(directory).map_err(|error| explain(directory, Expected::Engine, error))
    }

    fn open_files(directory: &Path) -> Result<Self, StoreError> {
        let generation = EngineGeneration::of(directory);
        let config_path = directory.join(CONFIG_FILE);
        let config =
            EngineConfig::from_json(&read_small(&config_path)?).map_err(StoreError::format(&config_path))?;
        let weights_path = directory.join(WEIGHTS_FILE);
        let weights = FileMap::open(&weights_path)?;
        let bytes = Arc::clone(&weights) as Bytes;
        let tensors = TensorFile::parse(bytes).map_err(StoreError::format(&weights_path))?;
        let says = |key: &str| tensors.metadata().get(key).map(String::as_str);
        if says("source_digest") != Some(config.source_digest.as_str())
            || says("precision") != Some(config.precision.name())
        {
            return Err(StoreError::MixedEngine { path: directory.to_owned() });
        }
        // Of a table that is no head single rows are read.
        let embedding = tensors.get(EMBEDDING).filter(|_| !config.architecture.tied_head);
        weights.prefer_large_pages(embedding.map_or(0, |table| table.place().end));
        let optional = |name: &str| -> Result<Option<Bytes>, StoreError> {
            Ok(read_small_optional(&directory.join(name))?.map(|bytes| Arc::new(bytes) as Bytes))
        };
        let template_path = directory.join(CHAT_TEMPLATE_FILE);
        let chat_template = read_small_optional(&template_path)?
            .map(String::from_utf8)
            .transpose()
            .map_err(|_| StoreError::NotText { path: template_path })?;
        let tokenizer_json = FileMap::open_optional(&directory.join(TOKENIZER_FILE))?;
        let tokenizer_table = FileMap::open_optional(&directory.join(TOKENIZER_TABLE_FILE))?;
        let mut maps = vec![weights];
        maps.extend(tokenizer_table.clone());
        Ok(Self {
            config,
            tensors,
            tokenizer_json: tokenizer_json.map(|map| map as Bytes),
            tokenizer_table: tokenizer_table.map(|map| map as Bytes),
            maps,
            directory: directory.to_owned(),
            generation,
            tokenizer_config: optional(TOKENIZER_CONFIG_FILE)?,
            chat_template,
            processed_chat_template: optional(PROCESSED_TEMPLATE_FILE)?,
            tool_template: optional(TOOL_TEMPLATE_FILE)?,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its kernels for GPUs of an architecture, if it has them.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read, or is another one than `build` wrote.
    pub fn cubin(&self, architecture: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = cubin_file(architecture);
        let Some(bytes) = read_small_optional(&self.directory.join(&name))? else { return Ok(None) };
        match self.config.sha256.get(&name) {
            Some(wanted) if *wanted == sha256(&bytes) => Ok(Some(bytes)),
            _ => Err(StoreError::MixedEngine { path: self.directory.clone() }),
        }
    }
}
