//! The daemon: claims files, keeps the executor busy, brings answers out, until it is told to end.
//!
//! One thread, one loop. While requests run, a step paces it; otherwise it sleeps in poll(2) on the watch and
//! the signals.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::adapters::AdapterPlaces;
use super::engine::{EngineOptions, TextEngine};
use super::error::DaemonError;
use super::executor::Executor;
use super::notify;
use super::queue::Queue;
use super::signals::Signals;
use crate::config::Config;
use crate::spool::{
    Arrival, Claimed, Durability, Fate, Inbox, Job, Opened, Place, Spool, SpoolConfig, SpoolError, Watch,
};
use crate::store::AllowedRoots;

/// With more adapters mapped, those that no request uses are let go without waiting for a quiet moment.
const MANY_ADAPTERS: usize = 64;
/// Scans are not closer than this, whatever the configuration says.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// After trouble with the disk the next try waits this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often STATUS= is renewed while requests run.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How long the daemon is idle before it gives memory back.
const REST_AFTER: Duration = Duration::from_secs(5);

/// Runs the daemon until SIGTERM.
///
/// # Errors
/// [`DaemonError`] when it cannot start, or when going on would harm the spool.
pub fn serve(config_path: &Path, config: Config) -> Result<(), DaemonError> {
    Daemon::start(config_path, config)?.run()
}

struct Daemon {
    config_path: PathBuf,
    config: Config,
    spool: Spool,
    watch: Watch,
    inbox: Inbox,
    signals: Signals,
    executor: Executor,
    queue: Queue,
    /// Claimed, but not opened yet; after a start, what was under way.
    claimed: VecDeque<Claimed>,
    /// Opened, but its start could not be written yet.
    unstarted: Option<Box<Job>>,
    last_scan: Instant,
    /// Why the disk is left alone for a while.
    trouble: Option<(String, Instant)>,
    activity: Activity,
}

/// What the status line tells.
struct Activity {
    n_published: u64,
    n_tokens: u64,
    since: Instant,
    pace: Pace,
    last_work: Instant,
}

/// How busy the daemon is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Busy,
    /// Nothing to do; the memory is kept for the next job.
    Idle,
    /// Idle for a while; what is not needed was given back.
    Resting,
}

impl Daemon {
    fn start(config_path: &Path, config: Config) -> Result<Self, DaemonError> {
        let signals = Signals::install().map_err(DaemonError::system("install signal handlers"))?;
        let (spool, recovery) = Spool::open(&config.spool, spool_config(&config))?;
        if recovery.n_finished + recovery.unfinished.len() + recovery.n_removed > 0 {
            tracing::info!(
                "recovered the spool: {} jobs go on, {} answers were brought out, {} left-overs removed",
                recovery.unfinished.len(),
                recovery.n_finished,
                recovery.n_removed
            );
        }
        let options = EngineOptions {
            directory: config.engine.clone(),
            n_threads: config.threads,
            max_step_rows: config.max_step_rows,
        };
        let mut engine = TextEngine::open(&options).map_err(|error| match error {
            DaemonError::System { .. } => error,
            _ => DaemonError::ConfiguredEngine { source: Box::new(error) },
        })?;
        engine.self_test()?;
        if let Some(directory) = config.adapters.as_ref().filter(|directory| !directory.is_dir()) {
            tracing::warn!("the adapters directory {} is not there (yet)", directory.display());
        }
        let executor = Executor::new(engine, places(&config));
        // The watch first, then the scan: what arrives between the two is seen by both.
        let watch = Watch::new(&spool.path(Place::New))?;
        let mut inbox = Inbox::default();
        inbox.scan(&spool)?;
        let now = Instant::now();
        let activity = Activity { n_published: 0, n_tokens: 0, since: now, pace: Pace::Idle, last_work: now };
        Ok(Self {
            config_path: config_path.to_owned(),
            config,
            spool,
            watch,
            inbox,
            signals,
            executor,
            queue: Queue::default(),
            claimed: recovery.unfinished.into(),
            unstarted: None,
            last_scan: now,
            trouble: None,
            activity,
        })
    }

