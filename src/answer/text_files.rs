//! The text files of an engine directory, and what they are read into: tokenizer, template, tokens that end an answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::AnswerError;
use crate::format::Bytes;
use crate::store::engine::{
    CHAT_TEMPLATE_FILE, PROCESSED_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_TABLE_FILE,
    TOOL_TEMPLATE_FILE,
};
use crate::store::{FileMap, StoreError, read_small_optional};
use crate::text::{ChatTemplate, SpecialTokens, TemplateFiles, TemplateSource, Tokenizer, template_source};

/// Files of one directory as they were when it was read.
pub struct TextFiles {
    /// For errors.
    pub directory: PathBuf,
    /// Missing only for a checkpoint that had none: such an engine knows token ids, but no text.
    pub tokenizer_json: Option<Bytes>,
    pub tokenizer_table: Option<Bytes>,
    pub tokenizer_config: Option<Bytes>,
    pub chat_template: Option<Bytes>,
    pub processed_chat_template: Option<Bytes>,
    pub tool_template: Option<Bytes>,
}

/// Names of the files, in the order of the fields.
pub const TEXT_FILES: [&str; 6] = [
    TOKENIZER_FILE,
    TOKENIZER_TABLE_FILE,
    TOKENIZER_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    PROCESSED_TEMPLATE_FILE,
    TOOL_TEMPLATE_FILE,
];

impl TextFiles {
    /// Maps the large ones and reads the small ones.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub fn read(directory: &Path) -> Result<Self, AnswerError> {
        Self::read_paths(directory, TEXT_FILES.map(|name| Some(directory.join(name))))
    }

    /// The same from `paths`, in the order of `TEXT_FILES`; errors name `directory`.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub fn read_paths(
        directory: &Path,
        paths: [Option<PathBuf>; TEXT_FILES.len()],
    ) -> Result<Self, AnswerError> {
        let [json, table, config, template, processed, tool_template] = paths;
        let small = |path: Option<PathBuf>| -> Result<Option<Bytes>, StoreError> {
            let Some(path) = path else { return Ok(None) };
            Ok(read_small_optional(&path)?.map(|bytes| Arc::new(bytes) as Bytes))
        };
        Ok(Self {
            directory: directory.to_owned(),
            tokenizer_json: json.map(|path| map_optional(&path)).transpose()?.flatten(),
            tokenizer_table: table.map(|path| map_optional(&path)).transpose()?.flatten(),
            tokenizer_config: small(config)?,
            chat_template: small(template)?,
            processed_chat_template: small(processed)?,
            tool_template: small(tool_template)?,
        })
    }

    /// The compiled table where it is there and of this tokenizer.json, else the file itself, which costs time and
    /// memory.
    ///
    /// # Errors
    /// [`AnswerError::NoTokenizer`], [`AnswerError::Text`].
    pub fn tokenizer(&self) -> Result<Tokenizer, AnswerError> {
        let path = self.directory.join(TOKENIZER_FILE);
        let Some(json) = &self.tokenizer_json else { return Err(AnswerError::NoTokenizer { path }) };
        let json = (**json).as_ref();
        if let Some(table) = &self.tokenizer_table {
            let path = self.directory.join(TOKENIZER_TABLE_FILE).display().to_string();
            match Tokenizer::open(Arc::clone(table)) {
                // All that can be checked without reading tokenizer.json; `inspect` checks its digest.
                Ok(tokenizer) if tokenizer.source().is(json) => return Ok(tokenizer),
                Ok(_) => tracing::warn!(
                    "{path} is of another {TOKENIZER_FILE}, which is read instead; build the engine again"
                ),
                Err(error) => tracing::warn!("{path}: {error}; {TOKENIZER_FILE} is read instead"),
            }
        }
        Tokenizer::parse(json).map_err(AnswerError::text(path, json))
    }

    /// The checkpoint's Jinja and its named tokens.
    ///
    /// # Errors
    /// [`AnswerError::Text`], [`AnswerError::Store`].
    pub fn source(&self) -> Result<TemplateSource, AnswerError> {
        let text = |bytes: &Option<Bytes>, name: &str| {
            let text = bytes.as_ref().map(|bytes| String::from_utf8((**bytes).as_ref().to_vec()));
            text.transpose().map_err(|_| StoreError::NotText { path: self.directory.join(name) })
        };
        let jinja = text(&self.chat_template, CHAT_TEMPLATE_FILE)?;
        let tool_use = text(&self.tool_template, TOOL_TEMPLATE_FILE)?;
        let named: Vec<(String, String)> =
            tool_use.map(|text| (TemplateFiles::TOOL_USE.to_owned(), text)).into_iter().collect();
        let path = self.directory.join(TOKENIZER_CONFIG_FILE);
        let tokenizer_config = self.tokenizer_config.as_ref().map(|bytes| (**bytes).as_ref());
        let jinja = jinja.as_deref();
        let files = TemplateFiles { tokenizer_config, jinja, named: &named, processor: None };
        template_source(&files).map_err(AnswerError::text(path, tokenizer_config.unwrap_or_default()))
    }

    /// `processed_chat_template.json` where present, else the checkpoint's Jinja. Requests with tools have the Jinja in any
    /// case, and one of their own where there is one.
    ///
    /// # Errors
    /// [`AnswerError::Text`], [`AnswerError::Store`].
    pub fn template(&self, special: &SpecialTokens) -> Result<Option<ChatTemplate>, AnswerError> {
        let wrong = |name: &str| {
            let path = self.directory.join(name);
            |source| AnswerError::Text { path, source }
        };
        let TemplateSource { jinja, tool_use, variables, .. } = self.source()?;
        let processed = self.processed_chat_template.as_ref().map(|bytes| {
            ChatTemplate::from_processed((**bytes).as_ref(), special.clone())
                .map_err(wrong(PROCESSED_TEMPLATE_FILE))
        });
        let of_tools = tool_use.or(jinja.clone().filter(|_| processed.is_some()));
        let template = match (processed, jinja) {
            (Some(processed), _) => processed?,
            (None, Some(jinja)) => ChatTemplate::from_jinja(&jinja, variables.clone(), special.clone())
                .map_err(wrong(CHAT_TEMPLATE_FILE))?,
            (None, None) => return Ok(None),
        };
        let Some(of_tools) = of_tools else { return Ok(Some(template)) };
        template.with_tool_template(&of_tools, variables).map(Some).map_err(wrong(TOOL_TEMPLATE_FILE))
    }

    /// The ids of the model's configuration, and the tokenizer's own end token.
    ///
    /// # Errors
    /// As [`Self::source`].
    pub fn stop_tokens(&self, of_model: &[u32], tokenizer: &Tokenizer) -> Result<Arc<[u32]>, AnswerError> {
        let source = self.source()?;
        let of_tokenizer = source.variables.token("eos_token").and_then(|token| tokenizer.token_id(token));
        let mut tokens = of_model.to_vec();
        tokens.extend(of_tokenizer.filter(|token| !of_model.contains(token)));
        Ok(tokens.into())
    }
}

