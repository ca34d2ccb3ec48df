//! A daemon without a model, for the tests of the spool: it answers by the number of the request, counts how
//! often each one runs, and tells what it was told.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::destination::Destination;
use super::error::{Fate, SpoolError};
use super::id::JobId;
use super::inbox::{Inbox, InboxConfig};
use super::job::{Claimed, Opened};
use super::name::MAX_NAME_BYTES;
use super::new_dir::NewDir;
use super::operate::{Action, Found};
use super::order::{Order, Outcome, Progress};
use super::place::Place;
use super::root::Spool;
use super::settings::SpoolConfig;
use super::watch::Arrival;
use super::wire::{Answer, Form, RequestFile};

/// Why a life ended early.
pub type Halt = Arc<SpoolError>;

/// What somebody was told, and may rely on from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Recorded(OsString, usize),
    /// The job's name and that of its answer in out/.
    Published(OsString, OsString),
    /// What an operator asks for and what is done; the name is the job's.
    Asked(Action, OsString),
    Done(Action, OsString),
}

pub struct Trial<'t> {
    /// By name and index.
    pub runs: BTreeMap<(OsString, usize), usize>,
    /// How often a call that fails is tried.
    pub n_tries: usize,
    pub tell: &'t dyn Fn(Told),
}

/// A job under way.
struct Open {
    id: JobId,
    name: OsString,
    warnings: Vec<String>,
    n_requests: usize,
    /// The requests without an answer, two by two.
    steps: Vec<Vec<usize>>,
}

pub fn config() -> SpoolConfig {
    let boot_id = "boot".into();
    SpoolConfig { min_free_bytes: 0, boot_id, ..SpoolConfig::default() }
}

