//! What a job did so far, one checksummed line per event in `work/NAME.json.journal`:
//! `CRC32 JSON\n`, the checksum over the JSON in 8 hex digits. Events: claim (first, binds the journal to one
//! input), start, pause, done with an answer, publish. A tail that was torn by a crash is dropped.
//! Answers stay on the disk; memory holds their places.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::disk::Disk;
use super::error::SpoolError;
use super::job::JobId;
use super::outbox::Destination;
use super::place::Place;
use super::wire::Answer;
use super::wire::json::Value;

/// The input that a journal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub id: JobId,
    /// Bytes of the input, and their checksum: answers are of no use if the requests changed.
    pub size: u64,
    pub crc: u32,
}

/// Place of an answer's JSON in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    n_bytes: usize,
}

/// What an open journal can be trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// Bytes after `len` are not ours: a crash or a failed write.
    Torn,
    /// A sync failed: the kernel may have dropped the pages, so this file is not written again.
    Unsynced,
}

/// What the lines of a journal add up to.
#[derive(Debug, Default)]
pub struct Contents {
    claim: Option<Claim>,
    attempts: u32,
    answers: BTreeMap<usize, Span>,
    announced: Option<Destination>,
    /// Bytes of whole, right lines.
    len: u64,
}

/// A job's journal, open for append.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<Disk>,
    name: OsString,
    /// None until the first line is written.
    file: Option<File>,
    claim: Claim,
    contents: Contents,
    health: Health,
}

/// The name of the journal of the job `name`.
pub fn journal_name(name: &OsStr) -> OsString {
    let mut journal = name.to_owned();
    journal.push(".journal");
    journal
}

impl Contents {
    /// Reads lines up to the first that is torn or wrong.
    pub fn read(input: impl io::Read) -> io::Result<Self> {
        let mut contents = Contents::default();
        let mut reader = BufReader::with_capacity(64 * 1024, input);
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line)?;
            if !contents.take_line(&line) {
                return Ok(contents);
            }
            contents.len += line.len() as u64;
        }
    }

    /// The job that the journal was begun for.
    pub fn claim(&self) -> Option<Claim> {
        self.claim
    }

    /// Where the input goes, once the answer was announced.
    pub fn announced(&self) -> Option<Destination> {
        self.announced
    }

    /// False at anything but a whole line with the right checksum and a known meaning.
    fn take_line(&mut self, line: &[u8]) -> bool {
        let Some(json) = checked_line(line) else { return false };
        let Ok(value) = Value::parse(json) else { return false };
        let field = |name: &str| value.entries().find(|(key, _)| key.text() == name).map(|(_, value)| value);
        let number = |name: &str| field(name)?.number()?.parse::<u64>().ok();
        let word = |name: &str| field(name)?.string();
        let Some(event) = word("\"event\"") else { return false };
        if self.claim.is_none() != (event == "claim") {
            return false;
        }
        match event.as_ref() {
            "claim" => {
                let id = word("\"job\"").and_then(|id| id.parse().ok());
                let crc = number("\"crc\"").and_then(|crc| u32::try_from(crc).ok());
                let (Some(id), Some(size), Some(crc)) = (id, number("\"size\""), crc) else { return false };
                self.claim = Some(Claim { id, size, crc });
            }
            "start" => self.attempts += 1,
            "pause" => self.attempts = self.attempts.saturating_sub(1),
            "done" => {
                let (Some(index), Some(answer)) = (number("\"index\""), field("\"answer\"")) else {
                    return false;
                };
                let offset = answer.text().as_ptr() as usize - line.as_ptr() as usize;
                let span = Span { start: self.len + offset as u64, n_bytes: answer.text().len() };
                if let Entry::Vacant(place) = self.answers.entry(index as usize) {
                    place.insert(span);
                    // The start got somewhere: it does not count against the job.
                    self.attempts = 0;
                }
            }
            "publish" => match word("\"to\"").as_deref().and_then(Destination::from_name) {
                Some(to) => self.announced = Some(to),
                None => return false,
            },
            _ => return false,
        }
        true
    }
}

fn checked_line(line: &[u8]) -> Option<&str> {
    let line = line.strip_suffix(b"\n")?;
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc).ok()?.strip_suffix(' ')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc32fast::hash(json)).then_some(())?;
    std::str::from_utf8(json).ok()
}

