//! How a job comes in: claimed from new/, then opened.

use super::error::SpoolError;
use super::inbox::Candidate;
use super::job::{Claimed, Opened};
use super::root::Spool;

impl Spool {
    /// Takes a file out of new/ by one rename to work/, whatever it is; none if it is gone.
    ///
    /// # Errors
    /// [`SpoolError::Name`] for a name that is too long: it stays where it is.
    pub fn claim(&mut self, candidate: &Candidate) -> Result<Option<Claimed>, SpoolError> {
        todo!("{candidate:?}")
    }

    /// Opens a job in work/ and marks it as being opened. After an error it may be opened again.
    pub fn open_job(&mut self, job: &Claimed) -> Result<Opened, SpoolError> {
        todo!("{job:?}")
    }
}
