//! The loop: one thread that waits for everything and does nothing itself. Whatever takes time is sent to the
//! thread whose work it is, and comes back as an event.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::activity::{self, Activity, Situation};
use super::compute::Compute;
use super::error::DaemonError;
use super::event::{ComputeState, Event, Events};
use super::followers::Followers;
use super::jobs::Jobs;
use super::link::Link;
use super::marking::Marking;
use super::message;
use super::prepare::Lanes;
use super::pressure::Pressure;
use super::progress::Progress;
use super::scout::Look;
use super::totals;
use super::writer::{Save, Write};
use crate::answer::{EngineFacts, Usage, mib};
use crate::config::{Config, PressureSettings};
use crate::count::Count;
use crate::service::{Manager, Signals};
use crate::spool::control::Reply;
use crate::spool::report::{EngineReport, Report};
use crate::spool::{LastUse, Order, Recovery, SpoolError, Watch};

/// Changes are told no more often than this: small jobs come and go by the thousand.
const TELL_AT_MOST_EVERY: Duration = Duration::from_millis(200);
/// How often it is told while requests run.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often totals and metrics are written while they change.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// The loop looks around this often while it has something to do.
const TURN_EVERY: Duration = Duration::from_millis(500);
/// Suspects that have ended the daemon before let others go first for so long.
const SUSPECTS_WAIT: Duration = Duration::from_secs(60);
/// A step of the drain, and writing what is left, may take so long each.
const DRAIN_STEP: Duration = Duration::from_secs(30);

/// The threads, and how to reach them.
pub struct Threads {
    pub scout: Link<Look>,
    pub writer: Link<Write>,
    pub compute: Link<Compute>,
    pub progress: Progress,
}

/// What the loop begins with.
pub struct Parts {
    pub config_path: PathBuf,
    pub config: Config,
    pub threads: Threads,
    pub events: Events,
    pub manager: Manager,
    pub recovery: Recovery,
    pub engine: EngineFacts,
    pub compute: ComputeState,
    pub lanes: Lanes,
}

/// An engine whose files changed under it.
pub struct Broken {
    /// Why it cannot be opened, or what was seen.
    pub why: String,
    /// When it is tried again.
    pub retry: Instant,
}

pub struct MainLoop {
    pub(super) config_path: PathBuf,
    pub(super) config: Config,
    pub(super) threads: Threads,
    pub(super) events: Events,
    pub(super) manager: Manager,
    pub(super) jobs: Jobs,
    pub(super) lanes: Lanes,
    pub(super) followers: Followers,
    pub(super) activity: Activity,
    pub(super) engine: EngineFacts,
    pub(super) compute: ComputeState,
    /// Prepared requests whose mark is being written.
    pub(super) marking: VecDeque<Marking>,
    /// What the scout may still send, and of which owners not.
    pub(super) asked: (usize, Vec<u32>),
    /// Candidates that the writer claims.
    pub(super) n_claiming: usize,
    pub(super) n_waiting: usize,
    pub(super) n_partial: usize,
    /// The scout works on what the watch said.
    pub(super) is_scout_busy: bool,
    /// The disk refuses something.
    pub(super) trouble: Option<String>,
    /// Who waits until new/ was looked at.
    pub(super) flushing: Vec<oneshot::Sender<Reply>>,
    /// An engine is being opened.
    pub(super) is_renewing: bool,
    /// The engine's files are broken: nothing starts until it can be opened anew.
    pub(super) broken: Option<Broken>,
    /// The processor waits for work in the GPU's place.
    pub(super) is_asleep: bool,
    /// The GPU failed: what is opened from now on computes on the processor.
    pub(super) is_gpu_lost: bool,
    pub(super) is_ending: bool,
    /// What it ends with, if it does not end because it was asked to.
    pub(super) ends_with: Option<DaemonError>,
    /// Nothing more is to be written.
    is_written: bool,
    /// There is a change to tell.
    pub(super) is_news: bool,
    told: Instant,
    saved: Instant,
    started: Instant,
}

