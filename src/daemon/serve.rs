//! The daemon: claims files, keeps the executor busy, brings answers out, until it is told to end.
//!
//! One thread, one loop. While requests run, a step paces it; otherwise it sleeps in poll(2) on the watch and
//! the signals.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::activity::{Activity, Situation};
use super::error::DaemonError;
use super::intake::Intake;
use super::message;
use super::notify::Manager;
use super::queue::Queue;
use super::relief::Relief;
use super::signals::Signals;
use crate::answer::{AdapterPlaces, AnswerError, EngineOptions, Engines, Renewal, Usage, mib};
use crate::config::{Config, PressureSettings, ServiceSettings};
use crate::spool::report::Report;
use crate::spool::{Fate, SpoolError};
use crate::store::AllowedRoots;

/// With more adapters mapped, those that no request uses are let go without waiting for a quiet moment.
const MANY_ADAPTERS: usize = 64;
/// After trouble with the disk the next try waits this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Opening the spool and the engine, and trying it, may take so long on a cold disk.
const LOADING: Duration = Duration::from_secs(300);
/// A step of the drain, and writing what is left, may take so long each.
const DRAIN_STEP: Duration = Duration::from_secs(30);

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
    intake: Intake,
    signals: Signals,
    engines: Engines,
    manager: Manager,
    queue: Queue,
    /// Why the disk is left alone for a while.
    trouble: Option<(String, Instant)>,
    activity: Activity,
    pace: Pace,
    relief: Relief,
}

/// How busy the daemon is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Busy,
    Idle,
}

impl Daemon {
    fn start(config_path: &Path, config: Config) -> Result<Self, DaemonError> {
        let signals = Signals::install().map_err(DaemonError::system("install signal handlers"))?;
        let mut manager = Manager::new(&ServiceSettings::from_environment());
        manager.extend_timeout(LOADING);
        manager.status("opening the spool and the engine");
        let intake = Intake::open(&config)?;
        let engines = Engines::open(engine_options(&config), places(&config)).map_err(configured)?;
        if let Some(directory) = config.adapters.as_ref().filter(|directory| !directory.is_dir()) {
            tracing::warn!("the adapters directory {} is not there (yet)", directory.display());
        }
        let relief = Relief::new(&PressureSettings::from_environment(), &config);
        Ok(Self {
            config_path: config_path.to_owned(),
            config,
            intake,
            signals,
            engines,
            manager,
            queue: Queue::default(),
            trouble: None,
            activity: Activity::new(),
            pace: Pace::Idle,
            relief,
        })
    }

