//! Takes over a spool of the layout before ids: jobs in work/ had the names that were dropped.
//!
//! There x.json had its journal x.json.journal beside it, in work/ or hold/, which named its input by inode; an
//! answer stood in tmp/ as OLDID.json, and once the journal said `publish` it was renamed to out/ before
//! anything else. Inputs get their new names first and journals later, so that a crash never parts them for
//! good: a journal of the old layout whose input has its new name finds it by name and time. Size and checksum
//! in the journal have the last word on whether its answers count.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::stat::FileStat;
use serde::Deserialize;

use super::destination::Destination;
use super::disk::{Disk, Renamed};
use super::error::SpoolError;
use super::id::JobId;
use super::lines::read_lines;
use super::name::{self, WorkName, is_job_name};
use super::outbox::put;
use super::place::Place;

/// Where orders to the daemon lay.
const CONTROL: &str = "control";
const MAX_ORDER_BYTES: u64 = 512;

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum OldEvent {
    Claim { job: String, size: u64 },
    Publish { to: String },
}

/// A journal of the old layout.
struct OldJournal {
    place: Place,
    /// The job's.
    name: OsString,
    /// Time of the claim in nanoseconds, device and inode of the input, as `HEX-HEX-HEX`.
    old_id: String,
    /// Bytes of the input.
    size: u64,
    /// Where the input goes, once the answer was announced.
    to: Option<Destination>,
}

/// Where the input of an old journal is.
enum Input {
    Old(Place, FileStat),
    New(JobId),
    Gone,
}

/// What stands in work/ and hold/.
#[derive(Default)]
struct Found {
    /// Inputs in work/ under their old names.
    inputs: BTreeSet<OsString>,
    journals: Vec<OldJournal>,
    /// Inputs under new names.
    jobs: Vec<(Place, JobId, OsString)>,
    with_journal: BTreeSet<JobId>,
}

/// Gives every job of the old layout its new names.
pub(super) fn take_over(disk: &mut Disk) -> Result<(), SpoolError> {
    let mut found = Found::look(disk)?;
    if !found.inputs.is_empty() || !found.journals.is_empty() {
        found.take_over(disk)?;
    }
    remove_orders(disk);
    Ok(())
}

impl Found {
    fn look(disk: &Disk) -> Result<Self, SpoolError> {
        let (mut found, mut journals) = (Self::default(), Vec::new());
        let journal_of = |file: &OsStr| {
            let name = OsStr::from_bytes(file.as_bytes().strip_suffix(b".journal")?);
            is_job_name(name).then(|| name.to_owned())
        };
        disk.list(Place::Work, |file| match WorkName::parse(file) {
            Some(WorkName::Input(id, name)) => found.jobs.push((Place::Work, id, name)),
            Some(WorkName::Journal(id)) => drop(found.with_journal.insert(id)),
            Some(WorkName::Ready(..)) => {}
            None if is_job_name(file) => drop(found.inputs.insert(file.to_owned())),
            None => journals.extend(journal_of(file).map(|name| (Place::Work, name))),
        })?;
        disk.list(Place::Hold, |file| match name::split_held(file) {
            (Some(id), name) => found.jobs.push((Place::Hold, id, name.to_owned())),
            (None, _) => journals.extend(journal_of(file).map(|name| (Place::Hold, name))),
        })?;
        for (place, name) in journals {
            found.journals.push(OldJournal::read(disk, place, name)?);
        }
        Ok(found)
    }

