//! How a spool is worked on.

use std::time::Duration;

use super::clock;

/// Whether changes reach the disk before the next step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A power cut loses nothing.
    #[default]
    Synced,
    /// Only the program may crash, not the machine: no fsync at all.
    Unsynced,
}

/// How long files of a place are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Since the file came to the place; none keeps it for ever.
    pub at_most: Option<Duration>,
    /// Bytes of all files of the place; none sets no limit.
    pub max_bytes: Option<u64>,
}

/// What is kept where. The default keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub out: Keep,
    pub done: Keep,
    pub failed: Keep,
}

/// What a daemon is told about its spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    pub durability: Durability,
    /// Largest request file.
    pub max_input_bytes: u64,
    /// Bytes that must be free before a job is taken.
    pub min_free_bytes: u64,
    /// What is removed when it is old.
    pub retention: Retention,
    /// The start of the machine; crashes before another one are nobody's fault.
    pub boot_id: String,
}

/// The same as the defaults of the configuration file.
impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            max_input_bytes: 64 << 20,
            min_free_bytes: 64 << 20,
            retention: Retention::default(),
            boot_id: clock::boot_id(),
        }
    }
}
