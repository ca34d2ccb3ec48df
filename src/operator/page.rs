//! A page for a terminal: what fits into its width, 50 columns at the least.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use terminal_size::{Width, terminal_size};

use crate::spool::printable;
use crate::spool::report::{ErrorReport, JobReport, JobStage, Report, State};
use crate::spool::status::Snapshot;
use crate::store::access::Closed;

/// Columns where the output is no terminal.
const WIDE: usize = 120;
const NARROW: usize = 50;
const LABEL: usize = 9;
const BAR: usize = 16;
/// Jobs and adapters that are shown.
const N_SHOWN: usize = 8;

/// Lines, with colours or without.
pub struct Page {
    lines: Vec<String>,
    width: usize,
    is_coloured: bool,
}

#[derive(Clone, Copy)]
enum Colour {
    Plain,
    Bold,
    Red,
    Green,
    Yellow,
}

impl Page {
    /// A page as wide as the terminal.
    pub fn new(is_coloured: bool) -> Self {
        let width = terminal_size().map_or(WIDE, |(Width(columns), _)| usize::from(columns));
        Self { lines: Vec::new(), width: width.max(NARROW), is_coloured }
    }

    /// The text; where there are only so many rows, the last of them says what is missing.
    pub fn finish(mut self, rows: Option<usize>) -> String {
        if let Some(rows) = rows.filter(|rows| *rows >= 4 && self.lines.len() >= *rows) {
            let n_hidden = self.lines.len() - (rows - 2);
            self.lines.truncate(rows - 2);
            self.lines.push(format!("... {n_hidden} more lines"));
        }
        self.lines.join("\n").trim_end().to_owned()
    }

    pub fn heading(&mut self, spool: &Path, report: Option<&Report>) {
        let (colour, state) = match report.map(|report| report.state) {
            None => (Colour::Red, "stopped"),
            Some(State::Running) => (Colour::Green, "running"),
            Some(State::Idle) => (Colour::Green, "idle"),
            Some(State::Stopping) => (Colour::Yellow, "stopping"),
        };
        let facts = match report {
            Some(report) => format!(" (pid {}, up {})", report.pid, age(since(report.started))),
            None => "; start it: systemctl start jetspool".to_owned(),
        };
        self.painted("daemon", colour, state, &facts);
        self.line("spool", &printable(spool).to_string());
        let Some(report) = report else { return };
        let engine = &report.engine;
        self.line("engine", &printable(&engine.directory).to_string());
        let facts = format!(
            "{}, batch of {}, rank up to {}",
            engine.precision, engine.max_batch_size, engine.max_lora_rank
        );
        self.line("", &facts);
        if !engine.device.is_empty() {
            self.line("device", &clean(&format!("{}, {}", engine.device, engine.kernels)));
        }
        if let Some(trouble) = &report.trouble {
            self.painted("trouble", Colour::Red, &clean(trouble), "");
        }
    }

    pub fn work(&mut self, report: &Report) {
        let (queue, totals, speed) = (&report.queue, &report.totals, &report.speed);
        let most = report.engine.max_batch_size;
        self.barred("now", &bar(queue.n_running, most), &format!("{} of {most} running", queue.n_running));
        self.line("", &format!("{:.1} tokens/s, prompts {:.1}/s", speed.generated, speed.prompt));
        if queue.n_requests > 0 {
            let eta = report.eta_seconds.and_then(|eta| Duration::try_from_secs_f64(eta).ok());
            let eta = eta.map_or(String::new(), |eta| format!(", ETA {}", age(eta)));
            let done = bar(queue.n_answered, queue.n_requests);
            self.barred("requests", &done, &format!("{} of {}{eta}", queue.n_answered, queue.n_requests));
        }
        let n_files = totals.files_answered + totals.files_rejected;
        self.line("so far", &format!("files {n_files}, rejected {}", totals.files_rejected));
        let n_requests = totals.requests_answered + totals.requests_failed;
        let colour = if totals.requests_failed > 0 { Colour::Yellow } else { Colour::Plain };
        let failed = format!("requests {n_requests}, failed {}", totals.requests_failed);
        self.painted("", colour, &failed, &format!(", tokens {}", totals.generated_tokens));
        let names = report.adapters.iter().take(N_SHOWN);
        let mut adapters: Vec<String> =
            names.map(|adapter| format!("{} {}", clean(&adapter.name), adapter.n_requests)).collect();
        if report.adapters.len() > N_SHOWN {
            adapters.push("...".into());
        }
        let in_use = if adapters.is_empty() { "none in use".into() } else { adapters.join(", ") };
        self.line("adapters", &format!("{} mapped; {in_use}", report.n_adapters_mapped));
    }

