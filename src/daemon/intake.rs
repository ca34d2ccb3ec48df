//! What comes in: the watch and the scans of new/, claims, and the jobs that are to be opened.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::queue::Queue;
use crate::answer::Engines;
use crate::config::Config;
use crate::spool::{
    Arrival, Claimed, Durability, Inbox, Job, Keep, Opened, Place, Recovery, Retention, Spool, SpoolConfig,
    SpoolError, Watch, Wish,
};

/// Scans are not closer than this, whatever the configuration says.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

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
    /// Control is to be looked at.
    has_wishes: bool,
    next_prune: Instant,
    /// The queue was full before all was claimed that may be.
    is_held_up: bool,
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
        let watch = Watch::new(&spool.path(Place::New))?.with_control(&spool.path(Place::Control))?;
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
            has_wishes: true,
            next_prune: Instant::now(),
            is_held_up: false,
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

    /// Whether the queue could have more jobs now if it had room.
    pub fn has_more(&self) -> bool {
        self.is_held_up || !self.claimed.is_empty() || self.unstarted.is_some()
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
        self.prune()?;
        self.open_jobs(queue)
    }

    /// Does what operators ask for.
    ///
    /// # Errors
    /// [`SpoolError`]; a wish that was not granted is taken up again by the next scan.
    pub fn grant_wishes(&mut self, queue: &mut Queue, engines: &mut Engines) -> Result<(), SpoolError> {
        if !std::mem::take(&mut self.has_wishes) {
            return Ok(());
        }
        for file in self.spool.wishes()? {
            if let Some(wish) = &file.wish {
                self.grant(wish, queue, engines)?;
            }
            self.spool.end_wish(&file)?;
        }
        Ok(())
    }

    fn grant(&mut self, wish: &Wish, queue: &mut Queue, engines: &mut Engines) -> Result<(), SpoolError> {
        let (Wish::Hold(name) | Wish::Delete(name)) = wish else { return self.inbox.scan(&self.spool) };
        if !self.withdraw(name, queue, engines)? {
            return Ok(());
        }
        let (moved, what) = match wish {
            Wish::Hold(_) => (self.spool.set_aside(name), "held"),
            _ => (self.spool.discard(name), "deleted"),
        };
        self.close(name, moved)?;
        tracing::info!("{}: {what}", name.display());
        Ok(())
    }

    /// Makes sure that nobody here works on a job in work/. False if there is none that can be stopped.
    fn withdraw(
        &mut self,
        name: &OsStr,
        queue: &mut Queue,
        engines: &mut Engines,
    ) -> Result<bool, SpoolError> {
        let n_claimed = self.claimed.len();
        self.claimed.retain(|claimed| claimed.name() != name);
        let was_unstarted = self.unstarted.take_if(|job| job.name() == name).is_some();
        if was_unstarted || self.claimed.len() < n_claimed {
            return Ok(true);
        }
        let withdrawn = queue.withdraw(name, engines);
        self.close(name, withdrawn)
    }

    /// A job that was withdrawn and could not be moved is offered again.
    fn close<T>(&mut self, name: &OsStr, moved: Result<T, SpoolError>) -> Result<T, SpoolError> {
        if moved.is_err() {
            self.claimed.extend(self.spool.claimed(name)?);
        }
        moved
    }

    fn prune(&mut self) -> Result<(), SpoolError> {
        if Instant::now() < self.next_prune {
            return Ok(());
        }
        self.next_prune = Instant::now() + PRUNE_EVERY;
        let n_removed = self.spool.prune()?;
        if n_removed > 0 {
            tracing::info!("{n_removed} old files were removed");
        }
        Ok(())
    }

    fn take_arrivals(&mut self, queue: &Queue) -> Result<(), SpoolError> {
        for arrival in self.watch.arrivals()? {
            if arrival == Arrival::Lost {
                return Err(SpoolError::Moved { dir: self.spool.path(Place::New) });
            }
            self.has_wishes |= arrival == Arrival::Wish;
            self.inbox.note(&self.spool, &arrival)?;
        }
        if queue.has_room() && self.last_scan.elapsed() >= self.scan_interval() {
            self.last_scan = Instant::now();
            self.has_wishes = true;
            self.inbox.scan(&self.spool)?;
        }
        for stranger in self.inbox.take_strangers() {
            tracing::warn!("new/{} is left alone: only names ending in .json are jobs", stranger.display());
        }
        Ok(())
    }

    fn open_jobs(&mut self, queue: &mut Queue) -> Result<(), SpoolError> {
        self.is_held_up = false;
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
        self.is_held_up = true;
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
        if self.is_held_up {
            // There are files enough that may be taken: looking for more of them can wait.
            return regular;
        }
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
        min_free_bytes: (config.min_free_mib as u64) << 20,
        retention: Retention {
            out: keep(config.out_max_days, config.out_max_mib),
            done: keep(config.done_max_days, config.done_max_mib),
            failed: keep(config.failed_max_days, config.failed_max_mib),
        },
        max_attempts: config.max_attempts as u32,
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
