//! The loop's end of a bounded channel to a thread: sending never waits.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Messages under way in a channel; more wait at the loop's end.
const CAPACITY: usize = 256;

/// Sends to one thread, in order.
pub struct Link<T> {
    sender: SyncSender<T>,
    /// What the channel had no room for.
    held: VecDeque<T>,
}

impl<T> Link<T> {
    pub fn new() -> (Self, Receiver<T>) {
        let (sender, receiver) = sync_channel(CAPACITY);
        (Self { sender, held: VecDeque::new() }, receiver)
    }

    /// Sends a message, or keeps it until there is room.
    pub fn send(&mut self, message: T) {
        self.held.push_back(message);
        self.flush();
    }

    /// Sends what is held, as far as there is room. To be called now and then.
    pub fn flush(&mut self) {
        while let Some(message) = self.held.pop_front() {
            match self.sender.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => return self.held.push_front(message),
                // The thread has ended: so does the daemon.
                Err(TrySendError::Disconnected(_)) => self.held.clear(),
            }
        }
    }

    /// Whether messages wait for room.
    pub fn is_full(&self) -> bool {
        !self.held.is_empty()
    }
}