    pub fn memory(&mut self, report: &Report) {
        let memory = &report.memory;
        let swap = if memory.swap > 0 { format!(", {} in swap", mib(memory.swap)) } else { String::new() };
        let pages = format!("{} private, {} of files{swap}", mib(memory.anonymous), mib(memory.file_backed));
        self.line("memory", &pages);
        let share = |n_bytes: u64| usize::try_from(n_bytes).unwrap_or(usize::MAX);
        if let Some(gpu) = &memory.gpu {
            let (weights, adapters) = (mib(gpu.weights), mib(gpu.adapters));
            self.line("", &format!("GPU: {weights} weights, {adapters} adapters"));
            self.line("", &format!("GPU: {} KV, {} steps", mib(gpu.keys_and_values), mib(gpu.steps)));
        }
        let kv = bar(share(memory.kv_in_use), share(memory.kv_capacity));
        self.barred("", &kv, &format!("{} of {} KV", mib(memory.kv_in_use), mib(memory.kv_capacity)));
        if memory.kv_cached > 0 {
            self.line("", &format!("{} KV kept for requests to come", mib(memory.kv_cached)));
        }
    }

    pub fn places(&mut self, snapshot: &Snapshot) {
        self.push("");
        self.title(&format!("{:<9} {:>8} {:>10}  {}", "place", "files", "size", "oldest"));
        for (place, count) in &snapshot.counts {
            let name = place.name();
            self.push(&match count {
                None => format!("{name:<9} no permission to look"),
                Some(count) => {
                    let oldest = count.oldest.map_or("-".to_owned(), age);
                    format!("{name:<9} {:>8} {:>10}  {oldest}", count.n_files, size(count.n_bytes))
                }
            });
        }
    }

    /// That this user may not look into the places, and what to do about it.
    pub fn closed(&mut self, closed: &Closed) {
        self.push("");
        for part in wrapped(&format!("the places are {}; {}", closed.found, closed.advice), self.width) {
            self.push(&part);
        }
    }

    /// The first jobs of `n_open`.
    pub fn jobs(&mut self, jobs: &[JobReport], n_open: usize) {
        if jobs.is_empty() {
            return;
        }
        let longest = jobs.iter().take(N_SHOWN).map(|job| clean(&job.name).chars().count()).max();
        let name_width = longest.unwrap_or(0).clamp(16, self.width - 34);
        self.push("");
        self.title(&format!("{:<name_width$} {:>4} {:>5}  {:>14}", "job", "prio", "owner", "answered"));
        for job in jobs.iter().take(N_SHOWN) {
            let mark = if job.stage == JobStage::Suspected { " alone" } else { "" };
            let name = shortened_name(&clean(&job.name), name_width);
            let done = format!("{} of {}", job.n_answered, job.n_requests);
            self.push(&format!("{name:<name_width$} {:>4} {:>5}  {done:>14}{mark}", job.priority, job.owner));
        }
        let n_more = n_open.saturating_sub(jobs.len().min(N_SHOWN));
        if n_more > 0 {
            self.push(&format!("and {n_more} more"));
        }
    }

