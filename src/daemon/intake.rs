//! What comes in: the watch and the scans of new/, claims, and the jobs that are to be opened.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::queue::Queue;
use crate::config::Config;
use crate::spool::{
    Arrival, Claimed, Durability, Inbox, Job, Opened, Place, Recovery, Spool, SpoolConfig, SpoolError, Watch,
};

/// Scans are not closer than this, whatever the configuration says.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(100);

/// The spool's side of the daemon, up to the queue.
pub struct Intake {
    spool: Spool,
    watch: Watch,
    inbox: Inbox,
    /// Claimed, but not opened yet; after a start, what was under way.
    claimed: VecDeque<Claimed>,
    /// Opened, but its start could not be written yet.
    unstarted: Option<Box<Job>>,
    last_scan: Instant,
    scan_every: Duration,
}

impl Intake {
    /// Opens and recovers the spool.
    ///
    /// # Errors
    /// [`SpoolError`] when another daemon has it, or it is broken.
    pub fn open(config: &Config) -> Result<Self, SpoolError> {
        let (spool, recovery) = Spool::open(&config.spool, spool_config(config))?;
        tell_recovery(&recovery);
        // The watch first, then the scan: what arrives between the two is seen by both.
        let watch = Watch::new(&spool.path(Place::New))?;
        let mut inbox = Inbox::default();
        inbox.scan(&spool)?;
        Ok(Self {
            spool,
            watch,
            inbox,
            claimed: recovery.unfinished.into(),
            unstarted: None,
            last_scan: Instant::now(),
            scan_every: scan_every(config),
        })
    }

    /// Works by another configuration from now on, and looks at new/ at once.
    ///
    /// # Errors
    /// [`SpoolError`] of the scan.
    pub fn reload(&mut self, config: &Config) -> Result<(), SpoolError> {
        self.spool.set_config(spool_config(config));
        self.scan_every = scan_every(config);
        self.last_scan = Instant::now();
        self.inbox.scan(&self.spool)
    }

    /// Files in new/ that are known of.
    pub fn n_waiting(&self) -> usize {
        self.inbox.n_waiting()
    }

    /// Whether jobs are claimed that the queue does not have yet.
    pub fn has_claimed(&self) -> bool {
        !self.claimed.is_empty() || self.unstarted.is_some()
    }

    /// When the next scan is due, if nothing arrives before.
    pub fn scan_due(&self) -> Duration {
        self.scan_interval().saturating_sub(self.last_scan.elapsed())
    }

    /// Takes up what the watch said, or scans when it is time; then fills the queue.
    ///
    /// # Errors
    /// [`SpoolError`]; what was not done is tried again by the next call.
    pub fn fill(&mut self, queue: &mut Queue) -> Result<(), SpoolError> {
        self.take_arrivals(queue)?;
        self.open_jobs(queue)
    }

    fn take_arrivals(&mut self, queue: &Queue) -> Result<(), SpoolError> {
        for arrival in self.watch.arrivals()? {
            if arrival == Arrival::Lost {
                return Err(SpoolError::Moved { dir: self.spool.path(Place::New) });
            }
            self.inbox.note(&self.spool, &arrival)?;
        }
        if queue.has_room() && self.last_scan.elapsed() >= self.scan_interval() {
            self.last_scan = Instant::now();
            self.inbox.scan(&self.spool)?;
        }
        for stranger in self.inbox.take_strangers() {
            tracing::warn!("new/{} is left alone: only names ending in .json are jobs", stranger.display());
        }
        Ok(())
    }

    fn open_jobs(&mut self, queue: &mut Queue) -> Result<(), SpoolError> {
        while queue.has_room() {
            if let Some(job) = self.unstarted.take() {
                self.start_job(queue, job)?;
                continue;
            }
            if self.claimed.is_empty() && !self.claim_next()? {
                return Ok(());
            }
            let Some(claimed) = self.claimed.front() else { continue };
            match self.spool.open_job(claimed) {
                Ok(opened) => {
                    self.claimed.pop_front();
                    match opened {
                        Opened::Job(job) => self.start_job(queue, job)?,
                        Opened::Refused(job, fault) => queue.refuse(job, fault),
                        Opened::Gone => {}
                    }
                }
                Err(error) => {
                    // The others have their turn before it is tried again.
                    self.claimed.rotate_left(1);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Claims the next file; says whether there may be more to do.
    fn claim_next(&mut self) -> Result<bool, SpoolError> {
        let Some(candidate) = self.inbox.next(&self.spool)? else { return Ok(false) };
        match self.spool.claim(&candidate) {
            Ok(claimed) => self.claimed.extend(claimed),
            // Not a matter of the disk but of this one file: a directory of somebody else, say.
            Err(SpoolError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                tracing::warn!("new/{} cannot be claimed: {source}; left alone", candidate.name().display());
                self.inbox.set_aside(&candidate);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Opens a job; one whose journal cannot be written is kept and tried again as it is.
    fn start_job(&mut self, queue: &mut Queue, job: Box<Job>) -> Result<(), SpoolError> {
        queue.open(job).map_err(|(job, error)| {
            self.unstarted = Some(job);
            error
        })
    }

    fn scan_interval(&self) -> Duration {
        let regular = self.scan_every;
        self.inbox.scan_in(&self.spool).map_or(regular, |soon| soon.min(regular)).max(SCAN_AT_MOST_EVERY)
    }
}

impl AsFd for Intake {
    /// Readable when something arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

fn tell_recovery(recovery: &Recovery) {
    if recovery.n_finished + recovery.unfinished.len() + recovery.n_removed > 0 {
        tracing::info!(
            "recovered the spool: {} jobs go on, {} answers were brought out, {} left-overs removed",
            recovery.unfinished.len(),
            recovery.n_finished,
            recovery.n_removed
        );
    }
}

fn scan_every(config: &Config) -> Duration {
    Duration::from_secs(config.scan_seconds as u64)
}

fn spool_config(config: &Config) -> SpoolConfig {
    SpoolConfig {
        durability: if config.fsync { Durability::Synced } else { Durability::Unsynced },
        max_input_bytes: (config.max_file_mib as u64) << 20,
        settle: Duration::from_millis(config.settle_ms as u64),
        max_attempts: config.max_attempts as u32,
        ..SpoolConfig::default()
    }
}