impl MainLoop {
    pub fn new(parts: Parts) -> Self {
        let Parts { config_path, config, threads, events, manager, recovery, engine, compute, lanes } = parts;
        let now = Instant::now();
        tell_recovery(&recovery);
        let mut followers = Followers::default();
        for job in &recovery.unfinished {
            followers.note_job(job.id, &job.name, None);
        }
        let max_crashes = u32::try_from(config.max_attempts).unwrap_or(u32::MAX);
        Self {
            config_path,
            lanes,
            activity: Activity::new(totals::read(&config.spool), LastUse::read(&config.spool)),
            jobs: Jobs::new(recovery.unfinished, max_crashes),
            config,
            threads,
            events,
            manager,
            followers,
            engine,
            compute,
            marking: VecDeque::new(),
            asked: (0, Vec::new()),
            n_claiming: 0,
            n_waiting: 0,
            n_partial: 0,
            is_scout_busy: false,
            trouble: None,
            flushing: Vec::new(),
            is_renewing: false,
            broken: None,
            is_asleep: false,
            is_gpu_lost: false,
            is_ending: false,
            ends_with: None,
            is_written: false,
            is_news: true,
            told: now - TELL_EVERY,
            saved: now - SAVE_EVERY,
            started: now,
        }
    }

    /// Runs until SIGTERM has been answered.
    pub async fn run(
        mut self,
        mut events: Receiver<Event>,
        signals: Signals,
        watch: Watch,
    ) -> Result<(), DaemonError> {
        let mut signals =
            watched(signals, Interest::READABLE).map_err(DaemonError::system("watch signals"))?;
        let watch = watched(watch, Interest::READABLE).map_err(DaemonError::system("watch new/"))?;
        let mut pressure = pressure();
        self.tell_ready();
        let mut deadline = None;
        loop {
            self.turn();
            if self.is_ending {
                let deadline = *deadline.get_or_insert_with(|| self.begin_drain());
                if self.is_drained(deadline) {
                    let reason = self.ends_with.take();
                    self.finish(&mut events).await?;
                    return reason.map_or(Ok(()), Err);
                }
            }
            tokio::select! {
                event = events.recv() => {
                    if let Some(event) = event {
                        self.take(event)?;
                    }
                    // What has come meanwhile is taken before anybody looks around.
                    while let Ok(event) = events.try_recv() {
                        self.take(event)?;
                    }
                }
                ready = signals.readable_mut() => {
                    let mut ready = ready.map_err(DaemonError::system("wait for signals"))?;
                    ready.clear_ready();
                    let signals = ready.get_inner_mut();
                    signals.drain();
                    self.is_ending |= signals.end_wanted();
                    if signals.take_reload() {
                        self.reload();
                    }
                }
                ready = watch.readable(), if !self.is_scout_busy && !self.is_ending => {
                    let mut ready = ready.map_err(DaemonError::system("wait for files"))?;
                    ready.clear_ready();
                    let arrivals = watch.get_ref().arrivals()?;
                    self.arrived(arrivals)?;
                }
                // The kernel's word is priority data: nothing of it is read.
                is_event = pressed(&mut pressure) => {
                    if is_event {
                        self.threads.compute.send(Compute::Pressure);
                    }
                }
                () = tokio::time::sleep(self.pause()) => {}
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), DaemonError> {
        match event {
            Event::Seen(seen) => self.seen(seen),
            Event::ScoutFailed(error) => {
                self.is_scout_busy = false;
                self.in_trouble(&error)?;
            }
            Event::Written(written) => return self.written(written),
            Event::Read(read) => self.read(read),
            Event::Slow(job, index) => self.jobs.set_slow(job, index, true),
            Event::Prepared(prepared) => self.prepared(prepared),
            Event::Computed(computed) => self.computed(computed),
            Event::Opened(why, engine) => self.engine_opened(why, *engine),
            Event::Asked(asked) => self.asked_for(asked),
        }
        Ok(())
    }

    /// What is due after every event.
    fn turn(&mut self) {
        if !self.is_ending {
            if self.started.elapsed() >= SUSPECTS_WAIT {
                self.jobs.stop_waiting_for_suspects();
            }
            self.mend_engine();
            self.sleep_or_wake();
            self.open_jobs();
            self.feed();
            self.ask_scout();
        }
        let is_busy = self.is_busy();
        for result in [self.threads.scout.flush(), self.threads.writer.flush(), self.threads.compute.flush()]
        {
            // A thread that has ended has told why, or the process ends with it.
            let () = result;
        }
        let progress = self.threads.progress.total();
        self.manager.turned((self.compute.n_active > 0).then_some(progress));
        let every = if self.is_news { TELL_AT_MOST_EVERY } else { TELL_EVERY };
        if (self.is_news || is_busy) && self.told.elapsed() >= every {
            self.tell();
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.compute.n_active > 0 || !self.jobs.is_empty() || self.n_claiming > 0
    }

    /// How long the loop may sleep when nothing happens.
    fn pause(&self) -> Duration {
        let mut pauses: Vec<Duration> = self.manager.due_in().into_iter().collect();
        if self.is_busy() || self.is_ending || self.broken.is_some() {
            pauses.push(TURN_EVERY);
        }
        if self.is_news {
            pauses.push(TELL_AT_MOST_EVERY.saturating_sub(self.told.elapsed()));
        }
        let pause = pauses.into_iter().min().unwrap_or(Duration::from_secs(3600));
        pause.max(Duration::from_millis(1))
    }

    /// The daemon at this moment.
    pub(super) fn report(&mut self, n_jobs: usize) -> Report {
        let mut jobs = self.jobs.report();
        jobs.truncate(n_jobs);
        self.activity.report(Situation {
            engine: EngineReport {
                directory: self.config.engine.clone(),
                precision: self.engine.precision.to_owned(),
                max_batch_size: self.engine.max_batch_size,
                max_lora_rank: self.engine.max_lora_rank,
                device: self.engine.device.to_owned(),
                kernels: self.engine.kernels.clone(),
            },
            compute: &self.compute,
            n_waiting: self.n_waiting,
            n_partial: self.n_partial,
            n_open: self.jobs.len(),
            requests: self.jobs.counts(),
            jobs,
            trouble: self.trouble.as_deref().or(self.broken.as_ref().map(|broken| broken.why.as_str())),
            is_stopping: self.is_ending,
        })
    }

    fn tell(&mut self) {
        let report = self.report(0);
        self.manager.status(&activity::status_line(&report));
        self.told = Instant::now();
        let is_quiet = !self.is_busy();
        if self.is_news && (is_quiet || self.saved.elapsed() >= SAVE_EVERY) {
            self.save(&report);
        }
        self.is_news = false;
    }

    fn save(&mut self, report: &Report) {
        self.saved = Instant::now();
        let last_use = self.activity.take_last_use();
        let save = Save::new(report, last_use, self.config.metrics_file.as_deref(), &self.config.spool);
        self.threads.writer.send(Write::Save(Box::new(save)));
    }

    fn tell_ready(&mut self) {
        match Usage::read() {
            Ok(usage) => tracing::info!(
                "memory: {}; keys and values take {} and may take {}",
                usage.in_words(),
                mib(self.compute.kv.committed),
                mib(self.compute.kv.capacity)
            ),
            Err(error) => tracing::info!("memory in use is not known: {error}"),
        }
        tracing::info!(
            message_id = message::READY,
            "ready: engine {}, spool {}, {}: {} kernels, {}",
            self.config.engine.display(),
            self.config.spool.display(),
            self.engine.device,
            self.engine.kernels,
            Count(self.engine.n_threads, "thread")
        );
        self.manager.ready();
    }

    /// What the disk refuses is tried again; what cannot get better ends the daemon.
    pub(super) fn in_trouble(&mut self, error: &SpoolError) -> Result<(), DaemonError> {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            self.tell_error(Some(message::SPOOL_TROUBLE), format!("{text}; trying again"));
        }
        self.trouble = Some(text);
        self.is_news = true;
        Ok(())
    }

    pub(super) fn tell_error(&mut self, message_id: Option<&str>, message: String) {
        tracing::error!(message_id, "{message}");
        self.activity.note_error(message);
        self.is_news = true;
    }

    /// Nothing new starts; what runs may finish until the time that is returned.
    fn begin_drain(&mut self) -> Instant {
        self.manager.stopping();
        let limit = Duration::from_secs(self.config.drain_seconds as u64);
        tracing::info!("ending: {} may finish within {limit:?}", Count(self.compute.n_active, "request"));
        self.is_news = true;
        // What was not marked has not begun.
        self.marking.clear();
        Instant::now() + limit
    }

    fn is_drained(&mut self, deadline: Instant) -> bool {
        self.manager.extend_timeout(DRAIN_STEP);
        self.compute.n_active == 0 && !self.threads.compute.is_full() || Instant::now() >= deadline
    }

    /// Writes what there is, and ends.
    async fn finish(mut self, events: &mut Receiver<Event>) -> Result<(), DaemonError> {
        self.threads.compute.send(Compute::CancelAll);
        let n_left = self.jobs.n_left();
        let open: Vec<_> = self.jobs.all().map(|job| job.id).collect();
        for job in open {
            if self.jobs.withdraw(job) {
                self.threads.writer.send(Write::Commit(Order::Pause { job }));
            }
        }
        let report = self.report(0);
        self.save(&report);
        self.threads.writer.send(Write::Retry);
        self.threads.writer.send(Write::Barrier);
        let limit = Instant::now() + DRAIN_STEP;
        while !self.is_written && Instant::now() < limit && self.trouble.is_none() {
            self.threads.writer.flush();
            self.manager.extend_timeout(DRAIN_STEP);
            if let Ok(Some(event)) = timeout(TURN_EVERY, events.recv()).await {
                self.take(event)?;
            }
        }
        self.tell();
        let _ = std::fs::remove_file(self.config.spool.join(crate::spool::control::SOCKET_NAME));
        let left = Count(n_left, "request");
        tracing::info!(message_id = message::ENDED, "ended: {left} left for the next start");
        Ok(())
    }

    pub(super) fn all_written(&mut self) {
        self.is_written = true;
    }
}

fn watched<T: AsRawFd>(of: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: signals, watch and pressure own their descriptors, never exchange them, and close them when they
    // are dropped, with the registration.
    unsafe { AsyncFd::register_with_interest(of, interest) }.map_err(std::io::Error::from)
}

type PressureFd = Option<AsyncFd<Pressure>>;

/// Word of memory pressure, where there is any to be had.
fn pressure() -> PressureFd {
    let pressure = Pressure::open(&PressureSettings::from_environment())?;
    let interest = pressure.interest();
    watched(pressure, interest)
        .inspect_err(|error| tracing::info!("memory pressure is not watched: {error}"))
        .ok()
}

/// Waits for word of memory pressure, for ever where there is none.
async fn pressed(pressure: &mut PressureFd) -> bool {
    let Some(fd) = pressure else { return std::future::pending().await };
    let interest = fd.get_ref().interest();
    let event = match fd.ready_mut(interest).await {
        Ok(mut ready) => {
            let event = ready.get_inner_mut().take_event();
            ready.clear_ready();
            event
        }
        Err(error) => Err(error),
    };
    event.unwrap_or_else(|error| {
        tracing::info!("memory pressure is not watched any more: {error}");
        *pressure = None;
        false
    })
}

fn tell_recovery(recovery: &Recovery) {
    if recovery.n_finished + recovery.unfinished.len() + recovery.n_removed > 0 {
        tracing::info!(
            "recovered the spool: {} to go on with, {} brought out, {} removed",
            Count(recovery.unfinished.len(), "job"),
            Count(recovery.n_finished, "answer"),
            Count(recovery.n_removed, "left-over")
        );
    }
}
