//! Everything that is looked at, in the order in which one thing needs the other.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::{files, machine, places};
use crate::config::Config;

/// The user and group that the package makes for the daemon.
pub(super) const SERVICE_USER: &str = "jetspool";

/// The flags of `doctor`.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    pub config: PathBuf,
    /// Stands before the paths of the system: /proc, /sys, /dev, /etc and the libraries.
    pub system_root: PathBuf,
}

/// Looks at everything; `progress` is told of each file that is read as a whole.
pub fn examine(options: &DoctorOptions, mut progress: impl FnMut(&Path)) -> Vec<Finding> {
    let mut findings = machine::examine(&options.system_root);
    let config = match Config::read(&options.config) {
        Ok(config) => {
            let found = format!("{} is right", options.config.display());
            findings.push(Finding::ok("config", found));
            config
        }
        Err(error) => {
            let fix = "mend the file; without it the daemon does not start. The rest is about the defaults";
            findings.push(Finding::problem("config", error.to_string(), fix));
            Config::default()
        }
    };
    findings.extend(places::examine(&config));
    findings.extend(files::examine(&config, &options.system_root, &mut progress));
    findings
}
