//! Old inputs and answers are removed, oldest first, by age and by size.
//! Ages wait for a clock that is set, sizes do not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::clock::Now;
use super::disk::Disk;
use super::error::SpoolError;
use super::place::Place;
use super::settings::{Keep, Retention};

/// A file that may go.
struct Old {
    /// Time of the last change of the inode: a rename sets it, a producer cannot.
    changed: (i64, i64),
    n_bytes: u64,
    name: OsString,
}

impl Retention {
    /// Removes what is over the limits; returns how many files.
    pub(super) fn prune(&self, disk: &mut Disk, now: Now) -> Result<usize, SpoolError> {
        let places = [(Place::Out, self.out), (Place::Done, self.done), (Place::Failed, self.failed)];
        let mut n_removed = 0;
        for (place, keep) in places {
            n_removed += keep.prune(disk, place, now)?;
        }
        Ok(n_removed)
    }
}

impl Keep {
    fn prune(&self, disk: &mut Disk, place: Place, now: Now) -> Result<usize, SpoolError> {
        if *self == Self::default() {
            return Ok(0);
        }
        let mut files = old_files(disk, place)?;
        files.sort_by(|a, b| (a.changed, &a.name).cmp(&(b.changed, &b.name)));
        let mut n_bytes: u64 = files.iter().map(|file| file.n_bytes).sum();
        let mut n_removed = 0;
        for file in files {
            let since = Duration::from_secs(u64::try_from(file.changed.0).unwrap_or(0));
            // By a clock that jumps after the start, a file of yesterday is decades old.
            let is_old = now.is_synchronised
                && self.at_most.is_some_and(|limit| now.time.saturating_sub(since) > limit);
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
