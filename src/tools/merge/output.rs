//! The output directory: which place is safe to write to, and what the new config says.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::element::Element;
use crate::format::checkpoint::shards::is_plain_name;
use crate::format::json::sorted_text;
use crate::store::read_small_optional;
use crate::tools::ToolError;
use crate::tools::place::{check_output, is_empty};

pub const CONFIG_FILE: &str = "config.json";
/// Says what the directory is, and marks it as one that may be written over.
pub const RECORD_FILE: &str = "merge_lora.json";

/// Refuses a place that must not be written to.
///
/// # Errors
/// [`ToolError::Output`].
pub fn check_place(output: &Path, inputs: [&Path; 2], home: Option<&Path>) -> Result<(), ToolError> {
    check_output(output, &inputs, home, |real| {
        if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input.starts_with(real))) {
            return Ok(Some("contains an input's directory".to_owned()));
        }
        let is_ours = is_empty(real)? || real.join(RECORD_FILE).is_file();
        Ok((!is_ours).then(|| format!("holds files, and no {RECORD_FILE} of an earlier merge")))
    })
}

/// The new `config.json`: the type that was written, and a head of its own where it got one.
pub fn config_json(config: &Map<String, Value>, element: Element, is_untied: bool) -> String {
    let mut config = config.clone();
    let inner = ["text_config", "llm_config", "language_config"];
    let edit = |object: &mut Map<String, Value>, is_top: bool| {
        let mut has_type = false;
        for key in ["dtype", "torch_dtype"] {
            if let Some(value) = object.get_mut(key) {
                *value = json!(element.name());
                has_type = true;
            }
        }
        if is_top && !has_type {
            object.insert("torch_dtype".to_owned(), json!(element.name()));
        }
        if is_untied && (is_top || object.contains_key("tie_word_embeddings")) {
            object.insert("tie_word_embeddings".to_owned(), json!(false));
        }
    };
    for key in inner {
        if let Some(Value::Object(object)) = config.get_mut(key) {
            edit(object, false);
        }
    }
    edit(&mut config, true);
    sorted_text(&Value::Object(config))
}

/// The files of an earlier merge in the directory, by its record.
pub fn earlier_files(target: &Path) -> Result<Vec<String>, ToolError> {
    let Some(bytes) = read_small_optional(&target.join(RECORD_FILE))? else { return Ok(Vec::new()) };
    let record: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let files = record["files"].as_array().map_or(&[][..], Vec::as_slice);
    let names = files.iter().filter_map(Value::as_str).filter(|name| is_plain_name(name));
    Ok(names.map(str::to_owned).collect())
}

/// The record: what was merged, and every file that belongs to it.
pub fn record_json(lora_dir: &Path, element: Element, n_merged: usize, files: &[String]) -> String {
    let real = fs::canonicalize(lora_dir).ok();
    let adapter = real.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let generator = concat!("jetspool ", env!("CARGO_PKG_VERSION"), " merge-lora");
    sorted_text(&json!({
        "generator": generator,
        "adapter": adapter,
        "dtype": element.name(),
        "merged_matrices": n_merged,
        "files": files,
    }))
}
