//! What the daemon has been doing, for those who watch it: systemd, `status`, Prometheus.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::intake::Intake;
use super::metrics;
use super::notify::Manager;
use super::queue::{Published, Queue};
use crate::answer::{Engines, Usage};
use crate::config::Config;
use crate::spool::report::{
    AdapterReport, EngineReport, ErrorReport, MemoryReport, QueueReport, REPORT_VERSION, Report, Speed,
    State, Totals, replace,
};

/// How often it is told while requests run.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Changes are told no more often than this: small jobs come and go by the thousand.
const TELL_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// Asking for the pages in use walks all of them.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
const MEASURE_AT_REST_EVERY: Duration = Duration::from_millis(500);
const N_ERRORS: usize = 5;
const N_JOBS: usize = 20;

/// Counts since the start, and since they were last told.
pub struct Activity {
    started: f64,
    totals: Totals,
    /// What was told last, and when.
    told: (Totals, Instant),
    /// There was a change since.
    is_owed: bool,
    errors: VecDeque<ErrorReport>,
    usage: Usage,
    measured: Option<Instant>,
    metrics_written: Option<Instant>,
    /// Files that could not be written are told of once.
    has_complained: bool,
}

/// What the other rooms know.
pub struct Situation<'a> {
    pub config: &'a Config,
    pub engines: &'a Engines,
    pub queue: &'a Queue,
    pub intake: &'a Intake,
    pub trouble: Option<&'a str>,
    pub is_stopping: bool,
}

impl Activity {
    pub fn new() -> Self {
        Self {
            started: now(),
            totals: Totals::default(),
            told: (Totals::default(), Instant::now()),
            is_owed: false,
            errors: VecDeque::new(),
            usage: Usage::default(),
            measured: None,
            metrics_written: None,
            has_complained: false,
        }
    }

    pub fn count_published(&mut self, published: &Published) {
        match published.rejected {
            None => self.totals.files_answered += 1,
            Some(_) => self.totals.files_rejected += 1,
        }
        self.totals.requests_failed += published.n_failed as u64;
        self.totals.requests_answered += published.n_requests.saturating_sub(published.n_failed) as u64;
    }

    pub fn count_tokens(&mut self, n_prompt: usize, n_generated: usize) {
        self.totals.prompt_tokens += n_prompt as u64;
        self.totals.generated_tokens += n_generated as u64;
    }

    /// Keeps an error of the daemon itself to be shown.
    pub fn note_error(&mut self, message: String) {
        self.totals.errors += 1;
        if self.errors.len() == N_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(ErrorReport { time: now(), message });
    }

    /// There is a change to tell.
    pub fn owe(&mut self) {
        self.is_owed = true;
    }

    /// When it is to be told; none while nothing runs and nothing changed.
    pub fn due_in(&self, is_busy: bool) -> Option<Duration> {
        let every = match (self.is_owed, is_busy) {
            (true, _) => TELL_AT_MOST_EVERY,
            (false, true) => TELL_EVERY,
            (false, false) => return None,
        };
        Some(every.saturating_sub(self.told.1.elapsed()))
    }

    /// Tells everybody.
    pub fn tell(&mut self, manager: &mut Manager, situation: &Situation<'_>) {
        let report = self.report(situation);
        manager.status(&words(&report));
        self.keep(report.write(&situation.config.spool), "the report");
        if let Some(path) = &situation.config.metrics_file {
            let is_early = self.metrics_written.is_some_and(|last| last.elapsed() < MEASURE_EVERY);
            // What does not come soon again must be right.
            if report.state != State::Running || !is_early {
                let text = metrics::text(&report, &situation.config.spool.to_string_lossy());
                self.keep(replace(path, text.as_bytes()), "the metrics");
                self.metrics_written = Some(Instant::now());
            }
        }
        self.told = (self.totals, Instant::now());
        self.is_owed = false;
    }

    fn report(&mut self, situation: &Situation<'_>) -> Report {
        let (engines, queue) = (situation.engines, situation.queue);
        let n_running = engines.n_active();
        let state = match (situation.is_stopping, n_running + queue.len()) {
            (true, _) => State::Stopping,
            (false, 0) => State::Idle,
            (false, _) => State::Running,
        };
        let in_use = engines.adapters_in_use().into_iter();
        Report {
            version: REPORT_VERSION,
            state,
            pid: std::process::id(),
            started: self.started,
            written: now(),
            engine: engine_report(situation),
            queue: QueueReport {
                n_waiting: situation.intake.n_waiting(),
                n_open: queue.len(),
                n_running,
                jobs: queue.report(N_JOBS),
            },
            speed: self.speed(),
            totals: self.totals,
            adapters: in_use.map(|(name, n_requests)| AdapterReport { name, n_requests }).collect(),
            n_adapters_mapped: engines.current().adapters().n_loaded(),
            memory: self.memory(engines, state),
            trouble: situation.trouble.map(str::to_owned),
            errors: self.errors.iter().cloned().collect(),
        }
    }

    fn speed(&self) -> Speed {
        let (before, since) = &self.told;
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let per_second = |now: u64, before: u64| (now - before) as f64 / seconds;
        Speed {
            prompt: per_second(self.totals.prompt_tokens, before.prompt_tokens),
            generated: per_second(self.totals.generated_tokens, before.generated_tokens),
        }
    }

    fn memory(&mut self, engines: &Engines, state: State) -> MemoryReport {
        let every = if state == State::Running { MEASURE_EVERY } else { MEASURE_AT_REST_EVERY };
        if self.measured.is_none_or(|last| last.elapsed() >= every)
            && let Ok(usage) = Usage::read()
        {
            (self.usage, self.measured) = (usage, Some(Instant::now()));
        }
        let kv = engines.current().kv_memory();
        MemoryReport {
            file_backed: self.usage.file_backed,
            anonymous: self.usage.anonymous,
            swap: self.usage.swap,
            kv_in_use: kv.in_use,
            kv_committed: kv.committed,
            kv_capacity: kv.capacity,
        }
    }

    /// A view that cannot be written costs nobody an answer.
    fn keep(&mut self, written: std::io::Result<()>, what: &str) {
        match written {
            Ok(()) => {}
            Err(_) if self.has_complained => {}
            Err(error) => {
                self.has_complained = true;
                tracing::warn!("cannot write {what}: {error}; not told again");
            }
        }
    }
}

fn engine_report(situation: &Situation<'_>) -> EngineReport {
    let limits = situation.engines.current().engine().limits();
    EngineReport {
        directory: situation.config.engine.clone(),
        precision: situation.engines.current().engine().precision().name().to_owned(),
        max_batch_size: limits.max_batch_size,
        max_lora_rank: limits.max_lora_rank,
    }
}

/// One line for `systemctl status`.
fn words(report: &Report) -> String {
    let (queue, totals) = (&report.queue, &report.totals);
    let mut text = match (queue.n_running, queue.n_open) {
        (0, 0) => "idle".to_owned(),
        (n_running, n_open) => {
            let speed = report.speed.generated;
            format!("{n_running} requests running, {n_open} jobs open, {speed:.1} tokens/s")
        }
    };
    let n_answered = totals.files_answered + totals.files_rejected;
    text += &format!("; {} waiting, {n_answered} answered", queue.n_waiting);
    text += &format!(", {} adapters mapped", report.n_adapters_mapped);
    match &report.trouble {
        Some(trouble) => format!("{trouble}; {text}"),
        None => text,
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
