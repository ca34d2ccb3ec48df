//! What the daemon has been doing, for the people who watch it.

use std::time::{Duration, Instant};

use super::executor::Executor;
use super::notify::Manager;

/// How often STATUS= is renewed while requests run.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Counts since the start, and since they were last told.
pub struct Activity {
    n_published: u64,
    /// Tokens since `since`.
    n_tokens: u64,
    since: Instant,
}

/// What the other rooms say of themselves.
pub struct Situation<'a> {
    pub executor: &'a Executor,
    pub n_jobs: usize,
    pub n_waiting: usize,
    pub trouble: Option<&'a str>,
}

impl Activity {
    pub fn new() -> Self {
        Self { n_published: 0, n_tokens: 0, since: Instant::now() }
    }

    pub fn count_published(&mut self) {
        self.n_published += 1;
    }

    pub fn count_tokens(&mut self, n_tokens: usize) {
        self.n_tokens += n_tokens as u64;
    }

    /// Whether the speed has been measured for long enough to be told.
    pub fn is_due(&self) -> bool {
        self.since.elapsed() >= STATUS_EVERY
    }

    /// Tells the service manager.
    pub fn tell(&mut self, manager: &mut Manager, situation: &Situation<'_>) {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-3);
        let (n_active, n_jobs) = (situation.executor.n_active(), situation.n_jobs);
        let speed = self.n_tokens as f64 / seconds;
        let mut text = match (n_active, n_jobs) {
            (0, 0) => "idle".to_owned(),
            _ => format!("{n_active} requests running, {n_jobs} jobs open, {speed:.1} tokens/s"),
        };
        text += &format!(
            "; {} waiting, {} answered, {} adapters mapped",
            situation.n_waiting,
            self.n_published,
            situation.executor.adapters().n_loaded()
        );
        if let Some(trouble) = situation.trouble {
            text = format!("{trouble}; {text}");
        }
        manager.status(&text);
        self.n_tokens = 0;
        self.since = Instant::now();
    }
}
