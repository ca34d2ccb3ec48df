//! Group commit: a batch of orders for many jobs is carried out in phases, so that all share the syncs.
//!
//! 1. A job that begins has its journal looked at.
//! 2. A job that ends is written to tmp/ whole, from its journal and from the batch; its lines need no journal.
//! 3. The lines of the others are appended to their journals.
//! 4. Parts, and journals with new answers, are brought to the disk; then work/, for the journals' names.
//! 5. What is whole goes its last way, see [`crate::spool::outbox`].
//!
//! A job's orders succeed or fail together, except that a job which cannot be written to tmp/ for lack of space
//! still has its new answers journaled.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use super::destination::Destination;
use super::disk::Disk;
use super::error::SpoolError;
use super::history::{Claim, Event};
use super::id::JobId;
use super::job::{Job, Ready};
use super::journal::NewLine;
use super::name::{is_of_lines, part_name};
use super::order::{Order, Outcome, Progress};
use super::outbox::{Ending, bring_out, make_ready};
use super::place::Place;
use super::root::Spool;
use super::wire::answer_file::write_rejection;
use super::wire::openai::response::write_refusal;
use super::wire::{Answer, AnswerFile};

/// One job's part of a batch.
struct Share {
    id: JobId,
    /// Places in the batch.
    orders: Vec<usize>,
    /// The order that ends the job.
    end: Option<usize>,
    has_records: bool,
    /// What was known when the job began in this batch.
    progress: Option<Progress>,
    /// The answer in tmp/, written but not synced.
    part: Option<File>,
    /// Why none of the orders is done.
    error: Option<Arc<SpoolError>>,
    /// Why only the end is not.
    end_error: Option<Arc<SpoolError>>,
    /// Where the answer is out.
    published: Option<OsString>,
}

impl Spool {
    /// Carries out a batch of orders; the outcomes stand in the order of the orders. One job that fails does not
    /// keep the others from their end.
    pub fn commit(&mut self, orders: Vec<Order>) -> Vec<Outcome> {
        let mut shares = shares(&orders);
        self.begin(&orders, &mut shares);
        self.stage(&orders, &mut shares);
        self.write_lines(&orders, &mut shares);
        self.sync_files(&orders, &mut shares);
        self.end_jobs(&orders, &mut shares);
        self.outcomes(orders, shares)
    }

    /// Says which input the journals belong to.
    fn begin(&mut self, orders: &[Order], shares: &mut [Share]) {
        for share in shares {
            let Some(job) = self.jobs.get_mut(&share.id) else {
                share.error = Some(Arc::new(SpoolError::NotOpen { id: share.id }));
                continue;
            };
            for &at in &share.orders {
                let Order::Begin { size, crc, .. } = orders[at] else { continue };
                let claim = Claim { size, crc };
                let is_known = job.journal.history().claim() == Some(claim);
                let claim = (!is_known).then_some(NewLine::Event(Event::Claim(claim)));
                let lines: Vec<NewLine> = claim.into_iter().chain([NewLine::Event(Event::Opened)]).collect();
                let written = job.journal.append(&mut self.disk, &self.config.boot_id, &lines);
                share.error = written.err().map(Arc::new);
                share.progress = Some(job.journal.history().progress());
            }
        }
    }

    /// Writes the answers of jobs that end to tmp/.
    fn stage(&mut self, orders: &[Order], shares: &mut [Share]) {
        for share in shares.iter_mut().filter(|share| share.error.is_none()) {
            let (Some(end), Some(job)) = (share.end, self.jobs.get(&share.id)) else { continue };
            if job.ready.is_some() {
                continue;
            }
            match write_part(&mut self.disk, share.id, job, &orders[end], &records(orders, share)) {
                Ok(part) => {
                    self.disk.start_writing_back(&part);
                    share.part = Some(part);
                }
                Err(error) => {
                    // The space comes back; what cannot be removed goes with the next try or the next start.
                    let _ = self.disk.remove(Place::Tmp, &part_name(share.id));
                    share.end_error = Some(Arc::new(error));
                }
            }
        }
    }

    /// Appends to the journals of jobs that do not end.
    fn write_lines(&mut self, orders: &[Order], shares: &mut [Share]) {
        for share in shares.iter_mut().filter(|share| share.error.is_none() && share.part.is_none()) {
            let Some(job) = self.jobs.get_mut(&share.id).filter(|job| job.ready.is_none()) else { continue };
            let boot = &self.config.boot_id;
            let lines: Vec<NewLine> =
                share.orders.iter().filter_map(|&at| new_line(&orders[at], job, boot)).collect();
            let written = job.journal.append(&mut self.disk, boot, &lines);
            share.error = written.err().map(Arc::new);
            job.journal.start_writing_back(&self.disk);
        }
    }

