//! What can go wrong with the spool itself. A wrong request file is no error here: it gets an answer.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::place::Place;

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

/// An operation on the spool that failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another daemon; stop that one, or give this one a spool of its own", root.display())]
    Locked { root: PathBuf },
    #[error("{} is on another file system than the spool; a job moves by rename, so all directories must share one", dir.display())]
    OtherFileSystem { dir: PathBuf },
    #[error("{} is not a directory; move it away", dir.display())]
    NotADirectory { dir: PathBuf },
    #[error("{} was moved or removed while in use; start the daemon again", dir.display())]
    Moved { dir: PathBuf },
    #[error("{free} bytes are free, wanted at least {wanted} before a job is taken; make room")]
    NoSpace { free: u64, wanted: u64 },
    #[error("job {}: request {index} has no answer yet and cannot be published", name.display())]
    Unanswered { name: OsString, index: usize },
    #[error("job {}: the journal no longer holds the answer to request {index}", name.display())]
    AnswerLost { name: OsString, index: usize },
    #[error("{} is not a name for a job: {why}", name.display())]
    Name { name: OsString, why: &'static str },
    #[error("no answer to {} after {seconds} s; it may still come", name.display())]
    NoAnswerYet { name: OsString, seconds: u64 },
    #[error("{}: {}", name.display(), absent(*place))]
    NoJob { name: OsString, place: Option<Place> },
    #[error("{}: too late, {why}", name.display())]
    TooLate { name: OsString, why: &'static str },
    #[error("no daemon runs on {}; its next start looks at everything", root.display())]
    NoDaemon { root: PathBuf },
    #[error("the daemon has not taken the wish up within {seconds} s; it will when it can")]
    NotTakenUp { seconds: u64 },
}

impl SpoolError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            SpoolError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => 66,
                io::ErrorKind::PermissionDenied => 77,
                _ => 74,
            },
            SpoolError::Locked { .. }
            | SpoolError::Moved { .. }
            | SpoolError::NoSpace { .. }
            | SpoolError::TooLate { .. }
            | SpoolError::NoDaemon { .. }
            | SpoolError::NotTakenUp { .. }
            | SpoolError::NoAnswerYet { .. } => 75,
            SpoolError::NoJob { .. } => 66,
            SpoolError::OtherFileSystem { .. } | SpoolError::NotADirectory { .. } => 78,
            SpoolError::Name { .. } => 64,
            SpoolError::Unanswered { .. } | SpoolError::AnswerLost { .. } => 70,
        }
    }

    /// What to do about it.
    pub fn fate(&self) -> Fate {
        match self {
            SpoolError::Io { .. } | SpoolError::NoSpace { .. } | SpoolError::NoAnswerYet { .. } => {
                Fate::Later
            }
            _ => Fate::Broken,
        }
    }
}
