//! Brings an answer out, exactly once. The proof stands in [`crate::spool::states`].

use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::disk::{Disk, Renamed, name_with_id};
use super::error::SpoolError;
use super::job::{Job, JobId};
use super::journal::journal_name;
use super::place::Place;
use super::wire::answer_file::write_rejection;
use super::wire::{AnswerFile, Fault};

/// Where an input goes when its answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Answered, if only with faults of single requests.
    Done,
    /// Rejected or given up.
    Failed,
}

impl Destination {
    pub fn place(self) -> Place {
        match self {
            Destination::Done => Place::Done,
            Destination::Failed => Place::Failed,
        }
    }

    /// The destination whose directory has this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Destination::Done, Destination::Failed].into_iter().find(|to| to.place().name() == name)
    }
}

/// What a job's answer file holds.
#[derive(Debug, Clone, Copy)]
pub enum Publication<'a> {
    /// The recorded answers to requests 0..n_requests, and the file's own warnings.
    Answers { n_requests: usize, warnings: &'a [String], to: Destination },
    /// No answers but the reason; the input goes to failed/.
    Rejection(&'a Fault),
}

/// The name of a job's answer in tmp/, and of nothing else ever.
pub fn staged_name(id: JobId) -> OsString {
    format!("{id}.json").into()
}

impl Job {
    /// Publishes the answer, moves the input and removes the journal; tells where the answer is, none if that
    /// was done before. After an error the job is as it was or further on: the same call again goes on.
    pub fn publish(&mut self, publication: Publication) -> Result<Option<PathBuf>, SpoolError> {
        let to = match publication {
            Publication::Answers { to, .. } => to,
            Publication::Rejection(_) => Destination::Failed,
        };
        if self.journal.announced().is_none() {
            // An announcement that failed may still have reached the disk: the staged file must then not go.
            if !self.is_staged {
                self.stage(publication)?;
                self.is_staged = true;
            }
            self.journal.announce(to)?;
        }
        let to = self.journal.announced().unwrap_or(to);
        finish(&self.disk, &self.name, self.id(), to)
    }

    /// Writes the whole answer to tmp/, down to the disk.
    fn stage(&self, publication: Publication) -> Result<(), SpoolError> {
        let name = staged_name(self.id());
        let fail = |e| self.disk.error("write", Place::Tmp, &name, e);
        let file = self.disk.create(Place::Tmp, &name)?;
        let out = BufWriter::with_capacity(64 * 1024, self.disk.writer(&file));
        match publication {
            Publication::Answers { n_requests, warnings, .. } => {
                self.write_answers(out, n_requests, warnings)?
            }
            Publication::Rejection(fault) => write_rejected(out, &self.input_path(), fault).map_err(fail)?,
        }
        self.disk.sync_file(&file).map_err(fail)?;
        self.disk.sync_dir(Place::Tmp)
    }

    fn write_answers(
        &self,
        out: impl Write,
        n_requests: usize,
        warnings: &[String],
    ) -> Result<(), SpoolError> {
        let name = staged_name(self.id());
        let fail = |e| self.disk.error("write", Place::Tmp, &name, e);
        let mut file = AnswerFile::begin(out, &self.input_path()).map_err(fail)?;
        for index in 0..n_requests {
            let answer = self.journal.answer(index)?;
            let answer = answer.ok_or_else(|| SpoolError::Unanswered { name: self.name.clone(), index })?;
            file.entry(|out| out.write_all(answer.as_bytes())).map_err(fail)?;
        }
        file.finish(warnings).and_then(|mut out| out.flush()).map_err(fail)
    }
}

fn write_rejected(mut out: impl Write, input_file: &str, fault: &Fault) -> io::Result<()> {
    write_rejection(&mut out, input_file, fault)?;
    out.flush()
}

/// Does what is left to do for an announced job. Any step may have been done before.
pub(super) fn finish(
    disk: &Disk,
    name: &OsStr,
    id: JobId,
    to: Destination,
) -> Result<Option<PathBuf>, SpoolError> {
    let out = bring_out(disk, name, id)?;
    disk.sync_dir(Place::Out)?;
    move_input(disk, name, id, to.place())?;
    // The journal is what says that the answer is out: it goes only when the input can no longer come back.
    disk.sync_dir(to.place())?;
    disk.sync_dir(Place::Work)?;
    disk.remove(Place::Work, &journal_name(name))?;
    Ok(out.map(|name| disk.path(Place::Out, &name)))
}

/// Renames the staged answer to out/, under the job's name if that is free. None: it is out already.
fn bring_out(disk: &Disk, name: &OsStr, id: JobId) -> Result<Option<OsString>, SpoolError> {
    let staged = staged_name(id);
    let Some(stat) = disk.stat(Place::Tmp, &staged)? else { return Ok(None) };
    let names = [name.to_owned(), name_with_id(name, &id.to_string())];
    for out_name in names {
        match disk.rename((Place::Tmp, &staged), (Place::Out, &out_name))? {
            Renamed::Done => return Ok(Some(out_name)),
            Renamed::Missing => return Ok(None),
            Renamed::Taken => {}
        }
        // A second link of the same file: a crash between the two halves of a rename by link.
        let taken = disk.stat(Place::Out, &out_name)?;
        if taken.is_some_and(|taken| (taken.st_dev, taken.st_ino) == (stat.st_dev, stat.st_ino)) {
            disk.remove(Place::Tmp, &staged)?;
            return Ok(Some(out_name));
        }
    }
    Err(disk.error("publish", Place::Out, name, io::ErrorKind::AlreadyExists.into()))
}

fn move_input(disk: &Disk, name: &OsStr, id: JobId, to: Place) -> Result<(), SpoolError> {
    for to_name in [name.to_owned(), name_with_id(name, &id.to_string())] {
        if disk.rename((Place::Work, name), (to, &to_name))? != Renamed::Taken {
            return Ok(());
        }
    }
    Err(disk.error("put away", to, name, io::ErrorKind::AlreadyExists.into()))
}
