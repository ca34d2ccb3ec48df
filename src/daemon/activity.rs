//! What the daemon has been doing, for those who watch it: systemd, `status`, Prometheus.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::event::ComputeState;
use crate::answer::Usage;
use crate::count::Count;
use crate::infer::StepCounts;
use crate::spool::LastUse;
use crate::spool::report::{
    AdapterReport, EngineReport, ErrorReport, GpuMemoryReport, JobReport, MemoryReport, QueueReport,
    REPORT_VERSION, Report, Speed, State, Totals,
};

/// Asking for the pages in use walks all of them.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
const MEASURE_AT_REST_EVERY: Duration = Duration::from_millis(500);
/// Speed is that of the last seconds.
const WINDOW: Duration = Duration::from_secs(10);
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
const N_ERRORS: usize = 20;

/// Counts over all starts of the daemon, and what went wrong lately.
pub struct Activity {
    started: f64,
    totals: Totals,
    samples: VecDeque<(Instant, Totals)>,
    errors: VecDeque<ErrorReport>,
    last_use: LastUse,
    /// Since it was written.
    is_last_use_new: bool,
    usage: Usage,
    measured: Option<Instant>,
}

/// What the loop knows.
pub struct Situation<'a> {
    pub engine: EngineReport,
    pub compute: &'a ComputeState,
    pub n_waiting: usize,
    pub n_partial: usize,
    pub n_open: usize,
    /// Requests known of, and how many of them are answered.
    pub requests: (usize, usize),
    pub jobs: Vec<JobReport>,
    pub trouble: Option<&'a str>,
    pub is_stopping: bool,
}

impl Activity {
    /// Goes on from what the start before has counted.
    pub fn new(totals: Totals, last_use: LastUse) -> Self {
        Self {
            started: now(),
            totals,
            samples: VecDeque::new(),
            errors: VecDeque::new(),
            last_use,
            is_last_use_new: false,
            usage: Usage::default(),
            measured: None,
        }
    }

    /// A request's answer is on the disk.
    pub fn count_request(&mut self, is_failed: bool) {
        match is_failed {
            true => self.totals.requests_failed += 1,
            false => self.totals.requests_answered += 1,
        }
    }

    /// A request is answered that names an adapter.
    pub fn note_use(&mut self, adapter: &str) {
        self.last_use.note(adapter, since_1970().as_secs());
        self.is_last_use_new = true;
    }

