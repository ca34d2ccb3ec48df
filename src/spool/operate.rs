//! What an operator does with jobs: hold, release, requeue, delete. Whoever has the spool does it: the daemon,
//! or, where none runs, the operator's own command.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::disk::Renamed;
use super::error::SpoolError;
use super::history::Event;
use super::id::JobId;
use super::job::Claimed;
use super::journal::NewLine;
use super::name::{self, WorkName};
use super::place::Place;
use super::root::Spool;

/// Jobs that one order without names moves: nobody waits long for it, and memory stays small.
const MAX_JOBS: usize = 1000;

/// What is done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// From new/ or work/ to hold/.
    Hold,
    /// From hold/ to work/; requests that were answered are not run again.
    Release,
    /// From failed/ or done/ to work/, to be run anew.
    Requeue,
    /// Removed from new/, hold/ or work/; there will be no answer.
    Delete,
    /// From out/, where an answer has been read: removed. For programs that carry answers on.
    Collect,
}

impl Action {
    /// What `--all` means.
    pub fn all_of(self) -> &'static [Place] {
        match self {
            Action::Hold => &[Place::New, Place::Work],
            Action::Release => &[Place::Hold],
            Action::Requeue => &[Place::Failed],
            Action::Delete | Action::Collect => &[],
        }
    }

    /// What was done, for a person.
    pub fn past(self) -> &'static str {
        match self {
            Action::Hold => "held",
            Action::Release => "released",
            Action::Requeue => "requeued",
            Action::Delete => "deleted",
            Action::Collect => "collected",
        }
    }

    /// Whether it can be done with a job in this place.
    pub fn is_from(self, place: Place) -> bool {
        match self {
            Action::Hold => matches!(place, Place::New | Place::Work),
            Action::Release => place == Place::Hold,
            Action::Requeue => matches!(place, Place::Failed | Place::Done),
            Action::Delete => matches!(place, Place::New | Place::Work | Place::Hold),
            Action::Collect => place == Place::Out,
        }
    }
}

/// A job that an operator named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    /// Known for jobs in work/, and in hold/ unless they were put there by hand.
    pub id: Option<JobId>,
    /// The name that was dropped; in done/ and failed/ the file's.
    pub name: OsString,
}

/// What an order is about.
#[derive(Debug)]
pub struct Chosen {
    pub jobs: Vec<Found>,
    /// Names without such a job, with where it stands instead.
    pub missing: Vec<(OsString, SpoolError)>,
    /// There are more jobs than one order is for.
    pub is_more: bool,
}

/// How a person names a job.
struct Wanted {
    /// The name alone, which may be one of several.
    names: Vec<OsString>,
    id: Option<JobId>,
    /// `ID.NAME`.
    both: Vec<(JobId, OsString)>,
}

impl Wanted {
    fn parse(name: &OsStr) -> Result<Self, SpoolError> {
        let id = JobId::from_bytes(name.as_bytes());
        let names = name::meant(name).map_err(|why| SpoolError::Name { name: name.to_owned(), why });
        let names = if id.is_some() { names.unwrap_or_default() } else { names? };
        let both = |full: &OsString| {
            let (id, rest) = name::split_id(full)?;
            name::is_job_name(rest).then(|| (id, rest.to_owned()))
        };
        Ok(Self { id, both: names.iter().filter_map(both).collect(), names })
    }

    fn fits(&self, id: Option<JobId>, name: &OsStr) -> bool {
        let is = |wanted: &OsString| wanted == name;
        let is_both = self.both.iter().any(|(both, wanted)| Some(*both) == id && is(wanted));
        self.names.iter().any(is) || (id.is_some() && id == self.id) || is_both
    }
}

impl Spool {
    /// The jobs of this name, in new/, work/, hold/, failed/ and done/, in this order, the oldest first. A job is
    /// named by the name that was dropped (its suffix may be left out), by its id, or by both as `ID.NAME`.
    pub fn find(&self, name: &OsStr) -> Result<Vec<Found>, SpoolError> {
        let wanted = Wanted::parse(name)?;
        let mut found = Vec::new();
        for place in [Place::New, Place::Work, Place::Hold, Place::Failed, Place::Done] {
            // Many files may stand there: a name is looked up, only an id is looked for.
            let is_kept_by_name = !matches!(place, Place::Work | Place::Hold);
            if is_kept_by_name && (place == Place::New || wanted.id.is_none()) {
                for name in &wanted.names {
                    if self.disk.stat(place, name)?.is_some() {
                        found.push(Found { place, id: None, name: name.clone() });
                    }
                }
                continue;
            }
            let jobs = self.jobs(place)?;
            found.extend(jobs.into_iter().filter(|job| {
                let put_away = name::id_before_suffix(&job.name).filter(|_| is_kept_by_name);
                wanted.fits(job.id.or(put_away), &job.name)
            }));
        }
        Ok(found)
    }