fn map_optional(path: &Path) -> Result<Option<Bytes>, StoreError> {
    Ok(FileMap::open_optional(path)?.map(|map| map as Bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_used_where_it_belongs_to_the_file() {
        let name = "tests/data/references/tokenizers/qwen2/tokenizer.json";
        let json = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        let text = String::from_utf8(json.clone()).unwrap();
        let (a, b) = ("\"a\": 64", "\"b\": 65");
        assert!(text.contains(a) && text.contains(b));
        // Of the same length, and known by its ids.
        let swapped = text.replacen(a, "\"a\": 65", 1).replacen(b, "\"b\": 64", 1);
        let table = |json: &[u8]| Tokenizer::compile(json).unwrap().to_vec();
        let longer = format!("{swapped} ");
        let damaged = table(&json)[1..].to_vec();
        // A table of one file whose header names another: where its ids come out, it was used.
        let mut claimed = table(swapped.as_bytes());
        claimed[16..56].copy_from_slice(&table(&json)[16..56]);
        claimed[92..96].copy_from_slice(&table(&json)[92..96]);
        let sum = crc32fast::hash(&claimed[16..128]);
        claimed[12..16].copy_from_slice(&sum.to_le_bytes());
        struct Case {
            table: Option<Vec<u8>>,
            ids: [u32; 2],
        }
        let cases = [
            Case { table: None, ids: [64, 65] },
            Case { table: Some(table(&json)), ids: [64, 65] },
            Case { table: Some(claimed), ids: [65, 64] },
            Case { table: Some(table(swapped.as_bytes())), ids: [64, 65] },
            Case { table: Some(table(longer.as_bytes())), ids: [64, 65] },
            Case { table: Some(damaged), ids: [64, 65] },
        ];
        let json: Bytes = Arc::new(json);
        for (case_idx, Case { table, ids }) in cases.into_iter().enumerate() {
            let table = table.map(|table| Arc::new(table) as Bytes);
            let files = files(Some(Arc::clone(&json)), table);
            let tokenizer = files.tokenizer().unwrap();
            let found = ["a", "b"].map(|letter| tokenizer.token_id(letter).unwrap());
            assert_eq!(found, ids, "case {case_idx}");
        }
        assert!(matches!(files(None, None).tokenizer(), Err(AnswerError::NoTokenizer { .. })));
    }

    fn files(tokenizer_json: Option<Bytes>, tokenizer_table: Option<Bytes>) -> TextFiles {
        TextFiles {
            directory: PathBuf::from("engine"),
            tokenizer_json,
            tokenizer_table,
            tokenizer_config: None,
            chat_template: None,
            processed_chat_template: None,
            tool_template: None,
        }
    }
}
