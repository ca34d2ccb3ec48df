//! The jobs in work/: which request starts next, and which jobs are complete. Pure: no file, thread or clock.
//!
//! The files of the highest priority come first; among them the owners take turns, and the files of one owner,
//! so that a large file does not hold up a small one. What runs is not interrupted for a higher priority.
//!
//! Blame: what ran when the daemon ended without warning is a suspect. Suspects are tried alone, one by one,
//! before anything else starts; one that has ended the daemon while it was alone waits until nobody else does.
//! Only a request that did so several times is given up, and it costs no other request anything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::spool::report::{JobReport, JobStage};
use crate::spool::wire::RequestFile;
use crate::spool::{Claimed, Destination, JobId, Progress, printable};

/// Jobs open at once; each has an open journal, and may have an open input.
const MAX_OPEN: usize = 256;
/// Above so many, only owners with fewer than [`FEW`] of them may have more.
const MANY: usize = 128;
const FEW: usize = 16;
/// Bytes of text that the open jobs hold in all.
const MAX_OPEN_BYTES: usize = 8 << 20;

/// The open jobs by id, which is the order they were taken in, and those that wait to be opened.
pub struct Jobs {
    open: BTreeMap<JobId, OpenJob>,
    backlog: VecDeque<Claimed>,
    /// The owner whose request started last, and the job of each owner's last one.
    last_owner: u32,
    last_jobs: BTreeMap<u32, JobId>,
    /// Requests that are prepared or run.
    n_in_flight: usize,
    /// Of them, those whose text takes long: they keep no place from others.
    n_slow: usize,
    /// A suspect is in flight, and nothing else may be.
    is_alone: bool,
    /// Suspects that may wait have waited long enough.
    are_suspects_due: bool,
    /// Ends of the daemon that one request may cause.
    max_crashes: u32,
}

/// How often the daemon ended while the request ran alone, its job, and its place there.
type Suspect = (u32, JobId, usize);

/// A job in work/ that the daemon works on.
pub struct OpenJob {
    pub claimed: Claimed,
    stage: Stage,
}

enum Stage {
    /// Its file is read, then its journal.
    Reading(Option<Arc<RequestFile>>),
    Answering(Answering),
    /// Nothing is left to start.
    Publishing {
        n_requests: usize,
        n_failed: usize,
    },
}

struct Answering {
    file: Arc<RequestFile>,
    /// Requests that have their answer, journaled or on the way to the journal.
    answered: BTreeSet<usize>,
    /// Of them with an error.
    n_failed: usize,
    in_flight: BTreeSet<usize>,
    /// Of those in flight, the ones whose text takes long.
    slow: BTreeSet<usize>,
    /// By request: how often the daemon ended while it ran alone.
    suspects: BTreeMap<usize, u32>,
    /// All before it have started.
    next: usize,
    /// A request of it was given up.
    gave_up: bool,
}

/// A request whose turn it is.
pub struct Start {
    pub job: JobId,
    pub index: usize,
    pub file: Arc<RequestFile>,
    pub how: How,
}

/// What is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Shared,
    /// It ran when the daemon ended without warning.
    Alone,
    /// It ended the daemon so many times while it was alone.
    GiveUp(u32),
}

/// A job whose requests all have their answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Complete {
    pub n_requests: usize,
    pub warnings: Vec<String>,
    pub to: Destination,
}

impl Jobs {
    /// `unfinished` are taken up first. Sets the ends of the daemon that one request may cause.
    pub fn new(unfinished: impl IntoIterator<Item = Claimed>, max_crashes: u32) -> Self {
        Self {
            open: BTreeMap::new(),
            backlog: unfinished.into_iter().collect(),
            last_owner: 0,
            last_jobs: BTreeMap::new(),
            n_in_flight: 0,
            n_slow: 0,
            is_alone: false,
            are_suspects_due: false,
            max_crashes: max_crashes.max(1),
        }
    }

    pub fn set_max_crashes(&mut self, max_crashes: u32) {
        self.max_crashes = max_crashes.max(1);
    }

    /// Suspects that let others go first need not wait any more.
    pub fn stop_waiting_for_suspects(&mut self) {
        self.are_suspects_due = true;
    }

