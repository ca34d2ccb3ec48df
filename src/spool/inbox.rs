//! What stands in new/ and may be taken. The watch is a hint, the scan is the truth.
//!
//! Only names that end in `.json` are jobs. Dot names, `*.tmp` and `*.part` belong to producers that are not
//! done yet and are not looked at; any other name is left alone and reported once as a stranger.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;

use super::error::SpoolError;
use super::place::Place;
use super::root::Spool;
use super::watch::Arrival;

/// Names kept in memory; the rest is found by a later scan.
const MAX_WAITING: usize = 16_384;

/// A file in new/ that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    name: OsString,
    inode: u64,
}

impl Candidate {
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

/// Time of the last change, then name: the order in which files are taken.
type Order = ((i64, i64), OsString);

#[derive(Debug)]
struct Waiting {
    inode: u64,
    size: i64,
    /// When this size and time of change were first seen.
    seen: Instant,
    /// The producer is done: it renamed the file in, or closed it as a whole JSON text.
    is_whole: bool,
}

/// The files of new/ in the order of their age.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: BTreeMap<Order, Waiting>,
    keys: HashMap<OsString, (i64, i64)>,
    /// Set aside with the inode they had: not offered again.
    set_aside: HashMap<OsString, u64>,
    strangers: HashSet<OsString>,
    fresh_strangers: Vec<OsString>,
    is_cut: bool,
}

impl Inbox {
    /// Reads new/ anew: what is gone is forgotten, what is there is kept or added.
    pub fn scan(&mut self, spool: &Spool) -> Result<(), SpoolError> {
        let mut names = Vec::new();
        let mut strangers = Vec::new();
        spool.disk.list(Place::New, |name| match kind(name) {
            Kind::Job => names.push(name.to_owned()),
            Kind::Unready => {}
            Kind::Stranger => strangers.push(name.to_owned()),
        })?;
        let old = std::mem::take(&mut self.waiting);
        self.keys.clear();
        self.is_cut = false;
        let mut old: HashMap<OsString, ((i64, i64), Waiting)> =
            old.into_iter().map(|((time, name), waiting)| (name, (time, waiting))).collect();
        let mut aside = HashMap::new();
        for name in names {
            let Some(stat) = spool.disk.stat(Place::New, &name)? else { continue };
            if self.set_aside.get(&name) == Some(&stat.st_ino) {
                aside.insert(name, stat.st_ino);
                continue;
            }
            let before = old.remove(&name).filter(|(time, old)| old.is_unchanged(*time, &stat));
            let waiting = before.map_or_else(|| Waiting::new(&stat, false), |(_, waiting)| waiting);
            self.insert(name, changed(&stat), waiting);
        }
        self.set_aside = aside;
        self.note_strangers(strangers);
        Ok(())
    }

    /// Takes up what the watch said. Overflow is answered by a scan; so is a lost directory, which the scan then
    /// reports.
    pub fn note(&mut self, spool: &Spool, arrival: &Arrival) -> Result<(), SpoolError> {
        let (name, was_renamed) = match arrival {
            Arrival::Renamed(name) => (name, true),
            Arrival::Closed(name) => (name, false),
            Arrival::Wish => return Ok(()),
            Arrival::Rescan | Arrival::Lost => return self.scan(spool),
        };
        match kind(name) {
            Kind::Unready => return Ok(()),
            Kind::Stranger => {
                self.note_strangers_more(name);
                return Ok(());
            }
            Kind::Job => {}
        }
        let Some(stat) = spool.disk.stat(Place::New, name)? else { return Ok(()) };
        self.forget(name);
        if self.set_aside.get(name) != Some(&stat.st_ino) {
            // Whoever closed it may open it again to append: then it is whole when it is left alone.
            let is_whole = was_renamed || spool.is_complete(name, &stat);
            self.insert(name.clone(), changed(&stat), Waiting::new(&stat, is_whole));
        }
        Ok(())
    }

