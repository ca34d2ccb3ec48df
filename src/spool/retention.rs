//! Old inputs and answers are removed, oldest first, by age and by size.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::disk::Disk;
use super::error::SpoolError;
use super::place::Place;

/// How long files of a place are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Since the file came to the place; none keeps it for ever.
    pub at_most: Option<Duration>,
    /// Bytes of all files of the place; none sets no limit.
    pub max_bytes: Option<u64>,
}

/// What is kept where. The default keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub out: Keep,
    pub done: Keep,
    pub failed: Keep,
}

/// A file that may go.
struct Old {
    /// Time of the last change of the inode: a rename sets it, a producer cannot.
    changed: (i64, i64),
    n_bytes: u64,
    name: OsString,
}

impl Retention {
    /// Removes what is over the limits; returns how many files.
    pub(super) fn prune(&self, disk: &Disk) -> Result<usize, SpoolError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let places = [(Place::Out, self.out), (Place::Done, self.done), (Place::Failed, self.failed)];
        let mut n_removed = 0;
        for (place, keep) in places {
            n_removed += keep.prune(disk, place, now)?;
        }
        Ok(n_removed)
    }
}

impl Keep {
    fn prune(&self, disk: &Disk, place: Place, now: Duration) -> Result<usize, SpoolError> {
        if *self == Self::default() {
            return Ok(0);
        }
        let mut files = old_files(disk, place)?;
        files.sort_by(|a, b| (a.changed, &a.name).cmp(&(b.changed, &b.name)));
        let mut n_bytes: u64 = files.iter().map(|file| file.n_bytes).sum();
        let mut n_removed = 0;
        for file in files {
            let since = Duration::from_secs(u64::try_from(file.changed.0).unwrap_or(0));
            let is_old = self.at_most.is_some_and(|limit| now.saturating_sub(since) > limit);
            if !is_old && self.max_bytes.is_none_or(|limit| n_bytes <= limit) {
                break;
            }
            disk.remove(place, &file.name)?;
            n_bytes -= file.n_bytes;
            n_removed += 1;
        }
        Ok(n_removed)
    }
}

/// Regular files with the names of jobs; whatever else stands there is not the spool's.
fn old_files(disk: &Disk, place: Place) -> Result<Vec<Old>, SpoolError> {
    let mut names = Vec::new();
    disk.list(place, |name| {
        if name.as_bytes().ends_with(b".json") {
            names.push(name.to_owned());
        }
    })?;
    let mut files = Vec::new();
    for name in names {
        let Some(stat) = disk.stat(place, &name)? else { continue };
        if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            let n_bytes = u64::try_from(stat.st_size).unwrap_or(0);
            files.push(Old { changed: (stat.st_ctime, stat.st_ctime_nsec), n_bytes, name });
        }
    }
    Ok(files)
}