impl Journal {
    /// Reads the journal of the job `name`, in work/ or hold/, without keeping it open; none if there is none.
    pub fn peek(disk: &Disk, place: Place, name: &OsStr) -> Result<Option<Contents>, SpoolError> {
        let journal = journal_name(name);
        match disk.open_for_reading(place, &journal) {
            Ok(file) => Contents::read(file).map(Some).map_err(|e| disk.error("read", place, &journal, e)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(disk.error("open", place, &journal, e.into())),
        }
    }

    /// Opens the journal of the job `name`, whose file has the identity `stat` and the content of `claim`.
    /// A journal of another file, or of this one before its content changed, counts for nothing: then the
    /// job begins anew, with `claim`. No file is made before the first line.
    pub fn open(disk: &Arc<Disk>, name: &OsStr, stat: &FileStat, claim: Claim) -> Result<Self, SpoolError> {
        let mut journal = Self {
            disk: disk.clone(),
            name: journal_name(name),
            file: None,
            claim,
            contents: Contents::default(),
            health: Health::Good,
        };
        let Some(contents) = Self::peek(disk, Place::Work, name)? else { return Ok(journal) };
        let Some(old) = contents.claim.filter(|old| old.id.is_of(stat)) else { return Ok(journal) };
        // An announced answer is out, or will be, whatever happened to the input since.
        if contents.announced.is_some() || (old.size == claim.size && old.crc == claim.crc) {
            let file = disk.open_for_append(Place::Work, &journal.name)?;
            let length =
                file.metadata().map_err(|e| disk.error("look at", Place::Work, &journal.name, e))?.len();
            journal.health = if length == contents.len { Health::Good } else { Health::Torn };
            (journal.file, journal.claim, journal.contents) = (Some(file), old, contents);
        }
        Ok(journal)
    }

    pub fn claim(&self) -> Claim {
        self.claim
    }

    pub fn attempts(&self) -> u32 {
        self.contents.attempts
    }

    pub fn announced(&self) -> Option<Destination> {
        self.contents.announced
    }

    pub fn has_answer(&self, index: usize) -> bool {
        self.contents.answers.contains_key(&index)
    }

    pub fn n_answers(&self) -> usize {
        self.contents.answers.len()
    }

    /// The JSON of an answer, byte for byte as it was recorded; none if there is none.
    pub fn answer(&self, index: usize) -> Result<Option<String>, SpoolError> {
        let (Some(span), Some(file)) = (self.contents.answers.get(&index), &self.file) else {
            return Ok(None);
        };
        let mut bytes = vec![0; span.n_bytes];
        let read = file.read_exact_at(&mut bytes, span.start);
        read.map_err(|e| self.disk.error("read", Place::Work, &self.name, e))?;
        let lost = |_| SpoolError::AnswerLost { name: self.name.clone(), index };
        String::from_utf8(bytes).map_err(lost).map(Some)
    }

    pub fn start(&mut self) -> Result<(), SpoolError> {
        let line = format!("{{\"event\":\"start\",\"attempt\":{}}}", self.contents.attempts + 1);
        self.append(&[line])
    }

    pub fn pause(&mut self) -> Result<(), SpoolError> {
        self.append(&["{\"event\":\"pause\"}".into()])
    }

    /// Records answers; one that is there already is left out.
    pub fn record(&mut self, answers: &[Answer]) -> Result<(), SpoolError> {
        let fresh = answers.iter().filter(|answer| !self.has_answer(answer.request_idx));
        let line = |a: &Answer| {
            format!("{{\"event\":\"done\",\"index\":{},\"answer\":{}}}", a.request_idx, a.to_json())
        };
        let lines: Vec<String> = fresh.map(line).collect();
        if lines.is_empty() { Ok(()) } else { self.append(&lines) }
    }

    /// Says that the whole answer stands in tmp/ and that the input goes to `to` once it is out.
    pub fn announce(&mut self, to: Destination) -> Result<(), SpoolError> {
        self.append(&[format!("{{\"event\":\"publish\",\"to\":\"{to}\"}}")])
    }

    /// Appends lines as one write and one sync. After a failure nothing of them counts, and they may be
    /// appended again.
    fn append(&mut self, events: &[String]) -> Result<(), SpoolError> {
        let is_new = self.contents.claim.is_none();
        let Claim { id, size, crc } = self.claim;
        let claim = format!("{{\"event\":\"claim\",\"job\":\"{id}\",\"size\":{size},\"crc\":{crc}}}");
        let lines: Vec<Vec<u8>> =
            is_new.then_some(&claim).into_iter().chain(events).map(|e| to_line(e)).collect();
        if self.health == Health::Unsynced {
            self.write_anew()?;
        }
        let (disk, name) = (&self.disk, &self.name);
        let fail = |e| disk.error("write", Place::Work, name, e);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(disk.create(Place::Work, name)?),
        };
        if self.health == Health::Torn {
            disk.truncate(file, self.contents.len).map_err(fail)?;
        }
        self.health = Health::Torn;
        disk.writer(file).write_all(&lines.concat()).map_err(fail)?;
        self.health = Health::Unsynced;
        disk.sync_file(file).map_err(fail)?;
        if is_new {
            // The journal's own name, and the claim's rename: without it the file might be claimed twice.
            disk.sync_dir(Place::Work)?;
            disk.sync_dir(Place::New)?;
        }
        self.health = Health::Good;
        for line in &lines {
            let taken = self.contents.take_line(line);
            debug_assert!(taken, "a line of our own is read back");
            self.contents.len += line.len() as u64;
        }
        Ok(())
    }

    /// Copies what is known to be good to a new file, which takes the name.
    fn write_anew(&mut self) -> Result<(), SpoolError> {
        let (disk, name) = (&self.disk, &self.name);
        let fail = |e| disk.error("copy", Place::Work, name, e);
        let new_name = OsString::from(format!("{}.journal", self.claim.id));
        let new = disk.create(Place::Tmp, &new_name)?;
        if let Some(old) = &self.file {
            let (mut at, mut chunk) = (0, vec![0; 64 * 1024]);
            while at < self.contents.len {
                let n = chunk.len().min((self.contents.len - at) as usize);
                old.read_exact_at(&mut chunk[..n], at).map_err(fail)?;
                disk.writer(&new).write_all(&chunk[..n]).map_err(fail)?;
                at += n as u64;
            }
        }
        disk.sync_file(&new).map_err(fail)?;
        disk.replace((Place::Tmp, &new_name), (Place::Work, name))?;
        self.file = Some(new);
        disk.sync_dir(Place::Work)?;
        self.health = Health::Torn;
        Ok(())
    }
}

fn to_line(json: &str) -> Vec<u8> {
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}