    /// All jobs of a place, the oldest first where they have ids.
    pub fn jobs(&self, place: Place) -> Result<Vec<Found>, SpoolError> {
        self.jobs_up_to(place, usize::MAX)
    }

    /// Jobs of a place, whichever come first where there are more.
    fn jobs_up_to(&self, place: Place, n_jobs: usize) -> Result<Vec<Found>, SpoolError> {
        let mut jobs = Vec::new();
        self.disk.list(place, |file| {
            if jobs.len() >= n_jobs {
                return;
            }
            let (id, name) = match (place, WorkName::parse(file)) {
                (Place::Work, Some(WorkName::Input(id, name))) => (Some(id), name),
                (Place::Work, _) => return,
                (Place::Hold, _) => {
                    let (id, name) = name::split_held(file);
                    (id, name.to_owned())
                }
                _ => (None, file.to_owned()),
            };
            // In done/ and failed/ a name may have become longer than that of a job.
            if name::is_job_name(&name) || (name::split_suffix(&name).is_some() && place != Place::New) {
                jobs.push(Found { place, id, name });
            }
        })?;
        jobs.sort_by(|a, b| (a.id, &a.name).cmp(&(b.id, &b.name)));
        Ok(jobs)
    }

    /// The jobs that an order is about: those of the names, or without names all that the action is for, up to
    /// `MAX_JOBS`.
    ///
    /// # Errors
    /// [`SpoolError`] when a place cannot be read.
    pub fn chosen(&self, action: Action, names: Option<&[&OsStr]>) -> Result<Chosen, SpoolError> {
        let (mut jobs, mut missing) = (Vec::new(), Vec::new());
        let Some(names) = names else {
            for place in action.all_of() {
                jobs.extend(self.jobs_up_to(*place, MAX_JOBS + 1 - jobs.len())?);
            }
            let is_more = jobs.len() > MAX_JOBS;
            jobs.truncate(MAX_JOBS);
            return Ok(Chosen { jobs, missing, is_more });
        };
        for &name in names {
            let found = match action {
                Action::Collect => self.answer(name),
                _ => self.find(name),
            };
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    missing.push((name.to_owned(), error));
                    continue;
                }
            };
            let (n_before, place) = (jobs.len(), found.first().map(|job| job.place));
            jobs.extend(found.into_iter().filter(|job| action.is_from(job.place)));
            if jobs.len() == n_before {
                missing.push((name.to_owned(), SpoolError::NoJob { name: name.to_owned(), place }));
            }
        }
        Ok(Chosen { jobs, missing, is_more: false })
    }

    /// Does it with one job; one that comes back to work/ is returned.
    ///
    /// # Errors
    /// As the action's own.
    pub fn act(&mut self, action: Action, job: &Found) -> Result<Option<Claimed>, SpoolError> {
        match action {
            Action::Hold => self.hold(job).map(|_| None),
            Action::Release => self.release(job).map(Some),
            Action::Requeue => self.requeue(job).map(Some),
            Action::Delete => self.delete(job).map(|()| None),
            Action::Collect => self.collect(job).map(|()| None),
        }
    }

    /// The user whose file a job is; none if it is gone.
    pub fn owner(&self, job: &Found) -> Option<u32> {
        if job.place == Place::Out {
            return self.answer_owner(&job.name);
        }
        let stat = self.disk.stat(job.place, &file_name(job)).ok().flatten();
        stat.map(|stat| stat.st_uid)
    }

    /// Moves a job from new/ or work/ to hold/; returns its id. It is not open any more.
    ///
    /// # Errors
    /// [`SpoolError::TooLate`] when its answer is being brought out.
    pub fn hold(&mut self, job: &Found) -> Result<JobId, SpoolError> {
        let id = match (job.place, job.id) {
            (Place::New, _) => self.next_id(),
            (Place::Work, Some(id)) => id,
            _ => return Err(no_job(job, Some(job.place))),
        };
        if !name::is_job_name(&job.name) {
            return Err(SpoolError::Name { name: job.name.clone(), why: "it is too long" });
        }
        if job.place == Place::Work {
            self.check_in_time(id, &job.name)?;
            if let Some(open) = self.jobs.get_mut(&id).filter(|open| open.journal.history().is_alive()) {
                // On a full disk the job must still be held: then what runs now looks as if it had crashed.
                let pause = [NewLine::Event(Event::Pause)];
                let _ = open.journal.append(&mut self.disk, &self.config.boot_id, &pause);
            }
        }
        let held = name::input_name(id, &job.name);
        self.take(job, &file_name(job), (Place::Hold, &held))?;
        self.jobs.remove(&id);
        self.disk.sync_dir(job.place)?;
        Ok(id)
    }

    /// Moves a job from hold/ to work/; what was answered is not run again.
    pub fn release(&mut self, job: &Found) -> Result<Claimed, SpoolError> {
        if job.place != Place::Hold {
            return Err(no_job(job, Some(job.place)));
        }
        let id = job.id.unwrap_or_else(|| self.next_id());
        self.bring_back(job, id, &job.name)
    }

    /// Makes a new job in work/ of an input in failed/ or done/.
    pub fn requeue(&mut self, job: &Found) -> Result<Claimed, SpoolError> {
        if !matches!(job.place, Place::Failed | Place::Done) {
            return Err(no_job(job, Some(job.place)));
        }
        let id = self.next_id();
        // A name that got longer when it was put away gets its length back.
        let name = if name::is_job_name(&job.name) { None } else { name::without_id(&job.name) };
        self.bring_back(job, id, name.as_ref().unwrap_or(&job.name))
    }

    /// Removes a job from new/, hold/ or work/; there will be no answer.
    ///
    /// # Errors
    /// [`SpoolError::TooLate`] when its answer is being brought out.
    pub fn delete(&mut self, job: &Found) -> Result<(), SpoolError> {
        let id = match (job.place, job.id) {
            (Place::New, _) | (Place::Hold, None) => None,
            (Place::Work | Place::Hold, Some(id)) => Some(id),
            _ => return Err(no_job(job, Some(job.place))),
        };
        if let Some(id) = id {
            self.check_in_time(id, &job.name)?;
            // Where it came from, it must not come back.
            for source in [Place::New, Place::Hold] {
                self.disk.sync_dir(source)?;
            }
        }
        // By way of tmp/: this tells whether the producer was faster, and takes a directory too.
        let trash = name::trash_name(self.next_id());
        self.take(job, &file_name(job), (Place::Tmp, &trash))?;
        if let Some(id) = id {
            self.jobs.remove(&id);
        }
        self.disk.sync_dir(job.place)?;
        // From here on what fails is a left-over, which goes with the next start.
        let _ = self.disk.remove(Place::Tmp, &trash);
        if let Some(id) = id {
            let _ = self.disk.remove(Place::Work, &name::journal_name(id));
        }
        Ok(())
    }

    /// Moves a file to work/ as a job.
    fn bring_back(&mut self, job: &Found, id: JobId, name: &OsStr) -> Result<Claimed, SpoolError> {
        if !name::is_job_name(name) {
            return Err(SpoolError::Name { name: name.to_owned(), why: "it is too long" });
        }
        let (file, input) = (file_name(job), name::input_name(id, name));
        self.take(job, &file, (Place::Work, &input))?;
        if let Err(error) = self.disk.sync_dir(job.place) {
            // Nobody is told of the job: it must not stay in work/.
            let _ = self.disk.rename((Place::Work, &input), (job.place, &file));
            return Err(error);
        }
        Ok(self.claimed(id, name))
    }

    fn take(&mut self, job: &Found, file: &OsStr, to: (Place, &OsStr)) -> Result<(), SpoolError> {
        match self.disk.rename((job.place, file), to)? {
            Renamed::Done => Ok(()),
            Renamed::Missing => Err(no_job(job, None)),
            Renamed::Taken => Err(self.disk.error("move to", to.0, to.1, ErrorKind::AlreadyExists.into())),
        }
    }

    /// An answer that is ready is brought out, whatever an operator wants.
    fn check_in_time(&self, id: JobId, name: &OsStr) -> Result<(), SpoolError> {
        for to in Destination::ALL {
            if self.disk.stat(Place::Work, &name::ready_name(id, name, to))?.is_some() {
                let why = "its answer is being brought out";
                return Err(SpoolError::TooLate { name: name.to_owned(), why });
            }
        }
        Ok(())
    }
}

fn no_job(job: &Found, place: Option<Place>) -> SpoolError {
    SpoolError::NoJob { name: job.name.clone(), place }
}

/// The name of the file.
fn file_name(job: &Found) -> OsString {
    job.id.map_or_else(|| job.name.clone(), |id| name::input_name(id, &job.name))
}
