//! What stands in new/ and may be taken. The watch is a hint, the scan is the truth.
//!
//! Only names that end in `.json` or `.jsonl` are jobs. Dot names, `*.tmp` and `*.part` belong to producers that are not
//! done yet; any other name is left alone and reported once as foreign. A file that was renamed in is
//! whole. Any other is looked into: one that is cut in the middle is waited for, however slowly it comes.
//!
//! The owners of the files take turns; among those of one owner the first that came is the first taken, by
//! the time of change of the inode, which no producer can set, and those that are known to be whole before
//! those that were not looked into. Memory is bounded: a flood of names pushes out its own last ones, and a
//! later scan finds them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::stat::FileStat;

use super::error::SpoolError;
use super::name::{is_of_lines, split_suffix};
use super::new_dir::NewDir;
use super::watch::Arrival;
use super::wire::{Completeness, completeness, lines_completeness};

/// Names kept in memory; the rest is found by a later scan.
const MAX_WAITING: usize = 8_192;
/// Foreign names that are remembered, so that each is told once.
const MAX_FOREIGN_NAMES: usize = 256;
/// A file cut in the middle and not written to for so long is taken, and its answer says what is wrong.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// A file is looked into again after this many times the time that it took before.
const PAUSE_FACTOR: u32 = 20;

/// A file in new/ that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub(super) name: OsString,
    pub(super) inode: u64,
}

impl Candidate {
    pub fn inode(&self) -> u64 {
        self.inode
    }

    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

/// What is taken and when.
#[derive(Debug, Clone, Copy)]
pub struct InboxConfig {
    /// Larger files are taken unread: their answer says so.
    pub max_input_bytes: u64,
    /// How long a file that was not renamed in, and is no JSON, must have been left alone.
    pub settle: Duration,
    /// Longer names cannot be claimed.
    pub max_name_bytes: usize,
}

/// Seconds and nanoseconds.
type Time = (i64, i64);

/// Whether it has to be looked into, then time of change and name: the order of one owner's files.
type Order = (bool, Time, OsString);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    size: i64,
    changed: Time,
}

#[derive(Debug)]
struct Waiting {
    mark: Mark,
    /// The producer is done: it renamed the file in.
    is_whole: bool,
    /// Its writer closed it.
    is_closed: bool,
    /// Number of the scan that saw it last.
    scan: u64,
}

/// A file that is not whole, or not for long enough.
#[derive(Debug)]
struct Parked {
    mark: Mark,
    owner: u32,
    /// When it is looked at again even if nobody wrote to it.
    until: Instant,
    /// It was written to: it is looked at again, but not before this.
    not_before: Instant,
    /// It changed since.
    is_changed: bool,
    scan: u64,
}

/// The files of new/.
#[derive(Debug)]
pub struct Inbox {
    config: InboxConfig,
    /// By owner.
    waiting: BTreeMap<u32, BTreeMap<Order, Waiting>>,
    n_waiting: usize,
    /// Where each name stands in `waiting`.
    keys: HashMap<OsString, (u32, bool, Time)>,
    parked: HashMap<OsString, Parked>,
    /// Set aside with the inode they had: not offered again.
    set_aside: HashMap<OsString, u64>,
    foreign_names: HashSet<OsString>,
    new_foreign_names: Vec<OsString>,
    /// The owner who was served last.
    turn: u32,
    /// There were more names than are kept.
    is_cut: bool,
    /// Where more files are parked than are kept, those up to this time were looked into in this round.
    looked_until: Time,
    n_scans: u64,
    /// Jobs that the last scan saw and that were not taken since.
    n_seen: usize,
    /// Of them, those that nobody has written to yet.
    n_empty: usize,
}

impl Inbox {
    pub fn new(config: InboxConfig) -> Self {
        Self {
            config,
            waiting: BTreeMap::new(),
            n_waiting: 0,
            keys: HashMap::new(),
            parked: HashMap::new(),
            set_aside: HashMap::new(),
            foreign_names: HashSet::new(),
            new_foreign_names: Vec::new(),
            turn: 0,
            is_cut: false,
            looked_until: (0, 0),
            n_scans: 0,
            n_seen: 0,
            n_empty: 0,
        }
    }

