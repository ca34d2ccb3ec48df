//! A look at a spool from outside, without the lock: safe while a daemon works on it.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::error::SpoolError;
use super::place::Place;
use super::root::LOCK_NAME;

/// Files of one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Jobs, inputs or answers: names that end in `.json`.
    pub n_files: usize,
    /// Their bytes.
    pub n_bytes: u64,
    /// Age of the oldest by its time of change.
    pub oldest: Option<Duration>,
}

/// Whether a daemon holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Its process id, if it could be read.
    Running(Option<u32>),
    Stopped,
    /// This user may not look at the lock.
    Unknown,
}

/// What a spool holds at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub daemon: Daemon,
    /// In the order of [`Place::JOBS`]; none where this user may not look.
    pub counts: Vec<(Place, Option<Count>)>,
}

/// Counts the files of the spool at `root`.
pub fn snapshot(root: &Path) -> Result<Snapshot, SpoolError> {
    let daemon = daemon(root)?;
    let count = |place: Place| match count(&root.join(place.name())) {
        Ok(count) => Some(count),
        // A daemon makes it at its first start.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Count::default()),
        Err(_) => None,
    };
    let counts = Place::JOBS.into_iter().map(|place| (place, count(place))).collect();
    Ok(Snapshot { daemon, counts })
}

/// Whether a daemon has the lock of the spool at `root`.
pub fn daemon(root: &Path) -> Result<Daemon, SpoolError> {
    let path = root.join(LOCK_NAME);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && root.is_dir() => return Ok(Daemon::Stopped),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(Daemon::Unknown),
        Err(source) => return Err(SpoolError::Io { doing: "open", path, source }),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(Daemon::Stopped),
        Err(_) => {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            Ok(Daemon::Running(text.trim().parse().ok()))
        }
    }
}

fn count(dir: &Path) -> std::io::Result<Count> {
    let mut count = Count::default();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_bytes().ends_with(b".json") || name.as_bytes().starts_with(b".") {
            continue;
        }
        // It may be gone by now: then it does not count.
        let Ok(found) = entry.metadata() else { continue };
        count.n_files += 1;
        count.n_bytes += found.len();
        let age = found.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        count.oldest = count.oldest.max(age);
    }
    Ok(count)
}