    fn take_over(&mut self, disk: &mut Disk) -> Result<(), SpoolError> {
        self.remove_double_names(disk)?;
        let (mut kept, mut stale) = (Vec::new(), Vec::new());
        for journal in std::mem::take(&mut self.journals) {
            match self.input_of(disk, &journal)? {
                Input::New(id) => kept.push((id, journal)),
                Input::Gone => stale.push(journal),
                Input::Old(place, stat) => {
                    let is_staged = disk.stat(Place::Tmp, &journal.staged())?.is_some();
                    let id = self.new_id(journal.micros());
                    match journal.to.filter(|_| !is_staged) {
                        // Its answer is out.
                        Some(to) if journal.is_inode_of(&stat) || journal.is_size_of(&stat) => {
                            put(disk, (place, &journal.name), to.place(), id, &journal.name)?;
                            self.inputs.remove(&journal.name);
                            stale.push(journal);
                        }
                        // Of another file that had this name.
                        Some(_) => stale.push(journal),
                        None => {
                            self.rename(disk, place, &journal.name, id)?;
                            kept.push((id, journal));
                        }
                    }
                }
            }
        }
        for name in std::mem::take(&mut self.inputs) {
            let stat = disk.stat(Place::Work, &name)?;
            let micros =
                stat.map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1_000_000));
            let id = self.new_id(micros);
            self.rename(disk, Place::Work, &name, id)?;
        }
        // The inputs have their new names for good before their journals follow, or go.
        for place in [Place::Work, Place::Hold] {
            disk.sync_dir(place)?;
        }
        for (id, journal) in kept {
            if let Some(to) = journal.to {
                let ready = name::ready_name(id, &journal.name, to);
                disk.rename((Place::Tmp, &journal.staged()), (Place::Work, &ready))?;
            }
            let new_name = name::journal_name(id);
            disk.rename((journal.place, &journal.file_name()), (Place::Work, &new_name))?;
        }
        stale.into_iter().try_for_each(|journal| disk.remove(journal.place, &journal.file_name()))
    }

    /// A crash of the machine may have left an input under both its names.
    fn remove_double_names(&mut self, disk: &mut Disk) -> Result<(), SpoolError> {
        for (place, id, name) in &self.jobs {
            let Some(new) = disk.stat(*place, &name::input_name(*id, name))? else { continue };
            for source in [Place::Work, Place::Hold, Place::New] {
                if disk.stat(source, name)?.is_some_and(|old| old.st_ino == new.st_ino) {
                    disk.remove(source, name)?;
                    self.inputs.retain(|input| source != Place::Work || input != name);
                }
            }
        }
        Ok(())
    }

    fn input_of(&self, disk: &Disk, journal: &OldJournal) -> Result<Input, SpoolError> {
        let mut places = Vec::new();
        for place in [Place::Work, Place::Hold, Place::New] {
            places.extend(disk.stat(place, &journal.name)?.map(|stat| (place, stat)));
        }
        let of_inode = places.iter().find(|(_, stat)| journal.is_inode_of(stat));
        // In a copy of the spool the inodes are others.
        let beside = places.iter().find(|(place, _)| *place == journal.place);
        let of_size = || places.iter().find(|(_, stat)| journal.is_size_of(stat));
        if let Some((place, stat)) = of_inode.or(beside).or_else(of_size) {
            return Ok(Input::Old(*place, *stat));
        }
        let first = JobId::at(journal.micros(), None);
        let renamed = self.jobs.iter().filter(|(_, id, name)| *id >= first && *name == journal.name);
        let renamed = renamed.map(|(_, id, _)| *id).filter(|id| !self.with_journal.contains(id)).min();
        Ok(renamed.map_or(Input::Gone, Input::New))
    }

    fn new_id(&self, micros: u64) -> JobId {
        let mut id = JobId::at(micros, None);
        while self.with_journal.contains(&id) || self.jobs.iter().any(|(_, taken, _)| *taken == id) {
            id = JobId::at(micros, Some(id));
        }
        id
    }

    fn rename(&mut self, disk: &mut Disk, from: Place, name: &OsStr, id: JobId) -> Result<(), SpoolError> {
        let to = if from == Place::Hold { Place::Hold } else { Place::Work };
        if disk.rename((from, name), (to, &name::input_name(id, name)))? == Renamed::Done {
            self.jobs.push((to, id, name.to_owned()));
        }
        if from == Place::Work {
            self.inputs.remove(name);
        }
        Ok(())
    }
}

