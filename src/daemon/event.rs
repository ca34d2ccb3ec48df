//! All that the loop is woken for. The threads send it here; the channel is bounded, so that a thread that is
//! faster than the loop waits.

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::compute::Computed;
use super::prepare::{Done, Read};
use super::scout::Seen;
use super::writer::Written;
use crate::answer::{AnswerError, TextEngine};
use crate::spool::control::{Order, Reply};
use crate::spool::{JobId, SpoolError};

/// Events under way.
const CAPACITY: usize = 256;

/// Why an engine is opened while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The configuration was read again.
    Reload,
    /// Its files changed while they were used.
    Damage,
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
