//! The legal states of a job, and the clean-up for a crash in each.

use std::ffi::OsString;

use super::job::Claimed;

/// What was found at start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Jobs in work/ that have no answer, oldest first.
    pub unfinished: Vec<Claimed>,
    /// Jobs whose answer was brought out.
    pub n_finished: usize,
    /// Left-overs that were removed from tmp/ and work/.
    pub n_removed: usize,
    /// Names in work/ that are none of the spool's; left alone.
    pub strangers: Vec<OsString>,
}