    fn run(mut self) -> Result<(), DaemonError> {
        tracing::info!(
            "ready: engine {}, spool {}, {} kernels, {} threads",
            self.config.engine.display(),
            self.config.spool.display(),
            self.executor.engine().runner.decoder().backend().kernels().name,
            self.executor.engine().runner.decoder().backend().n_threads()
        );
        self.tell_status();
        notify::ready();
        loop {
            self.signals.drain();
            if self.signals.end_wanted() {
                return self.drain();
            }
            if self.signals.take_reload() {
                self.reload();
            }
            if let Err(error) = self.turn() {
                self.keep_or_end(error)?;
            }
            if self.executor.n_active() == 0 {
                self.wait()?;
            }
        }
    }

    /// One round: what arrived, what may start, one step, what is finished.
    fn turn(&mut self) -> Result<(), SpoolError> {
        let retries = self.trouble.as_ref().is_none_or(|(_, until)| Instant::now() >= *until);
        // What cannot be taken must not keep finished answers from going out.
        let taken = if retries { self.take_arrivals().and_then(|()| self.open_jobs()) } else { Ok(()) };
        self.queue.feed(&mut self.executor);
        self.step();
        if retries {
            let settled = self.settle();
            taken.and(settled)?;
            if self.trouble.take().is_some() {
                tracing::info!("the trouble with the spool is over");
                self.tell_status();
            }
        }
        Ok(())
    }

    fn take_arrivals(&mut self) -> Result<(), SpoolError> {
        for arrival in self.watch.arrivals()? {
            if arrival == Arrival::Lost {
                return Err(SpoolError::Moved { dir: self.spool.path(Place::New) });
            }
            self.inbox.note(&self.spool, &arrival)?;
        }
        if self.queue.has_room() && self.last_scan.elapsed() >= self.scan_interval() {
            self.last_scan = Instant::now();
            self.inbox.scan(&self.spool)?;
        }
        for stranger in self.inbox.take_strangers() {
            tracing::warn!("new/{} is left alone: only names ending in .json are jobs", stranger.display());
        }
        Ok(())
    }