    /// Jobs in work/, open or not.
    pub fn len(&self) -> usize {
        self.open.len() + self.backlog.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that run, or soon will.
    pub fn n_on_their_way(&self) -> usize {
        self.n_in_flight - self.n_slow
    }

    /// Requests whose text takes long.
    pub fn n_slow(&self) -> usize {
        self.n_slow
    }

    /// The text of a request in flight takes long, or is ready after all.
    pub fn set_slow(&mut self, id: JobId, index: usize, is_slow: bool) {
        let Some(Stage::Answering(work)) = self.open.get_mut(&id).map(|job| &mut job.stage) else { return };
        if is_slow && work.in_flight.contains(&index) && work.slow.insert(index) {
            self.n_slow += 1;
        } else if !is_slow && work.slow.remove(&index) {
            self.n_slow -= 1;
        }
    }

    /// Takes a job that is in work/ now.
    pub fn take(&mut self, claimed: Claimed) {
        self.backlog.push_back(claimed);
    }

    /// The next job to open, if one more may be open.
    pub fn open_next(&mut self) -> Option<Claimed> {
        let has_room = self.open.len() < MAX_OPEN && self.n_bytes() < MAX_OPEN_BYTES;
        let claimed = has_room.then(|| self.backlog.pop_front()).flatten()?;
        let job = OpenJob { claimed: claimed.clone(), stage: Stage::Reading(None) };
        self.open.insert(claimed.id, job);
        Some(claimed)
    }

    /// How many more files may be claimed, and the owners that have enough.
    pub fn wanted(&self) -> (usize, Vec<u32>) {
        if !self.backlog.is_empty() || self.n_bytes() >= MAX_OPEN_BYTES {
            return (0, Vec::new());
        }
        let mut by_owner: BTreeMap<u32, usize> = BTreeMap::new();
        for job in self.open.values() {
            *by_owner.entry(job.claimed.owner).or_default() += 1;
        }
        let has_enough = |n: &usize| self.open.len() >= MANY && *n >= FEW;
        let closed = by_owner.iter().filter(|(_, n)| has_enough(n)).map(|(owner, _)| *owner);
        (MAX_OPEN.saturating_sub(self.open.len()), closed.collect())
    }

    /// The job's file was read; its journal comes next. False if the job is not open any more.
    pub fn set_file(&mut self, id: JobId, file: RequestFile) -> bool {
        match self.open.get_mut(&id).map(|job| &mut job.stage) {
            Some(Stage::Reading(read)) => {
                *read = Some(Arc::new(file));
                true
            }
            _ => false,
        }
    }

    /// The journal says what is answered already. Returns what is to be done if that is everything.
    pub fn begin(&mut self, id: JobId, progress: Progress) -> Option<Complete> {
        let job = self.open.get_mut(&id)?;
        let Stage::Reading(Some(file)) = &job.stage else { return None };
        let n_requests = file.n_requests();
        let answered: BTreeSet<usize> = progress.answered.into_iter().filter(|i| *i < n_requests).collect();
        let suspects =
            progress.suspects.into_iter().filter(|(i, _)| *i < n_requests && !answered.contains(i));
        job.stage = Stage::Answering(Answering {
            file: Arc::clone(file),
            n_failed: progress.failed.len(),
            in_flight: BTreeSet::new(),
            slow: BTreeSet::new(),
            suspects: suspects.collect(),
            next: (0..n_requests).find(|index| !answered.contains(index)).unwrap_or(n_requests),
            answered,
            gave_up: false,
        });
        job.complete()
    }

    /// The request whose turn it is; it is in flight from now on. None if nothing may start now.
    pub fn start_next(&mut self) -> Option<Start> {
        if self.is_alone {
            return None;
        }
        let (suspects, deferred) = self.suspects();
        if let Some(&(n, job, index)) = deferred.last().filter(|(n, ..)| *n >= self.max_crashes) {
            return self.start(job, index, How::GiveUp(n));
        }
        if let Some((job, index)) = suspects {
            return (self.n_in_flight == 0).then(|| self.start(job, index, How::Alone)).flatten();
        }
        if let Some(job) = self.next_in_turn() {
            let index = self.open.get_mut(&job)?.next_index()?;
            return self.start(job, index, How::Shared);
        }
        let &(_, job, index) = deferred.first()?;
        (self.n_in_flight == 0).then(|| self.start(job, index, How::Alone)).flatten()
    }

    /// A request has its answer, which is on its way to the journal. Returns what is to be done if it was the
    /// last of its job; false as the second value if nobody waits for it.
    pub fn answer(&mut self, id: JobId, index: usize, is_failed: bool) -> (Option<Complete>, bool) {
        let Some(job) = self.open.get_mut(&id) else { return (None, false) };
        let Stage::Answering(work) = &mut job.stage else { return (None, false) };
        if !work.in_flight.remove(&index) {
            return (None, false);
        }
        self.n_in_flight -= 1;
        self.n_slow -= usize::from(work.slow.remove(&index));
        self.is_alone &= self.n_in_flight > 0;
        work.answered.insert(index);
        work.n_failed += usize::from(is_failed);
        (job.complete(), true)
    }

    /// Nobody works on the job any more. Returns whether it was there and not being published.
    pub fn withdraw(&mut self, id: JobId) -> bool {
        if let Some(idx) = self.backlog.iter().position(|claimed| claimed.id == id) {
            self.backlog.remove(idx);
            return true;
        }
        if self.open.get(&id).is_none_or(|job| matches!(job.stage, Stage::Publishing { .. })) {
            return false;
        }
        self.close(id).is_some()
    }

    /// Forgets a job; what it has in flight is nobody's any more.
    pub fn close(&mut self, id: JobId) -> Option<OpenJob> {
        let job = self.open.remove(&id)?;
        let owner = job.claimed.owner;
        if self.open.values().all(|open| open.claimed.owner != owner) {
            self.last_jobs.remove(&owner);
        }
        if let Stage::Answering(work) = &job.stage {
            self.n_in_flight -= work.in_flight.len();
            self.n_slow -= work.slow.len();
            self.is_alone &= self.n_in_flight > 0;
        }
        Some(job)
    }

    /// The whole file is refused: nothing of it runs.
    pub fn reject(&mut self, id: JobId) {
        if let Some(job) = self.open.get_mut(&id) {
            job.stage = Stage::Publishing { n_requests: 0, n_failed: 0 };
        }
    }

    /// Drops what is in flight, so that it may start again: whatever computed it is gone.
    pub fn take_back(&mut self) {
        for job in self.open.values_mut() {
            if let Stage::Answering(work) = &mut job.stage {
                work.next = work.in_flight.first().map_or(work.next, |first| work.next.min(*first));
                work.in_flight.clear();
                work.slow.clear();
            }
        }
        (self.n_in_flight, self.n_slow, self.is_alone) = (0, 0, false);
    }

    /// Whether the request is prepared or runs.
    pub fn is_in_flight(&self, id: JobId, index: usize) -> bool {
        let stage = self.open.get(&id).map(|job| &job.stage);
        matches!(stage, Some(Stage::Answering(work)) if work.in_flight.contains(&index))
    }

    /// Requests that are known and have no answer yet.
    pub fn n_left(&self) -> usize {
        let (n_requests, n_answered) = self.counts();
        n_requests - n_answered
    }

    pub fn get(&self, id: JobId) -> Option<&OpenJob> {
        self.open.get(&id)
    }

    /// All jobs, those that are not open last.
    pub fn all(&self) -> impl Iterator<Item = &Claimed> {
        self.open.values().map(|job| &job.claimed).chain(&self.backlog)
    }

    /// Requests of open jobs that are known, and how many of them have their answer.
    pub fn counts(&self) -> (usize, usize) {
        self.open.values().fold((0, 0), |(n_requests, n_answered), job| {
            let [requests, answered, ..] = job.counts();
            (n_requests + requests, n_answered + answered)
        })
    }

    /// The jobs for people to look at, the highest priority first.
    pub fn report(&self) -> Vec<JobReport> {
        let mut jobs: Vec<JobReport> = self.open.values().map(OpenJob::report).collect();
        jobs.sort_by_key(|job| Reverse(job.priority));
        jobs.extend(self.backlog.iter().map(|claimed| {
            let stage = Stage::Reading(None);
            OpenJob { claimed: claimed.clone(), stage }.report()
        }));
        jobs
    }

    fn n_bytes(&self) -> usize {
        self.open.values().filter_map(OpenJob::file).map(|file| file.n_bytes()).sum()
    }

    /// The first suspect that is tried before all others, and those that wait, by their count.
    fn suspects(&self) -> (Option<(JobId, usize)>, Vec<Suspect>) {
        let mut first = None;
        let mut deferred = Vec::new();
        for (id, job) in &self.open {
            let Stage::Answering(work) = &job.stage else { continue };
            for (&index, &n_crashes) in &work.suspects {
                let may_wait = n_crashes > 0 && !(self.are_suspects_due && n_crashes < self.max_crashes);
                if may_wait {
                    deferred.push((n_crashes, *id, index));
                } else if first.is_none() {
                    first = Some((*id, index));
                }
            }
        }
        deferred.sort_unstable();
        (first, deferred)
    }

    /// The job that has a request to start and whose turn it is.
    fn next_in_turn(&self) -> Option<JobId> {
        let rank = |open: &OpenJob| {
            let (id, owner) = (open.claimed.id, open.claimed.owner);
            let priority = open.file().map_or(0, |file| file.priority);
            // Two circles, each of which begins behind whoever was last.
            let was_before = self.last_jobs.get(&owner).is_some_and(|last| id <= *last);
            (Reverse(priority), owner <= self.last_owner, owner, was_before, id)
        };
        let waiting = self.open.values().filter(|open| open.peek_index().is_some());
        // Jobs of one owner share its turn; only one priority is looked at.
        waiting.min_by_key(|open| rank(open)).map(|open| open.claimed.id)
    }

    fn start(&mut self, id: JobId, index: usize, how: How) -> Option<Start> {
        let job = self.open.get_mut(&id)?;
        let owner = job.claimed.owner;
        let Stage::Answering(work) = &mut job.stage else { return None };
        work.suspects.remove(&index);
        work.in_flight.insert(index);
        work.gave_up |= matches!(how, How::GiveUp(_));
        let file = Arc::clone(&work.file);
        self.n_in_flight += 1;
        match how {
            How::Alone => self.is_alone = true,
            How::Shared => {
                self.last_owner = owner;
                self.last_jobs.insert(owner, id);
            }
            How::GiveUp(_) => {}
        }
        Some(Start { job: id, index, file, how })
    }
}

impl OpenJob {
    /// Of a job that is being published: requests, and how many of them failed.
    pub fn published(&self) -> Option<(usize, usize)> {
        match self.stage {
            Stage::Publishing { n_requests, n_failed } => Some((n_requests, n_failed)),
            _ => None,
        }
    }

