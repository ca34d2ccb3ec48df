//! The output directory: which place is safe to write to, which files come along, what the new config says.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::element::Element;
use crate::format::checkpoint::shards::is_plain_name;
use crate::format::json::sorted_text;
use crate::store::weight_files::INDEX_FILE;
use crate::store::{StoreError, read_small_optional};
use crate::tools::ToolError;

pub const CONFIG_FILE: &str = "config.json";
/// Says what the directory is, and marks it as one that may be written over.
pub const RECORD_FILE: &str = "merge_lora.json";
/// Largest file that comes along beside the weights.
const MAX_CARRIED: u64 = 100 << 20;
/// Ends of the names of weights, in forms that the merged ones replace or make stale.
const WEIGHT_ENDS: [&str; 14] = [
    ".safetensors",
    ".bin",
    ".bin.index.json",
    ".pth",
    ".pt",
    ".ckpt",
    ".onnx",
    ".onnx.data",
    ".onnx_data",
    ".gguf",
    ".h5",
    ".msgpack",
    ".engine",
    ".npz",
];

/// Refuses a place that must not be written to.
///
/// # Errors
/// [`ToolError::Output`].
pub fn check_place(output: &Path, inputs: [&Path; 2], home: Option<&Path>) -> Result<(), ToolError> {
    let refuse = |why: &str| Err(ToolError::Output { path: output.to_owned(), why: why.to_owned() });
    // What is not there yet cannot be any of the places below.
    let Ok(real) = fs::canonicalize(output) else { return Ok(()) };
    if !real.is_dir() {
        return refuse("is not a directory");
    }
    if real.parent().is_none() {
        return refuse("is the root of the file system");
    }
    let is_real = |path: Option<PathBuf>| path.is_some_and(|path| path == real);
    if is_real(home.and_then(|home| fs::canonicalize(home).ok())) {
        return refuse("is the home directory");
    }
    if is_real(std::env::current_dir().and_then(fs::canonicalize).ok()) {
        return refuse("is the current directory");
    }
    if inputs.iter().any(|input| fs::canonicalize(input).is_ok_and(|input| input.starts_with(&real))) {
        return refuse("is an input's directory, or contains one");
    }
    let is_empty = fs::read_dir(&real).map_err(StoreError::io(&real, "list"))?.next().is_none();
    if !is_empty && !real.join(RECORD_FILE).is_file() {
        return refuse(&format!("holds files, and no {RECORD_FILE} of an earlier merge"));
    }
    Ok(())
}

/// What lies beside the weights in the checkpoint's directory.
#[derive(Default)]
pub struct Companions {
    /// Names of files that come along, sorted.
    pub carried: Vec<String>,
    pub n_bytes: u64,
    pub notes: Vec<String>,
}

/// Lists the files that come along, and what is left.
///
/// # Errors
/// [`StoreError::Io`].
pub fn companions(model_dir: &Path, is_shard: impl Fn(&str) -> bool) -> Result<Companions, ToolError> {
    let mut found = Companions::default();
    let (mut left, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(model_dir).map_err(StoreError::io(model_dir, "list"))? {
        let entry = entry.map_err(StoreError::io(model_dir, "list"))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_ours = [CONFIG_FILE, RECORD_FILE, INDEX_FILE].contains(&name.as_str()) || is_shard(&name);
        // Through links: caches of downloads are full of them.
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        if is_ours || name.starts_with('.') {
            continue;
        }
        if metadata.is_dir() {
            folders.push(name);
        } else if WEIGHT_ENDS.iter().any(|end| name.ends_with(end)) || metadata.len() > MAX_CARRIED {
            left.push(format!("{name} ({} MB)", metadata.len().div_ceil(1 << 20)));
        } else if metadata.is_file() {
            found.n_bytes += metadata.len();
            found.carried.push(name);
        }
    }
    found.carried.sort();
    left.sort();
    folders.sort();
    for (what, names) in [("files", left), ("directories", folders)] {
        if !names.is_empty() {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>();
            let names = crate::format::adapter::listed(&names);
            found.notes.push(format!("{what} of the checkpoint that do not come along: {names}"));
        }
    }
    Ok(found)
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
