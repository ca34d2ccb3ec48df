//! The one thread that changes the spool. What has come together while it was busy goes to the disk at once,
//! so that many jobs share the syncs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::event::{Event, Events, Peer, Written};
use super::metrics;
use super::totals::{TOTALS_FILE, replace};
use crate::count::Count;
use crate::spool::control::{Acted, JobName, Refusal};
use crate::spool::last_use::LAST_USE_FILE;
use crate::spool::operate::Chosen;
use crate::spool::report::Report;
use crate::spool::{
    Action, Candidate, Claimed, Fate, Found, JobId, Now, Order, Outcome, Place, Spool, SpoolConfig,
    SpoolError,
};

/// After trouble with the disk the next try waits this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Commands that are done in one go.
const MAX_BATCH: usize = 256;
/// How often old files are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// What the writer is told.
pub enum Write {
    Claim(Vec<Candidate>),
    Open(Claimed),
    Commit(Order),
    Act(Act),
    /// Try again now what failed.
    Retry,
    Config(SpoolConfig),
    /// Totals and metrics, which nobody waits for.
    Save(Box<Save>),
    /// Everything before this is on the disk when the event comes.
    Barrier,
}

/// An order of an operator. Nobody works on the jobs of `withdrawn` any more.
pub struct Act {
    pub action: Action,
    pub names: Option<Vec<JobName>>,
    pub withdrawn: BTreeMap<JobId, Claimed>,
    pub by: Peer,
    pub reply: oneshot::Sender<(Vec<Acted>, bool)>,
}

/// Files that other programs look at.
pub struct Save {
    totals: Vec<u8>,
    /// None where it is as it was.
    last_use: Option<Vec<u8>>,
    metrics: Option<(PathBuf, String)>,
}

impl Save {
    /// The totals of a report, and its metrics if there is a file for them.
    pub fn new(
        report: &Report,
        last_use: Option<Vec<u8>>,
        metrics_file: Option<&Path>,
        spool: &Path,
    ) -> Self {
        let metrics =
            metrics_file.map(|path| (path.to_owned(), metrics::text(report, &spool.to_string_lossy())));
        let totals = serde_json::to_vec(&report.totals).unwrap_or_default();
        Self { totals, last_use, metrics }
    }
}

pub struct Writer {
    spool: Spool,
    events: Events,
    /// Orders that failed, in their order.
    failed: Vec<Order>,
    /// Claims that wait for space.
    claims: Vec<Candidate>,
    openings: Vec<Claimed>,
    retry_at: Option<Instant>,
    next_prune: Instant,
    has_complained: bool,
}

impl Writer {
    pub fn new(spool: Spool, events: Events) -> Self {
        Self {
            spool,
            events,
            failed: Vec::new(),
            claims: Vec::new(),
            openings: Vec::new(),
            retry_at: None,
            next_prune: Instant::now(),
            has_complained: false,
        }
    }

    /// Works until nobody sends any more.
    pub fn run(mut self, commands: &Receiver<Write>) {
        loop {
            let due = self.retry_at.map_or(self.next_prune, |at| at.min(self.next_prune));
            let mut batch = Vec::new();
            match commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(command) => batch.push(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            batch.extend(commands.try_iter().take(MAX_BATCH));
            self.work(batch);
        }
    }

    fn work(&mut self, batch: Vec<Write>) {
        let mut orders = Vec::new();
        let mut is_pressed = false;
        for command in batch {
            match command {
                Write::Commit(order) => {
                    orders.push(order);
                    continue;
                }
                // Marks and answers of before an order about their job go first.
                _ => self.commit(std::mem::take(&mut orders)),
            }
            match command {
                Write::Commit(_) => {}
                Write::Claim(candidates) => {
                    self.claims.extend(candidates);
                    if self.retry_at.is_none() {
                        self.claim();
                    }
                }
                Write::Open(claimed) => self.open(claimed),
                Write::Act(act) => self.act(act),
                Write::Retry => is_pressed = true,
                Write::Config(config) => self.spool.set_config(config),
                Write::Save(save) => self.save(*save),
                Write::Barrier => self.events.send(Event::Written(Written::Barrier)),
            }
        }
        if is_pressed || self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry(orders);
        } else {
            self.commit(orders);
        }
        self.prune();
    }

    fn retry(&mut self, orders: Vec<Order>) {
        let was_in_trouble = self.retry_at.take().is_some();
        let openings = std::mem::take(&mut self.openings);
        for claimed in openings {
            self.open(claimed);
        }
        self.commit(orders);
        self.claim();
        if was_in_trouble && self.retry_at.is_none() {
            self.events.send(Event::Written(Written::Well));
        }
    }

    fn commit(&mut self, orders: Vec<Order>) {
        let n_failed = self.failed.len();
        self.failed.extend(orders);
        if self.failed.is_empty() || (n_failed > 0 && self.retry_at.is_some()) {
            return;
        }
        let orders = std::mem::take(&mut self.failed);
        for outcome in self.spool.commit(orders) {
            match outcome {
                Outcome::Failed { order, error } => {
                    let waits = matches!(*error, SpoolError::Unanswered { .. });
                    if !waits && !self.shared_trouble(error) {
                        continue;
                    }
                    self.failed.push(order);
                    if waits && self.retry_at.is_none() {
                        self.retry_at = Some(Instant::now() + RETRY_AFTER);
                    }
                }
                done => self.events.send(Event::Written(Written::Done(done))),
            }
        }
    }

