//! The chat templates of a checkpoint's directory: reads all places that may hold one, and says which one is used.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::ToolError;
use crate::store::engine::{
    CHAT_TEMPLATE_FILE, PROCESSED_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOOL_TEMPLATE_FILE,
};
use crate::store::{StoreError, read_small_optional};
use crate::text::{ChatTemplate, SpecialTokens, TemplateFiles, TemplateSource, TextError, template_source};

/// Where older processors keep their template.
const PROCESSOR_FILE: &str = "chat_template.json";
/// Holds NAME.jinja for each template but the default one.
pub const NAMED_DIR: &str = "additional_chat_templates";
const NAMED_END: &str = ".jinja";

/// What a directory has.
#[derive(Debug)]
pub struct CheckpointTemplate {
    pub source: TemplateSource,
    /// The bytes of processed_chat_template.json, which is used where it is there.
    pub processed: Option<Vec<u8>>,
    directory: PathBuf,
}

impl CheckpointTemplate {
    /// # Errors
    /// [`ToolError::Tokenizer`] for templates that leave open which one is meant, [`StoreError`].
    pub fn read(directory: &Path) -> Result<Self, ToolError> {
        let read = |name: &str| read_small_optional(&directory.join(name));
        let (config, processor) = (read(TOKENIZER_CONFIG_FILE)?, read(PROCESSOR_FILE)?);
        let jinja = read_text(&directory.join(CHAT_TEMPLATE_FILE))?;
        let named = named_templates(&directory.join(NAMED_DIR))?;
        let files = TemplateFiles {
            tokenizer_config: config.as_deref(),
            jinja: jinja.as_deref(),
            named: &named,
            processor: processor.as_deref(),
        };
        let wrong = |source: TextError| match &source {
            TextError::Damaged { file, .. } => {
                let bytes = if *file == PROCESSOR_FILE { &processor } else { &config };
                ToolError::text(directory.join(file), bytes.as_deref().unwrap_or_default())(source)
            }
            _ => ToolError::Tokenizer { path: directory.to_owned(), source },
        };
        let source = template_source(&files).map_err(wrong)?;
        Ok(Self { source, processed: read(PROCESSED_TEMPLATE_FILE)?, directory: directory.to_owned() })
    }

    /// That of one file that holds all, whose tokenizer_config.json was made.
    ///
    /// # Errors
    /// [`ToolError::Tokenizer`].
    pub fn of_config(source: &Path, tokenizer_config: Option<&[u8]>) -> Result<Self, ToolError> {
        let files = TemplateFiles { tokenizer_config, jinja: None, named: &[], processor: None };
        let found = template_source(&files);
        let found = found.map_err(|error| ToolError::Tokenizer { path: source.to_owned(), source: error })?;
        Ok(Self { source: found, processed: None, directory: source.to_owned() })
    }

    /// The files that carry the templates on: names and contents.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
        let TemplateSource { jinja, tool_use, .. } = &self.source;
        let files = [(CHAT_TEMPLATE_FILE, jinja), (TOOL_TEMPLATE_FILE, tool_use)];
        files.into_iter().filter_map(|(name, text)| Some((name, text.clone()?.into_bytes())))
    }

    /// A template that cannot be used is found here, and not by the first request.
    ///
    /// # Errors
    /// [`ToolError::Tokenizer`].
    pub fn check(&self) -> Result<(), ToolError> {
        let wrong = |name: &str| {
            // A file that holds all has none below it.
            let is_file = self.directory.is_file();
            let path = if is_file { self.directory.clone() } else { self.directory.join(name) };
            |source| ToolError::Tokenizer { path, source }
        };
        let no_specials = || SpecialTokens::new([]);
        if let Some(processed) = &self.processed {
            ChatTemplate::from_processed(processed, no_specials()).map_err(wrong(PROCESSED_TEMPLATE_FILE))?;
        }
        let TemplateSource { jinja, tool_use, place: Some(place), variables, .. } = &self.source else {
            return Ok(());
        };
        for template in [jinja, tool_use].into_iter().flatten() {
            ChatTemplate::from_jinja(template, variables.clone(), no_specials()).map_err(wrong(place))?;
        }
        Ok(())
    }

    /// What people should know: that there is none, or which one is used of several.
    pub fn note(&self) -> Option<String> {
        let mut others: Vec<&str> = self.source.others.iter().map(String::as_str).collect();
        let used = match (&self.processed, self.source.place) {
            (None, None) => {
                return Some(
                    "the checkpoint has no chat template: requests need \"apply_chat_template\": false, and write \
                     the whole prompt themselves"
                        .to_owned(),
                );
            }
            (Some(_), place) => {
                others.splice(0..0, place);
                PROCESSED_TEMPLATE_FILE
            }
            (None, Some(place)) => place,
        };
        let others = others.join(", ");
        (!others.is_empty()).then(|| format!("the chat template is that of {used}; not used: {others}"))
    }
}

/// Names and texts, in the order of the names.
fn named_templates(directory: &Path) -> Result<Vec<(String, String)>, ToolError> {
    let mut named = Vec::new();
    for name in named_files(directory)? {
        let path = directory.join(&name);
        if let (Some(text), Some(name)) = (read_text(&path)?, name.strip_suffix(NAMED_END)) {
            named.push((name.to_owned(), text));
        }
    }
    Ok(named)
}

/// The names of the files in [`NAMED_DIR`] that are templates; none where it is missing.
///
/// # Errors
/// [`StoreError::Io`].
pub fn named_files(directory: &Path) -> Result<Vec<String>, ToolError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(_) if !directory.is_dir() => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io(directory, "list")(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io(directory, "list"))?.file_name().into_string();
        names.extend(name.ok().filter(|name| name.ends_with(NAMED_END) && directory.join(name).is_file()));
    }
    names.sort();
    Ok(names)
}

fn read_text(path: &Path) -> Result<Option<String>, ToolError> {
    let text = read_small_optional(path)?.map(String::from_utf8).transpose();
    Ok(text.map_err(|_| StoreError::NotText { path: path.to_owned() })?)
}
