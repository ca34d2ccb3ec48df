//! What kind of thing a directory is, by the names of the files in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::adapter_files::{PEFT_CONFIG_FILE, PEFT_PICKLE_FILE, PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};
use super::engine_files::{CONFIG_FILE, WEIGHTS_FILE};
use super::map::read_small;
use super::weight_files::WeightFiles;

/// What exporters and insert-lora write, and nobody else.
pub(super) const ONNX_FILES: [&str; 3] = ["model.onnx", "lora_model.onnx", "embedding.safetensors"];
/// The directories of a repository in the cache of huggingface_hub.
const SNAPSHOTS: &str = "snapshots";
/// Entries of a directory that are looked at.
const MAX_ENTRIES: usize = 1000;

/// Kinds of directories that people give for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryKind {
    Engine,
    /// What the workflow's own builder makes.
    TensorRtEngine,
    Checkpoint,
    PeftAdapter,
    ProcessedAdapter,
    Onnx,
    /// GGUF files; the first of them.
    Gguf(PathBuf),
    /// A repository in the cache of huggingface_hub; its snapshot.
    HubCache(PathBuf),
    /// Configuration and tokenizer of a model, but no weights.
    NoWeights,
    /// Nothing of its own, and one directory of a kind that is known.
    Around(PathBuf),
    Empty,
    Unknown,
}

impl DirectoryKind {
    pub fn of(directory: &Path) -> Self {
        let has = |name: &str| directory.join(name).is_file();
        match () {
            () if is_of_tensor_rt(directory) => Self::TensorRtEngine,
            () if has(WEIGHTS_FILE) => Self::Engine,
            () if has(PROCESSED_WEIGHTS_FILE) => Self::ProcessedAdapter,
            () if [PEFT_WEIGHTS_FILE, PEFT_CONFIG_FILE, PEFT_PICKLE_FILE].into_iter().any(has) => {
                Self::PeftAdapter
            }
            () if ONNX_FILES.into_iter().any(has) => Self::Onnx,
            () if WeightFiles::is_at(directory) => Self::Checkpoint,
            () => by_entries(directory),
        }
    }

    /// The kind as people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Engine => "an engine",
            Self::TensorRtEngine => "an engine of TensorRT",
            Self::Checkpoint => "a checkpoint",
            Self::PeftAdapter => "an adapter as PEFT saves it",
            Self::ProcessedAdapter => "a processed adapter",
            Self::Onnx => "an ONNX directory",
            Self::Gguf(_) => "a directory with a GGUF file",
            Self::HubCache(_) => "a repository in the cache of huggingface_hub",
            Self::NoWeights => "a checkpoint without its weights",
            Self::Around(_) => "a directory around another one",
            Self::Empty => "an empty directory",
            Self::Unknown => "a directory with other files",
        }
    }
}

/// Engine files beside a configuration that is not ours.
fn is_of_tensor_rt(directory: &Path) -> bool {
    let is_engine = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "engine");
    if !entries(directory).iter().any(is_engine) {
        return false;
    }
    let Ok(config) = read_small(&directory.join(CONFIG_FILE)) else { return false };
    let config = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&config);
    config.is_ok_and(|config| !config.contains_key("jetspool"))
}

fn by_entries(directory: &Path) -> DirectoryKind {
    let entries = entries(directory);
    let is_gguf = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
    if let Some(path) = entries.iter().find(is_gguf) {
        return DirectoryKind::Gguf(path.clone());
    }
    let snapshots = directory.join(SNAPSHOTS);
    if let Some(snapshot) = self::entries(&snapshots).pop() {
        return DirectoryKind::HubCache(snapshot);
    }
    if directory.join(CONFIG_FILE).is_file() {
        return DirectoryKind::NoWeights;
    }
    let is_known = |path: &&PathBuf| {
        use DirectoryKind::{Checkpoint, Engine, Onnx, PeftAdapter, ProcessedAdapter};
        let kind = || DirectoryKind::of(path);
        path.is_dir() && matches!(kind(), Checkpoint | Engine | Onnx | PeftAdapter | ProcessedAdapter)
    };
    match entries.len() {
        0 => DirectoryKind::Empty,
        // More may be looked into, but which one is meant?
        1 => entries.iter().find(is_known).cloned().map_or(DirectoryKind::Unknown, DirectoryKind::Around),
        _ => DirectoryKind::Unknown,
    }
}

/// The paths of what lies in a directory, sorted; nothing where it cannot be listed.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_seen =
        |path: &PathBuf| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."));
    let mut paths: Vec<PathBuf> =
        entries.take(MAX_ENTRIES).map(|entry| entry.path()).filter(is_seen).collect();
    paths.sort();
    paths
}
