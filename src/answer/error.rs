//! Why requests cannot be answered at all: the engine, its text, its memory. Exit codes of sysexits.h.

use std::path::PathBuf;

use super::budget::TooLittle;
use crate::config::{ConfigError, DEFAULT_FILE};
use crate::exit;
use crate::load::EngineLoadError;
use crate::spool::wire::{Fault, FaultCode};
use crate::store::StoreError;
use crate::store::mistaken::mistaken_text;
use crate::text::TextError;

/// Why an engine cannot be opened, or `run` cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineLoadError),
    #[error("{}: {source}", path.display())]
    Text { path: PathBuf, source: TextError },
    #[error("the text files of {}: {why}", directory.display())]
    TextRefused { directory: PathBuf, why: String },
    #[error("{} is missing; copy it from the checkpoint and build the engine again", path.display())]
    NoTokenizer { path: PathBuf },
    #[error("{}: {source}", directory.display())]
    Memory { directory: PathBuf, source: TooLittle },
    #[error("the engine's self-test failed: {why}; build it again")]
    SelfTest { why: String },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
    #[error("{}: {fault}", path.display())]
    Rejected { path: PathBuf, fault: Fault },
    #[error("{n_failed} of {n_requests} requests failed; see `error` in {}", output.display())]
    SomeFailed { n_failed: usize, n_requests: usize, output: PathBuf },
    #[error("interrupted: {n_answered} of {n_requests} requests are answered in {}", output.display())]
    Interrupted { n_answered: usize, n_requests: usize, output: PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no engine is named and there is no {DEFAULT_FILE}; give --engineDir DIR, or --config FILE")]
    NoEngine,
    #[error("the adapter {name} is {found}; {advice}")]
    NoAdapter { name: String, found: String, advice: String },
    #[error(
        "engine {} has no chat template; build it from a checkpoint that has one, or use `run` with \
         apply_chat_template false", directory.display()
    )]
    NoTemplate { directory: PathBuf },
    #[error("the question {why}")]
    Question { why: String },
    #[error(transparent)]
    Unanswered(#[from] Fault),
    #[error("cannot write the answer: {0}")]
    Output(std::io::Error),
    #[error("interrupted")]
    Stopped,
    #[error(
        "cannot go on with {}: it {why}; give the request file and the flags of the run that wrote it, or leave out \
         --resume to begin anew",
        output.display()
    )]
    Resume { output: PathBuf, why: String },
    #[error("{value} is no value for --{flag}; wanted {wanted}")]
    Flag { flag: &'static str, value: String, wanted: &'static str },
}

impl AnswerError {
    /// For `map_err`: what is wrong with a text file of `bytes`, or what it is in truth.
    pub fn text(path: PathBuf, bytes: &[u8]) -> impl FnOnce(TextError) -> Self {
        move |source| match mistaken_text(&path, bytes) {
            Some(mistaken) if matches!(source, TextError::Damaged { .. }) => Self::Store(mistaken),
            _ => Self::Text { path, source },
        }
    }

    /// Names the action that the system refused.
    pub fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// Whether a restart may help: what is wrong is the machine's, and not the engine's.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::System { .. } | Self::Memory { .. } | Self::Engine(EngineLoadError::Device { .. })
        )
    }

    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Engine(error) => error.exit_code(),
            Self::Text { .. } | Self::TextRefused { .. } | Self::NoTokenizer { .. } => exit::DATA,
            Self::Rejected { .. } | Self::SomeFailed { .. } | Self::Resume { .. } => exit::DATA,
            Self::SelfTest { .. } => exit::SOFTWARE,
            // As with a wrong configuration; but what other programs hold may be free later.
            Self::Memory { source, .. } if source.is_lasting() => exit::CONFIGURATION,
            Self::Memory { .. } => exit::SYSTEM,
            Self::System { source, .. } if source.raw_os_error() == Some(libc::ENOSPC) => exit::IO,
            Self::System { .. } => exit::SYSTEM,
            Self::Flag { .. } | Self::NoEngine => exit::USAGE,
            Self::Config(error) => error.exit_code(),
            Self::NoAdapter { .. } => exit::NO_INPUT,
            Self::NoTemplate { .. } | Self::Question { .. } => exit::DATA,
            Self::Unanswered(fault) => match fault.code {
                FaultCode::AdapterRefused => exit::NO_INPUT,
                FaultCode::AdapterChanged => exit::IO,
                FaultCode::Internal => exit::SOFTWARE,
                _ => exit::DATA,
            },
            Self::Output(_) => exit::IO,
            // As a shell says of a program that Ctrl-C ended.
            Self::Interrupted { .. } | Self::Stopped => 130,
        }
    }
}
