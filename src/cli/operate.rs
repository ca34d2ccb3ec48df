//! `hold`, `release`, `requeue`, `delete` and `flush`: what an operator does with jobs, while the daemon runs.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::config::DEFAULT_SPOOL;
use crate::operator::{Action, OperateOptions};

pub const HOLD_HELP: &str = "\
A job that waits is moved from new/ to hold/. One under way is stopped first; what it has answered is kept, \
and `release` lets it go on from there. For root, the daemon's user and the owner of the file.

Examples:
  jetspool hold nightly.json
  jetspool hold --all";

pub const RELEASE_HELP: &str = "\
Moves the job from hold/ to work/. Requests that were answered before are not run again.

Examples:
  jetspool release nightly.json
  jetspool release --all";

pub const REQUEUE_HELP: &str = "\
Moves the input from failed/ or done/ to work/: all of it is run again. An answer that stands in out/ \
stays; the new one has the job's id in its name. --all takes what is in failed/.

Examples:
  jetspool requeue nightly.json
  jetspool requeue --all";

pub const DELETE_HELP: &str = "\
Removes a job that waits, is held or is under way. It gets no answer. An answered job is not touched.

Examples:
  jetspool delete nightly.json";

const FLUSH_HELP: &str = "\
Without it the daemon scans the spool every scan_seconds, and retries what failed after a retry delay of a second.

Examples:
  sudo jetspool flush";

/// Jobs by name.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Names of the jobs; .json may be left out.
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<OsString>,
    /// All jobs that the command can act on.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
}

/// Jobs by name, for the command that has no --all.
#[derive(Debug, Args)]
pub struct NamedJobsArgs {
    /// Names of the jobs; .json may be left out.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<OsString>,
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
}

/// Scan the spool and retry what failed now, without the retry delay.
#[derive(Debug, Args)]
#[command(after_help = FLUSH_HELP)]
pub struct FlushArgs {
    /// The spool.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_SPOOL)]
    spool: PathBuf,
}

impl JobsArgs {
    /// The flags as the daemon's room takes them.
    pub fn options(&self, action: Action) -> OperateOptions {
        let names = (!self.all).then(|| self.names.clone());
        OperateOptions { action, names, spool: self.spool.clone() }
    }
}

impl NamedJobsArgs {
    /// The flags as the daemon's room takes them.
    pub fn options(&self, action: Action) -> OperateOptions {
        OperateOptions { action, names: Some(self.names.clone()), spool: self.spool.clone() }
    }
}

impl FlushArgs {
    /// The spool that is meant.
    pub fn spool(&self) -> &std::path::Path {
        &self.spool
    }
}