pub fn input(n_requests: usize) -> String {
    let requests: Vec<String> =
        (0..n_requests).map(|i| format!(r#"{{"messages":[{{"role":"user","content":"q{i}"}}]}}"#)).collect();
    format!(r#"{{"batch_size":2,"extra":1,"requests":[{}]}}"#, requests.join(","))
}

pub fn answer(index: usize) -> Box<Answer> {
    Box::new(Answer { output_text: format!("answer {index}"), ..Answer::empty(index, 2) })
}

/// In memory where the system has such a place: every step is synced, thousands of times.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn names(root: &Path, place: Place) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(root.join(place.name())).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

pub fn drop_file(root: &Path, name: &str, text: &str) {
    fs::write(root.join("new").join(name), text).unwrap();
}

/// Runs one job without any trouble and returns its answer.
pub fn undisturbed(root: &Path, name: &str, text: &str) -> Vec<u8> {
    let (mut spool, recovery) = Spool::open(root, config()).unwrap();
    drop_file(root, name, text);
    Trial::new(&|_| {}).live(&mut spool, recovery.unfinished).unwrap();
    let bytes = fs::read(root.join("out").join(name)).unwrap();
    fs::remove_dir_all(root).unwrap();
    bytes
}

/// The only job of that name.
pub fn only(spool: &Spool, name: &str) -> Found {
    let mut found = spool.find(OsStr::new(name)).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

impl<'t> Trial<'t> {
    pub fn new(tell: &'t dyn Fn(Told)) -> Self {
        Self { runs: BTreeMap::new(), n_tries: 1, tell }
    }

    pub fn n_runs(&self) -> usize {
        self.runs.values().sum()
    }

    /// One life of the daemon, until it is idle or fails.
    pub fn live(&mut self, spool: &mut Spool, unfinished: Vec<Claimed>) -> Result<(), Halt> {
        let mut jobs = unfinished;
        jobs.extend(self.claim_all(spool)?);
        self.finish(spool, &jobs)
    }

    pub fn claim_all(&mut self, spool: &mut Spool) -> Result<Vec<Claimed>, Halt> {
        let mut jobs = Vec::new();
        let dir = NewDir::open(spool.root())?;
        let (max_input_bytes, max_name_bytes) = (spool.config().max_input_bytes, MAX_NAME_BYTES);
        let mut inbox = Inbox::new(InboxConfig { max_input_bytes, settle: Duration::ZERO, max_name_bytes });
        // As their producers renamed them in: whole, whatever is in them.
        for name in names(spool.root(), Place::New) {
            inbox.note(&dir, &Arrival::Renamed(name))?;
        }
        while let Some(candidate) = inbox.next(&dir, &[])? {
            jobs.extend(self.patiently(|| spool.claim(&candidate))?);
        }
        jobs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(jobs)
    }

    /// Answers jobs together: all end with the same batch.
    pub fn finish(&mut self, spool: &mut Spool, jobs: &[Claimed]) -> Result<(), Halt> {
        let mut open = self.open(spool, jobs)?;
        let n_steps = open.iter().map(|job| job.steps.len()).max().unwrap_or(0).max(1);
        for left in (1..=n_steps).rev() {
            self.step(spool, &mut open, left)?;
        }
        Ok(())
    }

    /// Answers what `left` steps are left for, of those jobs that have so many.
    fn step(&mut self, spool: &mut Spool, open: &mut [Open], left: usize) -> Result<(), Halt> {
        let (mut runs, mut records) = (Vec::new(), Vec::new());
        for job in open.iter_mut().filter(|job| job.steps.len() == left || left == 1) {
            for index in if job.steps.is_empty() { Vec::new() } else { job.steps.remove(0) } {
                runs.push(Order::Run { job: job.id, index, is_alone: false });
                *self.runs.entry((job.name.clone(), index)).or_default() += 1;
                records.push(Order::Record { job: job.id, index, is_failed: false, answer: answer(index) });
            }
            if left == 1 {
                let (job, n_requests, warnings) = (job.id, job.n_requests, job.warnings.clone());
                records.push(Order::Publish { job, n_requests, warnings, to: Destination::Done });
            }
        }
        self.commit(spool, runs, open)?;
        self.commit(spool, records, open).map(drop)
    }

    /// Answers the first two requests of a job and lets it go.
    pub fn begin_and_pause(&mut self, spool: &mut Spool, claimed: &Claimed) -> Result<(), Halt> {
        let mut open = self.open(spool, std::slice::from_ref(claimed))?;
        let Some(left) = open.first().map(|job| job.steps.len()).filter(|left| *left > 1) else {
            return Ok(());
        };
        self.step(spool, &mut open, left)?;
        self.commit(spool, vec![Order::Pause { job: claimed.id }], &open).map(drop)
    }

    fn open(&mut self, spool: &mut Spool, jobs: &[Claimed]) -> Result<Vec<Open>, Halt> {
        let (mut open, mut orders) = (Vec::new(), Vec::new());
        for Claimed { id, name, .. } in jobs {
            let claimed = jobs.iter().find(|job| job.id == *id).unwrap();
            let (fault, parsed) = match self.patiently(|| spool.open_job(claimed))? {
                Opened::Gone => continue,
                Opened::Refused(fault) => (Some(fault), None),
                Opened::Job(job) => match RequestFile::read(job.input, job.size, Form::Object).unwrap() {
                    (Ok(file), crc) => (None, Some((file, job.size, crc))),
                    (Err(fault), _) => (Some(fault), None),
                },
            };
            orders.extend(fault.map(|fault| Order::Reject { job: *id, fault }));
            let Some((file, size, crc)) = parsed else {
                open.push(Open::new(*id, name, 0, Vec::new()));
                continue;
            };
            orders.push(Order::Begin { job: *id, size, crc });
            open.push(Open::new(*id, name, file.n_requests(), file.warnings.clone()));
        }
        let begun = self.commit(spool, orders, &open)?;
        open.retain(|job| job.n_requests > 0);
        for (id, progress) in begun {
            let job = open.iter_mut().find(|job| job.id == id).unwrap();
            let indices: Vec<usize> =
                (0..job.n_requests).filter(|index| !progress.answered.contains(index)).collect();
            job.steps = indices.chunks(2).map(<[usize]>::to_vec).collect();
        }
        Ok(open)
    }

    /// Commits, again what failed, and tells what was promised. Returns what is known of jobs that begin.
    fn commit(
        &mut self,
        spool: &mut Spool,
        mut orders: Vec<Order>,
        open: &[Open],
    ) -> Result<Vec<(JobId, Progress)>, Halt> {
        let name = |id: JobId| open.iter().find(|job| job.id == id).unwrap().name.clone();
        let mut begun = Vec::new();
        for n_left in (0..self.n_tries).rev() {
            let n_orders = orders.len();
            let outcomes = spool.commit(std::mem::take(&mut orders));
            assert_eq!(outcomes.len(), n_orders);
            let mut halt = None;
            for outcome in outcomes {
                match outcome {
                    Outcome::Begun { job, progress } => begun.push((job, progress)),
                    Outcome::Recorded { job, index, .. } => (self.tell)(Told::Recorded(name(job), index)),
                    Outcome::Published { job, name: out } => (self.tell)(Told::Published(name(job), out)),
                    Outcome::Marked { .. } | Outcome::Paused { .. } => {}
                    Outcome::Failed { order, error } => {
                        assert_eq!(error.fate(), Fate::Later, "{error}");
                        orders.push(order);
                        halt = Some(error);
                    }
                }
            }
            match halt {
                None => break,
                Some(halt) if n_left == 0 => return Err(halt),
                Some(_) => {}
            }
        }
        Ok(begun)
    }

    /// What an operator does with a job, by its name and the place it is in.
    pub fn operate(
        &mut self,
        spool: &mut Spool,
        action: Action,
        name: &str,
        from: Place,
    ) -> Result<Option<Claimed>, Halt> {
        let Some(job) = spool.find(OsStr::new(name))?.into_iter().find(|job| job.place == from) else {
            return Ok(None);
        };
        (self.tell)(Told::Asked(action, name.into()));
        let claimed = match action {
            Action::Hold => spool.hold(&job).map(|_| None)?,
            Action::Release => Some(spool.release(&job)?),
            Action::Requeue => Some(spool.requeue(&job)?),
            Action::Delete => spool.delete(&job).map(|()| None)?,
            Action::Collect => spool.collect(&job).map(|()| None)?,
        };
        (self.tell)(Told::Done(action, name.into()));
        Ok(claimed)
    }

    fn patiently<T>(&self, mut call: impl FnMut() -> Result<T, SpoolError>) -> Result<T, Halt> {
        for _ in 1..self.n_tries {
            match call() {
                Ok(value) => return Ok(value),
                Err(e) => assert_eq!(e.fate(), Fate::Later, "{e}"),
            }
        }
        Ok(call()?)
    }
}

impl Open {
    fn new(id: JobId, name: &OsStr, n_requests: usize, warnings: Vec<String>) -> Self {
        Self { id, name: name.to_owned(), warnings, n_requests, steps: Vec::new() }
    }
}
