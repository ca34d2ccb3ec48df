//! What an operator does with jobs: hold, release, requeue, delete. Whoever has the spool does it: the daemon,
//! or, where none runs, the operator's own command.

use std::ffi::{OsStr, OsString};

use serde::{Deserialize, Serialize};

use super::error::SpoolError;
use super::id::JobId;
use super::job::Claimed;
use super::place::Place;
use super::root::Spool;

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
}

impl Action {
    /// What `--all` means.
    pub fn all_of(self) -> &'static [Place] {
        match self {
            Action::Hold => &[Place::New, Place::Work],
            Action::Release => &[Place::Hold],
            Action::Requeue => &[Place::Failed],
            Action::Delete => &[],
        }
    }

    /// What was done, for a person.
    pub fn past(self) -> &'static str {
        match self {
            Action::Hold => "held",
            Action::Release => "released",
            Action::Requeue => "requeued",
            Action::Delete => "deleted",
        }
    }

    /// Whether it can be done with a job in this place.
    pub fn is_from(self, place: Place) -> bool {
        match self {
            Action::Hold => matches!(place, Place::New | Place::Work),
            Action::Release => place == Place::Hold,
            Action::Requeue => matches!(place, Place::Failed | Place::Done),
            Action::Delete => matches!(place, Place::New | Place::Work | Place::Hold),
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
    /// The user whose file it is.
    pub owner: u32,
}

impl Spool {
    /// The jobs of this name, in new/, work/, hold/, failed/ and done/, in this order, the oldest first. A job is
    /// named by the name that was dropped (`.json` may be left out), by its id, or by both as `ID.NAME`.
    pub fn find(&self, name: &OsStr) -> Result<Vec<Found>, SpoolError> {
        todo!("{name:?}")
    }

    /// All jobs of a place.
    pub fn jobs(&self, place: Place) -> Result<Vec<Found>, SpoolError> {
        todo!("{place:?}")
    }

    /// Moves a job from new/ or work/ to hold/. It is not open any more.
    pub fn hold(&mut self, job: &Found) -> Result<JobId, SpoolError> {
        todo!("{job:?}")
    }

    /// Moves a job from hold/ to work/.
    pub fn release(&mut self, job: &Found) -> Result<Claimed, SpoolError> {
        todo!("{job:?}")
    }

    /// Makes a new job in work/ of an input in failed/ or done/.
    pub fn requeue(&mut self, job: &Found) -> Result<Claimed, SpoolError> {
        todo!("{job:?}")
    }

    /// Removes a job from new/, hold/ or work/.
    pub fn delete(&mut self, job: &Found) -> Result<(), SpoolError> {
        todo!("{job:?}")
    }
}
