//! The one thread that changes the spool. What has come together while it was busy goes to the disk at once,
//! so that many jobs share the syncs.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::event::{Event, Events, Peer};
use super::metrics;
use super::totals::{TOTALS_FILE, replace};
use crate::spool::control::{Acted, JobName, Refusal};
use crate::spool::report::Report;
use crate::spool::{
    Action, Candidate, Claimed, Fate, Found, JobId, Now, Opened, Order, Outcome, Place, Spool, SpoolConfig,
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
    pub withdrawn: BTreeSet<JobId>,
    pub by: Peer,
    pub reply: oneshot::Sender<Vec<Acted>>,
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

/// Files that other programs look at.
pub struct Save {
    totals: Vec<u8>,
    metrics: Option<(PathBuf, String)>,
}

impl Save {
    /// The totals of a report, and its metrics if there is a file for them.
    pub fn new(report: &Report, metrics_file: Option<&Path>, spool: &Path) -> Self {
        let metrics =
            metrics_file.map(|path| (path.to_owned(), metrics::text(report, &spool.to_string_lossy())));
        Self { totals: serde_json::to_vec(&report.totals).unwrap_or_default(), metrics }
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
                    let waits = matches!(error, SpoolError::Unanswered { .. });
                    if !waits && !self.trouble(error) {
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
            Ok(n_removed) => tracing::info!("{n_removed} old files were removed"),
            Err(error) => tracing::warn!("old files cannot be removed: {error}"),
        }
    }

    fn act(&mut self, act: Act) {
        let Act { action, names, mut withdrawn, by, reply } = act;
        let mut results = Vec::new();
        let found = match &names {
            Some(names) => {
                let mut all = Vec::new();
                for name in names {
                    match self.spool.find(name.as_os_str()) {
                        Ok(found) => {
                            let n_before = all.len();
                            let elsewhere = found.first().map(|found| found.place);
                            all.extend(found.into_iter().filter(|found| action.is_from(found.place)));
                            if all.len() == n_before {
                                let error = SpoolError::NoJob { name: name.0.clone(), place: elsewhere };
                                results.push(refused(name.clone(), None, &error));
                            }
                        }
                        Err(error) => results.push(refused(name.clone(), None, &error)),
                    }
                }
                all
            }
            None => self.all_of(action, by, &mut results),
        };
        for found in found {
            let (name, id) = (JobName(found.name.clone()), found.id);
            let result = match self.do_one(action, &found, &mut withdrawn, by) {
                Ok(place) => Ok(place.name().to_owned()),
                Err(refusal) => Err(refusal),
            };
            results.push(Acted { name, id: id.map(|id| id.to_string()), result });
        }
        // What was stopped and could not be moved goes on.
        for id in withdrawn {
            if let Ok(Some(claimed)) = self.spool.claimed(id) {
                self.events.send(Event::Written(Written::Taken(claimed, None)));
            }
        }
        let _ = reply.send(results);
    }

    /// The jobs of all places of the action that are this person's to act on.
    fn all_of(&mut self, action: Action, by: Peer, results: &mut Vec<Acted>) -> Vec<Found> {
        let mut all = Vec::new();
        for &place in action.all_of() {
            match self.spool.jobs(place) {
                Ok(found) => all.extend(found.into_iter().filter(|f| by.is_operator || f.owner == by.user)),
                Err(error) => results.push(refused(JobName(place.name().into()), None, &error)),
            }
        }
        all
    }

    fn do_one(
        &mut self,
        action: Action,
        found: &Found,
        withdrawn: &mut BTreeSet<JobId>,
        by: Peer,
    ) -> Result<Place, Refusal> {
        if !by.is_operator && found.owner != by.user {
            let message =
                "the job is another user's; only its owner, root and the service's user may do this";
            return Err(Refusal { code: 77, message: message.into() });
        }
        let refused = |error: SpoolError| Refusal { code: error.exit_code(), message: error.to_string() };
        if found.place == Place::Work {
            let Some(id) = found.id.filter(|id| withdrawn.contains(id)) else {
                let message = "too late, its answer is being brought out";
                return Err(Refusal { code: 75, message: message.into() });
            };
            // The runs that were stopped are nobody's fault.
            self.commit(vec![Order::Pause { job: id }]);
            let moved = match action {
                Action::Hold => self.spool.hold(found).map(drop),
                _ => self.spool.delete(found),
            };
            moved.map_err(refused)?;
            withdrawn.remove(&id);
            return Ok(found.place);
        }
        let taken = match action {
            Action::Hold => self.spool.hold(found).map(|_| None),
            Action::Delete => self.spool.delete(found).map(|()| None),
            Action::Release => self.spool.release(found).map(Some),
            Action::Requeue => self.spool.requeue(found).map(Some),
        };
        if let Some(claimed) = taken.map_err(refused)? {
            self.events.send(Event::Written(Written::Taken(claimed, None)));
        }
        Ok(found.place)
    }
}

/// Not a matter of the disk: a directory of somebody else, say, or a name that is too long.
fn is_of_this_file(error: &SpoolError) -> bool {
    match error {
        SpoolError::Io { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        error => matches!(error, SpoolError::Name { .. }),
    }
}

fn refused(name: JobName, id: Option<String>, error: &SpoolError) -> Acted {
    Acted { name, id, result: Err(Refusal { code: error.exit_code(), message: error.to_string() }) }
}
