//! A claimed job: its input, what its journal says, and the id that no other job ever has.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};

use super::disk::Disk;
use super::error::SpoolError;
use super::journal::{Claim, Journal};
use super::outbox::Destination;
use super::place::Place;
use super::root::SpoolConfig;
use super::wire::{Answer, Fault, FaultCode};

/// Time of the claim, device and inode: never the same for two jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobId {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub device: u64,
    pub inode: u64,
}

impl JobId {
    /// The id of a file that is claimed now.
    pub fn now(stat: &FileStat) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { time_ns: time.as_nanos() as u64, device: stat.st_dev, inode: stat.st_ino }
    }

    /// True if this id was made for the very file of `stat`.
    pub fn is_of(&self, stat: &FileStat) -> bool {
        self.device == stat.st_dev && self.inode == stat.st_ino
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-{:x}", self.time_ns, self.device, self.inode)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '-').map(|part| u64::from_str_radix(part, 16));
        // An empty text is what fails to parse where a part is missing.
        let mut next = || parts.next().unwrap_or_else(|| u64::from_str_radix("", 16));
        Ok(Self { time_ns: next()?, device: next()?, inode: next()? })
    }
}

/// What the daemon does with a job, by how often it was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Run what has no answer yet.
    Run,
    /// Answer what has no answer with a fault, run nothing.
    GiveUp,
    /// Even giving up did not come to an end: reject the file without reading it.
    Reject,
}

/// A name in `work/` that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub(super) name: OsString,
    /// For a job that was claimed by this process.
    pub(super) id: Option<JobId>,
}

impl Claimed {
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

/// What became of a claim.
#[derive(Debug)]
pub enum Opened {
    /// A job to be parsed and run.
    Job(Box<Job>),
    /// Something that is no request file; to be published as a rejection for this reason.
    Refused(Box<Job>, Fault),
    /// Nothing is left to do: the file vanished, or its answer is out already.
    Gone,
}

/// A job in `work/`.
#[derive(Debug)]
pub struct Job {
    pub(super) disk: Arc<Disk>,
    pub(super) name: OsString,
    /// The file's bytes; taken by the parser, not needed after that.
    pub input: Vec<u8>,
    pub(super) journal: Journal,
    /// The whole answer stands in tmp/, not yet announced.
    pub(super) is_staged: bool,
    max_attempts: u32,
}

impl Job {
    /// The name in `work/`, mostly the one it was dropped under.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    pub fn id(&self) -> JobId {
        self.journal.claim().id
    }

    /// The path that the answer names as its input: where the file was dropped.
    pub fn input_path(&self) -> String {
        self.disk.path(Place::New, &self.name).to_string_lossy().into_owned()
    }

    /// What to do with the job, decided by the starts before this one.
    pub fn attempt(&self) -> Attempt {
        match self.journal.attempts().cmp(&self.max_attempts) {
            Ordering::Less => Attempt::Run,
            Ordering::Equal => Attempt::GiveUp,
            Ordering::Greater => Attempt::Reject,
        }
    }

    /// Starts that were journaled, gave no new answer and did not come to a clean end.
    pub fn attempts(&self) -> u32 {
        self.journal.attempts()
    }

    /// True once the answer is written out whole: nothing stops its publication any more.
    pub fn is_being_published(&self) -> bool {
        self.is_staged || self.journal.announced().is_some()
    }

    /// Counts a start. To be called before the input is parsed, so that a crash in the parser counts too.
    pub fn start(&mut self) -> Result<(), SpoolError> {
        self.journal.start()
    }

    /// Takes the last start back: the daemon ends by request, not by a crash.
    pub fn pause(&mut self) -> Result<(), SpoolError> {
        self.journal.pause()
    }

    /// True if the request has its answer and must not run again.
    pub fn is_answered(&self, request_idx: usize) -> bool {
        self.journal.has_answer(request_idx)
    }

    /// Requests that have their answer.
    pub fn n_answered(&self) -> usize {
        self.journal.n_answers()
    }

