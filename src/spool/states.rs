//! The legal states of a job, and the clean-up for a crash in each.
//!
//! `x` stands for the input `x.json`, `j` for its journal, `A` for its answer. Each line is one step from the
//! one above: one rename, one journal line, one removal.
//!
//! | state     | new | work | journal says     | tmp     | out | done or failed | at start                         |
//! |-----------|-----|------|------------------|---------|-----|----------------|----------------------------------|
//! | dropped   | x   |      |                  |         |     |                | the scan finds it                |
//! | claimed   |     | x    | (no journal)     |         |     |                | offered again                    |
//! | started   |     | x j  | claim, start     |         |     |                | offered again, attempts + 1      |
//! | answering |     | x j  | … done, done     |         |     |                | offered again without the done   |
//! | staging   |     | x j  | … all done       | A, part |     |                | A removed; offered, staged anew  |
//! | staged    |     | x j  | … all done       | A       |     |                | the same                         |
//! | announced |     | x j  | … publish        | A       |     |                | A renamed to out, and so on down |
//! | out       |     | x j  | … publish        |         | A   |                | x renamed to done                |
//! | put away  |     | j    | … publish        |         | A   | x              | j removed                        |
//! | finished  |     |      |                  |         | A   | x              | nothing                          |
//!
//! What an operator does takes these steps beside; h stands for hold/. Only the daemon, or who has its lock,
//! moves what is in work/.
//!
//! | state     | new | work | hold | at start                                                                |
//! |-----------|-----|------|------|-------------------------------------------------------------------------|
//! | held, new |     |      | x    | nothing                                                                 |
//! | holding   |     | j    | x    | j renamed to hold                                                       |
//! | held      |     |      | x j  | nothing                                                                 |
//! | released  | x   |      | j    | nothing; a claim of x renames j to work after it                        |
//! | reclaimed |     | x    | j    | j renamed to work                                                       |
//! | deleting  |     | j    |      | j removed                                                               |
//! | deleted   |     |      | j    | j removed, x being in no place                                          |
//!
//! A journal in hold/ belongs to the x of its name that has the inode it names. `requeue` renames x from
//! failed/ or done/ to new/: it has no journal there and is a new job. `delete` leaves no answer.
//!
//! Exactly one answer: the journal says "publish" only after A is whole on the disk in tmp/, name included.
//! From there on A is in tmp/ or was renamed to out/; nothing else removes it from tmp/, since a job without
//! "publish" is the only one whose A is swept. So "publish and no A in tmp/" means "out", even if a reader has
//! taken A away from out/ since. Before "publish", no A of the job was ever in out/. The journal goes after x
//! has left work/ for good, so an x in work/ that was answered always has a journal that says so.
//!
//! A journal counts only for the file that it names by device and inode, and for resuming only if size and
//! checksum are still the same; any other is a left-over and is removed. Jobs stay in work/ over a restart:
//! nothing needs to move for them to be offered again, first.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::FileStat;

use super::disk::{Disk, Renamed};
use super::error::SpoolError;
use super::job::Claimed;
use super::journal::{Journal, journal_name};
use super::outbox;
use super::place::Place;

/// What was found at start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Jobs in work/ that have no answer out, oldest first.
    pub unfinished: Vec<Claimed>,
    /// Jobs whose publication was brought to its end.
    pub n_finished: usize,
    /// Left-overs that were removed from tmp/ and work/.
    pub n_removed: usize,
    /// Names in work/ that are none of the spool's; left alone.
    pub strangers: Vec<OsString>,
}