    /// Requests whose answer is an error.
    pub fn n_failed(&self) -> usize {
        let [_, _, n_failed, _] = self.counts();
        n_failed
    }

    fn file(&self) -> Option<&Arc<RequestFile>> {
        match &self.stage {
            Stage::Reading(file) => file.as_ref(),
            Stage::Answering(work) => Some(&work.file),
            Stage::Publishing { .. } => None,
        }
    }

    fn peek_index(&self) -> Option<usize> {
        let Stage::Answering(work) = &self.stage else { return None };
        let is_free = |index: &usize| {
            !work.answered.contains(index)
                && !work.in_flight.contains(index)
                && !work.suspects.contains_key(index)
        };
        (work.next..work.file.n_requests()).find(is_free)
    }

    fn next_index(&mut self) -> Option<usize> {
        let index = self.peek_index()?;
        if let Stage::Answering(work) = &mut self.stage {
            work.next = index + 1;
        }
        Some(index)
    }

    /// Goes on to publishing when every request has its answer.
    fn complete(&mut self) -> Option<Complete> {
        let Stage::Answering(work) = &self.stage else { return None };
        let n_requests = work.file.n_requests();
        if work.answered.len() < n_requests {
            return None;
        }
        let to = if work.gave_up { Destination::Failed } else { Destination::Done };
        let complete = Complete { n_requests, warnings: work.file.warnings.clone(), to };
        self.stage = Stage::Publishing { n_requests, n_failed: work.n_failed };
        Some(complete)
    }

    /// Requests; of them answered; of those failed; in flight.
    fn counts(&self) -> [usize; 4] {
        match &self.stage {
            Stage::Reading(file) => [file.as_ref().map_or(0, |file| file.n_requests()), 0, 0, 0],
            Stage::Answering(work) => {
                [work.file.n_requests(), work.answered.len(), work.n_failed, work.in_flight.len()]
            }
            Stage::Publishing { n_requests, n_failed } => [*n_requests, *n_requests, *n_failed, 0],
        }
    }

    fn report(&self) -> JobReport {
        let [n_requests, n_answered, n_failed, n_under_way] = self.counts();
        JobReport {
            id: self.claimed.id.to_string(),
            name: printable(&self.claimed.name).to_string(),
            owner: self.claimed.owner,
            priority: self.file().map_or(0, |file| file.priority),
            stage: match &self.stage {
                Stage::Reading(_) => JobStage::Waiting,
                Stage::Answering(work) if !work.suspects.is_empty() => JobStage::Suspected,
                Stage::Answering(_) => JobStage::Answering,
                Stage::Publishing { .. } => JobStage::Publishing,
            },
            n_requests,
            n_answered,
            n_failed,
            n_under_way,
        }
    }
}
