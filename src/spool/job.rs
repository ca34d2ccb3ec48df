//! A claimed job, and what opening it gives.

use std::ffi::OsString;
use std::fs::File;

use super::destination::Destination;
use super::id::JobId;
use super::journal::Journal;
use super::wire::Fault;

/// A job in work/ that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    pub id: JobId,
    /// The name that was dropped.
    pub name: OsString,
    /// The user whose file it is.
    pub owner: u32,
}

/// What became of a claim.
#[derive(Debug)]
pub enum Opened {
    /// A job to be parsed and run.
    Job(OpenJob),
    /// Something that is no request file; to be rejected for this reason.
    Refused(Fault),
    /// Nothing is left to do: the file vanished, or its answer is being brought out already.
    Gone,
}

/// The input of an open job.
#[derive(Debug)]
pub struct OpenJob {
    /// Read from its beginning; a regular file.
    pub input: File,
    /// Bytes, within the limit; a producer that has the file still open may go on writing to it.
    pub size: u64,
    /// Crashes since the machine was started while this job was being opened.
    pub n_opens: u32,
}

/// A job in work/ that was opened.
#[derive(Debug)]
pub struct Job {
    /// The name that was dropped.
    pub name: OsString,
    /// The user whose file it is.
    pub owner: u32,
    pub journal: Journal,
    /// Its answer stands ready and nothing stops its publication any more.
    pub ready: Option<Ready>,
}

/// How far a ready answer came.
#[derive(Debug)]
pub struct Ready {
    pub to: Destination,
    /// Its name in out/, once it was moved there.
    pub out_name: Option<OsString>,
}
