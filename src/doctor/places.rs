//! The spool: directories, rights, space, and what lies in it.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::examine::SERVICE_USER;
use super::finding::Finding;
use crate::config::Config;
use crate::spool::Place;
use crate::spool::status::{Daemon, daemon, snapshot};

/// Every job takes up to four files.
const MIN_FREE_INODES: u64 = 1000;

pub fn examine(config: &Config) -> Vec<Finding> {
    let root = &config.spool;
    let Ok(found) = std::fs::metadata(root) else {
        let fix = format!("install -d -o {SERVICE_USER} -g {SERVICE_USER} {}", root.display());
        return vec![Finding::problem("spool", format!("{} is not there", root.display()), fix)];
    };
    if !found.is_dir() {
        let what = format!("{} is no directory", root.display());
        return vec![Finding::problem("spool", what, "move it away")];
    }
    let mut findings: Vec<Finding> =
        Place::ALL.iter().filter_map(|place| place_of(root, *place, &found)).collect();
    if findings.is_empty() {
        findings.push(Finding::ok("spool", format!("{} with its directories", root.display())));
    }
    findings.push(space(config));
    findings.push(state(root));
    findings
}

/// What is wrong with one directory.
fn place_of(root: &Path, place: Place, of_root: &Metadata) -> Option<Finding> {
    let path = root.join(place.name());
    let found = match std::fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = format!("{} is not there yet", path.display());
            return Some(Finding::note("spool", what, "the daemon makes it when it starts"));
        }
        Err(error) => {
            let what = format!("cannot look at {}: {error}", path.display());
            return Some(Finding::note("spool", what, "run doctor as root"));
        }
    };
    let problem =
        |what: &str, fix: String| Some(Finding::problem("spool", format!("{} {what}", path.display()), fix));
    if !found.is_dir() {
        return problem("is no directory", "move it away".into());
    }
    if found.dev() != of_root.dev() {
        return problem("is on another file system", "unmount it: a job moves by rename".into());
    }
    if found.uid() != of_root.uid() {
        let fix = format!("chown --reference={} {}", root.display(), path.display());
        return problem("belongs to another user than the spool", fix);
    }
    let mode = found.permissions().mode();
    if mode & 0o300 != 0o300 {
        return problem("is closed to its owner", format!("chmod u+rwx {}", path.display()));
    }
    if place == Place::New && mode & 0o2030 != 0o2030 && mode & 0o003 != 0o003 {
        let what = format!("{} is not for producers of its group (mode {:o})", path.display(), mode & 0o7777);
        return Some(Finding::note("spool", what, format!("chmod 2770 {}", path.display())));
    }
    None
}

fn space(config: &Config) -> Finding {
    let stat = match nix::sys::statvfs::statvfs(&config.spool) {
        Ok(stat) => stat,
        Err(error) => return Finding::note("space", format!("not known: {error}"), "run doctor as root"),
    };
    let free_mib = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64) >> 20;
    let free_inodes = stat.files_available() as u64;
    // Some file systems make inodes as they need them, and say that there are none.
    let lacks_inodes = stat.files() > 0 && free_inodes < MIN_FREE_INODES;
    let found = format!("{free_mib} MiB and {free_inodes} inodes are free");
    if free_mib < config.min_free_mib as u64 || lacks_inodes {
        let fix = format!(
            "make room: below {} MiB no file is taken; done_max_mib and out_max_mib keep the spool small",
            config.min_free_mib
        );
        return Finding::problem("space", found, fix);
    }
    Finding::ok("space", found)
}

fn state(root: &Path) -> Finding {
    let runs = match daemon(root) {
        Ok(Daemon::Running(pid)) => {
            format!("a daemon runs{}", pid.map_or(String::new(), |pid| format!(" (pid {pid})")))
        }
        Ok(Daemon::Stopped) => "no daemon runs".to_owned(),
        Ok(Daemon::Unknown) => "whether a daemon runs, this user may not see".to_owned(),
        Err(error) => return Finding::note("jobs", error.to_string(), "run doctor as root"),
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
    let found = format!("{runs}; {n_waiting} jobs wait or run, {n_held} are held, {n_failed} failed");
    if runs == "no daemon runs" && n_waiting > 0 {
        return Finding::problem("jobs", found, "systemctl start jetspool");
    }
    if n_failed > 0 {
        return Finding::note(
            "jobs",
            found,
            "see `error` in their answers; jetspool requeue NAME runs one again",
        );
    }
    Finding::ok("jobs", found)
}
