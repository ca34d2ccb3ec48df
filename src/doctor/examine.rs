//! Everything that is looked at, in the order in which one thing needs the other.

use std::path::Path;

use super::finding::Finding;
use super::options::DoctorOptions;
use super::service::Viewer;
use super::unit::Unit;
use super::{access, engine, fleet, machine, places, service, unit};
use crate::config::{Config, ConfigError};

/// Looks at everything; `progress` is told of each file that is read as a whole.
pub fn examine(options: &DoctorOptions, mut progress: impl FnMut(&Path)) -> Vec<Finding> {
    let unit = if options.is_real() { Unit::of(&options.config) } else { None };
    if let Some(user) = &options.as_user {
        if let Err(error) = service::become_user(user) {
            return vec![Finding::problem("user", format!("cannot become {user}: {error}"))];
        }
        return as_this_user(options, unit.as_ref(), &mut progress);
    }
    let mut findings = machine::examine(&options.system_root);
    let config = read_config(&options.config, &mut findings);
    if let Some(unit) = &unit {
        findings.extend(unit::examine(unit, &config));
    }
    let viewer = Viewer::of(options, unit.as_ref());
    findings.extend(viewer.finding());
    findings.extend(places::examine(&config, &viewer));
    findings.extend(match &viewer {
        Viewer::Root { user } => service::ask(options, user),
        Viewer::NoUser { .. } => Vec::new(),
        Viewer::Service => as_this_user(options, unit.as_ref(), &mut progress),
        // Rights of somebody else say nothing: only what can be read is looked at.
        Viewer::Other { .. } if access::is_readable(&config.engine) => {
            engine::examine(&config, &options.config, unit.as_ref(), &mut progress)
        }
        Viewer::Other { .. } => Vec::new(),
    });
    // Its remedy starts the service, which needs all of the others.
    findings.extend(places::jobs(&config, unit.as_ref()));
    findings
}

fn read_config(path: &Path, findings: &mut Vec<Finding>) -> Config {
    match Config::read(path) {
        Ok(config) => {
            findings.push(Finding::ok("config", format!("{} is right", path.display())));
            config
        }
        Err(error) => {
            let advice =
                "correct the file; without it the daemon does not start. The rest is about the defaults";
            findings.push(Finding::problem("config", error.to_string()).advice(advice));
            Config::default()
        }
    }
}

/// What `serve` would meet if it were started by the user of this process.
fn as_this_user(
    options: &DoctorOptions,
    unit: Option<&Unit>,
    progress: &mut dyn FnMut(&Path),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = match Config::read(&options.config) {
        Ok(config) => config,
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            return vec![access::closed("config", &options.config, "read")];
        }
        // Told already.
        Err(_) => Config::default(),
    };
    findings.push(machine::gpu(&config.engine));
    findings.extend(fleet::examine(&config));
    findings.extend(access::examine(&config, &options.system_root, unit));
    findings.extend(engine::examine(&config, &options.config, unit, progress));
    findings
}
