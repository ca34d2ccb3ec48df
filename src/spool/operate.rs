//! The operator's side: hold, release, requeue, delete and flush, safe while a daemon works on the spool.
//!
//! What waits is moved by one rename from here. A job in work/ belongs to the daemon: it is asked by a
//! [`Wish`]; where none runs, this process takes the lock and does it itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::disk::{Disk, Durability, Renamed};
use super::error::SpoolError;
use super::journal::journal_name;
use super::place::Place;
use super::root::{Spool, SpoolConfig};
use super::status::{self, Daemon};
use super::wish::{Wish, is_job_name};

/// How long the daemon may take; its longest step is shorter by far.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// From new/ or work/ to hold/.
    Hold,
    /// From hold/ to new/; requests that were answered are not run again.
    Release,
    /// From failed/ or done/ to new/, to be run anew.
    Requeue,
    /// Removed from new/, hold/ or work/; there will be no answer.
    Delete,
}

impl Action {
    /// What `--all` means.
    pub fn all_of(self) -> Option<Place> {
        match self {
            Action::Hold => Some(Place::New),
            Action::Release => Some(Place::Hold),
            Action::Requeue => Some(Place::Failed),
            Action::Delete => None,
        }
    }
}

/// A spool as an operator sees it.
#[derive(Debug)]
pub struct Operator {
    disk: Disk,
}

impl Operator {
    /// Opens the directories of the spool at `root`; for that the operator must be root or the daemon's user.
    pub fn new(root: &Path) -> Result<Self, SpoolError> {
        Ok(Self { disk: Disk::open(root, Durability::Synced)? })
    }

    /// The jobs in a place, by name.
    pub fn jobs(&self, place: Place) -> Result<Vec<OsString>, SpoolError> {
        let mut names = Vec::new();
        self.disk.list(place, |name| {
            if is_job_name(name.as_bytes()) {
                names.push(name.to_owned());
            }
        })?;
        names.sort();
        Ok(names)
    }

    /// Does it with one job and returns the place that it was taken from. `.json` may be left out.
    pub fn act(&self, action: Action, name: &OsStr) -> Result<Place, SpoolError> {
        let mut name = name.to_owned();
        if !name.as_bytes().ends_with(b".json") {
            name.push(".json");
        }
        if !is_job_name(name.as_bytes()) {
            return Err(SpoolError::Name { name, why: "it is not a plain file name" });
        }
        match action {
            Action::Hold => self.hold(&name),
            Action::Release => self.put_back(&name, &[Place::Hold]),
            Action::Requeue => self.put_back(&name, &[Place::Failed, Place::Done]),
            Action::Delete => self.delete(&name),
        }
    }

    /// Asks the daemon to look at new/ and to try again now.
    pub fn flush(&self) -> Result<(), SpoolError> {
        if status::daemon(self.disk.root())? == Daemon::Stopped {
            return Err(SpoolError::NoDaemon { root: self.disk.root().to_owned() });
        }
        self.ask(&Wish::Flush)
    }

    fn hold(&self, name: &OsStr) -> Result<Place, SpoolError> {
        match self.disk.rename((Place::New, name), (Place::Hold, name))? {
            Renamed::Done => return self.synced([Place::Hold, Place::New]).map(|()| Place::New),
            Renamed::Taken => return Err(self.taken(Place::Hold, name)),
            Renamed::Missing => {}
        }
        self.stop_job(name, Wish::Hold(name.to_owned()), |spool| spool.set_aside(name))
    }

    fn delete(&self, name: &OsStr) -> Result<Place, SpoolError> {
        for place in [Place::New, Place::Hold] {
            // By way of tmp/: a rename tells whether the daemon was faster.
            let trash = mark();
            if self.disk.rename((place, name), (Place::Tmp, &trash))? == Renamed::Done {
                self.disk.remove(Place::Hold, &journal_name(name))?;
                self.disk.remove(Place::Tmp, &trash)?;
                return self.synced([place]).map(|()| place);
            }
        }
        self.stop_job(name, Wish::Delete(name.to_owned()), |spool| spool.discard(name))
    }

    fn put_back(&self, name: &OsStr, from: &[Place]) -> Result<Place, SpoolError> {
        for &place in from {
            match self.disk.rename((place, name), (Place::New, name))? {
                Renamed::Done => return self.synced([Place::New, place]).map(|()| place),
                Renamed::Taken => return Err(self.taken(Place::New, name)),
                Renamed::Missing => {}
            }
        }
        Err(self.absent(name))
    }

    /// For a job in work/: by the daemon, or by ourselves where none runs.
    fn stop_job(
        &self,
        name: &OsStr,
        wish: Wish,
        alone: impl Fn(&Spool) -> Result<(), SpoolError>,
    ) -> Result<Place, SpoolError> {
        let is_there = |disk: &Disk| Ok(disk.stat(Place::Work, name)?.is_some());
        if !is_there(&self.disk)? {
            return Err(self.absent(name));
        }
        match Spool::open(self.disk.root(), SpoolConfig::default()) {
            Ok((spool, _)) if is_there(&self.disk)? => alone(&spool)?,
            Ok(_) => {}
            Err(SpoolError::Locked { .. }) => self.ask(&wish)?,
            Err(error) => return Err(error),
        }
        let is_held = matches!(wish, Wish::Hold(_)) && self.disk.stat(Place::Hold, name)?.is_some();
        if is_there(&self.disk)? {
            return Err(SpoolError::TooLate {
                name: name.to_owned(),
                why: "its answer is being brought out",
            });
        }
        match wish {
            Wish::Hold(_) if !is_held => Err(self.absent(name)),
            _ => Ok(Place::Work),
        }
    }

    /// Leaves the wish and waits until the daemon has taken it up.
    fn ask(&self, wish: &Wish) -> Result<(), SpoolError> {
        let mark = mark();
        wish.leave(&self.disk, &mark)?;
        let start = Instant::now();
        while self.disk.stat(Place::Control, &mark)?.is_some() {
            if start.elapsed() > PATIENCE {
                return Err(SpoolError::NotTakenUp { seconds: PATIENCE.as_secs() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn synced<const N: usize>(&self, places: [Place; N]) -> Result<(), SpoolError> {
        places.into_iter().try_for_each(|place| self.disk.sync_dir(place))
    }

    fn taken(&self, place: Place, name: &OsStr) -> SpoolError {
        self.disk.error("move to", place, name, std::io::ErrorKind::AlreadyExists.into())
    }

    /// Says where the job is instead.
    fn absent(&self, name: &OsStr) -> SpoolError {
        let is_in = |place: &Place| matches!(self.disk.stat(*place, name), Ok(Some(_)));
        let place = Place::JOBS.into_iter().find(is_in);
        SpoolError::NoJob { name: name.to_owned(), place }
    }
}

/// A name that no other process uses; it sorts by time.
fn mark() -> OsString {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{time:032x}-{:x}", std::process::id()).into()
}
