//! A request on disk: the request and answer files, the spool's directories, the journal. Never tokens or tensors.

pub mod disk;
pub mod error;
pub mod inbox;
pub mod job;
pub mod journal;
pub mod operate;
pub mod outbox;
pub mod place;
pub mod report;
pub mod retention;
pub mod root;
pub mod states;
pub mod status;
pub mod submit;
pub mod watch;
pub mod wire;
pub mod wish;

#[cfg(test)]
mod crash_tests;

pub use disk::Durability;
pub use error::{Fate, SpoolError};
pub use inbox::{Candidate, Inbox};
pub use job::{Attempt, Claimed, Job, JobId, Opened};
pub use outbox::{Destination, Publication};
pub use place::Place;
pub use retention::{Keep, Retention};
pub use root::{Spool, SpoolConfig};
pub use states::Recovery;
pub use watch::{Arrival, Watch};
pub use wish::{Wish, WishFile};
