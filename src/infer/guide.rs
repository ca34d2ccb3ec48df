//! What an answer may go on with, told token by token by somebody who knows what it is to look like.

use std::sync::{Mutex, PoisonError};

/// Follows one answer.
pub trait Guide: Send {
    /// Finds out which tokens may come next, so that [`Guide::next`] need not.
    fn prepare(&mut self);

    /// The tokens that may come next.
    fn next(&mut self) -> Allowed<'_>;

    /// A token was drawn that was allowed.
    fn take(&mut self, token: u32);

    /// A guide of its own for another answer, as it is now.
    fn fork(&self) -> Box<dyn Guide>;
}

/// Tokens that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed<'a> {
    All,
    /// Bit `token % 32` of word `token / 32`.
    Only(&'a [u32]),
    /// The answer cannot become what it is to be.
    None,
}

/// A guide of a sequence that runs.
pub struct GuideCell(Mutex<Box<dyn Guide>>);

impl GuideCell {
    pub fn new(guide: Box<dyn Guide>) -> Self {
        Self(Mutex::new(guide))
    }

    /// See [`Guide::prepare`].
    pub fn prepare(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).prepare();
    }

    /// Calls `work` with what may come next.
    pub fn with_next<T>(&self, work: impl FnOnce(Allowed<'_>) -> T) -> T {
        work(self.0.lock().unwrap_or_else(PoisonError::into_inner).next())
    }

    pub fn take(&self, token: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(token);
    }
}