    /// Keeps finished answers for good, all with one sync. An answer that is there already stays as it is.
    pub fn record(&mut self, answers: &[Answer]) -> Result<(), SpoolError> {
        self.journal.record(answers)
    }

    /// The fault for requests of a job that was started too often.
    pub fn gave_up(&self) -> Fault {
        let n = self.max_attempts;
        let message =
            format!("the job was started {n} times without a new answer; the rest of it is not tried again");
        Fault::new(FaultCode::GaveUp, message)
    }

    pub(super) fn open(
        disk: &Arc<Disk>,
        claimed: &Claimed,
        config: &SpoolConfig,
    ) -> Result<Opened, SpoolError> {
        let name = claimed.name.as_os_str();
        let Some(stat) = disk.stat(Place::Work, name)? else { return Ok(Opened::Gone) };
        let (input, fault) = match read_input(disk, name, &stat, config.max_input_bytes)? {
            Input::Bytes(bytes) => (bytes, None),
            Input::Refused(fault) => (Vec::new(), Some(fault)),
            Input::Gone => return Ok(Opened::Gone),
        };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let crc = crc32fast::hash(&input);
        let claim = Claim { id: claimed.id.unwrap_or_else(|| JobId::now(&stat)), size, crc };
        let journal = Journal::open(disk, name, &stat, claim)?;
        if let Some(to) = journal.announced() {
            super::outbox::finish(disk, name, journal.claim().id, to)?;
            return Ok(Opened::Gone);
        }
        let (disk, name, max_attempts) = (disk.clone(), name.to_owned(), config.max_attempts);
        let job = Box::new(Job { disk, name, input, journal, is_staged: false, max_attempts });
        Ok(match fault {
            Some(fault) => Opened::Refused(job, fault),
            None => Opened::Job(job),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.place().name())
    }
}

enum Input {
    Bytes(Vec<u8>),
    Refused(Fault),
    Gone,
}

fn read_input(disk: &Disk, name: &OsStr, stat: &FileStat, max_bytes: u64) -> Result<Input, SpoolError> {
    let not_a_file = |why: &str| {
        let message = format!("{why}; drop a regular file, by rename or by copy");
        Ok(Input::Refused(Fault::new(FaultCode::NotAFile, message)))
    };
    // Looked at before it is opened: opening alone has effects on some devices.
    if let Some(kind) = irregular(stat) {
        return not_a_file(&format!("this is {kind}"));
    }
    let file = match disk.open_for_reading(Place::Work, name) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(Input::Gone),
        Err(Errno::ELOOP | Errno::ENXIO) => return not_a_file("this is not a regular file"),
        Err(Errno::EACCES | Errno::EPERM) => {
            let message =
                "the daemon may not read this file; make it readable for the group of the spool's new/";
            return Ok(Input::Refused(Fault::new(FaultCode::NotAFile, message)));
        }
        Err(e) => return Err(disk.error("open", Place::Work, name, e.into())),
    };
    let fail = |e| disk.error("read", Place::Work, name, e);
    let opened = nix::sys::stat::fstat(&file).map_err(|e| fail(e.into()))?;
    if irregular(&opened).is_some() || opened.st_ino != stat.st_ino {
        return not_a_file("this was exchanged while it was opened");
    }
    let size = u64::try_from(opened.st_size).unwrap_or(0);
    let mut bytes = Vec::new();
    if size <= max_bytes {
        bytes.reserve_exact(size as usize + 1);
        file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    }
    let found = size.max(bytes.len() as u64);
    if found > max_bytes {
        let message = format!("{found} bytes are over the limit of {max_bytes}; split the file");
        return Ok(Input::Refused(Fault::new(FaultCode::TooLarge, message)));
    }
    Ok(Input::Bytes(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back() {
        let id = JobId { time_ns: 0x1234_5678_9abc, device: 0xfd01, inode: 42 };
        assert_eq!(id.to_string(), "0000123456789abc-fd01-2a");
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        for text in ["", "1", "1-2", "x-1-2", "1-2-3-4", "1-2-"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }
}
