//! `serve`: the daemon.

use std::path::PathBuf;

use clap::Args;

use crate::config::DEFAULT_FILE;

const HELP: &str = "\
Rename a file into new/ of the spool; its answer appears under the same name in out/, whole. SIGTERM \
lets requests under way finish for a while and keeps the rest for the next start. SIGHUP reads the \
configuration again.

Examples:
  jetspool serve --config /etc/jetspool/jetspool.toml
  systemctl start jetspool
  jetspool submit request.json --wait";

/// Answer every request file that is dropped into a spool.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
}