impl OldJournal {
    fn read(disk: &Disk, place: Place, name: OsString) -> Result<Self, SpoolError> {
        let mut journal = Self { place, name, old_id: String::new(), size: 0, to: None };
        let file = match disk.open_for_reading(place, &journal.file_name()) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(journal),
            Err(e) => return Err(disk.error("open", place, &journal.file_name(), e.into())),
        };
        let read = read_lines(file, |line| match serde_json::from_slice(&line.head) {
            Ok(OldEvent::Claim { job, size }) => (journal.old_id, journal.size) = (job, size),
            Ok(OldEvent::Publish { to }) => {
                journal.to = Destination::ALL.into_iter().find(|known| known.to_string() == to);
            }
            Err(_) => {}
        });
        read.map_err(|e| disk.error("read", place, &journal.file_name(), e))?;
        Ok(journal)
    }

    fn file_name(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(".journal");
        name
    }

    /// The answer in tmp/.
    fn staged(&self) -> OsString {
        format!("{}.json", self.old_id).into()
    }

    /// Time of the claim, since 1970.
    fn micros(&self) -> u64 {
        self.part(0).unwrap_or(0) / 1000
    }

    fn is_inode_of(&self, stat: &FileStat) -> bool {
        self.part(2) == Some(stat.st_ino)
    }

    fn is_size_of(&self, stat: &FileStat) -> bool {
        u64::try_from(stat.st_size) == Ok(self.size)
    }

    fn part(&self, at: usize) -> Option<u64> {
        u64::from_str_radix(self.old_id.split('-').nth(at)?, 16).ok()
    }
}

/// Removes the directory of orders, unless somebody keeps other things there.
fn remove_orders(disk: &Disk) {
    let control = disk.root().join(CONTROL);
    let Ok(entries) = std::fs::read_dir(&control) else { return };
    for entry in entries.flatten() {
        let is_order = entry.metadata().is_ok_and(|found| found.is_file() && found.len() <= MAX_ORDER_BYTES);
        if is_order {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(&control);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::super::old_layout;
    use super::super::root::Spool;
    use super::super::trial::{Trial, config, drop_file, input, names, only, scratch, undisturbed};
    use super::*;

    fn text(root: &Path, path: &str) -> Vec<u8> {
        fs::read(root.join(path)).unwrap()
    }

    #[test]
    fn every_state_of_the_old_layout_goes_on() {
        let dir = scratch();
        let root = dir.path().join("spool");
        let jobs = [("a.json", 3), ("b.json", 2), ("c.json", 1), ("d.json", 1), ("e.json", 1), ("f.json", 2)];
        let answers: BTreeMap<OsString, Vec<u8>> =
            jobs.iter().map(|(name, n)| (name.into(), undisturbed(&root, name, &input(*n)))).collect();
        drop(Spool::open(&root, config()).unwrap());
        jobs.iter().for_each(|(name, n)| drop_file(&root, name, &input(*n)));
        old_layout::lay_out(&root, &answers, |path| fs::metadata(path).unwrap().ino());
        fs::create_dir(root.join(CONTROL)).unwrap();
        fs::write(root.join("control/0001"), "hold x.json").unwrap();
        // Left over of a job of that name.
        fs::write(root.join("work/gone.json.journal"), "x").unwrap();

        let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
        let unfinished: Vec<_> = recovery.unfinished.iter().map(|claimed| claimed.name.clone()).collect();
        assert_eq!((recovery.n_finished, unfinished.len()), (1, 3), "{unfinished:?}");
        assert!(recovery.foreign_names.is_empty() && !root.join(CONTROL).exists());
        // The id tells the time of the old claim, or else that of the file.
        let times = recovery.unfinished.iter().map(|claimed| claimed.id.unix_seconds());
        assert_eq!(times.collect::<Vec<_>>(), [1_764_000_000, 1_764_115_200, 1_764_115_200]);
        assert_eq!(names(&root, Place::Out), ["c.json", "d.json"]);
        assert_eq!(names(&root, Place::Done), ["c.json", "d.json"]);
        let mut trial = Trial::new(&|_| {});
        trial.live(&mut spool, recovery.unfinished).unwrap();
        let held = spool.release(&only(&spool, "b")).unwrap();
        trial.live(&mut spool, vec![held]).unwrap();
        for (name, answer) in &answers {
            assert_eq!(&text(&root, &format!("out/{}", name.display())), answer, "{name:?}");
        }
        // One of a, one of b, one of e, one of f.
        assert_eq!(trial.n_runs(), 4, "{:?}", trial.runs);
        for place in [Place::New, Place::Work, Place::Hold, Place::Tmp] {
            assert!(names(&root, place).is_empty(), "{place:?}");
        }
    }

    #[test]
    fn what_somebody_keeps_beside_orders_stays() {
        let dir = scratch();
        let root = dir.path().join("spool");
        fs::create_dir_all(root.join("control/mine")).unwrap();
        fs::write(root.join("control/order"), "flush").unwrap();
        drop(Spool::open(&root, config()).unwrap());
        assert!(root.join("control/mine").exists() && !root.join("control/order").exists());
    }
}
