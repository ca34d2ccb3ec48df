//! A job's journal, `work/ID.journal`: what it did so far. A tail that was torn by a crash is dropped. Answers
//! stay on the disk; memory holds their places.
//!
//! A line that is written survives a crash of the program; what must survive a power cut is synced, by those
//! who need it.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use nix::errno::Errno;

use super::disk::Disk;
use super::error::SpoolError;
use super::history::{Event, History, Span, around_answer};
use super::id::JobId;
use super::lines::{FileFrom, PREFIX_BYTES, read_lines, write_line, write_line_by};
use super::name::journal_name;
use super::place::Place;
use super::wire::Answer;

/// What an open journal can be trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// Bytes after `n_bytes` are not ours: a crash or a failed write.
    Torn,
    /// A sync failed: the kernel may have dropped the pages, so this file is not written again.
    Unsynced,
}

/// A line to be appended.
#[derive(Debug)]
pub enum NewLine<'a> {
    Event(Event),
    Done { index: usize, is_failed: bool, answer: &'a Answer },
}

/// A journal, open for append once it has a line.
#[derive(Debug)]
pub struct Journal {
    id: JobId,
    file: Option<File>,
    history: History,
    /// Bytes of whole, right lines.
    n_bytes: u64,
    health: Health,
    has_unsynced_answers: bool,
}

impl Journal {
    /// Reads the journal of a job, if there is one. What it says of a life of the daemon that did not end is of
    /// one that crashed.
    pub fn load(disk: &Disk, id: JobId, boot: &str) -> Result<Self, SpoolError> {
        let mut journal = Self {
            id,
            file: None,
            history: History::default(),
            n_bytes: 0,
            health: Health::Good,
            has_unsynced_answers: false,
        };
        let name = journal_name(id);
        let file = match disk.open_for_append(Place::Work, &name) {
            Ok(file) => file,
            Err(Errno::ENOENT) => return Ok(journal),
            Err(e) => return Err(disk.error("open", Place::Work, &name, e.into())),
        };
        let fail = |e| disk.error("read", Place::Work, &name, e);
        journal.n_bytes = journal.history.read(&file, boot).map_err(fail)?;
        journal.history.crash();
        if file.metadata().map_err(fail)?.len() != journal.n_bytes {
            journal.health = Health::Torn;
        }
        // The process before this one may have written answers and not synced them.
        journal.has_unsynced_answers = true;
        journal.file = Some(file);
        Ok(journal)
    }

    pub fn history(&self) -> &History {
        &self.history
    }

    /// Appends lines as one write; they are not synced. After a failure nothing of them counts, and they may be
    /// appended again.
    pub fn append(&mut self, disk: &mut Disk, boot: &str, lines: &[NewLine]) -> Result<(), SpoolError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.mend(disk, boot)?;
        let name = journal_name(self.id);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(disk.create(Place::Work, &name)?),
        };
        let fail = |e| disk.error("write", Place::Work, &name, e);
        if self.health == Health::Torn {
            disk.truncate(file, self.n_bytes).map_err(fail)?;
        }
        self.health = Health::Torn;
        let spans = write_lines(BufWriter::new(disk.writer(file)), lines, self.n_bytes).map_err(fail)?;
        self.health = Health::Good;
        for (line, span) in lines.iter().zip(spans) {
            self.n_bytes = span.start + span.n_bytes;
            match line {
                NewLine::Event(event) => self.history.take(event, boot),
                NewLine::Done { index, is_failed, .. } => {
                    let [before, after] = around_answer(*index, *is_failed).map(|text| text.len() as u64);
                    let start = span.start + PREFIX_BYTES + before;
                    // Behind the answer stand what closes the line, and its line feed.
                    let n_bytes = self.n_bytes - after - 1 - start;
                    self.history.take_answer(*index, *is_failed, Span { start, n_bytes });
                    self.has_unsynced_answers = true;
                }
            }
        }
        Ok(())
    }

    /// Lets the kernel begin what [`Journal::sync`] will wait for.
    pub fn start_writing_back(&self, disk: &Disk) {
        if let Some(file) = self.file.as_ref().filter(|_| self.has_unsynced_answers) {
            disk.start_writing_back(file);
        }
    }

    /// Brings the answers to the disk; the journal's name there is the directory's matter.
    pub fn sync(&mut self, disk: &mut Disk, boot: &str) -> Result<(), SpoolError> {
        self.mend(disk, boot)?;
        if let Some(file) = self.file.as_ref().filter(|_| self.has_unsynced_answers) {
            if let Err(e) = disk.sync_file(file) {
                self.health = Health::Unsynced;
                return Err(disk.error("bring to the disk", Place::Work, &journal_name(self.id), e));
            }
            self.has_unsynced_answers = false;
        }
        Ok(())
    }

    /// Writes the JSON of an answer, byte for byte as it was recorded. False if there is none.
    pub fn write_answer(&self, index: usize, out: &mut dyn Write) -> io::Result<bool> {
        let (Some(span), Some(file)) = (self.history.answer(index), &self.file) else { return Ok(false) };
        let mut answer = FileFrom { file, at: span.start }.take(span.n_bytes);
        if io::copy(&mut answer, out)? != span.n_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(true)
    }

    /// After a failed sync: copies what is known to be good to a new file, which takes the name. What the kernel
    /// has lost of the old one counts no more.
    fn mend(&mut self, disk: &mut Disk, boot: &str) -> Result<(), SpoolError> {
        if self.health != Health::Unsynced {
            return Ok(());
        }
        let name = journal_name(self.id);
        let mut history = History::default();
        let new = disk.create(Place::Tmp, &name)?;
        let fail = |e| disk.error("copy", Place::Work, &name, e);
        if let Some(old) = &self.file {
            self.n_bytes = history.read(old, boot).map_err(fail)?;
            let mut good = FileFrom { file: old, at: 0 }.take(self.n_bytes);
            let mut out = BufWriter::with_capacity(64 * 1024, disk.writer(&new));
            io::copy(&mut good, &mut out).and_then(|_| out.flush()).map_err(fail)?;
        }
        disk.sync_file(&new).map_err(fail)?;
        disk.replace((Place::Tmp, &name), (Place::Work, &name))?;
        (self.file, self.history, self.health) = (Some(new), history, Health::Good);
        self.has_unsynced_answers = false;
        Ok(())
    }
}

impl History {
    /// Reads all lines of a file; returns the bytes of those that are right.
    fn read(&mut self, file: &File, boot: &str) -> io::Result<u64> {
        read_lines(FileFrom { file, at: 0 }, |line| self.take_line(line, boot))
    }
}

/// Returns where each line stands, its line feed included.
fn write_lines(mut out: impl Write, lines: &[NewLine], mut at: u64) -> io::Result<Vec<Span>> {
    let mut spans = Vec::with_capacity(lines.len());
    for line in lines {
        let n_bytes = match line {
            NewLine::Event(event) => write_line(&mut out, &[&serde_json::to_string(event)?])?,
            NewLine::Done { index, is_failed, answer } => {
                let [before, after] = around_answer(*index, *is_failed);
                write_line_by(&mut out, |out| {
                    out.write_all(before.as_bytes())?;
                    answer.write_json(&mut *out)?;
                    out.write_all(after.as_bytes())
                })?
            }
        };
        spans.push(Span { start: at, n_bytes });
        at += n_bytes;
    }
    out.flush()?;
    Ok(spans)
}
