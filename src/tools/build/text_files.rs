//! The files of text that come with a model into its engine: read from a directory, or made of a vocabulary; checked
//! before anything is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::engine::{
    CHAT_TEMPLATE_FILE, PROCESSED_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, TOOL_TEMPLATE_FILE,
};
use crate::store::read_small_optional;
use crate::text::{BesideTokenizer, TextError, Tokenizer, with_tokens_beside};
use crate::tools::ToolError;
use crate::tools::templates::CheckpointTemplate;

/// Files that come along where they are there; tokenizer.json with the tokens that stand beside it.
pub(super) const TEXT_FILES: [&str; 7] = [
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    PROCESSED_TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
    "generation_config.json",
    "special_tokens_map.json",
];

/// Files by name, and where they are from.
#[derive(Debug)]
pub(crate) struct TextFiles {
    source: PathBuf,
    template: CheckpointTemplate,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl TextFiles {
    /// Those of a checkpoint or an ONNX directory.
    pub fn read(directory: &Path) -> Result<Self, ToolError> {
        let mut files = BTreeMap::new();
        for name in TEXT_FILES {
            if let Some(bytes) = read_small_optional(&directory.join(name))? {
                files.insert(name, bytes);
            }
        }
        let template = CheckpointTemplate::read(directory)?;
        // Whichever place they stood in.
        files.remove(TOOL_TEMPLATE_FILE);
        files.extend(template.files());
        let mut texts = Self { source: directory.to_owned(), template, files };
        texts.complete_tokenizer(read_small_optional(&directory.join("added_tokens.json"))?.as_deref())?;
        Ok(texts)
    }

    /// Those of one file that holds all; without any where it has no tokens.
    pub fn made(source: &Path, tokenizer: Option<(Vec<u8>, Vec<u8>)>) -> Result<Self, ToolError> {
        let config = tokenizer.as_ref().map(|(_, config)| config.as_slice());
        let template = CheckpointTemplate::of_config(source, config)?;
        let mut files = BTreeMap::new();
        if let Some((tokenizer, config)) = tokenizer {
            files.insert(TOKENIZER_FILE, tokenizer);
            files.insert(TOKENIZER_CONFIG_FILE, config);
        }
        Ok(Self { source: source.to_owned(), template, files })
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// tokenizer.json, with the tokens that the checkpoint has beside it.
    fn complete_tokenizer(&mut self, added_tokens: Option<&[u8]>) -> Result<(), ToolError> {
        let Some(tokenizer_json) = self.get(TOKENIZER_FILE) else { return Ok(()) };
        let special_tokens_map = self.get("special_tokens_map.json");
        let beside =
            BesideTokenizer { config: self.get(TOKENIZER_CONFIG_FILE), added_tokens, special_tokens_map };
        let whole =
            with_tokens_beside(tokenizer_json, beside).map_err(self.wrong(TOKENIZER_FILE, tokenizer_json))?;
        if let Some(whole) = whole {
            self.files.insert(TOKENIZER_FILE, whole);
        }
        Ok(())
    }

    /// The bytes of `tokenizer.table`.
    pub fn compile_tokenizer(&self) -> Result<Option<Arc<Vec<u8>>>, ToolError> {
        let Some(tokenizer_json) = self.get(TOKENIZER_FILE) else { return Ok(None) };
        Tokenizer::compile(tokenizer_json).map(Some).map_err(self.wrong(TOKENIZER_FILE, tokenizer_json))
    }

    /// A chat template that cannot be used is found here, and not by the first request.
    pub fn check_template(&self) -> Result<(), ToolError> {
        self.template.check()
    }

    /// What people should know of the chat template.
    pub fn note(&self) -> Option<String> {
        self.template.note()
    }

    fn wrong(&self, name: &str, bytes: &[u8]) -> impl FnOnce(TextError) -> ToolError {
        // A file that holds all has none below it.
        let path = if self.source.is_file() { self.source.clone() } else { self.source.join(name) };
        ToolError::text(path, bytes)
    }
}
