//! The thread that looks into new/: names, and whether files are whole. It changes nothing.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::event::{Event, Events, Seen};
use crate::spool::{Arrival, Candidate, Inbox, InboxConfig, NewDir, SpoolError};

/// A scan is not repeated before this many times the time that it took.
const SCAN_PAUSE_FACTOR: u32 = 5;
/// Scans are not closer than this.
const SCAN_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// Candidates are told in portions, so that the first ones are not held up.
const PORTION: usize = 64;

/// What the scout is told.
pub enum Look {
    /// What the watch said.
    Arrivals(Vec<Arrival>),
    /// So many files may be claimed now, of other owners than these.
    Wanted(usize, Vec<u32>),
    /// It cannot be claimed.
    SetAside(Candidate),
    /// Read new/ anew.
    Scan,
    Config(InboxConfig, Duration),
}

pub struct Scout {
    dir: NewDir,
    inbox: Inbox,
    events: Events,
    wanted: usize,
    closed: Vec<u32>,
    scan_every: Duration,
    /// The regular one.
    next_scan: Instant,
    /// One that is asked for does not come before this.
    earliest_scan: Instant,
    is_scan_due: bool,
}

impl Scout {
    pub fn new(dir: NewDir, inbox: Inbox, scan_every: Duration, events: Events) -> Self {
        let now = Instant::now();
        Self {
            dir,
            inbox,
            events,
            wanted: 0,
            closed: Vec::new(),
            scan_every,
            next_scan: now,
            earliest_scan: now,
            is_scan_due: true,
        }
    }

    /// Looks until nobody listens any more.
    pub fn run(mut self, looks: &Receiver<Look>) {
        loop {
            let pause = self.pause();
            let look = if pause.is_zero() {
                looks.try_recv().map_err(|error| match error {
                    std::sync::mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                    std::sync::mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            } else {
                looks.recv_timeout(pause)
            };
            let did = match look {
                Ok(look) => self.take(look),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let told = did.and_then(|()| self.scan()).and_then(|()| self.offer());
            match told {
                Ok(seen) => self.events.send(Event::Seen(seen)),
                Err(error) => {
                    self.next_scan = Instant::now() + Duration::from_secs(1);
                    self.is_scan_due = true;
                    self.events.send(Event::ScoutFailed(error));
                }
            }
        }
    }

    fn take(&mut self, look: Look) -> Result<(), SpoolError> {
        match look {
            Look::Arrivals(arrivals) => {
                for arrival in arrivals {
                    self.is_scan_due |= !self.inbox.note(&self.dir, &arrival)?;
                }
            }
            Look::Wanted(wanted, closed) => (self.wanted, self.closed) = (wanted, closed),
            Look::SetAside(candidate) => self.inbox.set_aside(candidate),
            Look::Scan => self.next_scan = Instant::now(),
            Look::Config(config, scan_every) => {
                self.inbox.set_config(config);
                self.scan_every = scan_every;
                self.next_scan = Instant::now();
            }
        }
        Ok(())
    }

    /// Reads new/ when it is time.
    fn scan(&mut self) -> Result<(), SpoolError> {
        let is_due = self.is_scan_due || (self.wanted > 0 && self.inbox.wants_scan());
        let begin = Instant::now();
        if begin < self.next_scan && !(is_due && begin >= self.earliest_scan) {
            return Ok(());
        }
        self.is_scan_due = false;
        self.inbox.scan(&self.dir)?;
        let end = Instant::now();
        let pause = SCAN_AT_MOST_EVERY.max((end - begin) * SCAN_PAUSE_FACTOR);
        (self.earliest_scan, self.next_scan) = (end + pause, end + pause.max(self.scan_every));
        Ok(())
    }

    fn offer(&mut self) -> Result<Seen, SpoolError> {
        let mut candidates = Vec::new();
        while candidates.len() < self.wanted.min(PORTION)
            && self.inbox.due_in(&self.closed) == Some(Duration::ZERO)
        {
            let n_before = self.inbox.n_partial();
            match self.inbox.next(&self.dir, &self.closed)? {
                Some(candidate) => candidates.push(candidate),
                None if self.inbox.n_partial() == n_before => break,
                None => {}
            }
        }
        self.wanted -= candidates.len();
        Ok(Seen {
            candidates,
            foreign_names: self.inbox.take_foreign_names(),
            n_waiting: self.inbox.n_waiting(),
            n_partial: self.inbox.n_partial(),
        })
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let mut until = self.next_scan;
        if self.is_scan_due || (self.wanted > 0 && self.inbox.wants_scan()) {
            until = until.min(self.earliest_scan);
        }
        let scan = until.saturating_duration_since(now);
        match self.inbox.due_in(&self.closed).filter(|_| self.wanted > 0) {
            Some(due) => due.min(scan),
            None => scan,
        }
    }
}