    fn open_jobs(&mut self) -> Result<(), SpoolError> {
        while self.queue.has_room() {
            if let Some(job) = self.unstarted.take() {
                self.start_job(job)?;
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
                        Opened::Job(job) => self.start_job(job)?,
                        Opened::Refused(job, fault) => self.queue.refuse(job, fault),
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
    fn start_job(&mut self, job: Box<Job>) -> Result<(), SpoolError> {
        self.queue.open(job).map_err(|(job, error)| {
            self.unstarted = Some(job);
            error
        })
    }

    fn step(&mut self) {
        if self.executor.n_active() == 0 {
            return;
        }
        if self.activity.pace != Pace::Busy {
            self.activity.pace = Pace::Busy;
            self.tell_status();
        }
        for (ticket, answer) in self.executor.step() {
            self.queue.take(ticket, answer);
        }
        let counts = self.executor.last_step();
        self.activity.n_tokens += (counts.n_prompts_read + counts.n_generating) as u64;
        self.activity.last_work = Instant::now();
        if self.activity.since.elapsed() >= STATUS_EVERY {
            self.tell_status();
        }
    }

    fn settle(&mut self) -> Result<(), SpoolError> {
        for published in self.queue.settle()? {
            self.activity.n_published += 1;
            match published.rejected {
                None => tracing::info!("{}: {} requests answered", published.name, published.n_requests),
                Some(why) => tracing::warn!("{}: rejected: {why}", published.name),
            }
        }
        if self.executor.adapters().n_loaded() > MANY_ADAPTERS {
            self.executor.adapters().sweep();
        }
        Ok(())
    }

    /// Sleeps until a file arrives, a signal comes, or something is due.
    fn wait(&mut self) -> Result<(), DaemonError> {
        let mut timeout = self.scan_interval().saturating_sub(self.last_scan.elapsed());
        // In trouble nobody reads the watch: polling it would return at once, again and again.
        let mut n_fds = 2;
        if let Some((_, until)) = &self.trouble {
            timeout = until.saturating_duration_since(Instant::now());
            n_fds = 1;
        } else if !self.queue.is_empty() || !self.claimed.is_empty() || self.unstarted.is_some() {
            return Ok(());
        }
        if self.activity.pace == Pace::Busy {
            self.activity.pace = Pace::Idle;
            self.tell_status();
        }
        if self.activity.pace == Pace::Idle {
            match REST_AFTER.checked_sub(self.activity.last_work.elapsed()) {
                Some(left) => timeout = timeout.min(left),
                None => {
                    self.executor.rest();
                    self.activity.pace = Pace::Resting;
                }
            }
        }
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.watch.as_fd(), PollFlags::POLLIN),
        ];
        // Rounded up: a timeout of 0 would spin until the next millisecond.
        let milliseconds = u16::try_from(timeout.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds[..n_fds], PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(DaemonError::System { action: "wait for files", source: errno.into() }),
        }
    }

    /// Nothing new starts; what runs may finish within the limit, the rest is left to the next start.
    fn drain(mut self) -> Result<(), DaemonError> {
        notify::stopping();
        let limit = Duration::from_secs(self.config.drain_seconds as u64);
        let begin = Instant::now();
        tracing::info!("ending: {} requests may finish within {limit:?}", self.executor.n_active());
        while self.executor.n_active() > 0 && begin.elapsed() < limit {
            self.step();
            if let Err(error) = self.settle() {
                tracing::error!("{error}; answers that cannot be recorded are computed again");
            }
        }
        let n_left = self.executor.n_active() + self.queue.n_unstarted();
        self.executor.cancel_all();
        self.queue.pause();
        tracing::info!("ended: {n_left} requests are left for the next start");
        Ok(())
    }

    /// Takes the configuration anew; a bad one changes nothing.
    fn reload(&mut self) {
        notify::reloading();
        match Config::read(&self.config_path) {
            Ok(config) => {
                if config.engine != self.config.engine || config.spool != self.config.spool {
                    tracing::warn!("engine and spool are changed by a restart, not by a reload");
                }
                if (config.threads, config.max_step_rows) != (self.config.threads, self.config.max_step_rows)
                {
                    tracing::warn!("threads and max_step_rows are changed by a restart, not by a reload");
                }
                self.spool.set_config(spool_config(&config));
                self.executor.adapters_mut().set_places(places(&config));
                let (engine, spool) = (self.config.engine.clone(), self.config.spool.clone());
                self.config = Config { engine, spool, ..config };
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!("{error}; the old configuration stays"),
        }
        self.last_scan = Instant::now();
        if let Err(error) = self.inbox.scan(&self.spool) {
            tracing::error!("{error}");
        }
        notify::ready();
    }

    fn keep_or_end(&mut self, error: SpoolError) -> Result<(), DaemonError> {
        match error.fate() {
            Fate::Broken => Err(error.into()),
            Fate::Later => {
                let text = error.to_string();
                if self.trouble.as_ref().is_none_or(|(known, _)| *known != text) {
                    tracing::error!("{text}; trying again");
                }
                self.trouble = Some((text, Instant::now() + RETRY_AFTER));
                self.tell_status();
                Ok(())
            }
        }
    }

    fn scan_interval(&self) -> Duration {
        let regular = Duration::from_secs(self.config.scan_seconds as u64);
        self.inbox.scan_in(&self.spool).map_or(regular, |soon| soon.min(regular)).max(SCAN_AT_MOST_EVERY)
    }

    fn tell_status(&mut self) {
        let seconds = self.activity.since.elapsed().as_secs_f64().max(1e-3);
        let (n_active, n_jobs) = (self.executor.n_active(), self.queue.len());
        let speed = self.activity.n_tokens as f64 / seconds;
        let mut text = match (n_active, n_jobs) {
            (0, 0) => "idle".to_owned(),
            _ => format!("{n_active} requests running, {n_jobs} jobs open, {speed:.1} tokens/s"),
        };
        text += &format!(
            "; {} waiting, {} answered, {} adapters mapped",
            self.inbox.n_waiting(),
            self.activity.n_published,
            self.executor.adapters().n_loaded()
        );
        if let Some((trouble, _)) = &self.trouble {
            text = format!("{trouble}; {text}");
        }
        notify::status(&text);
        self.activity.n_tokens = 0;
        self.activity.since = Instant::now();
    }
}

fn places(config: &Config) -> AdapterPlaces {
    AdapterPlaces {
        roots: AllowedRoots::new(config.allowed_roots.clone()),
        directory: config.adapters.clone(),
    }
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
