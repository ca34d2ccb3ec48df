//! The spool as it lies there: directories, owners, modes, space, and what waits in it.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::finding::{Finding, word};
use super::options::SERVICE_USER;
use super::service::Viewer;
use super::unit::Unit;
use crate::config::{Config, DEFAULT_SPOOL};
use crate::count::Count;
use crate::spool::Place;
use crate::spool::status::{Daemon, daemon, snapshot};

/// Every job takes up to four files.
const MIN_FREE_INODES: u64 = 1000;

pub fn examine(config: &Config, viewer: &Viewer) -> Vec<Finding> {
    let root = &config.spool;
    let found = match std::fs::metadata(root) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let missing = Finding::problem("spool", format!("{} is not there", root.display()));
            return vec![missing.command(make_spool(root))];
        }
        Err(error) => {
            let what = format!("cannot look at {}: {error}", root.display());
            return vec![Finding::note("spool", what).command("jetspool doctor")];
        }
    };
    if !found.is_dir() {
        let what = format!("{} is no directory", root.display());
        let command = format!("mv {0} {0}.moved && {1}", word(root), make_spool(root));
        return vec![Finding::problem("spool", what).command(command)];
    }
    let mut findings = Vec::new();
    let owner = viewer.service_user().map_or(found.uid(), |user| user.uid.as_raw());
    if found.uid() != owner {
        let what = format!("{} belongs to another user than {SERVICE_USER}", root.display());
        findings
            .push(Finding::problem("spool", what).command(format!("chown {SERVICE_USER}: {}", word(root))));
    }
    findings.extend(Place::ALL.iter().filter_map(|place| place_of(root, *place, &found, owner)));
    if findings.is_empty() {
        findings.push(Finding::ok("spool", format!("{} with its directories", root.display())));
    }
    findings.push(space(config));
    findings
}

/// As the package makes it.
fn make_spool(root: &Path) -> String {
    if root == Path::new(DEFAULT_SPOOL) {
        return "systemd-tmpfiles --create jetspool.conf".to_owned();
    }
    let directory = |mode: u32, name: &str| {
        format!("install -d -o {SERVICE_USER} -g {SERVICE_USER} -m {mode:o} {}", word(&root.join(name)))
    };
    format!("{} && {}", directory(0o755, ""), directory(mode(Place::New), Place::New.name()))
}

/// The mode that the package gives a place (systemd/jetspool.tmpfiles).
fn mode(place: Place) -> u32 {
    match place {
        Place::New => 0o3770,
        Place::Work | Place::Tmp => 0o700,
        _ => 0o750,
    }
}

/// What is wrong with one directory.
fn place_of(root: &Path, place: Place, of_root: &Metadata, owner: u32) -> Option<Finding> {
    // The daemon's own socket, or the directory that older daemons had in its place.
    if place.name() == "control" {
        return None;
    }
    let path = root.join(place.name());
    let make = format!("install -d -o {SERVICE_USER} -g {SERVICE_USER} -m {:o} {}", mode(place), word(&path));
    let found = match std::fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("{} is not there", path.display());
            return Some(match place {
                // The service may not set its bits.
                Place::New => Finding::problem("spool", what).command(make),
                _ => Finding::note("spool", format!("{what} yet: the daemon makes it")).command(make),
            });
        }
        Err(error) => {
            let what = format!("cannot look at {}: {error}", path.display());
            return Some(Finding::note("spool", what).command("jetspool doctor"));
        }
    };
    let problem = |what: &str| Finding::problem("spool", format!("{} {what}", path.display()));
    if !found.is_dir() {
        let command = format!("mv {0} {0}.moved && {make}", word(&path));
        return Some(problem("is no directory").command(command));
    }
    if found.dev() != of_root.dev() {
        let command = format!("umount {}", word(&path));
        return Some(problem("is on another file system: a job moves by rename").command(command));
    }
    if found.uid() != owner {
        return Some(problem("belongs to another user than the spool").command(make));
    }
    let (is, wanted) = (found.permissions().mode() & 0o7777, mode(place));
    if is == wanted {
        return None;
    }
    let command = format!("chmod {wanted:o} {}", word(&path));
    if is & 0o300 != 0o300 {
        return Some(problem("is closed to its owner").command(command));
    }
    let why = match place {
        Place::New if is & 0o2030 != 0o2030 => "producers of its group cannot drop files",
        Place::New if is & 0o1000 == 0 => "its producers may take each other's files away",
        _ if is & !wanted & 0o077 != 0 => "it is open to others than it should be",
        _ => "it is not as the package makes it",
    };
    let what = format!("{} has mode {is:o}, wanted {wanted:o}: {why}", path.display());
    Some(Finding::note("spool", what).command(command))
}

fn space(config: &Config) -> Finding {
    let stat = match nix::sys::statvfs::statvfs(&config.spool) {
        Ok(stat) => stat,
        Err(error) => {
            return Finding::note("space", format!("not known: {error}")).command("jetspool doctor");
        }
    };
    let free_mib = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64) >> 20;
    let free_inodes = stat.files_available() as u64;
    // Some file systems make inodes as they need them, and say that there are none.
    let lacks_inodes = stat.files() > 0 && free_inodes < MIN_FREE_INODES;
    let found = format!("{free_mib} MiB and {free_inodes} inodes are free");
    if free_mib < config.min_free_mib as u64 || lacks_inodes {
        return Finding::problem("space", found).advice(format!(
            "make room: below {} MiB no file is taken, and {MIN_FREE_INODES} inodes are few; done_max_mib and \
             out_max_mib keep the spool small",
            config.min_free_mib
        ));
    }
    Finding::ok("space", found)
}

/// Whether jobs wait for a daemon; none where there is no spool.
pub fn jobs(config: &Config, unit: Option<&Unit>) -> Option<Finding> {
    config.spool.is_dir().then(|| state(&config.spool, unit))
}

fn state(root: &Path, unit: Option<&Unit>) -> Finding {
    let runs = match daemon(root) {
        Ok(Daemon::Running(pid)) => {
            format!("a daemon runs{}", pid.map_or(String::new(), |pid| format!(" (pid {pid})")))
        }
        Ok(Daemon::Stopped) => "no daemon runs".to_owned(),
        Ok(Daemon::Unknown) => "whether a daemon runs, this user may not see".to_owned(),
        Err(error) => return Finding::note("jobs", error.to_string()).command("jetspool doctor"),
    };
    let counts = snapshot(root).map(|snapshot| snapshot.counts).unwrap_or_default();
    let n_files = |wanted: Place| {
        counts
            .iter()
            .find(|(place, _)| *place == wanted)
            .and_then(|(_, count)| *count)
            .map_or(0, |count| count.n_files)
    };
    let (n_waiting, n_failed, n_held) =
        (n_files(Place::New) + n_files(Place::Work), n_files(Place::Failed), n_files(Place::Hold));
    let found =
        format!("{runs}; {} waiting or running, {n_held} held, {n_failed} failed", Count(n_waiting, "job"));
    if runs == "no daemon runs" && n_waiting > 0 {
        let name = unit.map_or("jetspool.service", |unit| unit.name.as_str());
        return Finding::problem("jobs", found).command(format!("systemctl start {name}"));
    }
    if n_failed > 0 {
        let advice = "see `error` in their answers; jetspool requeue NAME runs one again";
        return Finding::note("jobs", found).advice(advice);
    }
    Finding::ok("jobs", found)
}
