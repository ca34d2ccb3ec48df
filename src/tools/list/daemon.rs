//! What is known of the daemon, for it says which of the engines and adapters are in use.

use std::collections::BTreeMap;
use std::fs::canonicalize;
use std::path::{Path, PathBuf};

/// What the daemon of the configuration says of itself.
#[derive(Debug, Clone, Default)]
pub enum Daemon {
    /// There is no configuration, or this user may not ask.
    #[default]
    Unknown,
    Stopped,
    Serves {
        engine: PathBuf,
        /// Requests under way, by the adapter that they name.
        n_requests: BTreeMap<String, usize>,
    },
}

impl Daemon {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Stopped => "stopped",
            Self::Serves { .. } => "running",
        }
    }

    /// Whether it has this engine open, as far as that is known.
    pub fn serves(&self, directory: &Path) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Stopped => Some(false),
            Self::Serves { engine, .. } => Some(match (canonicalize(engine), canonicalize(directory)) {
                (Ok(served), Ok(this)) => served == this,
                _ => engine == directory,
            }),
        }
    }

    /// Requests under way that name this adapter, as far as that is known.
    pub fn n_requests(&self, adapter: &str) -> Option<usize> {
        match self {
            Self::Unknown => None,
            Self::Stopped => Some(0),
            Self::Serves { n_requests, .. } => Some(n_requests.get(adapter).copied().unwrap_or(0)),
        }
    }
}
