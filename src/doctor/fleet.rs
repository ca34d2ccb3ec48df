//! What the bridge to a fleet's queue needs of the daemon.

use super::finding::Finding;
use crate::config::Config;

/// Adapters that the bridge has fetched, and that the daemon must be allowed to read.
pub fn examine(config: &Config) -> Option<Finding> {
    let fetched = &config.bridge.adapters;
    if config.allowed_roots.iter().any(|root| fetched.starts_with(root)) {
        return None;
    }
    // The package makes the directory, whether there is a fleet or not.
    std::fs::read_dir(fetched).ok()?.next()?.ok()?;
    let what = format!(
        "the bridge's adapters in {} lie outside allowed_roots: the daemon refuses them",
        fetched.display()
    );
    let advice = "add that directory to allowed_roots in the configuration, then systemctl reload jetspool";
    Some(Finding::problem("bridge", what).advice(advice))
}
