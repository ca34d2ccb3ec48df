//! `status`: the spool and its daemon on one screen, or as JSON.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::client::ask;
use super::error::OperatorError;
use super::output::print;
use crate::spool::control::{Order, Reply};
use crate::spool::report::{Report, State};
use crate::spool::status::{Daemon, Snapshot, snapshot};

/// The flags of `status`.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    pub spool: PathBuf,
    pub json: bool,
    /// Shows it again after so long, until interrupted.
    pub watch: Option<Duration>,
    /// Whether colours may be used where the output is a terminal.
    pub may_colour: bool,
}

/// Jobs and errors that are shown.
const N_SHOWN: usize = 8;
const BAR_WIDTH: usize = 16;

/// Prints what the spool holds and what its daemon says, once or again and again.
///
/// # Errors
/// [`OperatorError`] when there is no spool.
pub fn status(options: &StatusOptions) -> Result<(), OperatorError> {
    let is_terminal = std::io::stdout().is_terminal();
    let paint = Paint(is_terminal && options.may_colour && !options.json);
    loop {
        let snapshot = snapshot(&options.spool)?;
        let report = match ask(&options.spool, &Order::Status)? {
            Some(Reply::Status { report }) => Some(*report),
            Some(_) => return Err(OperatorError::other_version()),
            None => None,
        };
        let text = match options.json {
            true => as_json(options, &snapshot, report.as_ref()),
            false => as_screen(options, &snapshot, report.as_ref(), paint),
        };
        let Some(pause) = options.watch else { return print(&text).map(drop) };
        // Each line to its end, then what is below: nothing flickers.
        let frame = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        if !print(if is_terminal && !options.json { &frame } else { &text })? {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
}

fn as_json(options: &StatusOptions, snapshot: &Snapshot, report: Option<&Report>) -> String {
    let counts: serde_json::Map<String, serde_json::Value> = snapshot
        .counts
        .iter()
        .map(|(place, count)| {
            let count = count.as_ref().map(|count| {
                json!({
                    "files": count.n_files,
                    "bytes": count.n_bytes,
                    "oldest_seconds": count.oldest.map(|age| age.as_secs_f64()),
                })
            });
            (place.name().to_owned(), json!(count))
        })
        .collect();
    let (state, pid) = daemon_words(snapshot);
    let all = json!({
        "spool": options.spool.to_string_lossy(), "daemon": state, "pid": pid, "places": counts,
        "report": report,
    });
    if options.watch.is_some() { format!("{all}") } else { format!("{all:#}") }
}

fn daemon_words(snapshot: &Snapshot) -> (&'static str, Option<u32>) {
    match snapshot.daemon {
        Daemon::Running(pid) => ("running", pid),
        Daemon::Stopped => ("stopped", None),
        Daemon::Unknown => ("unknown", None),
    }
}

fn as_screen(options: &StatusOptions, snapshot: &Snapshot, report: Option<&Report>, paint: Paint) -> String {
    let mut text = String::new();
    heading(&mut text, options, snapshot, report, paint);
    if let Some(report) = report {
        work(&mut text, report, paint);
        memory(&mut text, report, paint);
    }
    places(&mut text, snapshot, paint);
    if let Some(report) = report {
        jobs(&mut text, report, paint);
        errors(&mut text, report, paint);
    }
    text.trim_end().to_owned()
}

fn heading(
    text: &mut String,
    options: &StatusOptions,
    snapshot: &Snapshot,
    report: Option<&Report>,
    paint: Paint,
) {
    let (state, pid) = daemon_words(snapshot);
    let state = match report.map(|report| report.state) {
        None if state == "stopped" => {
            paint.red("stopped").to_string() + "; start it: systemctl start jetspool"
        }
        None => "running".into(),
        Some(State::Running) => paint.green("running"),
        Some(State::Idle) => paint.green("idle"),
        Some(State::Stopping) => paint.yellow("stopping"),
    };
    let mut facts = Vec::new();
    facts.extend(pid.map(|pid| format!("pid {pid}")));
    facts.extend(report.map(|report| format!("up {}", age(since(report.started)))));
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    line(text, paint, "daemon", &format!("{state}{facts}"));
    line(text, paint, "spool", &options.spool.display().to_string());
    if let Some(report) = report {
        let engine = &report.engine;
        let words = format!(
            "{} ({}, batch of {}, rank up to {})",
            engine.directory.display(),
            engine.precision,
            engine.max_batch_size,
            engine.max_lora_rank
        );
        line(text, paint, "engine", &words);
        if let Some(trouble) = &report.trouble {
            line(text, paint, "trouble", &paint.red(trouble));
        }
    }
}

fn work(text: &mut String, report: &Report, paint: Paint) {
    let (queue, totals) = (&report.queue, &report.totals);
    let now = format!(
        "{} {} of {} running; {:.1} tokens/s, prompts {:.1}/s",
        bar(queue.n_running, report.engine.max_batch_size),
        queue.n_running,
        report.engine.max_batch_size,
        report.speed.generated,
        report.speed.prompt
    );
    line(text, paint, "now", &now);
    let failed = if totals.requests_failed > 0 {
        paint.yellow(&format!("{} failed", totals.requests_failed))
    } else {
        "none failed".into()
    };
    let so_far = format!(
        "{} files ({} rejected), {} requests ({failed}), {} tokens",
        totals.files_answered + totals.files_rejected,
        totals.files_rejected,
        totals.requests_answered + totals.requests_failed,
        totals.generated_tokens
    );
    line(text, paint, "so far", &so_far);
    let mut adapters: Vec<String> =
        report.adapters.iter().take(N_SHOWN).map(|a| format!("{} {}", a.name, a.n_requests)).collect();
    if report.adapters.len() > N_SHOWN {
        adapters.push("...".into());
    }
    let in_use = if adapters.is_empty() { "none in use".into() } else { adapters.join(", ") };
    line(text, paint, "adapters", &format!("{in_use}; {} mapped", report.n_adapters_mapped));
}

fn memory(text: &mut String, report: &Report, paint: Paint) {
    let memory = &report.memory;
    let swap = if memory.swap > 0 { format!(", {} in swap", mib(memory.swap)) } else { String::new() };
    let pages = format!("{} private, {} of files{swap}", mib(memory.anonymous), mib(memory.file_backed));
    line(text, paint, "memory", &pages);
    let kv = format!(
        "{} {} of {} keys and values",
        bar(memory.kv_in_use as usize, memory.kv_capacity as usize),
        mib(memory.kv_in_use),
        mib(memory.kv_capacity)
    );
    line(text, paint, "", &kv);
}

fn places(text: &mut String, snapshot: &Snapshot, paint: Paint) {
    let head = format!("{:<9} {:>8} {:>10}  {}", "place", "files", "size", "oldest");
    let _ = write!(text, "\n{}\n", paint.bold(&head));
    for (place, count) in &snapshot.counts {
        let _ = match count {
            None => writeln!(text, "{:<9} no permission to look", place.name()),
            Some(count) => writeln!(
                text,
                "{:<9} {:>8} {:>10}  {}",
                place.name(),
                count.n_files,
                size(count.n_bytes),
                count.oldest.map_or("-".to_owned(), age)
            ),
        };
    }
}

fn jobs(text: &mut String, report: &Report, paint: Paint) {
    if report.queue.jobs.is_empty() {
        return;
    }
    let head = format!("{:<32} {:>5}  {:<16} {:>13}", "job", "prio", "", "answered");
    let _ = write!(text, "\n{}\n", paint.bold(&head));
    for job in report.queue.jobs.iter().take(N_SHOWN) {
        let _ = writeln!(
            text,
            "{:<32} {:>5}  {} {:>6} of {}",
            shortened(&job.name, 32),
            job.priority,
            bar(job.n_answered, job.n_requests),
            job.n_answered,
            job.n_requests
        );
    }
    let n_more = report.queue.n_open.saturating_sub(report.queue.jobs.len().min(N_SHOWN));
    if n_more > 0 {
        let _ = writeln!(text, "and {n_more} more");
    }
}

fn errors(text: &mut String, report: &Report, paint: Paint) {
    if report.errors.is_empty() {
        return;
    }
    let _ = write!(text, "\n{}\n", paint.bold("last errors"));
    for error in &report.errors {
        let _ = writeln!(text, "{:>8} ago  {}", age(since(error.time)), paint.red(&error.message));
    }
}

fn line(text: &mut String, paint: Paint, name: &str, value: &str) {
    // Padded before it is painted: escapes have no width.
    let _ = writeln!(text, "{} {value}", paint.bold(&format!("{name:<9}")));
}

fn bar(part: usize, whole: usize) -> String {
    let n_full = if whole == 0 { 0 } else { (part.min(whole) * BAR_WIDTH).div_ceil(whole) };
    format!("{}{}", "#".repeat(n_full), "-".repeat(BAR_WIDTH - n_full))
}

/// At most `width` characters, without any that would move the cursor.
fn shortened(name: &str, width: usize) -> String {
    let mut name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if name.chars().count() > width {
        name = name.chars().take(width - 3).chain("...".chars()).collect();
    }
    name
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

/// Colours, or none.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }
}