    pub fn set_config(&mut self, config: InboxConfig) {
        self.config = config;
    }

    /// Reads new/ anew: what is gone is forgotten, what is there is kept or added.
    ///
    /// # Errors
    /// [`SpoolError`] when new/ cannot be read.
    pub fn scan(&mut self, dir: &NewDir) -> Result<(), SpoolError> {
        self.n_scans += 1;
        if self.is_cut && self.n_waiting == 0 && self.parked.len() < MAX_WAITING {
            self.looked_until = (0, 0);
        }
        let n_before = self.n_waiting;
        (self.is_cut, self.n_seen, self.n_empty) = (false, 0, 0);
        let mut failed = None;
        dir.list(|name| match self.kind(name) {
            FileKind::Unready => {}
            FileKind::Foreign => self.note_foreign(name),
            FileKind::Job => match dir.stat(name) {
                Ok(Some(stat)) => {
                    self.n_seen += 1;
                    self.see(name, &stat, How::Scanned);
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            },
        })?;
        let scan = self.n_scans;
        self.parked.retain(|_, parked| parked.scan == scan);
        self.waiting.retain(|_, files| {
            files.retain(|(_, _, name), waiting| {
                let stays = waiting.scan == scan;
                if !stays {
                    self.keys.remove(name);
                    self.n_waiting -= 1;
                }
                stays
            });
            !files.is_empty()
        });
        if self.n_waiting <= n_before {
            // The round is over: the next one begins with the oldest.
            self.looked_until = (0, 0);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes up what the watch said. False if it asks for a scan.
    ///
    /// # Errors
    /// [`SpoolError`] when the file cannot be looked at.
    pub fn note(&mut self, dir: &NewDir, arrival: &Arrival) -> Result<bool, SpoolError> {
        let (name, how) = match arrival {
            Arrival::Renamed(name) => (name, How::Renamed),
            Arrival::Closed(name) => (name, How::Closed),
            Arrival::Rescan | Arrival::Lost => return Ok(false),
        };
        match self.kind(name) {
            FileKind::Unready => {}
            FileKind::Foreign => self.note_foreign(name),
            FileKind::Job => {
                if let Some(stat) = dir.stat(name)? {
                    self.see(name, &stat, how);
                }
            }
        }
        Ok(true)
    }

    /// The next file that may be claimed, of another owner than those of `closed`; it is forgotten until it is
    /// seen again. Looks into at most one file
    /// that is not known to be whole: none may mean that there is more to look at, see [`Inbox::due_in`].
    ///
    /// # Errors
    /// [`SpoolError`] when the file cannot be looked at.
    pub fn next(&mut self, dir: &NewDir, closed: &[u32]) -> Result<Option<Candidate>, SpoolError> {
        self.unpark();
        let owners = || self.waiting.keys().copied().filter(|owner| !closed.contains(owner));
        let Some(owner) = owners().find(|owner| *owner > self.turn).or_else(|| owners().next()) else {
            return Ok(None);
        };
        self.turn = owner;
        let Some((name, waiting)) = self.take_first(owner) else { return Ok(None) };
        if waiting.is_whole {
            return Ok(Some(self.offer(name, waiting.mark.inode)));
        }
        let Some(stat) = dir.stat(&name)? else { return Ok(None) };
        let begin = Instant::now();
        let mark = Mark::of(&stat);
        match self.look(dir, &name, &stat, waiting.is_closed) {
            Look::Take => Ok(Some(self.offer(name, mark.inode))),
            Look::Wait(longer) => {
                let now = Instant::now();
                let not_before = now + (now - begin) * PAUSE_FACTOR;
                let (scan, until) = (waiting.scan, now + longer);
                let parked = Parked { mark, owner: stat.st_uid, until, not_before, is_changed: false, scan };
                if self.parked.len() < MAX_WAITING {
                    self.parked.insert(name, parked);
                } else {
                    self.is_cut = true;
                    self.looked_until = self.looked_until.max(mark.changed);
                }
                Ok(None)
            }
        }
    }

    /// Files that wait, as far as is known.
    pub fn n_waiting(&self) -> usize {
        self.n_seen.max(self.n_waiting + self.parked.len())
    }

    /// Files that are not whole, or not left alone for long enough.
    pub fn n_partial(&self) -> usize {
        self.parked.len() + self.n_empty
    }

    /// When [`Inbox::next`] may have something, without any event; none if it takes one.
    pub fn due_in(&self, closed: &[u32]) -> Option<Duration> {
        if self.waiting.keys().any(|owner| !closed.contains(owner)) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        self.parked.values().map(|parked| parked.due().saturating_duration_since(now)).min()
    }

    /// Whether only a scan can find more: there were more names than are kept, and those are used up.
    pub fn wants_scan(&self) -> bool {
        self.is_cut && self.n_waiting == 0
    }

    /// Does not offer a file again that cannot be claimed, until another takes its name.
    pub fn set_aside(&mut self, candidate: Candidate) {
        if self.set_aside.len() < MAX_WAITING {
            self.set_aside.insert(candidate.name, candidate.inode);
        }
    }

    /// Names in new/ that are no jobs and were not told yet.
    pub fn take_foreign_names(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.new_foreign_names)
    }

    fn offer(&mut self, name: OsString, inode: u64) -> Candidate {
        self.n_seen = self.n_seen.saturating_sub(1);
        Candidate { name, inode }
    }

    fn see(&mut self, name: &OsStr, stat: &FileStat, how: How) {
        let (mark, scan) = (Mark::of(stat), self.n_scans);
        match self.set_aside.get(name) {
            Some(inode) if *inode == mark.inode => return,
            Some(_) => drop(self.set_aside.remove(name)),
            None => {}
        }
        if let Some(parked) = self.parked.get_mut(name) {
            parked.scan = scan;
            if how != How::Renamed {
                if parked.mark != mark {
                    (parked.is_changed, parked.owner) = (true, stat.st_uid);
                }
                return;
            }
            self.parked.remove(name);
        }
        let (mut is_whole, mut is_closed) = (how == How::Renamed, how == How::Closed);
        if let Some(old) = self.take(name) {
            is_whole |= old.is_whole && old.mark.inode == mark.inode;
            is_closed |= old.is_closed && old.mark.inode == mark.inode;
        }
        let is_new_to_scan = how == How::Scanned && !is_whole;
        if is_new_to_scan && stat.st_size == 0 && age(stat) < ABANDONED_AFTER && is_regular(stat) {
            // It is heard of when somebody writes to it.
            self.n_empty += 1;
            return;
        }
        if is_new_to_scan && self.parked.len() >= MAX_WAITING && mark.changed <= self.looked_until {
            self.is_cut = true;
            return;
        }
        self.insert(name.to_owned(), stat.st_uid, Waiting { mark, is_whole, is_closed, scan });
    }

    fn insert(&mut self, name: OsString, owner: u32, waiting: Waiting) {
        let (must_look, time) = (!waiting.is_whole, waiting.mark.changed);
        self.keys.insert(name.clone(), (owner, must_look, time));
        self.waiting.entry(owner).or_default().insert((must_look, time, name), waiting);
        self.n_waiting += 1;
        if self.n_waiting > MAX_WAITING {
            self.is_cut = true;
            // Whoever has the most loses the last that came.
            let most = self.waiting.iter_mut().max_by_key(|(_, files)| files.len());
            if let Some(((.., name), _)) = most.and_then(|(_, files)| files.pop_last()) {
                self.keys.remove(&name);
                self.n_waiting -= 1;
            }
        }
    }

    /// Takes a name out of those that wait.
    fn take(&mut self, name: &OsStr) -> Option<Waiting> {
        let (owner, must_look, time) = self.keys.remove(name)?;
        let files = self.waiting.get_mut(&owner)?;
        let waiting = files.remove(&(must_look, time, name.to_owned()))?;
        self.n_waiting -= 1;
        if files.is_empty() {
            self.waiting.remove(&owner);
        }
        Some(waiting)
    }

    fn take_first(&mut self, owner: u32) -> Option<(OsString, Waiting)> {
        let files = self.waiting.get_mut(&owner)?;
        let first = files.pop_first();
        if files.is_empty() {
            self.waiting.remove(&owner);
        }
        let ((.., name), waiting) = first?;
        self.keys.remove(&name);
        self.n_waiting -= 1;
        Some((name, waiting))
    }

    /// Lets parked files wait again whose time has come.
    fn unpark(&mut self) {
        let now = Instant::now();
        let due = self.parked.iter().filter(|(_, parked)| parked.due() <= now);
        let due: Vec<OsString> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            if let Some(Parked { mark, owner, scan, is_changed, .. }) = self.parked.remove(&name) {
                // Nobody wrote to it for very long: it is taken as it is.
                let is_whole = !is_changed;
                self.insert(name, owner, Waiting { mark, is_whole, is_closed: false, scan });
            }
        }
    }

    fn look(&self, dir: &NewDir, name: &OsStr, stat: &FileStat, is_closed: bool) -> Look {
        let n_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if !is_regular(stat) || n_bytes > self.config.max_input_bytes {
            return Look::Take;
        }
        // What cannot be read may be claimed all the same, and its answer says why.
        let Ok(file) = dir.open_for_reading(name) else { return Look::Take };
        let is_of_lines = is_of_lines(name);
        let text = std::io::Read::take(file, n_bytes);
        let looked = if is_of_lines { lines_completeness(text) } else { completeness(text) };
        match looked {
            Ok(Completeness::Partial) => Look::Wait(ABANDONED_AFTER),
            // A batch file may be written line by line, and each line is whole.
            Ok(Completeness::Whole) if is_closed && !is_of_lines => Look::Take,
            // Nobody said that its writer is done.
            Ok(_) => match self.config.settle.checked_sub(age(stat)) {
                Some(left) if !left.is_zero() => Look::Wait(left),
                _ => Look::Take,
            },
            Err(_) => Look::Wait(self.config.settle),
        }
    }

    fn kind(&self, name: &OsStr) -> FileKind {
        let bytes = name.as_bytes();
        if bytes.starts_with(b".") || bytes.ends_with(b".tmp") || bytes.ends_with(b".part") {
            FileKind::Unready
        } else if split_suffix(name).is_some() && bytes.len() <= self.config.max_name_bytes {
            FileKind::Job
        } else {
            FileKind::Foreign
        }
    }

    fn note_foreign(&mut self, name: &OsStr) {
        if self.foreign_names.len() < MAX_FOREIGN_NAMES && self.foreign_names.insert(name.to_owned()) {
            self.new_foreign_names.push(name.to_owned());
        }
    }
}

impl Mark {
    fn of(stat: &FileStat) -> Self {
        Self { inode: stat.st_ino, size: stat.st_size, changed: (stat.st_ctime, stat.st_ctime_nsec) }
    }
}

impl Parked {
    fn due(&self) -> Instant {
        if self.is_changed { self.not_before.min(self.until) } else { self.until }
    }
}

/// How a file came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Renamed,
    Closed,
    Scanned,
}

enum Look {
    Take,
    /// Not yet; to be looked at again after so long at the latest.
    Wait(Duration),
}

#[derive(Debug, PartialEq, Eq)]
enum FileKind {
    Job,
    Unready,
    Foreign,
}

fn is_regular(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// Time since the last change by the clock of the file system; a change in the future counts as one now.
fn age(stat: &FileStat) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
    now.saturating_sub(Duration::new(seconds, nanoseconds))
}
