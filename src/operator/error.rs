//! Why a command on a spool ends early. Exit codes of sysexits.h.

use std::path::PathBuf;

use nix::unistd::AccessFlags;

use crate::exit;
use crate::spool::SpoolError;
use crate::spool::control::Refusal;
use crate::spool::wire::Fault;
use crate::store::StoreError;
use crate::store::access::{Closed, closed};

/// Why `submit`, `status` or a command on jobs cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("{}: {fault}", path.display())]
    Rejected { path: PathBuf, fault: Fault },
    #[error("{n_failed} of {n_requests} requests failed; see `error` in {}", output.display())]
    SomeFailed { n_failed: usize, n_requests: usize, output: PathBuf },
    #[error("{} may be opened by root and the daemon's user only; try with sudo", path.display())]
    NotOperator { path: PathBuf },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{} is {}, wanted {}; {}", path.display(), closed.found, closed.wanted, closed.advice)]
    Closed { path: PathBuf, closed: Closed },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
}

impl OperatorError {
    /// Names the action that the system refused.
    pub fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// For `map_err`: which group to join where rights are missing to `path`, else the error.
    pub fn closed(path: PathBuf, need: AccessFlags) -> impl FnOnce(Self) -> Self {
        move |error| {
            let is_closed = match &error {
                Self::Spool(SpoolError::Io { source, .. }) | Self::System { source, .. } => {
                    source.kind() == std::io::ErrorKind::PermissionDenied
                }
                _ => false,
            };
            match is_closed.then(|| closed(&path, need)).flatten() {
                Some(closed) => Self::Closed { path, closed },
                None => error,
            }
        }
    }

    /// The daemon says something else than it should.
    pub fn other_version() -> Self {
        let source = std::io::ErrorKind::InvalidData.into();
        Self::System { action: "understand the daemon; it is of another version", source }
    }

    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Spool(error) => error.exit_code(),
            Self::Rejected { .. } | Self::SomeFailed { .. } => exit::DATA,
            Self::NotOperator { .. } | Self::Closed { .. } => exit::NOT_ALLOWED,
            Self::Refused(refusal) => refusal.code,
            Self::System { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => exit::IO,
            Self::System { .. } => exit::SYSTEM,
        }
    }
}
