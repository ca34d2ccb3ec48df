//! `submit` and `status`: the spool from the outside, safe while the daemon runs.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::json;

use super::error::DaemonError;
use crate::spool::status::{Daemon, snapshot};
use crate::spool::submit::{submit as drop_in, wait_for_answer};
use crate::spool::wire::RequestFile;
use crate::store::read_small;

/// The flags of `submit`.
#[derive(Debug, Clone)]
pub struct SubmitOptions {
    pub file: PathBuf,
    pub spool: PathBuf,
    /// Waits for the answer, prints its path and fails if the file was rejected.
    pub wait: bool,
    pub timeout: Duration,
}

/// The flags of `status`.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    pub spool: PathBuf,
    pub json: bool,
}

/// Drops a request file into the spool under its own name and prints the name, or the answer's path.
///
/// # Errors
/// [`DaemonError::Rejected`] for a file that no daemon would take.
pub fn submit(options: &SubmitOptions) -> Result<(), DaemonError> {
    let path = &options.file;
    let bytes = read_small(path)?;
    RequestFile::parse(bytes.clone()).map_err(|fault| DaemonError::Rejected { path: path.clone(), fault })?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = drop_in(&options.spool, name, &bytes)?;
    if !options.wait {
        return print(&name.display().to_string());
    }
    let answer = wait_for_answer(&options.spool, &name, options.timeout)?;
    print(&answer.display().to_string())?;
    check_answer(answer)
}

/// An answer file, of which only the faults matter.
#[derive(serde::Deserialize)]
struct Outcome {
    error: Option<IgnoredAny>,
    responses: Vec<Response>,
}

#[derive(serde::Deserialize)]
struct Response {
    error: Option<IgnoredAny>,
}

fn check_answer(output: PathBuf) -> Result<(), DaemonError> {
    let failed = DaemonError::system("read the answer");
    let outcome: Outcome = match File::open(&output) {
        Ok(file) => serde_json::from_reader(BufReader::new(file)).map_err(|error| failed(error.into()))?,
        Err(error) => return Err(failed(error)),
    };
    let n_requests = outcome.responses.len();
    let n_failed = outcome.responses.iter().filter(|response| response.error.is_some()).count();
    match (outcome.error, n_failed) {
        (None, 0) => Ok(()),
        _ => Err(DaemonError::SomeFailed { n_failed, n_requests, output }),
    }
}

/// Prints what the spool holds.
///
/// # Errors
/// [`DaemonError::Spool`] when the spool cannot be read.
pub fn status(options: &StatusOptions) -> Result<(), DaemonError> {
    let snapshot = snapshot(&options.spool)?;
    let (state, pid) = match snapshot.daemon {
        Daemon::Running(pid) => ("running", pid),
        Daemon::Stopped => ("stopped", None),
    };
    if options.json {
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
        let spool = options.spool.to_string_lossy();
        return print(&format!(
            "{:#}",
            json!({ "spool": spool, "daemon": state, "pid": pid, "places": counts })
        ));
    }
    let mut text = format!("spool   {}\n", options.spool.display());
    let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    text += &format!("daemon  {state}{pid}\n\n");
    text += "place    files      size  oldest\n";
    for (place, count) in &snapshot.counts {
        text += &match count {
            None => format!("{:<7} no permission to look\n", place.name()),
            Some(count) => format!(
                "{:<7} {:>6} {:>9}  {}\n",
                place.name(),
                count.n_files,
                size(count.n_bytes),
                count.oldest.map_or("-".to_owned(), age)
            ),
        };
    }
    print(text.trim_end())
}

fn size(n_bytes: u64) -> String {
    match n_bytes {
        0..1024 => format!("{n_bytes} B"),
        1024..0x10_0000 => format!("{:.1} KB", n_bytes as f64 / 1024.0),
        _ => format!("{:.1} MB", n_bytes as f64 / f64::from(1 << 20)),
    }
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// One print; a reader that has gone away is no error.
fn print(text: &str) -> Result<(), DaemonError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(DaemonError::System { action: "print", source: error })
        }
        _ => Ok(()),
    }
}
