//! What the loop does about jobs: from a name in new/ to an answer in out/, one event after the other.

use std::ffi::OsString;

use super::compute::Compute;
use super::error::DaemonError;
use super::event::{Computed, Done, Read, Seen, Written};
use super::jobs::{Complete, How, Start};
use super::main_loop::MainLoop;
use super::marking::Marking;
use super::message;
use super::scout::Look;
use super::writer::Write;
use crate::answer::{Ready, Ticket};
use crate::count::Count;
use crate::spool::control::Reply;
use crate::spool::wire::{Answer, Fault, FaultCode};
use crate::spool::{
    Arrival, Claimed, JobId, Opened, Order, Outcome, Place, SpoolError, printable, split_suffix,
};

/// Requests that are prepared while the batch is full, so that a place is never empty for long.
const AHEAD: usize = 2;
/// Requests whose text takes long, and that wait for their turn beside the others.
const MAX_SLOW: usize = 128;
/// Failed requests of a job that the log tells of.
const MAX_TOLD: usize = 10;
/// Failed requests of a job that are kept to be shown.
const MAX_SHOWN: usize = 3;

impl MainLoop {
    /// What the watch said goes to the scout.
    pub(super) fn arrived(&mut self, arrivals: Vec<Arrival>) -> Result<(), DaemonError> {
        if arrivals.contains(&Arrival::Lost) {
            return Err(SpoolError::Moved { dir: self.config.spool.join(Place::New.name()) }.into());
        }
        if !arrivals.is_empty() {
            self.is_scout_busy = true;
            self.threads.scout.send(Look::Arrivals(arrivals));
        }
        Ok(())
    }

    pub(super) fn seen(&mut self, seen: Seen) {
        self.is_scout_busy = false;
        self.is_news |= (self.n_waiting, self.n_partial) != (seen.n_waiting, seen.n_partial);
        (self.n_waiting, self.n_partial) = (seen.n_waiting, seen.n_partial);
        for name in seen.foreign_names {
            let why = match split_suffix(&name) {
                Some(_) => "a name of more than 236 bytes cannot be a job's",
                None => "only names ending in .json or .jsonl are jobs",
            };
            tracing::warn!("new/{} is left alone: {why}", printable(&name));
        }
        for reply in self.flushing.drain(..) {
            let _ = reply.send(Reply::Flushed);
        }
        if !seen.candidates.is_empty() {
            self.asked.0 = self.asked.0.saturating_sub(seen.candidates.len());
            self.n_claiming += seen.candidates.len();
            self.threads.writer.send(Write::Claim(seen.candidates));
        }
    }

    /// Tells the scout how many files may be taken.
    pub(super) fn ask_scout(&mut self) {
        let (wanted, closed) = self.jobs.wanted();
        let wanted = if self.trouble.is_some() { 0 } else { wanted.saturating_sub(self.n_claiming) };
        let is_same = closed == self.asked.1 && wanted >= self.asked.0 && wanted < self.asked.0 + 16;
        if !(is_same && (wanted > 0) == (self.asked.0 > 0)) {
            self.asked = (wanted, closed.clone());
            self.threads.scout.send(Look::Wanted(wanted, closed));
        }
    }

    pub(super) fn open_jobs(&mut self) {
        while let Some(claimed) = self.jobs.open_next() {
            self.threads.writer.send(Write::Open(claimed));
        }
    }

    /// Starts requests while there are places for them.
    pub(super) fn feed(&mut self) {
        while self.broken.is_none()
            && self.jobs.n_on_their_way() < self.compute.batch_limit + AHEAD
            && self.jobs.n_slow() < MAX_SLOW
            && !self.threads.writer.is_full()
        {
            let Some(start) = self.jobs.start_next() else { return };
            match start.how {
                How::GiveUp(n) => self.give_up(&start, n),
                How::Alone | How::Shared => self.lanes.prepare(start),
            }
        }
    }

