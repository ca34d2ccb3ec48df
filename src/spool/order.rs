//! What the daemon tells the spool to write, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;

use super::destination::Destination;
use super::error::SpoolError;
use super::id::JobId;
use super::wire::{Answer, Fault};

/// One thing to be written for an open job.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// The input was read and is a request file: `size` bytes with the checksum `crc`. What the journal holds
    /// counts only for the same bytes.
    Begin { job: JobId, size: u64, crc: u32 },
    /// A request is about to enter its first step.
    Run { job: JobId, index: usize, is_alone: bool },
    /// A request has its answer. One that is there already stays as it is.
    Record { job: JobId, index: usize, is_failed: bool, answer: Box<Answer> },
    /// The daemon lets the job go in good order: what runs did not crash.
    Pause { job: JobId },
    /// The answers to the requests 0..n_requests are all recorded, or are in the same batch: brings them out.
    Publish { job: JobId, n_requests: usize, warnings: Vec<String>, to: Destination },
    /// No answers but the reason; the input goes to failed/.
    Reject { job: JobId, fault: Fault },
}

impl Order {
    pub fn job(&self) -> JobId {
        match self {
            Order::Begin { job, .. }
            | Order::Run { job, .. }
            | Order::Record { job, .. }
            | Order::Pause { job }
            | Order::Publish { job, .. }
            | Order::Reject { job, .. } => *job,
        }
    }
}

/// What became of one [`Order`].
#[derive(Debug)]
pub enum Outcome {
    Begun {
        job: JobId,
        progress: Progress,
    },
    /// A [`Order::Run`] is written down.
    Marked {
        job: JobId,
        index: usize,
    },
    /// The answer is on the disk: the request never runs again.
    Recorded {
        job: JobId,
        index: usize,
        is_failed: bool,
    },
    Paused {
        job: JobId,
    },
    /// The answer is out under `name`, on the disk, and the job is over.
    Published {
        job: JobId,
        name: OsString,
    },
    /// The order may be given again; what of it was done before is not done twice. Orders of one job often
    /// share an error.
    Failed {
        order: Order,
        error: Arc<SpoolError>,
    },
}

/// What is known of a job's requests from before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Requests that have their answer and must not run again.
    pub answered: BTreeSet<usize>,
    /// Those of them whose answer is an error.
    pub failed: BTreeSet<usize>,
    /// Requests that ran when the daemon crashed since the machine was started, each with the number of times
    /// that it was alone.
    pub suspects: BTreeMap<usize, u32>,
}
