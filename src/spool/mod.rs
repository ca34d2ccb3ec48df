//! A request on disk: the request and answer files, the spool's directories, the journal. Never tokens or tensors.

mod answer_owners;
pub mod claim;
pub mod clock;
mod collect;
pub mod commit;
pub mod control;
#[cfg(test)]
mod crash_tests;
pub mod destination;
pub mod disk;
pub mod error;
pub mod history;
pub mod id;
pub mod inbox;
pub mod job;
pub mod journal;
pub mod last_use;
pub mod lines;
pub mod name;
pub mod new_dir;
#[cfg(test)]
mod old_layout;
pub mod operate;
pub mod order;
pub mod outbox;
pub mod place;
#[cfg(test)]
mod power;
#[cfg(test)]
mod power_tests;
mod probe;
pub mod report;
pub mod retention;
pub mod root;
pub mod settings;
pub mod states;
pub mod status;
pub mod submit;
mod takeover;
#[cfg(test)]
mod trial;
pub mod watch;
pub mod wire;

pub use clock::Now;
pub use destination::Destination;
pub use disk::Free;
pub use error::{Fate, SpoolError};
pub use id::JobId;
pub use inbox::{Candidate, Inbox, InboxConfig};
pub use job::{Claimed, OpenJob, Opened};
pub use last_use::LastUse;
pub use name::{form, is_of_lines, meant, printable, split_suffix};
pub use new_dir::NewDir;
pub use operate::{Action, Found};
pub use order::{Order, Outcome, Progress};
pub use place::Place;
pub use root::{Spool, check_spool};
pub use settings::{Durability, Keep, Retention, SpoolConfig};
pub use states::Recovery;
pub use watch::{Arrival, Watch};