    pub(super) fn written(&mut self, written: Written) -> Result<(), DaemonError> {
        match written {
            Written::Taken(claimed, inode) => self.taken(claimed, inode),
            Written::CannotClaim(candidate, why) => {
                tracing::warn!("new/{} cannot be claimed: {why}; left alone", printable(candidate.name()));
                self.threads.scout.send(Look::SetAside(candidate));
            }
            Written::ClaimsDone(n) => self.n_claiming = self.n_claiming.saturating_sub(n),
            Written::Opened(job, opened) => self.opened(job, opened),
            Written::Done(outcome) => self.done(outcome),
            Written::Trouble(error) => self.in_trouble(&error)?,
            Written::Well => {
                tracing::info!(message_id = message::SPOOL_WELL, "the trouble with the spool is over");
                (self.trouble, self.is_news) = (None, true);
            }
            Written::Broken(error) => return Err(error.into()),
            Written::Barrier => self.all_written(),
        }
        Ok(())
    }

    fn taken(&mut self, claimed: Claimed, inode: Option<u64>) {
        self.is_news = true;
        self.followers.note_job(claimed.id, &claimed.name, inode);
        self.jobs.take(claimed);
    }

    fn opened(&mut self, job: JobId, opened: Opened) {
        match opened {
            Opened::Job(open) if open.n_opens as usize >= self.config.max_attempts => {
                let n = open.n_opens;
                let message = format!("reading this file ended the daemon {n} times; it is not tried again");
                self.reject(job, Fault::new(FaultCode::GaveUp, message));
            }
            Opened::Job(open) => {
                if let Some(claimed) = self.jobs.get(job).map(|job| &job.claimed) {
                    self.lanes.read(job, &claimed.name, open);
                }
            }
            Opened::Refused(fault) => self.reject(job, fault),
            Opened::Gone => {
                self.jobs.close(job);
                self.followers.forget(job);
            }
        }
    }

    pub(super) fn read(&mut self, read: Read) {
        let Read { job, size, crc, file } = read;
        match file {
            Ok(Ok(file)) => {
                if self.jobs.set_file(job, file) {
                    self.threads.writer.send(Write::Commit(Order::Begin { job, size, crc }));
                }
            }
            Ok(Err(fault)) => self.reject(job, fault),
            Err(error) => {
                let message = format!("the file cannot be read: {error}");
                self.reject(job, Fault::new(FaultCode::NotAFile, message));
            }
        }
    }

    fn reject(&mut self, job: JobId, fault: Fault) {
        let Some(open) = self.jobs.get(job) else { return };
        let name = printable(&open.claimed.name).to_string();
        tracing::warn!(
            message_id = message::JOB_REJECTED,
            job_id = job.to_string(),
            job_name = name,
            "{name}: rejected: {fault}"
        );
        self.activity.note_failure(name, None, fault.to_string());
        self.jobs.reject(job);
        self.threads.writer.send(Write::Commit(Order::Reject { job, fault }));
    }

    pub(super) fn prepared(&mut self, done: Done) {
        let Done { job, index, is_alone, ready } = done;
        match ready {
            Ready::Answered(answer) => self.answered(job, index, *answer),
            Ready::Run(runnable) if self.jobs.is_in_flight(job, index) && !self.is_ending => {
                self.jobs.set_slow(job, index, false);
                self.threads.writer.send(Write::Commit(Order::Run { job, index, is_alone }));
                self.marking.push_back(Marking { job, index, runnable });
            }
            Ready::Run(_) => {}
        }
    }

    fn give_up(&mut self, start: &Start, n_crashes: u32) {
        let message = format!(
            "this request ended the daemon {n_crashes} times while it ran alone; it is not tried again"
        );
        let fault = Fault::new(FaultCode::GaveUp, message);
        if let Ready::Answered(answer) = Ready::refused(&start.file, start.index, fault) {
            self.answered(start.job, start.index, *answer);
        }
    }

