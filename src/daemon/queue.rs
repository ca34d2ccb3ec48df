//! The jobs that are open: which request starts next, which answers wait to be recorded, what is complete.
//!
//! The files of the highest priority come first; among them requests start in turn, so that a large file does
//! not hold up a small one. What runs is not interrupted for a file of a higher priority.

use std::cmp::Reverse;
use std::ffi::OsStr;

use super::message;
use crate::answer::{self, Engines, Executor, Source, Ticket};
use crate::spool::report::JobReport;
use crate::spool::wire::{Answer, Fault, RequestFile};
use crate::spool::{Attempt, Destination, Job, Publication, SpoolError};

/// Jobs open at once; each has an open journal.
const MAX_OPEN: usize = 128;
/// Bytes of text that the open jobs hold in all, the largest of them not counted: it must not keep small
/// files out.
const MAX_OPEN_BYTES: usize = 64 << 20;
/// Requests that one round starts; requests that fail at once must not hold up the loop.
const MAX_STARTS: usize = 64;

/// Failed requests of a job that the log tells of.
const MAX_TOLD: usize = 10;

/// The open jobs, in the order they were taken.
#[derive(Default)]
pub struct Queue {
    jobs: Vec<OpenJob>,
    next_key: u64,
    /// The job whose turn it is to start a request.
    turn: u64,
}

struct OpenJob {
    key: u64,
    job: Box<Job>,
    plan: Plan,
    /// Answered, but not in the journal yet.
    unrecorded: Vec<Answer>,
    /// Recorded answers that are errors.
    n_failed: usize,
}

/// What is to be done with a job.
enum Plan {
    /// Start the requests from `next` on.
    Answer { file: Box<RequestFile>, next: usize, to: Destination },
    /// The whole file is refused.
    Reject(Fault),
}

/// What the queue did for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub id: String,
    pub name: String,
    pub n_requests: usize,
    /// Of them with an error for an answer, as far as this daemon gave it.
    pub n_failed: usize,
    pub rejected: Option<String>,
}

impl Queue {
    pub fn has_room(&self) -> bool {
        let n_bytes = || self.jobs.iter().map(|open| open.plan.n_bytes());
        self.jobs.len() < MAX_OPEN && n_bytes().sum::<usize>() - n_bytes().max().unwrap_or(0) < MAX_OPEN_BYTES
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The first `n` open jobs, for people to look at.
    pub fn report(&self, n: usize) -> Vec<JobReport> {
        self.jobs.iter().take(n).map(OpenJob::report).collect()
    }

    /// Requests of open jobs that have not started.
    pub fn n_unstarted(&self) -> usize {
        self.jobs.iter().map(|open| open.plan.n_unstarted()).sum()
    }

    /// Takes a job; counts the start before its input is read.
    ///
    /// # Errors
    /// [`SpoolError`] when the journal cannot be written, with the job to try again: it knows what of its
    /// journal is not on the disk.
    pub fn open(&mut self, mut job: Box<Job>) -> Result<(), (Box<Job>, SpoolError)> {
        let attempt = job.attempt();
        if let Err(error) = job.start() {
            return Err((job, error));
        }
        let plan = match attempt {
            Attempt::Reject => Plan::Reject(job.gave_up()),
            Attempt::Run | Attempt::GiveUp => {
                let to = if attempt == Attempt::Run { Destination::Done } else { Destination::Failed };
                match RequestFile::parse(std::mem::take(&mut job.input)) {
                    Ok(file) => Plan::Answer { file: Box::new(file), next: 0, to },
                    Err(fault) => Plan::Reject(fault),
                }
            }
        };
        self.push(job, plan);
        Ok(())
    }

    /// Takes what is no request file; its answer says why.
    pub fn refuse(&mut self, job: Box<Job>, fault: Fault) {
        self.push(job, Plan::Reject(fault));
    }

    /// Starts requests while the executor has room: of the jobs of the highest priority, one of each in turn.
    pub fn feed(&mut self, executor: &mut Executor) {
        for _ in 0..MAX_STARTS {
            if !executor.has_room() {
                return;
            }
            let waiting = self.jobs.iter_mut().filter(|open| open.plan.n_unstarted() > 0);
            // Whose turn it is, counted in a circle that begins at `turn`.
            let turn = self.turn;
            let rank = |open: &&mut OpenJob| (Reverse(open.plan.priority()), open.key.wrapping_sub(turn));
            let Some(open) = waiting.min_by_key(rank) else { return };
            open.start_next(executor);
            self.turn = open.key + 1;
        }
    }

    /// Closes a job so that it can be moved: what runs of it is stopped, what is answered is recorded. False if
    /// the job is not open, or its answer is being brought out.
    ///
    /// # Errors
    /// [`SpoolError`] when the journal cannot be written; the job is closed all the same.
    pub fn withdraw(&mut self, name: &OsStr, engines: &mut Engines) -> Result<bool, SpoolError> {
        let is_it = |open: &OpenJob| open.job.name() == name && !open.job.is_being_published();
        let Some(index) = self.jobs.iter().position(is_it) else { return Ok(false) };
        let mut open = self.jobs.remove(index);
        engines.cancel_job(open.key);
        open.job.record(&open.unrecorded).and_then(|()| open.job.pause()).map(|()| true)
    }

    /// Takes an answer that the executor finished.
    pub fn take(&mut self, ticket: Ticket, answer: Answer) {
        if let Some(open) = self.jobs.iter_mut().find(|open| open.key == ticket.job) {
            open.unrecorded.push(answer);
        }
    }

    /// Puts finished answers into the journals, and publishes the jobs that are complete.
    ///
    /// # Errors
    /// The first [`SpoolError`]; what was not done is tried again by the next call.
    pub fn settle(&mut self) -> Result<Vec<Published>, SpoolError> {
        let mut published = Vec::new();
        let mut result = Ok(());
        self.jobs.retain_mut(|open| match open.settle() {
            Ok(None) => true,
            Ok(Some(done)) => {
                published.push(done);
                false
            }
            Err(error) => {
                result = Err(error);
                true
            }
        });
        // What is out is out: it is told even if another job failed.
        match result {
            Err(error) if published.is_empty() => Err(error),
            Err(error) => {
                tracing::error!("{error}");
                Ok(published)
            }
            Ok(()) => Ok(published),
        }
    }

    /// Leaves all jobs for the next start: records what is answered and takes the start back.
    pub fn pause(&mut self) {
        for open in &mut self.jobs {
            let answers = std::mem::take(&mut open.unrecorded);
            if let Err(error) = open.job.record(&answers).and_then(|()| open.job.pause()) {
                tracing::error!("{error}; the job is resumed from its journal");
            }
        }
        self.jobs.clear();
    }

    fn push(&mut self, job: Box<Job>, plan: Plan) {
        let key = self.next_key;
        self.next_key += 1;
        self.jobs.push(OpenJob { key, job, plan, unrecorded: Vec::new(), n_failed: 0 });
    }
}

impl Plan {
    fn priority(&self) -> i32 {
        match self {
            Plan::Answer { file, .. } => file.priority,
            Plan::Reject(_) => 0,
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            Plan::Answer { file, .. } => file.n_bytes(),
            Plan::Reject(_) => 0,
        }
    }

