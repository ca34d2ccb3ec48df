//! `bridge`: one thread that waits for the queue, the spool, the daemon and signals.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::attend::attend;
use super::beat::Beat;
use super::connection::Retry;
use super::daemon::DaemonState;
use super::error::FleetError;
use super::names::SpoolName;
use super::publish::Publisher;
use super::pull::Puller;
use super::runtime::block_on;
use super::settings::BridgeSettings;
use super::shared::{Mode, Shared};
use crate::config::ServiceSettings;
use crate::count::Count;
use crate::service::{Manager, Signals};
use crate::spool::{Arrival, Place, Watch, check_spool};

/// How often the daemon is asked how it is.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the spool is looked at, whatever the watch says.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// A daemon that is away for less is being started again.
const RESTART: Duration = Duration::from_secs(5);
/// A daemon that is away for longer may be away for ever.
const LOST: Duration = Duration::from_secs(60);
/// What the end may take: orders to the daemon, and what is on its way to the server.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Carries jobs and answers until SIGTERM.
///
/// # Errors
/// [`FleetError`] when the bridge cannot be started: a wrong configuration, no spool, secrets that others can read. A
/// server that is away is waited for.
pub fn bridge(settings: BridgeSettings) -> Result<(), FleetError> {
    let signals = Signals::install().map_err(FleetError::system("install signal handlers"))?;
    block_on(run(settings, signals))
}

async fn run(settings: BridgeSettings, signals: Signals) -> Result<(), FleetError> {
    check_spool(&settings.spool)?;
    let name = format!("jetspool bridge {}", settings.device);
    let connection = settings.access.connect(&name, Retry::Forever).await?;
    let publisher = Publisher { connection, device: settings.device.clone() };
    let (mode, receiver) = watch::channel(Mode::Pausing);
    let shared = Arc::new(Shared::new(settings, publisher, receiver));
    prepare(&shared);
    // The watch first, then the scan: what comes between the two is seen by both.
    let watch = Watch::new(&shared.files.out())?;
    let places = Arc::new(Semaphore::new(shared.settings.n_ahead));
    let puller = Puller::new(Arc::clone(&shared), Arc::clone(&places));
    let pulling = tokio::spawn(puller.run());
    let mut bridge =
        Bridge { beat: Beat::new(Arc::clone(&shared)), shared, mode, places, gone: None, connects: 0 };
    bridge.scan();
    let result = bridge.turn(signals, watch).await;
    bridge.end().await;
    pulling.abort();
    result
}

/// What must be there; what is missing is told, and costs only the jobs that need it.
fn prepare(shared: &Shared) {
    let settings = &shared.settings;
    tracing::info!(
        "device {}, model {}, spool {}",
        settings.device,
        settings.model,
        settings.spool.display()
    );
    if let Err(error) = shared.adapters.prepare() {
        tracing::warn!("{}: {error}; jobs with adapters of the fleet fail", settings.adapters.display());
    }
    if !settings.allowed_roots.iter().any(|root| settings.adapters.starts_with(root)) {
        tracing::warn!(
            "allowed_roots of the configuration lacks {}: the daemon refuses adapters of the fleet",
            settings.adapters.display()
        );
    }
}

struct Bridge {
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    places: Arc<Semaphore>,
    beat: Beat,
    /// Since when no daemon answers.
    gone: Option<Instant>,
    /// Connections so far.
    connects: u64,
}