    pub(super) fn computed(&mut self, computed: Computed) {
        let Computed { finished, state, damage } = computed;
        if !finished.is_empty() || state.n_active > 0 {
            self.activity.count_tokens(state.counts);
        }
        self.is_news |= (state.n_active > 0) != (self.compute.n_active > 0);
        self.compute = state;
        for (ticket, answer) in finished {
            self.answered(JobId::from_micros(ticket.job), ticket.request_idx, answer);
        }
        if let Some(damage) = damage {
            self.damaged(&damage);
        }
    }

    /// A request has its answer: to the journal with it, and the file's answer out if it was the last.
    fn answered(&mut self, job: JobId, index: usize, answer: Answer) {
        let is_failed = answer.error.is_some();
        let (complete, is_wanted) = self.jobs.answer(job, index, is_failed);
        if !is_wanted {
            return;
        }
        answer.lora_names().filter(|_| !is_failed).for_each(|name| self.activity.note_use(name));
        self.tell_request(job, &answer);
        self.threads.writer.send(Write::Commit(Order::Record {
            job,
            index,
            is_failed,
            answer: Box::new(answer),
        }));
        self.publish(job, complete);
    }

    fn publish(&mut self, job: JobId, complete: Option<Complete>) {
        if let Some(Complete { n_requests, warnings, to }) = complete {
            self.threads.writer.send(Write::Commit(Order::Publish { job, n_requests, warnings, to }));
        }
    }

    fn done(&mut self, outcome: Outcome) {
        self.is_news = true;
        match outcome {
            Outcome::Begun { job, progress } => {
                let complete = self.jobs.begin(job, progress);
                self.publish(job, complete);
            }
            Outcome::Marked { job, index } => {
                let is_it = |marking: &Marking| (marking.job, marking.index) == (job, index);
                if let Some(place) = self.marking.iter().position(is_it)
                    && let Some(Marking { runnable, .. }) = self.marking.remove(place)
                {
                    let ticket = Ticket { job: job.micros(), request_idx: index };
                    self.compute.n_active += 1;
                    self.threads.compute.send(Compute::Run(ticket, runnable));
                }
            }
            Outcome::Recorded { is_failed, .. } => self.activity.count_request(is_failed),
            Outcome::Published { job, name } => self.published(job, &name),
            Outcome::Paused { .. } | Outcome::Failed { .. } => {}
        }
    }

    fn published(&mut self, job: JobId, name: &OsString) {
        self.followers.tell(job, name);
        let Some(open) = self.jobs.close(job) else { return };
        let (n_requests, n_failed) = open.published().unwrap_or_default();
        self.activity.count_file(n_requests == 0);
        let name = printable(&open.claimed.name).to_string();
        if n_requests > 0 {
            tracing::info!(
                message_id = message::JOB_ANSWERED,
                job_id = job.to_string(),
                job_name = name,
                "{name}: {} answered, {n_failed} with an error",
                Count(n_requests, "request")
            );
        }
    }

    /// One line of the log for one request that is answered.
    fn tell_request(&mut self, job: JobId, answer: &Answer) {
        let Some(open) = self.jobs.get(job) else { return };
        let name = printable(&open.claimed.name).to_string();
        let names: Vec<&str> = answer.lora_names().collect();
        let adapter = (!names.is_empty()).then(|| names.join(" + "));
        let (job_id, request_index) = (job.to_string(), answer.request_idx);
        let Some(fault) = &answer.error else {
            tracing::debug!(
                message_id = message::REQUEST_ANSWERED,
                job_id,
                job_name = name,
                request_index,
                adapter,
                "{name}: request {request_index}: {} tokens",
                answer.usage.generated_tokens
            );
            return;
        };
        // The rest stands in the answer alone: one wrong name must not fill the log.
        let n_failed = open.n_failed();
        if n_failed <= MAX_SHOWN {
            self.activity.note_failure(name.clone(), Some(request_index), fault.to_string());
        }
        if n_failed <= MAX_TOLD {
            tracing::warn!(
                message_id = message::REQUEST_FAILED,
                job_id,
                job_name = name,
                request_index,
                adapter,
                "{name}: request {request_index}: {fault}"
            );
        }
    }
}
