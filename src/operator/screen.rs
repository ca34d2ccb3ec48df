//! `status` and `errors`: the spool and its daemon on one screen, or as JSON.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::AccessFlags;
use serde_json::json;
use terminal_size::{Height, terminal_size};

use super::client::ask;
use super::error::OperatorError;
use super::output::print;
use super::page::Page;
use crate::spool::control::{JobName, Order, Reply};
use crate::spool::report::Report;
use crate::spool::status::{Snapshot, snapshot};
use crate::spool::{LastUse, Place, SpoolError, check_spool, meant};
use crate::store::access::closed;

/// The flags of `status`.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    pub spool: PathBuf,
    /// A job's name or id; none shows everything.
    pub job: Option<OsString>,
    pub json: bool,
    /// Shows it again after so long, until interrupted.
    pub watch: Option<Duration>,
    /// Whether colours may be used where the output is a terminal.
    pub may_colour: bool,
}

/// Errors that are shown beside everything else.
const N_ERRORS: usize = 5;

/// Prints what the spool holds and what its daemon says, once or again and again.
///
/// # Errors
/// [`OperatorError`] when there is no spool.
pub fn status(options: &StatusOptions) -> Result<(), OperatorError> {
    let is_terminal = std::io::stdout().is_terminal();
    let is_coloured = is_terminal && options.may_colour && !options.json;
    loop {
        let text = match &options.job {
            Some(name) => one_job(options, name, is_coloured)?,
            None => whole(options, is_coloured)?,
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

fn whole(options: &StatusOptions, is_coloured: bool) -> Result<String, OperatorError> {
    check_spool(&options.spool)?;
    let snapshot = snapshot(&options.spool)?;
    let report = report(&options.spool)?;
    if options.json {
        return Ok(as_json(options, &snapshot, report.as_ref()));
    }
    let mut page = Page::new(is_coloured);
    page.heading(&options.spool, report.as_ref());
    if let Some(report) = &report {
        page.work(report);
        page.memory(report);
    }
    let sees_nothing = snapshot.counts.iter().all(|(_, count)| count.is_none());
    match closed(&options.spool.join(Place::Out.name()), AccessFlags::R_OK).filter(|_| sees_nothing) {
        Some(closed) => page.closed(&closed),
        None => page.places(&snapshot),
    }
    if let Some(report) = &report {
        page.jobs(&report.queue.jobs, report.queue.n_open);
        page.errors(&report.errors, N_ERRORS);
    }
    let rows = options.watch.and_then(|_| terminal_size()).map(|(_, Height(rows))| usize::from(rows));
    Ok(page.finish(rows))
}

fn one_job(options: &StatusOptions, name: &OsStr, is_coloured: bool) -> Result<String, OperatorError> {
    let order = Order::Job { name: JobName(name.to_owned()) };
    let jobs = match ask(&options.spool, &order)? {
        Some(Reply::Jobs { jobs }) => jobs,
        Some(_) => return Err(OperatorError::other_version()),
        None => return Err(SpoolError::NoDaemon { root: options.spool.clone() }.into()),
    };
    if jobs.is_empty() {
        let place = place_of(&options.spool, name);
        return Err(SpoolError::NoJob { name: name.to_owned(), place }.into());
    }
    if options.json {
        return Ok(serde_json::to_string_pretty(&jobs).unwrap_or_default());
    }
    let mut page = Page::new(is_coloured);
    jobs.iter().for_each(|job| page.job(job));
    Ok(page.finish(None))
}

/// Where a job stands that the daemon does not work on.
fn place_of(root: &Path, name: &OsStr) -> Option<Place> {
    let names = meant(name).unwrap_or_default();
    let stands = |place: &Place| {
        let dir = root.join(place.name());
        names.iter().any(|name| dir.join(name).symlink_metadata().is_ok())
    };
    Place::JOBS.into_iter().find(stands)
}

/// The flags of `errors`.
#[derive(Debug, Clone)]
pub struct ErrorsOptions {
    pub spool: PathBuf,
    pub json: bool,
    pub may_colour: bool,
}

/// Prints the latest errors, of the daemon, of jobs and of requests, oldest first.
///
/// # Errors
/// [`OperatorError`] when no daemon runs.
pub fn errors(options: &ErrorsOptions) -> Result<(), OperatorError> {
    let report =
        report(&options.spool)?.ok_or_else(|| SpoolError::NoDaemon { root: options.spool.clone() })?;
    if options.json {
        return print(&serde_json::to_string_pretty(&report.errors).unwrap_or_default()).map(drop);
    }
    if report.errors.is_empty() {
        return print("no errors since the daemon was started").map(drop);
    }
    let mut page = Page::new(std::io::stdout().is_terminal() && options.may_colour);
    page.errors(&report.errors, usize::MAX);
    print(&page.finish(None)).map(drop)
}

/// What a daemon has open and what it is used for.
#[derive(Debug, Clone)]
pub struct Serving {
    pub engine: PathBuf,
    /// Adapters of requests under way, each with their number.
    pub adapters: Vec<(String, usize)>,
}

/// Asks the daemon of a spool; none if none runs.
///
/// # Errors
/// [`OperatorError`] when there is no spool, or this user may not ask.
pub fn serving(spool: &Path) -> Result<Option<Serving>, OperatorError> {
    let report = report(spool)?;
    Ok(report.map(|report| Serving {
        engine: report.engine.directory,
        adapters: report.adapters.into_iter().map(|adapter| (adapter.name, adapter.n_requests)).collect(),
    }))
}

/// When each adapter was asked for last, in seconds since 1970, by name; the daemon need not run.
pub fn last_use(spool: &Path) -> BTreeMap<String, u64> {
    LastUse::read(spool).into_times()
}

/// What the daemon says; none if none runs.
fn report(spool: &Path) -> Result<Option<Report>, OperatorError> {
    match ask(spool, &Order::Status)? {
        Some(Reply::Status { report }) => Ok(Some(*report)),
        Some(_) => Err(OperatorError::other_version()),
        None => Ok(None),
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
    let pid = report.map(|report| report.pid);
    let state = if pid.is_some() { "running" } else { "stopped" };
    let all = json!({
        "spool": options.spool.to_string_lossy(), "daemon": state, "pid": pid, "places": counts,
        "report": report,
    });
    if options.watch.is_some() { format!("{all}") } else { format!("{all:#}") }
}
