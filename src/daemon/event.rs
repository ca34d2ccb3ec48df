//! All that the loop is woken for. The threads send it here; the channel is bounded, so that a thread that is
//! faster than the loop waits.

use std::collections::BTreeMap;
use std::ffi::OsString;

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use crate::answer::{AnswerError, Breakdown, DeviceMemory, Ready, TextEngine, Ticket};
use crate::infer::{KvMemory, StepCounts};
use crate::spool::control::{Order, Reply};
use crate::spool::wire::{Answer, Fault, RequestFile};
use crate::spool::{Candidate, Claimed, JobId, Opened, Outcome, SpoolError};

/// Events under way.
const CAPACITY: usize = 256;

/// Why an engine is opened while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The configuration was read again.
    Reload,
    /// Its files changed while they were used.
    Damage,
    /// Nobody has asked for anything for long: the GPU's memory is given back, and the processor waits instead.
    Sleep,
    /// Somebody asks again.
    Wake,
}

pub enum Event {
    Seen(Seen),
    ScoutFailed(SpoolError),
    Written(Written),
    /// A request file was read.
    Read(Read),
    /// The text of a request takes long.
    Slow(JobId, usize),
    /// A request is ready to run, or answered already.
    Prepared(Done),
    Computed(Computed),
    /// The engine was opened anew, or cannot be.
    Opened(Renewal, Box<Result<TextEngine, AnswerError>>),
    Asked(Asked),
}

/// What the scout saw. It is ready for more of what the watch says.
pub struct Seen {
    pub candidates: Vec<Candidate>,
    pub foreign_names: Vec<OsString>,
    pub n_waiting: usize,
    pub n_partial: usize,
}

/// What the writer did.
pub enum Written {
    /// In work/ now: by a claim, a release or an order that was not carried out.
    Taken(Claimed, Option<u64>),
    CannotClaim(Candidate, SpoolError),
    /// So many candidates were tried.
    ClaimsDone(usize),
    Opened(JobId, Opened),
    Done(Outcome),
    Trouble(SpoolError),
    Well,
    Broken(SpoolError),
    Barrier,
}

/// A request file that was read.
pub struct Read {
    pub job: JobId,
    pub size: u64,
    pub crc: u32,
    pub file: std::io::Result<Result<RequestFile, Fault>>,
}

/// A request that is ready.
pub struct Done {
    pub job: JobId,
    pub index: usize,
    pub is_alone: bool,
    pub ready: Ready,
}

/// What came of it.
pub struct Computed {
    pub finished: Vec<(Ticket, Answer)>,
    pub state: ComputeState,
    /// The engine broke down: what it computed was thrown away, and what it had is gone.
    pub damage: Option<Breakdown>,
}

/// The engines after a step.
#[derive(Debug, Clone, Default)]
pub struct ComputeState {
    /// Idle for so long that the engine's memory was given back.
    pub has_rested: bool,
    /// Requests that run or wait for a place.
    pub n_active: usize,
    /// Requests that run.
    pub n_running: usize,
    /// Of the last step.
    pub counts: StepCounts,
    pub batch_limit: usize,
    pub kv: KvMemory,
    pub gpu: Option<DeviceMemory>,
    /// Requests by adapter.
    pub adapters: BTreeMap<String, usize>,
    pub n_mapped: usize,
}

/// An order by the control socket.
pub struct Asked {
    pub order: Order,
    pub by: Peer,
    pub reply: oneshot::Sender<Reply>,
}

/// Who sent an order, by the system's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub user: u32,
    /// Root or the service's own user: may do anything to any job.
    pub is_operator: bool,
    /// Of the group that may drop files.
    pub is_member: bool,
}

/// Sends events; cheap to clone.
#[derive(Clone)]
pub struct Events(Sender<Event>);

impl Events {
    pub fn channel() -> (Self, Receiver<Event>) {
        let (sender, receiver) = channel(CAPACITY);
        (Self(sender), receiver)
    }

    /// From a thread of its own; waits while the loop has enough to do. Without a loop nobody is told.
    pub fn send(&self, event: Event) {
        let _ = self.0.blocking_send(event);
    }

    /// The same from a task of the loop's own thread.
    pub async fn send_async(&self, event: Event) {
        let _ = self.0.send(event).await;
    }
}