    fn run(mut self) -> Result<(), DaemonError> {
        self.tell_memory();
        self.tell_status();
        tracing::info!(
            message_id = message::READY,
            "ready: engine {}, spool {}, {} kernels, {} threads",
            self.config.engine.display(),
            self.config.spool.display(),
            self.engines.current().engine().runner.decoder().backend().kernels().name,
            self.engines.current().engine().runner.decoder().backend().n_threads()
        );
        self.manager.ready();
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
            self.manager.turned();
            let is_idle = self.engines.n_active() == 0;
            self.relief.answer_pressure(self.engines.current_mut(), is_idle);
            if is_idle {
                self.wait()?;
            }
        }
    }

    /// One round: what arrived, what may start, one step, what is finished.
    fn turn(&mut self) -> Result<(), SpoolError> {
        let retries = self.trouble.as_ref().is_none_or(|(_, until)| Instant::now() >= *until);
        // What cannot be taken must not keep finished answers from going out.
        let taken = if retries { self.take_in() } else { Ok(()) };
        self.queue.feed(self.engines.current_mut());
        self.step();
        if retries {
            let settled = self.settle();
            taken.and(settled)?;
            if self.trouble.take().is_some() {
                tracing::info!(message_id = message::SPOOL_WELL, "the trouble with the spool is over");
                self.activity.owe();
            }
        }
        Ok(())
    }

    fn take_in(&mut self) -> Result<(), SpoolError> {
        self.intake.grant_wishes(&mut self.queue, &mut self.engines)?;
        self.intake.fill(&mut self.queue)
    }

    fn step(&mut self) {
        if self.engines.n_active() == 0 {
            return;
        }
        if self.pace != Pace::Busy {
            self.pace = Pace::Busy;
            self.activity.owe();
        }
        // Before the step: what is about to run is what runs.
        if self.activity.due_in(true) == Some(Duration::ZERO) {
            self.tell_status();
        }
        for (ticket, answer) in self.engines.step() {
            self.queue.take(ticket, answer);
        }
        let counts = self.engines.last_step();
        self.activity.count_tokens(counts.n_prompt_tokens, counts.n_prompts_read + counts.n_generating);
        self.relief.note_work();
    }

    fn settle(&mut self) -> Result<(), SpoolError> {
        let published = self.queue.settle()?;
        let is_news = !published.is_empty();
        for published in published {
            self.activity.count_published(&published);
            match published.rejected {
                None => tracing::info!(
                    message_id = message::JOB_ANSWERED,
                    job_id = published.id,
                    job_name = published.name,
                    "{}: {} requests answered, {} of them with an error",
                    published.name,
                    published.n_requests,
                    published.n_failed
                ),
                Some(why) => tracing::warn!(
                    message_id = message::JOB_REJECTED,
                    job_id = published.id,
                    job_name = published.name,
                    "{}: rejected: {why}",
                    published.name
                ),
            }
        }
        if is_news {
            self.activity.owe();
        }
        let adapters = self.engines.current().adapters();
        if adapters.n_loaded() > MANY_ADAPTERS {
            adapters.sweep();
        }
        Ok(())
    }

    /// Sleeps until a file arrives, a signal comes, or something is due.
    fn wait(&mut self) -> Result<(), DaemonError> {
        let mut timeout = self.intake.scan_due();
        if let Some((_, until)) = &self.trouble {
            timeout = until.saturating_duration_since(Instant::now());
        } else if !self.queue.is_empty() || self.intake.has_more() {
            return Ok(());
        }
        if self.pace == Pace::Busy {
            self.pace = Pace::Idle;
            self.activity.owe();
        }
        if let Some(due) = self.relief.idle(self.engines.current_mut()) {
            timeout = timeout.min(due);
        }
        match self.activity.due_in(false) {
            Some(Duration::ZERO) => self.tell_status(),
            Some(due) => timeout = timeout.min(due),
            None => {}
        }
        timeout = self.manager.patience().map_or(timeout, |patience| patience.min(timeout));
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.relief.poll_fd());
        // In trouble nobody reads the watch: polling it would return at once, again and again.
        if self.trouble.is_none() {
            fds.push(PollFd::new(self.intake.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up: a timeout of 0 would spin until the next millisecond.
        let milliseconds = u16::try_from(timeout.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(DaemonError::System { action: "wait for files", source: errno.into() }),
        }
    }

    /// Nothing new starts; what runs may finish within the limit, the rest is left to the next start.
    fn drain(mut self) -> Result<(), DaemonError> {
        self.manager.stopping();
        self.tell_status();
        let limit = Duration::from_secs(self.config.drain_seconds as u64);
        let begin = Instant::now();
        tracing::info!("ending: {} requests may finish within {limit:?}", self.engines.n_active());
        while self.engines.n_active() > 0 && begin.elapsed() < limit {
            self.manager.extend_timeout(DRAIN_STEP);
            self.step();
            self.manager.turned();
            if let Err(error) = self.settle() {
                tracing::error!("{error}; answers that cannot be recorded are computed again");
            }
        }
        let n_left = self.engines.n_active() + self.queue.n_unstarted();
        self.engines.cancel_all();
        self.queue.pause();
        self.tell_status();
        Report::remove(&self.config.spool);
        tracing::info!(message_id = message::ENDED, "ended: {n_left} requests are left for the next start");
        Ok(())
    }

    /// Takes the configuration anew; a bad one changes nothing.
    fn reload(&mut self) {
        self.manager.reloading();
        match Config::read(&self.config_path) {
            Ok(config) => {
                if config.spool != self.config.spool {
                    tracing::warn!("the spool is changed by a restart, not by a reload");
                }
                self.config = Config { spool: self.config.spool.clone(), ..config };
                self.relief.reload(&self.config);
                self.renew_engine();
                tracing::info!(message_id = message::RELOADED, "configuration reloaded");
            }
            Err(error) => {
                let text = format!("{error}; the old configuration stays");
                self.tell_error(Some(message::RELOAD_REFUSED), text);
            }
        }
        if let Err(error) = self.intake.reload(&self.config) {
            self.tell_error(None, error.to_string());
        }
        self.tell_status();
        self.manager.ready();
    }

    /// Opens the engine that the configuration names, if it is another one now.
    fn renew_engine(&mut self) {
        match self.engines.renew(engine_options(&self.config), places(&self.config)) {
            Ok(Renewal::Same) => {}
            Ok(Renewal::Replaced { n_left }) => {
                let engine = self.config.engine.display();
                tracing::info!("new engine {engine}; {n_left} requests end on the old one");
                self.relief.note_work();
                self.tell_memory();
            }
            Err(error) => {
                self.tell_error(None, format!("the new engine cannot be used: {error}; the old one stays"))
            }
        }
    }

    fn keep_or_end(&mut self, error: SpoolError) -> Result<(), DaemonError> {
        match error.fate() {
            Fate::Broken => Err(error.into()),
            Fate::Later => {
                let text = error.to_string();
                if self.trouble.as_ref().is_none_or(|(known, _)| *known != text) {
                    self.tell_error(Some(message::SPOOL_TROUBLE), format!("{text}; trying again"));
                }
                self.trouble = Some((text, Instant::now() + RETRY_AFTER));
                self.activity.owe();
                Ok(())
            }
        }
    }

    fn tell_error(&mut self, message_id: Option<&str>, message: String) {
        tracing::error!(message_id, "{message}");
        self.activity.note_error(message);
    }

    fn tell_memory(&self) {
        let kv = self.engines.current().kv_memory();
        match Usage::read() {
            Ok(usage) => tracing::info!(
                "memory: {}; keys and values take {} and may take {}",
                usage.in_words(),
                mib(kv.committed),
                mib(kv.capacity)
            ),
            Err(error) => tracing::info!("memory in use is not known: {error}"),
        }
    }

    fn tell_status(&mut self) {
        let situation = Situation {
            config: &self.config,
            engines: &self.engines,
            queue: &self.queue,
            intake: &self.intake,
            trouble: self.trouble.as_ref().map(|(text, _)| text.as_str()),
            is_stopping: self.signals.end_wanted(),
        };
        self.activity.tell(&mut self.manager, &situation);
    }
}

/// Why the engine that the configuration names cannot be used: a restart would not help.
fn configured(source: AnswerError) -> DaemonError {
    match source {
        AnswerError::System { .. } | AnswerError::Memory { .. } => source.into(),
        _ => DaemonError::ConfiguredEngine { source },
    }
}

fn engine_options(config: &Config) -> EngineOptions {
    EngineOptions {
        directory: config.engine.clone(),
        n_threads: config.threads,
        max_step_rows: config.max_step_rows,
        max_memory: (config.memory_mib > 0).then_some((config.memory_mib as u64) << 20),
    }
}

fn places(config: &Config) -> AdapterPlaces {
    AdapterPlaces {
        roots: AllowedRoots::new(config.allowed_roots.clone()),
        directory: config.adapters.clone(),
    }
}
