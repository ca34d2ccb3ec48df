//! `submit` and `status`: the spool from outside, safe while a daemon works on it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::numbers::count;
use crate::config::{DEFAULT_SPOOL, may_colour};
use crate::operator::{StatusOptions, SubmitOptions};

const SUBMIT_HELP: &str = "\
The daemon sees the whole file or nothing. Prints the name that the job has; with --wait, waits for the \
answer and prints its path.

Examples:
  jetspool submit request.json
  jetspool submit request.json --wait --timeout 60
  jetspool submit request.json --spool /tmp/spool";

/// Drop a request file into the spool.
#[derive(Debug, Args)]
#[command(after_help = SUBMIT_HELP)]
pub struct SubmitArgs {
    /// Request file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
    /// Wait for the answer.
    #[arg(long)]
    wait: bool,
    /// How long to wait with --wait.
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = 3600,
        value_parser = count(1, 31_536_000))]
    timeout: usize,
}

impl SubmitArgs {
    /// The flags as the daemon's room takes them.
    pub fn options(&self) -> SubmitOptions {
        SubmitOptions {
            file: self.file.clone(),
            spool: self.spool.clone(),
            wait: self.wait,
            timeout: Duration::from_secs(self.timeout as u64),
        }
    }
}

const STATUS_HELP: &str = "\
Shows what the daemon does now, its speed, adapters and memory, the files that wait, run, are answered and \
failed, and the latest errors. It changes nothing. `report` of --json is what the daemon wrote last to \
status.json in the spool: at least every second while it works, null when none runs.

Examples:
  jetspool status
  jetspool status --watch
  jetspool status --spool /tmp/spool --json";

/// Show what the spool holds and whether a daemon works on it.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show it again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = count(1, 86_400))]
    watch: Option<usize>,
}

impl StatusArgs {
    /// The flags as the daemon's room takes them.
    pub fn options(&self) -> StatusOptions {
        StatusOptions {
            spool: self.spool.clone(),
            json: self.json,
            watch: self.watch.map(|seconds| Duration::from_secs(seconds as u64)),
            may_colour: may_colour(),
        }
    }
}