    /// One job with all that is known of it.
    pub fn job(&mut self, job: &JobReport) {
        self.line("job", &clean(&job.name));
        self.line("id", &job.id);
        let stage = match job.stage {
            JobStage::Waiting => "waiting to be read",
            JobStage::Answering => "being answered",
            JobStage::Suspected => "tried alone: it ran when the daemon ended",
            JobStage::Publishing => "its answer is being brought out",
        };
        self.line("stage", stage);
        self.line("priority", &job.priority.to_string());
        self.line("owner", &format!("user {}", job.owner));
        let done = bar(job.n_answered, job.n_requests);
        self.line("requests", &format!("{done} {} of {} answered", job.n_answered, job.n_requests));
        self.line("", &format!("{} failed, {} under way", job.n_failed, job.n_under_way));
    }

    /// The latest errors, the last `n` of them.
    pub fn errors(&mut self, errors: &[ErrorReport], n: usize) {
        if errors.is_empty() {
            return;
        }
        self.push("");
        self.title("last errors");
        for error in &errors[errors.len().saturating_sub(n)..] {
            let place = match (&error.job, error.request) {
                (Some(job), Some(request)) => format!("{}, request {request}: ", clean(job)),
                (Some(job), None) => format!("{}: ", clean(job)),
                _ => String::new(),
            };
            self.push(&format!("{} ago", age(since(error.time))));
            for part in wrapped(&format!("{place}{}", clean(&error.message)), self.width - 2) {
                let text = self.paint(Colour::Red, &part);
                self.lines.push(format!("  {text}"));
            }
        }
    }

    fn line(&mut self, label: &str, value: &str) {
        self.painted(label, Colour::Plain, value, "");
    }

    /// A bar and what it stands for; where both do not fit, the bar is left out.
    fn barred(&mut self, label: &str, bar: &str, value: &str) {
        let both = format!("{bar} {value}");
        let fits = both.chars().count() <= self.width.saturating_sub(LABEL + 1);
        self.line(label, if fits { &both } else { value });
    }

    /// A label, a value in a colour and the rest without; cut where the terminal ends.
    fn painted(&mut self, label: &str, colour: Colour, value: &str, rest: &str) {
        let room = self.width.saturating_sub(LABEL + 1);
        let value = shortened(value, room);
        let rest = shortened(rest, room.saturating_sub(value.chars().count()));
        let label = self.paint(Colour::Bold, &format!("{label:<LABEL$}"));
        self.lines.push(format!("{label} {}{rest}", self.paint(colour, &value)).trim_end().to_owned());
    }

    fn title(&mut self, text: &str) {
        let text = self.paint(Colour::Bold, &shortened(text, self.width));
        self.lines.push(text);
    }

    fn push(&mut self, text: &str) {
        self.lines.push(shortened(text, self.width));
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            _ if !self.is_coloured || text.is_empty() => return text.to_owned(),
            Colour::Plain => return text.to_owned(),
            Colour::Bold => 1,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

fn bar(part: usize, whole: usize) -> String {
    let n_full = part.min(whole).saturating_mul(BAR).checked_div(whole).unwrap_or(0);
    format!("{}{}", "█".repeat(n_full), "░".repeat(BAR - n_full))
}

/// Without any character that would move the cursor.
fn clean(text: &str) -> String {
    printable(text).to_string()
}

/// At most `width` characters.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The same of a name: what tells names apart stands at their ends.
fn shortened_name(name: &str, width: usize) -> String {
    let n_chars = name.chars().count();
    if n_chars <= width {
        return name.to_owned();
    }
    let n_end = width.saturating_sub(1) / 2;
    let n_start = width.saturating_sub(1 + n_end);
    name.chars().take(n_start).chain(['…']).chain(name.chars().skip(n_chars - n_end)).collect()
}

/// Lines of at most `width` characters, broken between words where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut().expect("there is always a line");
        if last.is_empty() {
            *last = shortened(word, width);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(shortened(word, width));
        }
    }
    lines
}