/// Brings every job to a state from which it goes on, by the table above. Safe to repeat at any point.
pub(super) fn recover(disk: &Disk) -> Result<Recovery, SpoolError> {
    let mut recovery = Recovery::default();
    let (mut jobs, mut journals) = (Vec::new(), Vec::new());
    disk.list(Place::Work, |name| match name.as_bytes() {
        bytes if bytes.ends_with(b".json") => jobs.push(name.to_owned()),
        bytes if bytes.ends_with(b".json.journal") => journals.push(name.to_owned()),
        _ => recovery.strangers.push(name.to_owned()),
    })?;
    let mut unfinished = Vec::new();
    for name in jobs {
        let Some(stat) = disk.stat(Place::Work, &name)? else { continue };
        let mut journal = Journal::peek(disk, Place::Work, &name)?;
        if journal.is_none() && is_journal_of(disk, Place::Hold, &name, &stat)? {
            bring_journal(disk, &name, Place::Hold, Place::Work)?;
            journal = Journal::peek(disk, Place::Work, &name)?;
        }
        let claim =
            journal.as_ref().and_then(|journal| journal.claim()).filter(|claim| claim.id.is_of(&stat));
        match (claim, journal.and_then(|journal| journal.announced())) {
            (Some(claim), Some(to)) => {
                outbox::finish(disk, &name, claim.id, to)?;
                recovery.n_finished += 1;
            }
            _ => unfinished.push(((stat.st_mtime, stat.st_mtime_nsec), name)),
        }
    }
    for journal in journals {
        let job = job_of(&journal);
        if disk.stat(Place::Work, job)?.is_some() || disk.stat(Place::Work, &journal)?.is_none() {
            continue;
        }
        let held = disk.stat(Place::Hold, job)?;
        match held {
            Some(held) if is_journal_of(disk, Place::Work, job, &held)? => {
                bring_journal(disk, job, Place::Work, Place::Hold)?;
            }
            _ => {
                disk.remove(Place::Work, &journal)?;
                recovery.n_removed += 1;
            }
        }
    }
    recovery.n_removed += sweep_hold(disk)?;
    // Only now: every announced answer has left tmp/.
    let mut left_over = Vec::new();
    disk.list(Place::Tmp, |name| left_over.push(name.to_owned()))?;
    for name in left_over {
        disk.remove(Place::Tmp, &name)?;
        recovery.n_removed += 1;
    }
    unfinished.sort();
    recovery.unfinished = unfinished.into_iter().map(|(_, name)| Claimed { name, id: None }).collect();
    Ok(recovery)
}

/// Removes journals from hold/ whose job is neither held nor released.
fn sweep_hold(disk: &Disk) -> Result<usize, SpoolError> {
    let mut journals = Vec::new();
    disk.list(Place::Hold, |name| {
        if name.as_bytes().ends_with(b".json.journal") {
            journals.push(name.to_owned());
        }
    })?;
    let mut n_removed = 0;
    for journal in journals {
        let job = job_of(&journal);
        let mut has_job = false;
        for place in [Place::Hold, Place::New] {
            if let Some(stat) = disk.stat(place, job)? {
                has_job |= is_journal_of(disk, Place::Hold, job, &stat)?;
            }
        }
        if !has_job {
            disk.remove(Place::Hold, &journal)?;
            n_removed += 1;
        }
    }
    Ok(n_removed)
}

/// True if the journal of the name `job` in `place` was begun for the very file of `stat`.
pub(super) fn is_journal_of(
    disk: &Disk,
    place: Place,
    job: &OsStr,
    stat: &FileStat,
) -> Result<bool, SpoolError> {
    let journal = Journal::peek(disk, place, job)?;
    Ok(journal.and_then(|journal| journal.claim()).is_some_and(|claim| claim.id.is_of(stat)))
}

/// Lets a job's journal follow it; one that is missing is as good.
pub(super) fn bring_journal(disk: &Disk, job: &OsStr, from: Place, to: Place) -> Result<(), SpoolError> {
    let journal = journal_name(job);
    match disk.rename((from, &journal), (to, &journal))? {
        Renamed::Done | Renamed::Missing => Ok(()),
        Renamed::Taken => Err(disk.error("move", from, &journal, std::io::ErrorKind::AlreadyExists.into())),
    }
}

fn job_of(journal: &OsStr) -> &OsStr {
    OsStr::from_bytes(journal.as_bytes().strip_suffix(b".journal").unwrap_or_default())
}
