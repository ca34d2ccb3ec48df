//! What all that looks after jobs has in common.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::adapters::Adapters;
use super::counts::Counts;
use super::daemon::Daemon;
use super::files::SpoolFiles;
use super::layout::ACK_WAIT;
use super::names::SpoolName;
use super::publish::Publisher;
use super::settings::BridgeSettings;
use super::table::Table;

/// What the bridge does about the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Pulls while there is room.
    Pulling,
    /// Pulls nothing for now: the disk is in trouble, or the daemon was away a moment ago.
    Pausing,
    /// The daemon ends, or is away: what was not begun goes to others.
    GivingBack,
    /// The daemon is away for long: everything may go to others. What is in the spool is answered all the same
    /// when it comes back.
    Abandoning,
    /// The bridge itself ends.
    Ending,
}

/// One bridge.
pub struct Shared {
    pub settings: BridgeSettings,
    pub publisher: Publisher,
    pub files: SpoolFiles,
    pub daemon: Daemon,
    pub table: Arc<Table>,
    pub counts: Counts,
    pub adapters: Adapters,
    pub mode: watch::Receiver<Mode>,
    /// How long the queue waits for a sign of life, in milliseconds.
    ack_wait_ms: AtomicU64,
    /// Answers that the daemon does not let go, although they are published.
    stuck: Mutex<BTreeSet<OsString>>,
}

impl Shared {
    pub fn new(settings: BridgeSettings, publisher: Publisher, mode: watch::Receiver<Mode>) -> Self {
        Self {
            files: SpoolFiles::of(settings.spool.clone()),
            daemon: Daemon::of(settings.spool.clone()),
            table: Arc::new(Table::default()),
            counts: Counts::default(),
            adapters: Adapters::of(settings.adapters.clone(), settings.max_adapter_bytes),
            ack_wait_ms: AtomicU64::new(0),
            stuck: Mutex::new(BTreeSet::new()),
            settings,
            publisher,
            mode,
        }
    }

    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Waits for a mode of a kind, or for the end of the bridge.
    pub async fn wait_for_mode(&self, is_wanted: fn(Mode) -> bool) -> Mode {
        let mut mode = self.mode.clone();
        let found = mode.wait_for(|mode| is_wanted(*mode)).await;
        found.map_or(Mode::Ending, |mode| *mode)
    }

    /// The queue's consumers say so.
    pub fn set_ack_wait(&self, ack_wait: Duration) {
        self.ack_wait_ms.store(u64::try_from(ack_wait.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    fn ack_wait(&self) -> Duration {
        match self.ack_wait_ms.load(Ordering::Relaxed) {
            0 => ACK_WAIT,
            ms => Duration::from_millis(ms),
        }
    }

    /// How often the queue hears that a job is still worked on.
    pub fn progress_every(&self) -> Duration {
        self.ack_wait() / 3
    }

    /// After how long another device may have a job that is given back.
    pub fn later(&self) -> Duration {
        self.ack_wait().min(ACK_WAIT)
    }

    /// An answer stays in out/; the first time it is told.
    pub fn note_stuck(&self, file: OsString, reason: &str) {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.is_empty() {
            tracing::warn!("{}: published, but it stays in out/: {reason}", file.display());
        }
        stuck.insert(file);
    }

    pub fn is_stuck(&self, file: &OsString) -> bool {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).contains(file)
    }
}

/// What a job is called in the log.
pub fn told(name: &SpoolName) -> String {
    format!("job {} of {}", name.key, name.model)
}