    /// Brings what was written to the disk.
    fn sync_files(&mut self, orders: &[Order], shares: &mut [Share]) {
        for share in shares.iter_mut().filter(|share| share.error.is_none()) {
            let Some(job) = self.jobs.get_mut(&share.id) else { continue };
            let synced = match &share.part {
                Some(part) => sync_part(&mut self.disk, share.id, part),
                None if share.needs_journal(job) => {
                    let synced = job.journal.sync(&mut self.disk, &self.config.boot_id);
                    synced.and_then(|()| all_kept(orders, share, job))
                }
                None => Ok(()),
            };
            share.error = synced.err().map(Arc::new);
        }
        // Answers in a journal, or in a file that was made ready by an earlier batch: their names.
        let is_kept = |share: &Share| {
            share.has_records && share.error.is_none() && share.part.is_none() && !share.goes_on()
        };
        if shares.iter().any(is_kept)
            && let Err(error) = self.disk.sync_dir(Place::Work)
        {
            let error = Arc::new(error);
            shares.iter_mut().filter(|s| is_kept(s)).for_each(|s| s.error = Some(error.clone()));
        }
    }

    /// Brings out what is whole.
    fn end_jobs(&mut self, orders: &[Order], shares: &mut [Share]) {
        let (mut endings, mut owners) = (Vec::new(), Vec::new());
        for (at, share) in shares.iter().enumerate().filter(|(_, share)| share.goes_on()) {
            let Some(job) = self.jobs.get(&share.id) else { continue };
            let ready = job.ready.as_ref();
            let ordered = share.end.map(|end| destination(&orders[end]));
            let Some(to) = ready.map(|ready| ready.to).or(ordered) else { continue };
            endings.push(Ending {
                id: share.id,
                name: job.name.clone(),
                to,
                is_ready: ready.is_some(),
                out_name: ready.and_then(|ready| ready.out_name.clone()),
                error: None,
            });
            owners.push(at);
        }
        make_ready(&mut self.disk, &mut endings);
        bring_out(&mut self.disk, &mut endings);
        for (ending, at) in endings.into_iter().zip(owners) {
            let share = &mut shares[at];
            share.error = ending.error;
            if share.error.is_none() {
                let name = ending.out_name.unwrap_or(ending.name);
                if let Some(job) = self.jobs.remove(&share.id) {
                    self.answers.note(name.clone(), job.owner);
                }
                share.published = Some(name);
            } else if let Some(job) = self.jobs.get_mut(&share.id).filter(|_| ending.is_ready) {
                job.ready = Some(Ready { to: ending.to, out_name: ending.out_name });
            }
        }
    }

    fn outcomes(&self, orders: Vec<Order>, mut shares: Vec<Share>) -> Vec<Outcome> {
        let mut owners = vec![0; orders.len()];
        for (owner, share) in shares.iter().enumerate() {
            share.orders.iter().for_each(|&at| owners[at] = owner);
        }
        let outcome = |(at, order): (usize, Order)| {
            let share = &mut shares[owners[at]];
            let end_error = share.end_error.as_ref().filter(|_| share.end == Some(at));
            if let Some(error) = share.error.as_ref().or(end_error) {
                return Outcome::Failed { error: error.clone(), order };
            }
            match order {
                Order::Begin { job, .. } => {
                    Outcome::Begun { job, progress: share.progress.take().unwrap_or_default() }
                }
                Order::Run { job, index, .. } => Outcome::Marked { job, index },
                Order::Record { job, index, is_failed, .. } => Outcome::Recorded { job, index, is_failed },
                Order::Pause { job } => Outcome::Paused { job },
                Order::Publish { job, .. } | Order::Reject { job, .. } => {
                    Outcome::Published { job, name: share.published.clone().unwrap_or_default() }
                }
            }
        };
        orders.into_iter().enumerate().map(outcome).collect()
    }
}

impl Share {
    /// New answers belong into the journal.
    fn needs_journal(&self, job: &Job) -> bool {
        self.has_records && self.part.is_none() && job.ready.is_none()
    }

    /// The answer is whole and goes its last way.
    fn goes_on(&self) -> bool {
        self.end.is_some() && self.error.is_none() && self.end_error.is_none()
    }
}

/// The batch job by job.
fn shares(orders: &[Order]) -> Vec<Share> {
    let mut by_job: BTreeMap<JobId, Share> = BTreeMap::new();
    for (at, order) in orders.iter().enumerate() {
        let id = order.job();
        let share = by_job.entry(id).or_insert_with(|| Share {
            id,
            orders: Vec::new(),
            end: None,
            has_records: false,
            progress: None,
            part: None,
            error: None,
            end_error: None,
            published: None,
        });
        share.orders.push(at);
        match order {
            Order::Publish { .. } | Order::Reject { .. } => share.end = Some(at),
            Order::Record { .. } => share.has_records = true,
            Order::Begin { .. } | Order::Run { .. } | Order::Pause { .. } => {}
        }
    }
    by_job.into_values().collect()
}

