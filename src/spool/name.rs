//! The names of files in the spool.
//!
//! | file                 | where         | name                                                     |
//! |----------------------|---------------|----------------------------------------------------------|
//! | input                | new/          | NAME, as it was dropped: ends in `.json` or `.jsonl`     |
//! | input                | work/, hold/  | ID.NAME                                                  |
//! | journal              | work/         | ID.journal                                               |
//! | ready answer         | work/         | ID.NAME.done or ID.NAME.failed: where the input goes     |
//! | half-written answer  | tmp/          | ID.part                                                  |
//! | answer               | out/          | NAME, or STEM.ID.SUFFIX if that is taken                 |
//! | input                | done/, failed/| the same                                                 |
//!
//! No name is ever cut: one that is too long for the longest of these is not claimed.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;

use super::destination::Destination;
use super::id::{ID_LEN, JobId};
use super::wire::{Form, Stamp};

/// The ends of names that are a job's: request files, and batch files with one request a line.
const SUFFIXES: [&str; 2] = [SUFFIX, LINES_SUFFIX];
const SUFFIX: &str = ".json";
const LINES_SUFFIX: &str = ".jsonl";

/// The longest NAME: with an id before it and `.failed` after it, it has the 255 bytes of a file name.
pub const MAX_NAME_BYTES: usize = 255 - (ID_LEN + 1) - ".failed".len();

/// A file in work/.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkName {
    Input(JobId, OsString),
    Ready(JobId, OsString, Destination),
    Journal(JobId),
}

impl WorkName {
    /// None for a name that is none of the spool's.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let (id, rest) = split_id(name)?;
        if rest == "journal" {
            return Some(Self::Journal(id));
        }
        if is_job_name(rest) {
            return Some(Self::Input(id, rest.to_owned()));
        }
        Destination::ALL.into_iter().find_map(|to| {
            let name = rest.as_bytes().strip_suffix(to.place().name().as_bytes())?.strip_suffix(b".")?;
            let name = OsStr::from_bytes(name);
            is_job_name(name).then(|| Self::Ready(id, name.to_owned(), to))
        })
    }
}

/// Id and NAME of `ID.NAME`.
pub fn split_id(name: &OsStr) -> Option<(JobId, &OsStr)> {
    let (id, rest) = name.as_bytes().split_at_checked(ID_LEN)?;
    Some((JobId::from_bytes(id)?, OsStr::from_bytes(rest.strip_prefix(b".")?)))
}

/// Id and NAME of an input in hold/; one that was put there by hand has no id.
pub fn split_held(name: &OsStr) -> (Option<JobId>, &OsStr) {
    match split_id(name) {
        Some((id, rest)) if is_job_name(rest) => (Some(id), rest),
        _ => (None, name),
    }
}

pub fn input_name(id: JobId, name: &OsStr) -> OsString {
    let mut full = OsString::from(format!("{id}."));
    full.push(name);
    full
}

pub fn ready_name(id: JobId, name: &OsStr, to: Destination) -> OsString {
    let mut full = input_name(id, name);
    full.push(format!(".{to}"));
    full
}

pub fn journal_name(id: JobId) -> OsString {
    format!("{id}.journal").into()
}

pub fn part_name(id: JobId) -> OsString {
    format!("{id}.part").into()
}

/// A file in tmp/ that is to be removed.
pub fn trash_name(id: JobId) -> OsString {
    format!("{id}.trash").into()
}

/// A name that two files of the same name can both have: `x.json` becomes `x.ID.json`.
pub fn with_id(name: &OsStr, id: &str) -> OsString {
    let (stem, suffix) = split_suffix(name).unwrap_or((name, SUFFIX));
    let mut longer = stem.to_owned();
    longer.push(format!(".{id}{suffix}"));
    longer
}

/// The id in `STEM.ID.json`.
pub fn id_before_suffix(name: &OsStr) -> Option<JobId> {
    split_stem_id(name).map(|(_, id, _)| id)
}

/// `STEM.json` of `STEM.ID.json`.
pub fn without_id(name: &OsStr) -> Option<OsString> {
    let (stem, _, suffix) = split_stem_id(name)?;
    let mut shorter = stem.to_owned();
    shorter.push(suffix);
    Some(shorter)
}

