//! The legal states of a job, and the clean-up for a crash in each.
//!
//! `x` stands for the input, `j` for its journal, `A` for its answer; ID.x in work/ and hold/ is x, ID.journal
//! in work/ is j, ID.x.done or ID.x.failed in work/ is "A ready". Each line is one step from the one above.
//!
//! | state     | new | work        | tmp  | out | done or failed | at start                                |
//! |-----------|-----|-------------|------|-----|----------------|-----------------------------------------|
//! | dropped   | x   |             |      |     |                | the scan finds it                       |
//! | claimed   |     | x           |      |     |                | offered again                           |
//! | opened    |     | x j         |      |     |                | offered again; marks in j tell who ran  |
//! | answering |     | x j         |      |     |                | offered again without what j has        |
//! | staging   |     | x j         | part |     |                | part removed, offered again             |
//! | ready     |     | x j A ready |      |     |                | x renamed to done, and so on down       |
//! | put away  |     | j A ready   |      |     | x              | A renamed to out, and so on down        |
//! | out       |     | j           |      | A   | x              | j removed                               |
//! | finished  |     |             |      | A   | x              | nothing                                 |
//!
//! What an operator does takes these steps beside. j stays in work/ while x is held.
//!
//! | state     | new | work | hold | tmp   | at start                                                        |
//! |-----------|-----|------|------|-------|-----------------------------------------------------------------|
//! | held      |     | (j)  | x    |       | nothing                                                         |
//! | released  |     | x (j)|      |       | as claimed or answering                                         |
//! | requeued  |     | x    |      |       | as claimed: a new job with a new id                             |
//! | deleting  |     | (j)  |      | trash | trash removed; j belongs to no x and no A: removed              |
//!
//! Exactly one answer, while only the program can crash: each step is one rename, and the place of x and A says
//! all. An x in work/ or hold/ without A ready never had an answer in out/, even if a reader has taken it away
//! since, because A goes to out/ only from "put away", where x has left work/ for good. A goes to out/ once,
//! because its own rename takes the ready name away. j says only what need not run again.
//!
//! A power cut may undo what was not synced. What is assumed: a file's content is what it was at its last sync,
//! or any part of what was written since; of the names added to and removed from directories any subset is
//! kept, except that a rename never loses the file: where the old name is gone the new one is there. A synced
//! directory keeps its changes, so to sync where a file left is enough for both ends of the rename. Therefore:
//!
//! | before                      | is synced           | since otherwise a power cut may leave                    |
//! |-----------------------------|---------------------|----------------------------------------------------------|
//! | an answer counts as kept    | journal, then work/ | a request that runs again                                |
//! | A is made ready             | part                | half an answer                                           |
//! | A is made ready             | new/ and hold/      | A ready, and x where it came from: it would run again    |
//! | x is put away               | work/               | neither x nor A: no answer                               |
//! | A goes to out/              | work/               | A in out/ and x in work/: it would run again             |
//! | anybody is told of A        | work/               | A ready again, after its reader took it from out/        |
//! | an operator is told         | where the file left | what was done undone                                     |
//! | x is deleted                | new/ and hold/      | x where it came from: it would run again                 |
//! | a j without x goes          | work/ and hold/     | x without j: what was recorded would run again           |
//!
//! A power cut may also leave a file under both names of a rename. One id in work/ and hold/: hold/ is dropped.
//! One file (by inode) as ID.x in work/ or hold/ and as x in new/ or hold/: x is dropped. One file ready and in
//! out/, or in work/ and put away: the name in work/ is dropped. Nobody was told of the rename then, so either
//! would do.
//!
//! The order of the clean-up: old layouts first (takeover.rs), then double names, then ready
//! answers are brought out, then what belongs to no job goes. It may be cut at any point and repeated.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::disk::Disk;
use super::error::SpoolError;
use super::id::JobId;
use super::job::Claimed;
use super::name::{self, WorkName};
use super::outbox::{Ending, bring_out};
use super::place::Place;
use super::takeover::take_over;

/// What was found at start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Jobs in work/ that have no answer, oldest first.
    pub unfinished: Vec<Claimed>,
    /// Jobs whose answer was brought out.
    pub n_finished: usize,
    /// Left-overs that were removed from tmp/ and work/.
    pub n_removed: usize,
    /// Names in work/ that are none of the spool's; left alone.
    pub foreign_names: Vec<OsString>,
}

