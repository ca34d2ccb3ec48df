//! How a job comes in: claimed from new/ by one rename, then opened.

use std::ffi::OsStr;
use std::io::ErrorKind;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};

use super::disk::Renamed;
use super::error::SpoolError;
use super::history::Event;
use super::id::JobId;
use super::inbox::Candidate;
use super::job::{Claimed, Job, OpenJob, Opened};
use super::journal::{Journal, NewLine};
use super::name::{completed, input_name, is_job_name, journal_name};
use super::place::Place;
use super::root::Spool;
use super::wire::{Fault, FaultCode};

/// A job takes an inode for its journal and one for its answer; the rest is for the jobs under way.
const MIN_FREE_INODES: u64 = 64;

/// An input as it was found.
enum Input {
    File(OpenJob),
    Refused(Fault),
    Gone,
}

impl Spool {
    /// Takes a file out of new/ by one rename to work/, whatever it is; none if it is gone.
    ///
    /// # Errors
    /// [`SpoolError::Name`] for a name that is too long: it stays where it is. [`SpoolError::NoSpace`] and
    /// [`SpoolError::NoInodes`] when a job could not be brought to its end.
    pub fn claim(&mut self, candidate: &Candidate) -> Result<Option<Claimed>, SpoolError> {
        let name = candidate.name();
        if !is_job_name(name) {
            let why = completed(name).err().unwrap_or("it does not end in .json or .jsonl");
            return Err(SpoolError::Name { name: name.to_owned(), why });
        }
        self.check_free()?;
        let id = self.next_id();
        match self.disk.rename((Place::New, name), (Place::Work, &input_name(id, name)))? {
            Renamed::Done => Ok(Some(self.claimed(id, name))),
            Renamed::Missing => Ok(None),
            Renamed::Taken => {
                Err(self.disk.error("claim", Place::New, name, ErrorKind::AlreadyExists.into()))
            }
        }
    }

    /// Opens a job in work/ and marks it as being opened. After an error it may be opened again.
    pub fn open_job(&mut self, claimed: &Claimed) -> Result<Opened, SpoolError> {
        let id = claimed.id;
        if self.jobs.get(&id).is_some_and(|job| job.ready.is_some()) {
            return Ok(Opened::Gone);
        }
        let input = self.open_input(claimed)?;
        if matches!(input, Input::Gone) {
            self.jobs.remove(&id);
            self.disk.remove(Place::Work, &journal_name(id))?;
            return Ok(Opened::Gone);
        }
        if !self.jobs.contains_key(&id) {
            let journal = Journal::load(&self.disk, id, &self.config.boot_id)?;
            self.jobs
                .insert(id, Job { name: claimed.name.clone(), owner: claimed.owner, journal, ready: None });
        }
        let (mut open, job) = match (input, self.jobs.get_mut(&id)) {
            (Input::File(open), Some(job)) => (open, job),
            (Input::Refused(fault), _) => return Ok(Opened::Refused(fault)),
            _ => return Ok(Opened::Gone),
        };
        // One mark for each life is enough.
        if !job.journal.history().is_alive() {
            let boot = &self.config.boot_id;
            let mark = NewLine::Event(Event::Open { boot: boot.clone() });
            job.journal.append(&mut self.disk, boot, &[mark])?;
        }
        open.n_opens = job.journal.history().n_opens();
        Ok(Opened::Job(open))
    }

    /// An id that no job has.
    pub(super) fn next_id(&mut self) -> JobId {
        let id = JobId::next(self.last_id);
        self.last_id = Some(id);
        id
    }

    /// A job that stands in work/.
    pub(super) fn claimed(&self, id: JobId, name: &OsStr) -> Claimed {
        // It may vanish at any time: that shows when it is opened.
        let stat = self.disk.stat(Place::Work, &input_name(id, name)).ok().flatten();
        Claimed { id, name: name.to_owned(), owner: stat.map_or(0, |stat| stat.st_uid) }
    }

    fn check_free(&self) -> Result<(), SpoolError> {
        let (free, wanted) = (self.disk.free()?, self.config.min_free_bytes);
        if free.n_bytes < wanted {
            return Err(SpoolError::NoSpace { free: free.n_bytes, wanted });
        }
        match free.n_inodes {
            Some(free) if free < MIN_FREE_INODES => {
                Err(SpoolError::NoInodes { free, wanted: MIN_FREE_INODES })
            }
            _ => Ok(()),
        }
    }

    fn open_input(&self, claimed: &Claimed) -> Result<Input, SpoolError> {
        let name = input_name(claimed.id, &claimed.name);
        let not_a_file = |why: &str| {
            let message = format!("{why}; drop a regular file, by rename or by copy");
            Ok(Input::Refused(Fault::new(FaultCode::NotAFile, message)))
        };
        // Looked at before it is opened: opening alone has effects on some devices.
        let Some(stat) = self.disk.stat(Place::Work, &name)? else { return Ok(Input::Gone) };
        if let Some(kind) = irregular(&stat) {
            return not_a_file(&format!("this is {kind}"));
        }
        let input = match self.disk.open_for_reading(Place::Work, &name) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(Input::Gone),
            Err(Errno::ELOOP | Errno::ENXIO) => return not_a_file("this is not a regular file"),
            Err(Errno::EACCES | Errno::EPERM) => {
                let message =
                    "the daemon may not read this file; make it readable for the group of the spool's new/";
                return Ok(Input::Refused(Fault::new(FaultCode::NotAFile, message)));
            }
            Err(e) => return Err(self.disk.error("open", Place::Work, &name, e.into())),
        };
        let opened = nix::sys::stat::fstat(&input);
        let opened = opened.map_err(|e| self.disk.error("look at", Place::Work, &name, e.into()))?;
        if irregular(&opened).is_some() || opened.st_ino != stat.st_ino {
            return not_a_file("this was exchanged while it was opened");
        }
        let (size, limit) = (u64::try_from(opened.st_size).unwrap_or(0), self.config.max_input_bytes);
        if size > limit {
            let message = format!("{size} bytes are over the limit of {limit}; split the file");
            return Ok(Input::Refused(Fault::new(FaultCode::TooLarge, message)));
        }
        Ok(Input::File(OpenJob { input, size, n_opens: 0 }))
    }
}

fn irregular(stat: &FileStat) -> Option<&'static str> {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("a directory"),
        SFlag::S_IFLNK => Some("a symbolic link"),
        SFlag::S_IFIFO => Some("a FIFO"),
        SFlag::S_IFSOCK => Some("a socket"),
        _ => Some("a device"),
    }
}