/// The answers in the batch.
fn records<'o>(orders: &'o [Order], share: &Share) -> BTreeMap<usize, &'o Answer> {
    let mut records = BTreeMap::new();
    for &at in &share.orders {
        if let Order::Record { index, answer, .. } = &orders[at] {
            records.entry(*index).or_insert(&**answer);
        }
    }
    records
}

/// The line that an order adds to the journal of a job that goes on.
fn new_line<'o>(order: &'o Order, job: &Job, boot: &str) -> Option<NewLine<'o>> {
    match order {
        Order::Run { index, is_alone, .. } => {
            Some(NewLine::Event(Event::Run { index: *index, alone: *is_alone, boot: boot.to_owned() }))
        }
        Order::Record { index, is_failed, answer, .. } => {
            let is_known = job.journal.history().has_answer(*index);
            (!is_known).then_some(NewLine::Done { index: *index, is_failed: *is_failed, answer })
        }
        Order::Pause { .. } => Some(NewLine::Event(Event::Pause)),
        Order::Begin { .. } | Order::Publish { .. } | Order::Reject { .. } => None,
    }
}

fn destination(end: &Order) -> Destination {
    match end {
        Order::Publish { to, .. } => *to,
        _ => Destination::Failed,
    }
}

/// A journal that was written anew after a failed sync may have lost what was never synced.
fn all_kept(orders: &[Order], share: &Share, job: &Job) -> Result<(), SpoolError> {
    let lost = records(orders, share).into_keys().find(|index| !job.journal.history().has_answer(*index));
    lost.map_or(Ok(()), |index| Err(SpoolError::AnswerLost { name: job.name.clone(), index }))
}

fn sync_part(disk: &mut Disk, id: JobId, part: &File) -> Result<(), SpoolError> {
    let name = part_name(id);
    disk.sync_file(part).map_err(|e| {
        let _ = disk.remove(Place::Tmp, &name);
        disk.error("bring to the disk", Place::Tmp, &name, e)
    })
}

/// Writes the whole answer of a job to tmp/.
fn write_part(
    disk: &mut Disk,
    id: JobId,
    job: &Job,
    end: &Order,
    records: &BTreeMap<usize, &Answer>,
) -> Result<File, SpoolError> {
    let history = job.journal.history();
    let has = |index: &usize| history.has_answer(*index) || records.contains_key(index);
    if let Order::Publish { n_requests, .. } = end
        && let Some(index) = (0..*n_requests).find(|index| !has(index))
    {
        return Err(SpoolError::Unanswered { name: job.name.clone(), index });
    }
    let input_file = disk.path(Place::New, &job.name).to_string_lossy().into_owned();
    let name = part_name(id);
    let file = disk.create(Place::Tmp, &name)?;
    let mut out = BufWriter::with_capacity(64 * 1024, disk.writer(&file));
    let written = match end {
        Order::Publish { n_requests, warnings, .. } => {
            write_answers(&mut out, job, &input_file, *n_requests, warnings, records)
        }
        Order::Reject { fault, .. } if is_of_lines(&job.name) => {
            write_refusal(fault, &id.stamp(), &mut out).and_then(|()| out.write_all(b"\n"))
        }
        Order::Reject { fault, .. } => write_rejection(&mut out, &input_file, fault),
        _ => Ok(()),
    };
    let written = written.and_then(|()| out.flush());
    // What is still buffered after an error is not to be written.
    let _ = out.into_parts();
    written.map_err(|e| disk.error("write", Place::Tmp, &name, e))?;
    Ok(file)
}

fn write_answers(
    mut out: impl Write,
    job: &Job,
    input_file: &str,
    n_requests: usize,
    warnings: &[String],
    records: &BTreeMap<usize, &Answer>,
) -> io::Result<()> {
    let write = |index: usize, out: &mut dyn Write| -> io::Result<()> {
        match (job.journal.write_answer(index, out)?, records.get(&index)) {
            (false, Some(answer)) => answer.write_json(out),
            _ => Ok(()),
        }
    };
    if is_of_lines(&job.name) {
        for index in 0..n_requests {
            write(index, &mut out)?;
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    let mut file = AnswerFile::begin(out, input_file)?;
    for index in 0..n_requests {
        file.entry(|out| write(index, out))?;
    }
    file.finish(warnings).map(drop)
}
