//! What keeps the daemon from starting, or ends it. Exit codes of sysexits.h.

use crate::answer::AnswerError;
use crate::exit;
use crate::spool::SpoolError;

/// Why `serve` cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("the configuration's engine cannot be used: {source}")]
    ConfiguredEngine { source: AnswerError },
    #[error("the GPU failed: {0}; what was under way is computed again when the daemon is started again")]
    Device(String),
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
}

impl DaemonError {
    /// Names the action that the system refused.
    pub fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Answer(error) => error.exit_code(),
            Self::Spool(error) => error.exit_code(),
            // A restart would not help: the configuration must change.
            Self::ConfiguredEngine { .. } => exit::CONFIGURATION,
            Self::System { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => exit::IO,
            Self::System { .. } | Self::Device(_) => exit::SYSTEM,
        }
    }
}