    fn n_unstarted(&self) -> usize {
        match self {
            Plan::Answer { file, next, .. } => file.n_requests() - next,
            Plan::Reject(_) => 0,
        }
    }
}

impl OpenJob {
    fn report(&self) -> JobReport {
        let n_requests = match &self.plan {
            Plan::Answer { file, .. } => file.n_requests(),
            Plan::Reject(_) => 0,
        };
        JobReport {
            name: self.job.name().to_string_lossy().into_owned(),
            priority: self.plan.priority(),
            n_requests,
            n_answered: self.job.n_answered(),
            n_unstarted: self.plan.n_unstarted(),
        }
    }

    fn start_next(&mut self, executor: &mut Executor) {
        let Plan::Answer { file, next, to } = &mut self.plan else { return };
        let request_idx = *next;
        *next += 1;
        if self.job.is_answered(request_idx) {
            return;
        }
        let request = file.request(request_idx);
        if *to == Destination::Failed {
            let gave_up = self.job.gave_up();
            self.unrecorded.push(answer::refused(request_idx, file.batch_size, request, gave_up));
            return;
        }
        tracing::debug!("{}: request {request_idx} starts", self.job.name().display());
        let ticket = Ticket { job: self.key, request_idx };
        let source = Source { file, unix_time: (self.job.id().time_ns / 1_000_000_000) as i64 };
        if let Some(answer) = executor.submit(ticket, request, source) {
            self.unrecorded.push(answer);
        }
    }

    fn settle(&mut self) -> Result<Option<Published>, SpoolError> {
        if !self.unrecorded.is_empty() {
            self.job.record(&self.unrecorded)?;
            for answer in self.unrecorded.drain(..) {
                self.n_failed += usize::from(answer.error.is_some());
                // The rest stands in the answer alone: one wrong name must not fill the log.
                if answer.error.is_none() || self.n_failed <= MAX_TOLD {
                    tell(&self.job, &answer);
                }
            }
        }
        let (publication, n_requests, rejected) = match &self.plan {
            Plan::Reject(fault) => (Publication::Rejection(fault), 0, Some(fault.to_string())),
            Plan::Answer { file, to, .. } => {
                let n_requests = file.n_requests();
                if self.job.n_answered() < n_requests {
                    return Ok(None);
                }
                (Publication::Answers { n_requests, warnings: &file.warnings, to: *to }, n_requests, None)
            }
        };
        self.job.publish(publication)?;
        let name = self.job.name().to_string_lossy().into_owned();
        Ok(Some(Published {
            id: self.job.id().to_string(),
            name,
            n_requests,
            n_failed: self.n_failed,
            rejected,
        }))
    }
}

/// One line of the log for one request that is recorded.
fn tell(job: &Job, answer: &Answer) {
    let (job_id, name) = (job.id().to_string(), job.name().display());
    let (request_index, adapter) = (answer.request_idx, answer.lora_name.as_deref());
    match &answer.error {
        Some(fault) => tracing::warn!(
            message_id = message::REQUEST_FAILED,
            job_id,
            job_name = %name,
            request_index,
            adapter,
            "{name}: request {request_index}: {fault}"
        ),
        None => tracing::debug!(
            message_id = message::REQUEST_ANSWERED,
            job_id,
            job_name = %name,
            request_index,
            adapter,
            "{name}: request {request_index}: {} tokens",
            answer.usage.generated_tokens
        ),
    }
}
