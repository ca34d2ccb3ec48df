//! How the device is, told to the fleet, to Prometheus and to the service manager.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::connection::State;
use tokio::time::timeout;

use super::daemon::DaemonState;
use super::figures;
use super::heartbeat::{DeviceQueue, DeviceState, Heartbeat};
use super::layout::{DEVICES, HEARTBEAT_EVERY};
use super::shared::{Mode, Shared};
use crate::spool::report::Report;
use crate::store::AtomicFile;

/// What the server may take for a heartbeat: nobody waits for it.
const WITHIN: Duration = Duration::from_secs(2);
/// How often the file of figures is written.
const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Tells how the device is.
pub struct Beat {
    shared: Arc<Shared>,
    now: Heartbeat,
    last_told: Option<Instant>,
    last_written: Option<Instant>,
    has_complained: bool,
}

impl Beat {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, now: Heartbeat::default(), last_told: None, last_written: None, has_complained: false }
    }

    /// Looks at what there is to tell, and tells it when it is time.
    pub async fn beat(&mut self, state: &DaemonState) {
        self.now = self.heartbeat(state);
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        // What a server that is away was not told, it hears as soon as it is back.
        if self.is_connected() && is_due(self.last_told, HEARTBEAT_EVERY) {
            self.last_told = Some(Instant::now());
            self.tell();
        }
        if is_due(self.last_written, WRITE_EVERY) {
            self.last_written = Some(Instant::now());
            self.write();
        }
    }

    /// The last word of this process.
    pub async fn last(&mut self) {
        self.now.state = DeviceState::Stopping;
        self.now.at = now();
        self.now.counts = self.shared.counts.read();
        self.write();
        if self.is_connected() {
            let _ = timeout(WITHIN, put(Arc::clone(&self.shared), self.now.clone())).await;
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let (counts, queue) = (&self.now.counts, &self.now.queue);
        let way = if self.is_connected() { "connected" } else { "no server" };
        let trouble = self.now.trouble.as_ref().map_or(String::new(), |trouble| format!("; {trouble}"));
        format!("{way}, {} jobs here, {} answered{trouble}", queue.fleet, counts.answered)
    }

    fn is_connected(&self) -> bool {
        self.shared.publisher.connection.client.connection_state() == State::Connected
    }

    fn heartbeat(&self, state: &DaemonState) -> Heartbeat {
        let shared = &self.shared;
        let (report, trouble): (Option<&Report>, Option<&String>) = match state {
            DaemonState::Working(report) => (Some(report), None),
            DaemonState::Unwilling(report, trouble) => (Some(report), Some(trouble)),
            DaemonState::Gone(trouble) => (None, Some(trouble)),
        };
        let queue = report.map(|report| &report.queue);
        Heartbeat {
            device: shared.settings.device.to_string(),
            model: shared.settings.model.to_string(),
            at: now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: match shared.mode() {
                Mode::Pulling => DeviceState::Pulling,
                Mode::Ending => DeviceState::Stopping,
                _ => DeviceState::Waiting,
            },
            trouble: trouble.cloned(),
            queue: DeviceQueue {
                waiting: queue.map_or(0, |queue| queue.n_waiting),
                open: queue.map_or(0, |queue| queue.n_open),
                running: queue.map_or(0, |queue| queue.n_running),
                fleet: shared.table.len(),
            },
            tokens_per_second: report.map_or(0.0, |report| report.speed.generated),
            adapters: shared.adapters.list().iter().map(ToString::to_string).collect(),
            counts: shared.counts.read(),
        }
    }

    /// Without waiting: a server that is away must not keep the loop from its work.
    fn tell(&self) {
        let (shared, now) = (Arc::clone(&self.shared), self.now.clone());
        tokio::spawn(async move { timeout(WITHIN, put(shared, now)).await });
    }

    fn write(&mut self) {
        let Some(path) = &self.shared.settings.metrics_file else { return };
        let text = figures::text(&self.now, self.is_connected());
        if let Err(error) = AtomicFile::write(path, text.as_bytes())
            && !self.has_complained
        {
            self.has_complained = true;
            tracing::warn!("cannot write the metrics: {error}; not told again");
        }
    }
}

async fn put(shared: Arc<Shared>, heartbeat: Heartbeat) {
    let told = async {
        let store = shared.publisher.connection.jetstream.get_key_value(DEVICES).await.ok()?;
        let value = serde_json::to_vec(&heartbeat).ok()?;
        store.put(heartbeat.device.as_str(), value.into()).await.ok()
    };
    if told.await.is_none() {
        tracing::debug!("no heartbeat was told");
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
