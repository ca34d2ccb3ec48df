//! The engines of some directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::daemon::Daemon;
use crate::numbers::architecture::Architecture;
use crate::store::{DirectoryKind, Engine};
use crate::tools::ToolError;

/// Where the engines of further daemons are, beside that of the first.
const ENGINES_DIRECTORY: &str = "engines";

/// An engine, or what is wrong with it.
#[derive(Debug, Clone, Serialize)]
pub struct EngineEntry {
    /// That of its directory.
    pub name: String,
    pub path: String,
    #[serde(flatten)]
    pub facts: Option<EngineFacts>,
    /// Whether the daemon has it open; none if that is not known.
    pub served: Option<bool>,
    pub error: Option<String>,
}

/// What an engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineFacts {
    pub family: &'static str,
    pub precision: &'static str,
    /// Of all its files.
    pub n_bytes: u64,
    pub max_batch_size: usize,
    pub max_input_len: usize,
    pub max_kv_cache_capacity: usize,
    pub max_lora_rank: usize,
}

/// An engine with what adapters must fit.
pub type Listed = (EngineEntry, Option<Architecture>);

/// The configured engine and those beside it, and those that are named; each once, the configured one first. A named
/// directory that is no engine stands for the engines in it.
pub fn paths(named: &[PathBuf], configured: Option<&Path>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Some(engine) = configured {
        paths.push(engine.to_owned());
        let beside = engine.parent().unwrap_or(engine);
        paths.extend(engines_in(beside));
        paths.extend(engines_in(&beside.join(ENGINES_DIRECTORY)));
    }
    for directory in named {
        let inside = engines_in(directory);
        if is_engine(directory) || inside.is_empty() {
            paths.push(directory.clone());
        } else {
            paths.extend(inside);
        }
    }
    let mut seen = BTreeSet::new();
    paths.retain(|path| seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    paths
}

fn is_engine(directory: &Path) -> bool {
    DirectoryKind::of(directory) == DirectoryKind::Engine
}

fn engines_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_engine(path)).collect();
    paths.sort();
    paths
}

/// Opens an engine; its bulk is not read.
pub fn read(directory: &Path, daemon: &Daemon) -> (Listed, Option<ToolError>) {
    let (found, error) = match Engine::open(directory) {
        Ok(engine) => (Some(engine.config), None),
        Err(error) => (None, Some(ToolError::from(error))),
    };
    let absolute = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let entry = EngineEntry {
        name: absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned(),
        path: directory.to_string_lossy().into_owned(),
        facts: found.as_ref().map(|config| EngineFacts {
            family: config.architecture.family.name(),
            precision: config.precision.name(),
            n_bytes: n_bytes(directory),
            max_batch_size: config.limits.max_batch_size,
            max_input_len: config.limits.max_input_len,
            max_kv_cache_capacity: config.limits.max_kv_cache_capacity,
            max_lora_rank: config.limits.max_lora_rank,
        }),
        served: daemon.serves(directory),
        error: error.as_ref().map(ToString::to_string),
    };
    ((entry, found.map(|config| config.architecture)), error)
}

fn n_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    files.map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_found_beside_the_configured_one_and_in_what_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for engine in ["engine", "other", "engines/b", "engines/a", "far/c"] {
            fs::create_dir_all(root.join(engine)).unwrap();
            fs::write(root.join(engine).join("llm.engine"), "").unwrap();
        }
        fs::create_dir_all(root.join("adapters")).unwrap();
        let found = |named: &[&str], configured: Option<&str>| {
            let named: Vec<PathBuf> = named.iter().map(|name| root.join(name)).collect();
            let paths = paths(&named, configured.map(|name| root.join(name)).as_deref());
            let names = paths.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(&[], Some("engine")), "engine other engines/a engines/b");
        assert_eq!(
            found(&["far", "other/../other"], Some("engine")),
            "engine other engines/a engines/b far/c"
        );
        assert_eq!(found(&["engines/b", "engines"], None), "engines/b engines/a");
        assert_eq!(found(&["adapters", "nowhere"], None), "adapters nowhere");
    }
}