    fn claim(&mut self) {
        let n_claims = self.claims.len();
        let mut candidates = std::mem::take(&mut self.claims).into_iter();
        while let Some(candidate) = candidates.next() {
            match self.spool.claim(&candidate) {
                Ok(Some(claimed)) => self.tell(Written::Taken(claimed, Some(candidate.inode()))),
                Ok(None) => {}
                Err(error) if is_of_this_file(&error) => self.tell(Written::CannotClaim(candidate, error)),
                Err(error) => {
                    self.claims.push(candidate);
                    self.claims.extend(candidates);
                    self.trouble(error);
                    break;
                }
            }
        }
        let n_done = n_claims - self.claims.len();
        if n_done > 0 {
            self.tell(Written::ClaimsDone(n_done));
        }
    }

    fn tell(&self, written: Written) {
        self.events.send(Event::Written(written));
    }

    fn open(&mut self, claimed: Claimed) {
        match self.spool.open_job(&claimed) {
            Ok(opened) => self.events.send(Event::Written(Written::Opened(claimed.id, opened))),
            Err(error) => {
                self.openings.push(claimed);
                self.trouble(error);
            }
        }
    }

    /// The same of an error that several orders share.
    fn shared_trouble(&mut self, error: Arc<SpoolError>) -> bool {
        match Arc::try_unwrap(error) {
            Ok(error) => self.trouble(error),
            // One of those that share it tells.
            Err(error) => error.fate() != Fate::Broken,
        }
    }

    /// Whether it is to be tried again.
    fn trouble(&mut self, error: SpoolError) -> bool {
        if error.fate() == Fate::Broken {
            self.events.send(Event::Written(Written::Broken(error)));
            return false;
        }
        if self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
        self.events.send(Event::Written(Written::Trouble(error)));
        true
    }

    fn save(&mut self, save: Save) {
        let root = self.spool.root().to_owned();
        let written = replace(&root.join(TOTALS_FILE), &save.totals)
            .and_then(|()| save.last_use.map_or(Ok(()), |text| replace(&root.join(LAST_USE_FILE), &text)))
            .and_then(|()| save.metrics.map_or(Ok(()), |(path, text)| replace(&path, text.as_bytes())));
        match written {
            Err(error) if !self.has_complained => {
                self.has_complained = true;
                tracing::warn!("cannot write the totals or the metrics: {error}; not told again");
            }
            // A view that cannot be written costs nobody an answer.
            _ => {}
        }
    }

    fn prune(&mut self) {
        if Instant::now() < self.next_prune {
            return;
        }
        self.next_prune = Instant::now() + PRUNE_EVERY;
        match self.spool.prune(Now::read()) {
            Ok(0) => {}
            Ok(n_removed) => tracing::info!("removed {}", Count(n_removed, "old file")),
            Err(error) => tracing::warn!("old files cannot be removed: {error}"),
        }
    }

    fn act(&mut self, act: Act) {
        let Act { action, names, mut withdrawn, by, reply } = act;
        let named: Option<Vec<&OsStr>> =
            names.as_ref().map(|names| names.iter().map(JobName::as_os_str).collect());
        let (mut results, mut is_more) = (Vec::new(), false);
        match self.spool.chosen(action, named.as_deref()) {
            Ok(Chosen { jobs, missing, is_more: more }) => {
                is_more = more;
                results.extend(missing.iter().map(|(name, error)| Acted::failed(name, error)));
                for job in jobs {
                    let is_his = by.is_operator || self.spool.owner(&job) == Some(by.user);
                    if is_his || names.is_some() {
                        let result = self.act_on(action, &job, &mut withdrawn, is_his);
                        results.push(Acted::of(&job, result));
                    }
                }
            }
            Err(error) => results.push(Acted::failed(self.spool.root().as_os_str(), &error)),
        }
        // What was stopped and could not be moved goes on.
        for claimed in withdrawn.into_values() {
            self.tell(Written::Taken(claimed, None));
        }
        let _ = reply.send((results, is_more));
    }

    fn act_on(
        &mut self,
        action: Action,
        job: &Found,
        withdrawn: &mut BTreeMap<JobId, Claimed>,
        is_his: bool,
    ) -> Result<(), Refusal> {
        if !is_his {
            let message =
                "the job is another user's; only its owner, root and the service's user may do this";
            return Err(Refusal { code: 77, message: message.into() });
        }
        let stopped = job.id.filter(|id| withdrawn.contains_key(id));
        if job.place == Place::Work && stopped.is_none() {
            let message = "too late, its answer is being brought out";
            return Err(Refusal { code: 75, message: message.into() });
        }
        if let Some(claimed) = self.spool.act(action, job).map_err(|error| Refusal::of(&error))? {
            self.tell(Written::Taken(claimed, None));
        }
        if let Some(id) = stopped {
            withdrawn.remove(&id);
        }
        Ok(())
    }
}

/// Not a matter of the disk: a directory of somebody else, say, or a name that is too long.
fn is_of_this_file(error: &SpoolError) -> bool {
    match error {
        SpoolError::Io { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        error => matches!(error, SpoolError::Name { .. }),
    }
}
