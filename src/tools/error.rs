//! Why a tool refused or failed.

use std::path::{Path, PathBuf};

use crate::format::{AdapterError, FormatError};
use crate::store::StoreError;
use crate::text::TextError;

/// Everything is named: the file, the tensors, what to do.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {source}", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error("{}: {source}", path.display())]
    Adapter { path: PathBuf, source: AdapterError },
    #[error("{}: {source}", path.display())]
    Tokenizer { path: PathBuf, source: TextError },
    /// Options that do not fit each other or the checkpoint.
    #[error("{0}")]
    Options(String),
    #[error("{}: {count} tensors are missing: {names}", path.display())]
    MissingTensors { path: PathBuf, count: usize, names: String },
    /// A weight that the wanted type cannot hold.
    #[error("{}: tensor {name} holds {found}, which {precision} cannot hold", path.display())]
    Range { path: PathBuf, name: String, found: f32, precision: &'static str },
    #[error(
        "{} has {} MB free, {} MB are needed", path.display(), free >> 20, (needed >> 20) + 1
    )]
    Space { path: PathBuf, free: u64, needed: u64 },
    /// A directory that would be written over, but is not ours.
    #[error("{} {why}; choose another output directory", path.display())]
    Output { path: PathBuf, why: String },
    /// An input that cannot be used as it is.
    #[error("{}: {what}; {advice}", path.display())]
    Refused { path: PathBuf, what: String, advice: &'static str },
}

impl ToolError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Options(_) => 64,
            Self::Space { .. } => 75,
            Self::Output { .. } => 73,
            Self::Format { .. }
            | Self::Adapter { .. }
            | Self::Tokenizer { .. }
            | Self::MissingTensors { .. }
            | Self::Range { .. }
            | Self::Refused { .. } => 65,
        }
    }

    /// For `map_err`: a [`ToolError::Format`] with its path.
    pub fn format(path: &Path) -> impl FnOnce(FormatError) -> Self {
        move |source| Self::Format { path: path.to_owned(), source }
    }
}
