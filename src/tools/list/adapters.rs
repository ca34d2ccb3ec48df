//! The adapters of a directory, by the names that requests give them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::daemon::Daemon;
use super::engines::Listed;
use crate::count::Count;
use crate::format::{Adapter, AdapterError, FormatError, TensorFile, check_origin};
use crate::store::adapter_files::{PEFT_WEIGHTS_FILE, PROCESSED_WEIGHTS_FILE};
use crate::store::{DirectoryKind, StoreError, config_beside, map_file};
use crate::tools::ToolError;
use crate::tools::adapter_facts::AdapterFacts;

/// An adapter, or what is wrong with it.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterEntry {
    /// `lora_name` of requests.
    pub name: String,
    pub path: String,
    pub n_bytes: u64,
    /// The largest one of its tensors; 0 if it cannot be read.
    pub rank: usize,
    /// Projections that it changes.
    pub targets: Vec<String>,
    pub engines: Vec<Fit>,
    /// Requests that name it and are not answered yet; none if that is not known.
    pub n_requests: Option<usize>,
    /// When a request that names it was answered last, in seconds since 1970; none if that is not known.
    pub last_use: Option<u64>,
    pub error: Option<String>,
}

/// Whether an adapter can be used with an engine.
#[derive(Debug, Clone, Serialize)]
pub struct Fit {
    pub engine: String,
    /// None if it fits.
    pub why_not: Option<String>,
    /// The same in a few words.
    #[serde(skip)]
    pub why_not_in_short: Option<String>,
}

/// Looks at every adapter of a directory.
///
/// # Errors
/// [`ToolError::Store`] when the directory cannot be read.
pub fn read(
    directory: &Path,
    engines: &[Listed],
    daemon: &Daemon,
    last_use: &BTreeMap<String, u64>,
) -> Result<Vec<AdapterEntry>, ToolError> {
    let entries = fs::read_dir(directory).map_err(StoreError::io(directory, "read"))?;
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some((name, file)) = name_and_file(&path) else { continue };
        // A file goes before a directory of the same name, as with requests.
        if !path.is_dir() || !files.contains_key(&name) {
            files.insert(name, file);
        }
    }
    let known = |(name, file): (&String, &PathBuf)| AdapterEntry {
        n_requests: daemon.n_requests(name),
        last_use: last_use.get(name).copied(),
        ..entry(name, file, engines)
    };
    Ok(files.iter().map(known).collect())
}

/// None for what is no adapter. One that is not processed has PEFT's file.
fn name_and_file(path: &Path) -> Option<(String, PathBuf)> {
    let name = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    if path.is_dir() {
        return match DirectoryKind::of(path) {
            DirectoryKind::ProcessedAdapter => {
                Some((name(path.file_name()), path.join(PROCESSED_WEIGHTS_FILE)))
            }
            DirectoryKind::PeftAdapter => Some((name(path.file_name()), path.to_owned())),
            _ => None,
        };
    }
    let is_adapter = path.extension().is_some_and(|extension| extension == "safetensors");
    is_adapter.then(|| (name(path.file_stem()), path.to_owned()))
}

/// What its file says.
fn entry(name: &str, file: &Path, engines: &[Listed]) -> AdapterEntry {
    let mut entry = AdapterEntry {
        name: name.to_owned(),
        path: file.to_string_lossy().into_owned(),
        n_bytes: fs::metadata(file).map_or(0, |file| file.len()),
        rank: 0,
        targets: Vec::new(),
        engines: Vec::new(),
        n_requests: None,
        last_use: None,
        error: None,
    };
    if file.is_dir() {
        entry.n_bytes = fs::metadata(file.join(PEFT_WEIGHTS_FILE)).map_or(0, |file| file.len());
        entry.error = Some(format!(
            "it is as PEFT saves it; jetspool process-lora --input_dir {0} --output_dir {0}",
            file.display()
        ));
        return entry;
    }
    let opened = map_file(file).and_then(|bytes| TensorFile::parse(bytes).map_err(StoreError::format(file)));
    match opened {
        Ok(tensors) => {
            let facts = AdapterFacts::of(&tensors);
            entry.rank = facts.ranks.last().copied().unwrap_or(0);
            entry.targets = facts.target_names();
            if let Some(Err(error)) = config_beside(file).map(|config| check_origin(&config, &tensors)) {
                entry.error = Some(error.to_string());
                return entry;
            }
            entry.engines = engines.iter().filter_map(|engine| fit(&tensors, engine)).collect();
        }
        Err(error) => entry.error = Some(error.to_string()),
    }
    entry
}

/// None where the engine cannot be opened.
fn fit(tensors: &TensorFile, (engine, architecture): &Listed) -> Option<Fit> {
    let max_rank = engine.facts.as_ref()?.max_lora_rank;
    let bound = Adapter::bind(tensors.clone(), architecture.as_ref()?, max_rank);
    let error = bound.err();
    Some(Fit {
        engine: engine.name.clone(),
        why_not: error.as_ref().map(ToString::to_string),
        why_not_in_short: error.as_ref().map(in_short),
    })
}

/// What is found and what is wanted, before the names of tensors.
fn in_short(error: &AdapterError) -> String {
    match error {
        AdapterError::Rank { rank, max_rank, .. } => {
            format!("its rank is {rank}, the engine takes {max_rank}")
        }
        AdapterError::Unmatched { count, names } => {
            format!("{} of another model: {names}", Count(*count, "tensor"))
        }
        AdapterError::Unprocessed { .. } => "as PEFT saves it; run process-lora first".to_owned(),
        AdapterError::Format(FormatError::Shape { name, wanted, found }) => {
            format!("of another size: {found:?} instead of {wanted:?} in {name}")
        }
        other => other.to_string(),
    }
}
