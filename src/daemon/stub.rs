//! Stands in for the daemon until it works on the new spool.

use std::path::Path;

use super::error::DaemonError;
use crate::config::Config;

pub fn serve(_config_path: &Path, _config: Config) -> Result<(), DaemonError> {
    Err(DaemonError::system("serve")(std::io::ErrorKind::Unsupported.into()))
}