    /// When each adapter was asked for last, if that is to be written anew.
    pub fn take_last_use(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_last_use_new).then(|| self.last_use.to_json())
    }

    /// A file's answer is out.
    pub fn count_file(&mut self, is_rejected: bool) {
        match is_rejected {
            true => self.totals.files_rejected += 1,
            false => self.totals.files_answered += 1,
        }
    }

    pub fn count_tokens(&mut self, counts: StepCounts) {
        self.totals.prompt_tokens += counts.n_prompt_tokens as u64;
        self.totals.cached_tokens += counts.n_cached_tokens as u64;
        self.totals.generated_tokens += (counts.n_prompts_read + counts.n_generating) as u64;
    }

    /// Keeps an error of the daemon itself to be shown.
    pub fn note_error(&mut self, message: String) {
        self.totals.errors += 1;
        self.note(None, None, message);
    }

    /// Keeps an error of a job or a request to be shown.
    pub fn note_failure(&mut self, job: String, request: Option<usize>, message: String) {
        self.note(Some(job), request, message);
    }

    fn note(&mut self, job: Option<String>, request: Option<usize>, message: String) {
        if self.errors.len() == N_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(ErrorReport { time: now(), job, request, message });
    }

    pub fn report(&mut self, situation: Situation<'_>) -> Report {
        let compute = situation.compute;
        let state = match (situation.is_stopping, compute.n_active + situation.n_open) {
            (true, _) => State::Stopping,
            (false, 0) => State::Idle,
            (false, _) => State::Running,
        };
        let speed = self.speed(state);
        let (n_requests, n_answered) = situation.requests;
        let n_left = n_requests.saturating_sub(n_answered);
        let adapters = compute.adapters.iter();
        Report {
            version: REPORT_VERSION,
            state,
            pid: std::process::id(),
            started: self.started,
            written: now(),
            engine: situation.engine,
            queue: QueueReport {
                n_waiting: situation.n_waiting,
                n_partial: situation.n_partial,
                n_open: situation.n_open,
                n_running: compute.n_running,
                n_requests,
                n_answered,
                jobs: situation.jobs,
            },
            speed,
            eta_seconds: (n_left > 0 && speed.requests > 0.0).then(|| n_left as f64 / speed.requests),
            totals: self.totals,
            adapters: adapters
                .map(|(name, n)| AdapterReport { name: name.clone(), n_requests: *n })
                .collect(),
            n_adapters_mapped: compute.n_mapped,
            memory: self.memory(compute, state),
            trouble: situation.trouble.map(str::to_owned),
            errors: self.errors.iter().cloned().collect(),
        }
    }

    /// Takes a sample, and the difference to the oldest one of the window.
    fn speed(&mut self, state: State) -> Speed {
        if state == State::Idle {
            self.samples.clear();
            return Speed::default();
        }
        let now = Instant::now();
        while self.samples.len() > 1 && now - self.samples[0].0 > WINDOW {
            self.samples.pop_front();
        }
        if self.samples.back().is_none_or(|(at, _)| now - *at >= SAMPLE_EVERY) {
            self.samples.push_back((now, self.totals));
        }
        let Some((since, before)) = self.samples.front() else { return Speed::default() };
        let seconds = (now - *since).as_secs_f64();
        if seconds < 0.05 {
            return Speed::default();
        }
        let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let n_done = |totals: &Totals| totals.requests_answered + totals.requests_failed;
        Speed {
            prompt: per_second(self.totals.prompt_tokens, before.prompt_tokens),
            generated: per_second(self.totals.generated_tokens, before.generated_tokens),
            requests: per_second(n_done(&self.totals), n_done(before)),
        }
    }

    fn memory(&mut self, compute: &ComputeState, state: State) -> MemoryReport {
        let every = if state == State::Running { MEASURE_EVERY } else { MEASURE_AT_REST_EVERY };
        if self.measured.is_none_or(|last| last.elapsed() >= every)
            && let Ok(usage) = Usage::read()
        {
            (self.usage, self.measured) = (usage, Some(Instant::now()));
        }
        MemoryReport {
            file_backed: self.usage.file_backed,
            anonymous: self.usage.anonymous,
            swap: self.usage.swap,
            kv_in_use: compute.kv.in_use,
            kv_cached: compute.kv.cached,
            kv_committed: compute.kv.committed,
            kv_capacity: compute.kv.capacity,
            gpu: compute.gpu.map(|gpu| GpuMemoryReport {
                weights: gpu.weights as u64,
                adapters: gpu.adapters as u64,
                keys_and_values: gpu.keys_and_values as u64,
                steps: gpu.steps as u64,
            }),
        }
    }
}

/// One line for `systemctl status`.
pub fn status_line(report: &Report) -> String {
    let (queue, totals) = (&report.queue, &report.totals);
    let mut text = match (queue.n_running, queue.n_open) {
        (0, 0) => "idle".to_owned(),
        (n_running, n_open) => {
            let speed = report.speed.generated;
            let (running, open) = (Count(n_running, "request"), Count(n_open, "job"));
            format!("{running} running, {open} open, {speed:.1} tokens/s")
        }
    };
    let n_answered = totals.files_answered + totals.files_rejected;
    text += &format!("; {} waiting, {n_answered} answered", queue.n_waiting);
    text += &format!(", {} mapped", Count(report.n_adapters_mapped, "adapter"));
    match &report.trouble {
        Some(trouble) => format!("{trouble}; {text}"),
        None => text,
    }
}

fn now() -> f64 {
    since_1970().as_secs_f64()
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