/// What stands in the spool's own directories.
#[derive(Default)]
struct Inventory {
    inputs: BTreeMap<JobId, OsString>,
    held: BTreeMap<JobId, OsString>,
    endings: Vec<Ending>,
    journals: Vec<JobId>,
    foreign_names: Vec<OsString>,
    /// Names in tmp/.
    left_overs: Vec<OsString>,
    last_id: Option<JobId>,
}

/// Brings every job to a state from which it goes on, by the table above; also returns the greatest id. Safe to
/// repeat at any point.
pub(super) fn recover(disk: &mut Disk) -> Result<(Recovery, Option<JobId>), SpoolError> {
    take_over(disk)?;
    let mut found = Inventory::take(disk)?;
    let mut recovery = Recovery { n_finished: found.endings.len(), ..Recovery::default() };
    remove_double_names(disk, &found)?;
    bring_out(disk, &mut found.endings);
    let ready: Vec<JobId> = found.endings.iter().map(|ending| ending.id).collect();
    let error = found.endings.into_iter().find_map(|ending| ending.error);
    if let Some(error) = error {
        return Err(Arc::into_inner(error).expect("the endings that shared it are gone"));
    }
    for (id, name) in &found.inputs {
        let stat = disk.stat(Place::Work, &name::input_name(*id, name))?;
        if let Some(stat) = stat.filter(|_| !ready.contains(id)) {
            recovery.unfinished.push(Claimed { id: *id, name: name.clone(), owner: stat.st_uid });
        }
    }
    let has_job =
        |id: &JobId| found.inputs.contains_key(id) || found.held.contains_key(id) || ready.contains(id);
    let orphans: Vec<JobId> = found.journals.iter().copied().filter(|id| !has_job(id)).collect();
    if !orphans.is_empty() {
        // A deletion that was cut short: the input must not come back without its journal.
        disk.sync_dir(Place::Hold)?;
        disk.sync_dir(Place::Work)?;
    }
    for id in orphans {
        disk.remove(Place::Work, &name::journal_name(id))?;
        recovery.n_removed += 1;
    }
    for name in found.left_overs {
        disk.remove(Place::Tmp, &name)?;
        recovery.n_removed += 1;
    }
    recovery.foreign_names = found.foreign_names;
    Ok((recovery, found.last_id))
}

impl Inventory {
    fn take(disk: &Disk) -> Result<Self, SpoolError> {
        let mut found = Self::default();
        disk.list(Place::Work, |file| match WorkName::parse(file) {
            Some(WorkName::Input(id, name)) if !found.inputs.contains_key(&id) => {
                found.note(id);
                found.inputs.insert(id, name);
            }
            Some(WorkName::Ready(id, name, to)) => {
                found.note(id);
                let (is_ready, out_name, error) = (true, None, None);
                found.endings.push(Ending { id, name, to, is_ready, out_name, error });
            }
            Some(WorkName::Journal(id)) => {
                found.note(id);
                found.journals.push(id);
            }
            _ => found.foreign_names.push(file.to_owned()),
        })?;
        disk.list(Place::Hold, |file| {
            if let (Some(id), name) = name::split_held(file) {
                found.note(id);
                found.held.insert(id, name.to_owned());
            }
        })?;
        disk.list(Place::Tmp, |file| {
            if let Some((id, _)) = name::split_id(file) {
                found.note(id);
            }
            found.left_overs.push(file.to_owned());
        })?;
        Ok(found)
    }

    fn note(&mut self, id: JobId) {
        self.last_id = self.last_id.max(Some(id));
    }
}

/// Drops the second names that a power cut may leave of a rename.
fn remove_double_names(disk: &mut Disk, found: &Inventory) -> Result<(), SpoolError> {
    for (id, name) in &found.held {
        if found.inputs.get(id) == Some(name) {
            disk.remove(Place::Hold, &name::input_name(*id, name))?;
        }
    }
    let claimed = found.inputs.iter().map(|job| (Place::Work, job));
    for (place, (id, name)) in claimed.chain(found.held.iter().map(|job| (Place::Hold, job))) {
        let own = inode(disk, place, &name::input_name(*id, name))?;
        for source in [Place::New, Place::Hold] {
            if own.is_some() && own == inode(disk, source, name)? {
                disk.remove(source, name)?;
            }
        }
    }
    Ok(())
}

fn inode(disk: &Disk, place: Place, name: &OsStr) -> Result<Option<(u64, u64)>, SpoolError> {
    Ok(disk.stat(place, name)?.map(|stat| (stat.st_dev, stat.st_ino)))
}
