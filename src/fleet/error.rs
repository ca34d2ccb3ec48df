//! Why a command of the fleet ends early. Exit codes of sysexits.h.

use std::fmt::Display;
use std::path::PathBuf;

use super::names::NotAName;
use crate::exit;
use crate::spool::SpoolError;
use crate::spool::wire::Fault;
use crate::store::StoreError;

/// Why `bridge`, `fleet` or `submit --nats` cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Name(#[from] NotAName),
    #[error("{}: {fault}", path.display())]
    Rejected { path: PathBuf, fault: Fault },
    #[error("{n_failed} of {n_requests} requests failed; see `error` in the answer")]
    SomeFailed { n_failed: usize, n_requests: usize },
    #[error(
        "no answer to {id} after {seconds} s; it is still queued: ask again with --id {id}, or wait longer with --timeout"
    )]
    NoAnswerYet { id: String, seconds: u64 },
    #[error(
        "the fleet has no queue for the model {wanted}; {}. `jetspool bridge init --model {wanted}` makes it",
        listed(known)
    )]
    NoModel { wanted: String, known: Vec<String> },
    #[error("name the model whose queue it is for with --model; of the fleet's queues, {}", listed(known))]
    WhichModel { known: Vec<String> },
    #[error("{}: {found}; wanted {wanted}", path.display())]
    File { path: PathBuf, found: String, wanted: &'static str },
    #[error(
        "{}: others than its owner and group can read it (mode {mode:03o}); `chmod o= {}`",
        path.display(), path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32 },
    #[error("no server of the fleet at {servers}: {reason}")]
    NoServer { servers: String, reason: String },
    #[error("the server of the fleet cannot {doing}: {reason}")]
    Server { doing: String, reason: String },
    #[error("the server of the fleet has no {what}; `jetspool bridge init` makes it")]
    NoLayout { what: String },
    #[error(
        "{n_differing} of {n_things} things on the server are not as wanted; change them, or take them away"
    )]
    Differs { n_differing: usize, n_things: usize },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
}

impl FleetError {
    /// Names the action that the system refused.
    pub fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// For `map_err`: what the server was asked to do.
    pub fn server<E: Display>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::Server { doing: doing.into(), reason: error.to_string() }
    }

    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Spool(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            Self::Name(_) | Self::WhichModel { .. } => exit::USAGE,
            Self::Rejected { .. } | Self::SomeFailed { .. } => exit::DATA,
            Self::NoAnswerYet { .. } => exit::TRY_AGAIN,
            Self::File { .. } | Self::OpenToOthers { .. } => exit::CONFIGURATION,
            Self::NoServer { .. } | Self::Server { .. } | Self::NoLayout { .. } | Self::NoModel { .. } => {
                exit::UNAVAILABLE
            }
            Self::Differs { .. } => exit::DATA,
            Self::System { .. } => exit::SYSTEM,
        }
    }
}

/// Models for a message.
fn listed(known: &[String]) -> String {
    match known {
        [] => "it has none yet".to_owned(),
        known => format!("it has those of {}", known.join(", ")),
    }
}
