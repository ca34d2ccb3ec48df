//! All that was found. What is broken is listed with what is wrong with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::adapters::{self, AdapterEntry};
use super::daemon::Daemon;
use super::engines::{self, EngineEntry};
use crate::tools::ToolError;

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Engines, or directories of engines.
    pub named: Vec<PathBuf>,
    /// The configuration's engine. Those beside it are listed too.
    pub configured: Option<PathBuf>,
    /// The adapters directory.
    pub adapters: Option<PathBuf>,
    pub daemon: Daemon,
    /// When requests that name an adapter were answered last, in seconds since 1970, by its name.
    pub last_use: BTreeMap<String, u64>,
}

/// Engines and adapters by name.
#[derive(Debug, Serialize)]
pub struct Listing {
    pub daemon: &'static str,
    pub engines: Vec<EngineEntry>,
    pub adapters_directory: Option<String>,
    pub adapters: Vec<AdapterEntry>,
    /// Why an engine that was named, or the adapters directory, cannot be read.
    #[serde(skip)]
    pub fault: Option<ToolError>,
}

/// Looks at every engine and adapter, and whether they fit each other.
pub fn list(options: &ListOptions) -> Listing {
    let mut fault = None;
    let mut engines = Vec::new();
    for path in engines::paths(&options.named, options.configured.as_deref()) {
        let is_named = options.named.contains(&path);
        let (engine, error) = engines::read(&path, &options.daemon);
        engines.push(engine);
        fault = fault.or(error.filter(|_| is_named));
    }
    let mut adapters = Vec::new();
    if let Some(directory) = &options.adapters {
        match adapters::read(directory, &engines, &options.daemon, &options.last_use) {
            Ok(found) => adapters = found,
            Err(error) => fault = fault.or(Some(error)),
        }
    }
    Listing {
        daemon: options.daemon.name(),
        engines: engines.into_iter().map(|(entry, _)| entry).collect(),
        adapters_directory: options.adapters.as_ref().map(|path| path.to_string_lossy().into_owned()),
        adapters,
        fault,
    }
}
