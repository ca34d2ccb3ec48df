//! What a running daemon tells about itself, as `status.json` in the spool: `status` and other programs read it.
//!
//! It is a view, not a record: written whole and renamed into place, never synced, removed at the end.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Changes when a field changes its meaning or goes.
pub const REPORT_VERSION: u32 = 1;
/// The file's name in the spool.
pub const REPORT_FILE: &str = "status.json";

/// A daemon at one moment. Times are seconds since 1970, sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub version: u32,
    pub state: State,
    pub pid: u32,
    /// When the daemon was ready.
    pub started: f64,
    pub written: f64,
    pub engine: EngineReport,
    pub queue: QueueReport,
    pub speed: Speed,
    pub totals: Totals,
    /// Adapters of requests under way, by name.
    pub adapters: Vec<AdapterReport>,
    /// Adapter files that are mapped, used or not.
    pub n_adapters_mapped: usize,
    pub memory: MemoryReport,
    /// Why the disk is left alone for a while.
    pub trouble: Option<String>,
    /// The latest errors, oldest first.
    pub errors: Vec<ErrorReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Idle,
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineReport {
    pub directory: PathBuf,
    pub precision: String,
    /// Requests that run at once.
    pub max_batch_size: usize,
    pub max_lora_rank: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueReport {
    /// Files in new/ that are known of.
    pub n_waiting: usize,
    /// Jobs under way, as far as [`QueueReport::jobs`] does not list them too.
    pub n_open: usize,
    /// Requests that run.
    pub n_running: usize,
    /// The first jobs under way, in the order they were taken.
    pub jobs: Vec<JobReport>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    pub name: String,
    pub priority: i32,
    pub n_requests: usize,
    pub n_answered: usize,
    pub n_unstarted: usize,
}

/// Tokens per second since the report before.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Speed {
    pub prompt: f64,
    pub generated: f64,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    pub files_answered: u64,
    pub files_rejected: u64,
    pub requests_answered: u64,
    pub requests_failed: u64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub errors: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterReport {
    pub name: String,
    pub n_requests: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Pages of files: weights, adapters. The system takes them back when it needs them.
    pub file_backed: u64,
    /// Pages of this process alone, keys and values among them.
    pub anonymous: u64,
    pub swap: u64,
    /// Keys and values of requests under way.
    pub kv_in_use: u64,
    /// Keys and values: taken from the system.
    pub kv_committed: u64,
    pub kv_capacity: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    pub time: f64,
    pub message: String,
}

impl Report {
    /// The report of the spool at `root`; none if there is none that this version understands.
    pub fn read(root: &Path) -> Option<Self> {
        let bytes = std::fs::read(root.join(REPORT_FILE)).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|report| report.version == REPORT_VERSION)
    }

    /// Puts the report into the spool at `root`.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).map_err(io::Error::other)?;
        replace(&root.join(REPORT_FILE), &json)
    }

    /// Takes the report away; one that is missing is as good.
    pub fn remove(root: &Path) {
        let _ = std::fs::remove_file(root.join(REPORT_FILE));
    }
}

/// Writes a file that readers see whole or not at all, without waiting for the disk.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = path.with_file_name(part);
    // Not a file that somebody else put there, nor through a link of his.
    let _ = std::fs::remove_file(&part);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
    let mut file = options.open(&part)?;
    // Whatever the umask: the collector and people of other groups read it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    io::Write::write_all(&mut file, bytes)?;
    std::fs::rename(&part, path)
}