/// Stem and suffix of a job's name.
///
/// ```
/// use std::ffi::OsStr;
///
/// use jetspool::spool::split_suffix;
///
/// let (stem, suffix) = split_suffix(OsStr::new("monday.jsonl")).expect("a job");
/// assert_eq!((stem.to_str(), suffix), (Some("monday"), ".jsonl"));
/// assert_eq!(split_suffix(OsStr::new("notes.txt")), None);
/// ```
pub fn split_suffix(name: &OsStr) -> Option<(&OsStr, &'static str)> {
    let stem = |suffix: &str| name.as_bytes().strip_suffix(suffix.as_bytes()).map(OsStr::from_bytes);
    SUFFIXES.into_iter().find_map(|suffix| Some((stem(suffix)?, suffix)))
}

/// Whether a job's file has one request a line.
pub fn is_of_lines(name: &OsStr) -> bool {
    split_suffix(name).is_some_and(|(_, suffix)| suffix == LINES_SUFFIX)
}

/// How the requests of a job's file stand in it; `stamp` is for the answers to a batch file.
pub fn form(name: &OsStr, stamp: impl FnOnce() -> Stamp) -> Form {
    if is_of_lines(name) { Form::Lines(stamp()) } else { Form::Object }
}

/// STEM, id and suffix.
fn split_stem_id(name: &OsStr) -> Option<(&OsStr, JobId, &'static str)> {
    let (stem, suffix) = split_suffix(name)?;
    let stem = stem.as_bytes();
    let (before, id) = stem.split_at_checked(stem.len().checked_sub(ID_LEN + 1)?)?;
    let id = JobId::from_bytes(id.strip_prefix(b".")?).filter(|_| !before.is_empty())?;
    Some((OsStr::from_bytes(before), id, suffix))
}

/// True for a plain name of a request file.
pub fn is_job_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    split_suffix(name).is_some()
        && !bytes.starts_with(b".")
        && !bytes.contains(&b'/')
        && !bytes.contains(&0)
        && bytes.len() <= MAX_NAME_BYTES
}

/// The name of a request file as a person may write it: the suffix may be left out.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn completed(name: &OsStr) -> Result<OsString, &'static str> {
    let mut full = name.to_owned();
    if split_suffix(name).is_none() {
        full.push(SUFFIX);
    }
    match full.as_bytes() {
        _ if split_suffix(&full).is_some_and(|(stem, _)| stem.is_empty()) => Err("it is empty"),
        bytes if bytes.starts_with(b".") => Err("it begins with a dot"),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => Err("it is not a plain file name"),
        bytes if bytes.len() > MAX_NAME_BYTES => Err("it is longer than 236 bytes"),
        _ => Ok(full),
    }
}

/// The names of request files that a person may mean who left the suffix out.
///
/// # Errors
/// As [`completed`].
pub fn meant(name: &OsStr) -> Result<Vec<OsString>, &'static str> {
    let full = completed(name)?;
    if full == name {
        return Ok(vec![full]);
    }
    let mut lines = name.to_owned();
    lines.push(LINES_SUFFIX);
    Ok([full].into_iter().chain(is_job_name(&lines).then_some(lines)).collect())
}

/// A name or a path as a terminal may see it: what could steer the terminal, or mislead who reads it, and
/// bytes that are no text, are shown as `?`.
pub fn printable<T: AsRef<OsStr> + ?Sized>(name: &T) -> Printable<'_> {
    Printable(name.as_ref())
}

/// See [`printable`].
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(&'a OsStr);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_bytes().utf8_chunks() {
            for c in chunk.valid().chars() {
                f.write_char(if is_harmful(c) { '?' } else { c })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char('?')?;
            }
        }
        Ok(())
    }
}

