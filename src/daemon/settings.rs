//! What the rooms are told of the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::error::DaemonError;
use super::prepare::TextSource;
use crate::answer::{EngineFacts, Launch};
use crate::config::Config;
use crate::spool::name::MAX_NAME_BYTES;
use crate::spool::{Durability, InboxConfig, Keep, Retention, SpoolConfig, clock};

/// Where the texts of an engine are worked on.
///
/// # Errors
/// [`DaemonError`] when this program cannot be started again.
pub fn text_source(config: &Config, engine: &EngineFacts) -> Result<TextSource, DaemonError> {
    let launch = Launch::own_program().map_err(DaemonError::system("find this program"))?;
    let (directory, max_input_len) = (config.engine.clone(), engine.max_input_len);
    Ok(TextSource { directory, max_input_len, launch, guides: Arc::clone(&engine.guides) })
}

pub fn scan_every(config: &Config) -> Duration {
    Duration::from_secs(config.scan_seconds as u64)
}

pub fn unload_after(config: &Config) -> Option<Duration> {
    (config.idle_unload_seconds > 0).then(|| Duration::from_secs(config.idle_unload_seconds as u64))
}

pub fn inbox_config(config: &Config) -> InboxConfig {
    InboxConfig {
        max_input_bytes: (config.max_file_mib as u64) << 20,
        settle: Duration::from_millis(config.settle_ms as u64),
        max_name_bytes: MAX_NAME_BYTES,
    }
}

pub fn spool_config(config: &Config) -> SpoolConfig {
    SpoolConfig {
        durability: if config.fsync { Durability::Synced } else { Durability::Unsynced },
        max_input_bytes: (config.max_file_mib as u64) << 20,
        min_free_bytes: (config.min_free_mib as u64) << 20,
        retention: Retention {
            out: keep(config.out_max_days, config.out_max_mib),
            done: keep(config.done_max_days, config.done_max_mib),
            failed: keep(config.failed_max_days, config.failed_max_mib),
        },
        boot_id: clock::boot_id(),
    }
}

/// 0 sets no limit.
fn keep(days: usize, mib: usize) -> Keep {
    let (days, mib) = (days as u64, mib as u64);
    Keep {
        at_most: (days > 0).then(|| Duration::from_secs(days * 86_400)),
        max_bytes: (mib > 0).then_some(mib << 20),
    }
}
