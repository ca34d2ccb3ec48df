//! A prepared request on its way to the thread that computes.

use crate::answer::Runnable;
use crate::spool::JobId;

/// A request that may run as soon as its mark is written.
pub struct Marking {
    pub job: JobId,
    pub index: usize,
    pub runnable: Box<Runnable>,
}

impl Marking {
    pub fn is_of(&self, job: JobId) -> bool {
        self.job == job
    }
}