/// Controls of terminals, of lines, and of the direction of writing.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "1kvzb7c8m0a";

    fn work(name: &str) -> Option<WorkName> {
        WorkName::parse(OsStr::new(name))
    }

    #[test]
    fn names_in_work_read_back() {
        let id: JobId = ID.parse().unwrap();
        for name in
            ["x.json", "a b.json", "x.json.done.json", "journal.json", "1kvzb7c8m0a.x.json", "x.jsonl"]
        {
            let name = OsStr::new(name);
            assert_eq!(WorkName::parse(&input_name(id, name)), Some(WorkName::Input(id, name.into())));
            for to in Destination::ALL {
                let wanted = Some(WorkName::Ready(id, name.into(), to));
                assert_eq!(WorkName::parse(&ready_name(id, name, to)), wanted);
            }
        }
        assert_eq!(WorkName::parse(&journal_name(id)), Some(WorkName::Journal(id)));
        for name in [
            "",
            "x.json",
            "x.json.journal",
            "1kvzb7c8m0a",
            "1kvzb7c8m0a.",
            "1kvzb7c8m0a.x",
            "1kvzb7c8m0ax.json",
        ] {
            assert_eq!(work(name), None, "{name}");
        }
        for rest in [".x.json", "x.json.don", "x.done", ".json.done", "journal.done"] {
            assert_eq!(work(&format!("{ID}.{rest}")), None, "{rest}");
        }
    }

    #[test]
    fn the_longest_name_fits_with_all_that_is_added() {
        let id: JobId = ID.parse().unwrap();
        let longest = OsString::from(format!("{}.json", "n".repeat(MAX_NAME_BYTES - 5)));
        assert!(is_job_name(&longest) && completed(&longest).as_ref() == Ok(&longest));
        assert_eq!(ready_name(id, &longest, Destination::Failed).len(), 255);
        assert!(with_id(&longest, ID).len() <= 255);
        let longer = OsString::from(format!("n{}", longest.display()));
        assert!(!is_job_name(&longer) && completed(&longer).is_err());
    }

    #[test]
    fn what_a_person_writes_is_completed_or_refused() {
        for name in ["", ".jsonl", ".x.json", "a/b", "..", "\0", "../x"] {
            assert!(completed(OsStr::new(name)).is_err(), "{name:?}");
        }
        assert_eq!(completed(OsStr::new("x")).unwrap(), "x.json");
        assert_eq!(completed(OsStr::new("x.json")).unwrap(), "x.json");
        assert_eq!(completed(OsStr::new("x.jsonl")).unwrap(), "x.jsonl");
        assert_eq!(meant(OsStr::new("x")).unwrap(), ["x.json", "x.jsonl"]);
        assert_eq!(meant(OsStr::new("x.json")).unwrap(), ["x.json"]);
        assert!(is_of_lines(OsStr::new("x.json.jsonl")) && !is_of_lines(OsStr::new("x.jsonl.json")));
        assert_eq!(with_id(OsStr::new("x.json"), ID), "x.1kvzb7c8m0a.json");
        assert_eq!(without_id(OsStr::new("x.1kvzb7c8m0a.json")).unwrap(), "x.json");
        assert_eq!(with_id(OsStr::new("x.jsonl"), ID), "x.1kvzb7c8m0a.jsonl");
        assert_eq!(without_id(OsStr::new("x.1kvzb7c8m0a.jsonl")).unwrap(), "x.jsonl");
        assert_eq!(id_before_suffix(OsStr::new("x.1kvzb7c8m0a.json")), ID.parse().ok());
        for name in ["x.json", ".1kvzb7c8m0a.json", "1kvzb7c8m0a.json", "x.1kvzb7c8m0.json", "x.1kvzb7c8m0a"]
        {
            assert_eq!(without_id(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn a_terminal_sees_no_controls() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain name.json", "plain name.json"),
            ("größe-数.json".as_bytes(), "größe-数.json"),
            (b"\x1b[2Jx\n\x07.json", "?[2Jx??.json"),
            (b"a\xffb\xe2\x82.json", "a?b?.json"),
            ("\u{202e}nosj.x\u{2066}\u{9b}31m".as_bytes(), "?nosj.x??31m"),
            ("a\u{2028}b\u{200f}".as_bytes(), "a?b?"),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(printable(OsStr::from_bytes(bytes)).to_string(), wanted);
        }
    }
}