    /// The oldest file that may be claimed now; it is forgotten until it is seen again.
    pub fn next(&mut self, spool: &Spool) -> Result<Option<Candidate>, SpoolError> {
        let (now, settle) = (Now::read(), spool.config().settle);
        loop {
            let order =
                self.waiting.iter().find(|(order, waiting)| waiting.is_settled(order.0, &now, settle));
            let Some(order) = order.map(|(order, _)| order.clone()) else { return Ok(None) };
            let Some(waiting) = self.waiting.remove(&order) else { return Ok(None) };
            let (time, name) = order;
            self.keys.remove(&name);
            if waiting.is_whole {
                return Ok(Some(Candidate { name, inode: waiting.inode }));
            }
            // Only time says that it settled: its writer may have gone on since it was looked at.
            let Some(stat) = spool.disk.stat(Place::New, &name)? else { continue };
            if waiting.is_unchanged(time, &stat) {
                return Ok(Some(Candidate { name, inode: waiting.inode }));
            }
            let fresh = Waiting::new(&stat, false);
            if fresh.is_settled(changed(&stat), &now, settle) {
                return Ok(Some(Candidate { name, inode: stat.st_ino }));
            }
            self.insert(name, changed(&stat), fresh);
        }
    }

    /// Files that wait, settled or not.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How long until [`Inbox::scan`] may find something new to offer without any event: the settle time while
    /// files wait for it, nothing if there were more files than are kept and those are used up.
    pub fn scan_in(&self, spool: &Spool) -> Option<Duration> {
        match (self.waiting.is_empty(), self.is_cut) {
            (true, true) => Some(Duration::ZERO),
            (true, false) => None,
            (false, _) => Some(spool.config().settle),
        }
    }

    /// Does not offer a file again that cannot be claimed, until another takes its name.
    pub fn set_aside(&mut self, candidate: &Candidate) {
        self.set_aside.insert(candidate.name.clone(), candidate.inode);
    }

    /// Names in new/ that are no jobs and were not told yet.
    pub fn take_strangers(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.fresh_strangers)
    }

    fn insert(&mut self, name: OsString, time: (i64, i64), waiting: Waiting) {
        self.keys.insert(name.clone(), time);
        self.waiting.insert((time, name), waiting);
        if self.waiting.len() > MAX_WAITING
            && let Some(((_, name), _)) = self.waiting.pop_last()
        {
            self.keys.remove(&name);
            self.is_cut = true;
        }
    }

    fn forget(&mut self, name: &OsStr) {
        if let Some(time) = self.keys.remove(name) {
            self.waiting.remove(&(time, name.to_owned()));
        }
    }

    fn note_strangers(&mut self, found: Vec<OsString>) {
        let found: HashSet<OsString> = found.into_iter().take(MAX_WAITING).collect();
        self.strangers.retain(|name| found.contains(name));
        for name in found {
            self.note_strangers_more(&name);
        }
    }

    fn note_strangers_more(&mut self, name: &OsStr) {
        if self.strangers.len() < MAX_WAITING && self.strangers.insert(name.to_owned()) {
            self.fresh_strangers.push(name.to_owned());
        }
    }
}

impl Waiting {
    fn new(stat: &FileStat, is_whole: bool) -> Self {
        Self { inode: stat.st_ino, size: stat.st_size, seen: Instant::now(), is_whole }
    }

    /// Whole by an event, or left alone for the settle time by the clock of the file system or, if that is
    /// wrong, by ours.
    fn is_settled(&self, changed: (i64, i64), now: &Now, settle: Duration) -> bool {
        let seconds = u64::try_from(changed.0).unwrap_or(0);
        let nanoseconds = u32::try_from(changed.1).unwrap_or(0);
        let age = now.since_1970.checked_sub(Duration::new(seconds, nanoseconds));
        self.is_whole
            || age.is_some_and(|age| age >= settle)
            || now.instant.saturating_duration_since(self.seen) >= settle
    }

    fn is_unchanged(&self, time: (i64, i64), stat: &FileStat) -> bool {
        (time, self.inode, self.size) == (changed(stat), stat.st_ino, stat.st_size)
    }
}

/// Both clocks, read once for many files.
struct Now {
    instant: Instant,
    since_1970: Duration,
}

impl Now {
    fn read() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), since_1970 }
    }
}

fn changed(stat: &FileStat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec)
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Job,
    Unready,
    Stranger,
}

fn kind(name: &OsStr) -> Kind {
    let bytes = name.as_bytes();
    if bytes.starts_with(b".") || bytes.ends_with(b".tmp") || bytes.ends_with(b".part") {
        Kind::Unready
    } else if bytes.ends_with(b".json") {
        Kind::Job
    } else {
        Kind::Stranger
    }
}
