//! What can go wrong with the spool itself. A wrong request file is no error here: it gets an answer.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::id::JobId;
use super::name::printable;
use super::place::Place;

use crate::exit;

/// What the daemon does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Keep the job and try again later: no space, a disk in trouble.
    Later,
    /// End the program: going on would make it worse.
    Broken,
}

fn absent(place: Option<Place>) -> String {
    match place {
        None => "there is no job of that name".into(),
        Some(place) => format!("the job stands in {}/", place.name()),
    }
}

/// What to do where rights are missing.
fn rights(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; jetspool doctor says which rights are missing",
        _ => "",
    }
}

/// An operation on the spool that failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("cannot {doing} {}: {source}{}", printable(path), rights(source))]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is in use by another daemon; stop that one, or give this one a spool of its own",
        printable(root)
    )]
    Locked { root: PathBuf },
    #[error(
        "{} is on another file system than the spool; a job moves by rename, so all directories must share one",
        printable(dir)
    )]
    OtherFileSystem { dir: PathBuf },
    #[error("{} is not a directory; move it away", printable(dir))]
    NotADirectory { dir: PathBuf },
    #[error("{} was moved or removed while in use; start the daemon again", printable(dir))]
    Moved { dir: PathBuf },
    #[error(
        "the file system of {} cannot rename without replacing; put the spool on ext4, xfs, btrfs, f2fs or tmpfs",
        printable(root)
    )]
    NoExclusiveRename { root: PathBuf },
    #[error("{free} bytes are free, wanted at least {wanted} before a job is taken; make room")]
    NoSpace { free: u64, wanted: u64 },
    #[error("{free} inodes are free, wanted at least {wanted} before a job is taken; remove small files")]
    NoInodes { free: u64, wanted: u64 },
    #[error("job {id} is not open")]
    NotOpen { id: JobId },
    #[error("job {}: request {index} has no answer yet and cannot be published", printable(name))]
    Unanswered { name: OsString, index: usize },
    #[error("job {}: the journal no longer holds the answer to request {index}", printable(name))]
    AnswerLost { name: OsString, index: usize },
    #[error("{} is not a name for a job: {why}", printable(name))]
    Name { name: OsString, why: &'static str },
    #[error("no answer to {} after {seconds} s; it may still come", printable(name))]
    NoAnswerYet { name: OsString, seconds: u64 },
    #[error("{}: {}", printable(name), absent(*place))]
    NoJob { name: OsString, place: Option<Place> },
    #[error("{}: too late, {why}", printable(name))]
    TooLate { name: OsString, why: &'static str },
    #[error(
        "{} is {found}, wanted a spool: a directory with new/ in it; jetspool serve makes one where its configuration \
         says (spool = DIR), the package makes /var/spool/jetspool; name another one with --spool DIR",
        printable(root)
    )]
    NoSpool { root: PathBuf, found: &'static str },
    #[error("no daemon runs on {}; its next start scans everything", printable(root))]
    NoDaemon { root: PathBuf },
}

impl SpoolError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            SpoolError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => exit::NO_INPUT,
                io::ErrorKind::PermissionDenied => exit::NOT_ALLOWED,
                _ => exit::IO,
            },
            SpoolError::Locked { .. }
            | SpoolError::Moved { .. }
            | SpoolError::NoSpace { .. }
            | SpoolError::NoInodes { .. }
            | SpoolError::TooLate { .. }
            | SpoolError::NoDaemon { .. }
            | SpoolError::NoAnswerYet { .. } => exit::TRY_AGAIN,
            SpoolError::NoJob { .. } | SpoolError::NoSpool { .. } => exit::NO_INPUT,
            SpoolError::OtherFileSystem { .. }
            | SpoolError::NotADirectory { .. }
            | SpoolError::NoExclusiveRename { .. } => exit::CONFIGURATION,
            SpoolError::Name { .. } => exit::USAGE,
            SpoolError::Unanswered { .. } | SpoolError::AnswerLost { .. } | SpoolError::NotOpen { .. } => {
                exit::SOFTWARE
            }
        }
    }

    /// What to do about it.
    pub fn fate(&self) -> Fate {
        match self {
            SpoolError::Io { .. }
            | SpoolError::NoSpace { .. }
            | SpoolError::NoInodes { .. }
            | SpoolError::AnswerLost { .. }
            | SpoolError::NoAnswerYet { .. } => Fate::Later,
            _ => Fate::Broken,
        }
    }
}
