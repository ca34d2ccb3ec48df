//! `submit` and `status`: the spool from outside, safe while a daemon works on it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::numbers::{count, seconds};
use crate::config::{DEFAULT_SPOOL, may_colour};
use crate::operator::{ErrorsOptions, StatusOptions, SubmitOptions};

const SUBMIT_HELP: &str = "\
The daemon sees the whole file or nothing. Prints the name that the job has; with --wait, waits for the \
answer and prints its path. With --nats the file goes to the queue of a fleet, with the adapters of this machine \
that it names by path; the job's id is printed, with --wait the answer itself.

Examples:
  jetspool submit request.json
  jetspool submit request.json --wait --timeout 60
  jetspool submit request.json --spool /tmp/spool
  jetspool submit request.json --nats nats://queue.example:4222 --wait";

/// Drop a request file into the spool, or give it to a fleet.
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
    #[cfg(feature = "fleet")]
    #[command(flatten)]
    fleet: super::fleet::ProducerArgs,
}

impl SubmitArgs {
    /// Whether a fleet is meant, not a spool of this machine.
    #[cfg(feature = "fleet")]
    pub fn is_for_fleet(&self) -> bool {
        self.fleet.is_meant()
    }

    /// Gives the file to the fleet.
    ///
    /// # Errors
    /// [`Stop`] with what kept it from going on, or what failed in the answer.
    #[cfg(feature = "fleet")]
    pub fn give_to_fleet(&self) -> Result<(), super::Stop> {
        self.fleet.submit(self.file.clone(), self.wait.then(|| self.timeout()))
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout as u64)
    }

    /// The flags as the daemon's room takes them.
    pub fn options(&self) -> SubmitOptions {
        SubmitOptions {
            file: self.file.clone(),
            spool: self.spool.clone(),
            wait: self.wait,
            timeout: self.timeout(),
        }
    }
}

const STATUS_HELP: &str = "\
Shows what the daemon does now, its speed, adapters and memory, the files that wait, run, are answered and \
failed, and the latest errors; with a name, that job under way. It changes nothing. `report` of --json is \
what the daemon says of itself, null when none runs. For root, the service's user and members of its group.

Examples:
  jetspool status
  jetspool status nightly.json
  jetspool status --watch
  jetspool status --watch 0.5
  jetspool status --spool /tmp/spool --json";

/// Show what the spool holds and whether a daemon works on it.
#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub struct StatusArgs {
    /// A job under way, by its name or its id.
    #[arg(value_name = "JOB")]
    job: Option<OsString>,
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show it again and again, every so many seconds: 0.1 to 86400, 2 if no number is given.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = seconds(0.1, 86_400.0))]
    watch: Option<Duration>,
}

impl StatusArgs {
    /// The flags as the daemon's room takes them.
    pub fn options(&self) -> StatusOptions {
        StatusOptions {
            spool: self.spool.clone(),
            job: self.job.clone(),
            json: self.json,
            watch: self.watch,
            may_colour: may_colour(),
        }
    }
}

const ERRORS_HELP: &str = "\
The latest errors since the daemon was started, oldest first: its own, those of files that were rejected and \
those of requests that failed, with the job's name and the reason. All of them stand in the log too.

Examples:
  jetspool errors
  jetspool errors --json";

/// Show what went wrong lately.
#[derive(Debug, Args)]
#[command(after_help = ERRORS_HELP)]
pub struct ErrorsArgs {
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl ErrorsArgs {
    /// The flags as the operator's room takes them.
    pub fn options(&self) -> ErrorsOptions {
        ErrorsOptions { spool: self.spool.clone(), json: self.json, may_colour: may_colour() }
    }
}
