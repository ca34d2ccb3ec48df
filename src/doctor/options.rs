//! What `doctor` is asked to look at.

use std::path::{Path, PathBuf};

/// The user and group that the package makes for the daemon.
pub(super) const SERVICE_USER: &str = "jetspool";

/// The flags of `doctor`.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    pub config: PathBuf,
    /// Stands before the paths of the system: /proc, /sys, /dev, /etc and the libraries.
    pub system_root: PathBuf,
    /// Become this user, and look only at what depends on it: what root's doctor starts as a child.
    pub as_user: Option<String>,
}

impl DoctorOptions {
    /// Whether it is this machine that is looked at, and not one that is made up.
    pub(super) fn is_real(&self) -> bool {
        self.system_root == Path::new("/")
    }
}