fn since(time: f64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::try_from_secs_f64(now.as_secs_f64() - time).unwrap_or_default()
}

fn mib(n_bytes: u64) -> String {
    format!("{:.1} MiB", n_bytes as f64 / f64::from(1 << 20))
}

fn size(n_bytes: u64) -> String {
    match n_bytes {
        0..1024 => format!("{n_bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", n_bytes as f64 / 1024.0),
        _ => mib(n_bytes),
    }
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A busy daemon with long names and large numbers.
    fn report() -> Report {
        let job = |name: &str| {
            json!({"id": "1k1g0n21fjp", "name": name, "owner": 100_000, "priority": -100, "stage": "suspected",
                "n_requests": 100_000, "n_answered": 99_999, "n_failed": 7, "n_under_way": 3})
        };
        let report = json!({
            "version": 2, "state": "running", "pid": 4_194_304, "started": 0.0, "written": 0.0,
            "engine": {"directory": format!("/var/lib/jetspool/{}", "engine/".repeat(20)), "precision": "stored",
                "max_batch_size": 4096, "max_lora_rank": 4096, "device": "cuda", "kernels": "Orin ".repeat(30)},
            "queue": {"n_waiting": 9, "n_partial": 1, "n_open": 60, "n_running": 4096, "n_requests": 100_000,
                "n_answered": 99_999, "jobs": [job("a-nightly-job-of-2026-11-30.json"), job(&"n".repeat(236))]},
            "speed": {"prompt": 123_456.7, "generated": 12_345.6, "requests": 1.0}, "eta_seconds": 1e7,
            "totals": {"files_answered": 1_000_000_u64, "files_rejected": 1_000_000_u64, "requests_answered": 1_000_000_000_u64,
                "requests_failed": 1_000_000_u64, "prompt_tokens": 1, "generated_tokens": 1_000_000_000_000_u64, "errors": 3},
            "adapters": [{"name": "a".repeat(300), "n_requests": 9}], "n_adapters_mapped": 100,
            "memory": {"file_backed": 1_u64 << 36, "anonymous": 1_u64 << 36, "swap": 1_u64 << 30,
                "kv_in_use": 1_u64 << 35, "kv_cached": 1_u64 << 33, "kv_committed": 0, "kv_capacity": 1_u64 << 36},
            "trouble": "no space is left on the device: ".repeat(9),
            "errors": [{"time": 0.0, "job": "x.json", "request": 7, "message": "word ".repeat(99)}],
        });
        serde_json::from_value(report).unwrap()
    }

    fn page(width: usize) -> String {
        let mut page = Page { lines: Vec::new(), width, is_coloured: false };
        let report = report();
        page.heading(Path::new("/var/spool/jetspool"), Some(&report));
        page.work(&report);
        page.memory(&report);
        page.jobs(&report.queue.jobs, report.queue.n_open);
        page.errors(&report.errors, 1);
        page.finish(None)
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        for width in [50, 80, 120] {
            let page = page(width);
            for line in page.lines() {
                assert!(line.chars().count() <= width, "{width} columns: {line}");
            }
            for figures in ["32768.0 MiB of 65536.0 MiB KV", "99999 of 100000, ETA 115 days"] {
                assert!(page.contains(figures), "{width} columns: {page}");
            }
        }
        assert!(page(80).contains("a-nightly-job-of-2026-11-30.json"), "{}", page(80));
    }

    #[test]
    fn long_names_keep_both_their_ends() {
        for (width, wanted) in
            [(40, "nightly-2026-11-30.json"), (12, "nightl….json"), (3, "n…n"), (1, "…"), (0, "…")]
        {
            assert_eq!(shortened_name("nightly-2026-11-30.json", width), wanted);
        }
    }
}