impl Bridge {
    async fn turn(&mut self, signals: Signals, watch: Watch) -> Result<(), FleetError> {
        let waiting = |error| FleetError::System { action: "wait", source: error };
        let mut signals = watched(signals).map_err(waiting)?;
        let watch = watched(watch).map_err(waiting)?;
        let mut manager = Manager::new(&ServiceSettings::from_environment());
        manager.ready();
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_scan = Instant::now() + SCAN_EVERY;
        loop {
            tokio::select! {
                ready = signals.readable_mut() => {
                    let mut ready = ready.map_err(waiting)?;
                    ready.get_inner_mut().drain();
                    ready.clear_ready();
                    if ready.get_inner().end_wanted() {
                        manager.stopping();
                        return Ok(());
                    }
                }
                ready = watch.readable() => {
                    ready.map_err(waiting)?.clear_ready();
                    self.arrived(watch.get_ref().arrivals()?)?;
                }
                _ = ask.tick() => {
                    let state = self.shared.daemon.state().await;
                    self.set_mode(&state);
                    self.beat.beat(&state).await;
                    manager.status(&self.beat.line());
                    manager.turned(None);
                    let connection = &self.shared.publisher.connection;
                    let connects = connection.client.statistics().connects.load(Ordering::Relaxed);
                    if connects != self.connects || next_scan <= Instant::now() {
                        self.connects = connects;
                        next_scan = Instant::now() + SCAN_EVERY;
                        self.scan();
                    }
                }
            }
        }
    }

    fn arrived(&self, arrivals: Vec<Arrival>) -> Result<(), FleetError> {
        for arrival in arrivals {
            match arrival {
                Arrival::Renamed(file) | Arrival::Closed(file) => {
                    if let Some((name, _)) = SpoolName::parse(&file) {
                        self.came_out(name);
                    }
                }
                Arrival::Rescan => self.scan(),
                Arrival::Lost => {
                    return Err(crate::spool::SpoolError::Moved { dir: self.shared.files.out() }.into());
                }
            }
        }
        Ok(())
    }

    /// Looks after all files of the bridge that nobody looks after: those of an earlier process.
    fn scan(&self) {
        for place in [Place::Out, Place::New] {
            let all = self.shared.files.all(place).unwrap_or_else(|error| {
                tracing::warn!("{}/ cannot be looked at: {error}", place.name());
                Vec::new()
            });
            let is_stuck = |file: &OsString| place == Place::Out && self.shared.is_stuck(file);
            for (name, _) in all.into_iter().filter(|(_, file)| !is_stuck(file)) {
                self.came_out(name);
            }
        }
    }

    fn came_out(&self, name: SpoolName) {
        if self.shared.table.tell(&name) {
            return;
        }
        let Some(held) = self.shared.table.enter(name, None) else { return };
        let shared = Arc::clone(&self.shared);
        // A job of an earlier process takes a place too, if there is one.
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        tokio::spawn(async move {
            // The word of an arrival may be older than the end of the job.
            let is_here = |place| shared.files.of_job(place, &held.name).is_ok_and(|files| !files.is_empty());
            if is_here(Place::Out) || is_here(Place::New) {
                attend(&shared, &held).await;
            }
            drop(place);
        });
    }

    fn set_mode(&mut self, state: &DaemonState) {
        let mode = match state {
            DaemonState::Working(_) => Mode::Pulling,
            DaemonState::Unwilling(report, _) if report.trouble.is_some() => Mode::Pausing,
            DaemonState::Unwilling(..) => Mode::GivingBack,
            DaemonState::Gone(_) => match self.gone.get_or_insert_with(Instant::now).elapsed() {
                away if away < RESTART => Mode::Pausing,
                away if away < LOST => Mode::GivingBack,
                _ => Mode::Abandoning,
            },
        };
        if !matches!(state, DaemonState::Gone(_)) {
            self.gone = None;
        }
        self.mode.send_if_modified(|now| std::mem::replace(now, mode) != mode);
    }

    /// Gives back what was not begun, and waits for what is on its way.
    async fn end(&mut self) {
        self.mode.send_replace(Mode::Ending);
        let table = Arc::clone(&self.shared.table);
        let all_left = async {
            loop {
                let left = table.left.notified();
                if table.len() == 0 {
                    return;
                }
                left.await;
            }
        };
        if timeout(END_WITHIN, all_left).await.is_err() {
            tracing::warn!("{} left as found", Count(table.len(), "job"));
        }
        self.beat.last().await;
        let _ = timeout(END_WITHIN, self.shared.publisher.connection.client.flush()).await;
    }
}

fn watched<T: AsRawFd>(of: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: signals and watch own their descriptors, never exchange them, and close them when they are dropped,
    // with the registration.
    unsafe { AsyncFd::register_with_interest(of, Interest::READABLE) }.map_err(std::io::Error::from)
}
