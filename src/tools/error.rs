//! Why a tool refused or failed.

use std::io;
use std::path::{Path, PathBuf};

use crate::count::Count;
use crate::exit;
use crate::format::{AdapterError, FormatError};
use crate::store::mistaken::mistaken_text;
use crate::store::{Expected, StoreError, explain};
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
    #[error("{}: {} missing: {names}", path.display(), Count(*count, "tensor"))]
    MissingTensors { path: PathBuf, count: usize, names: String },
    /// A weight that the wanted type cannot hold.
    #[error("{}: tensor {name} holds {found}, which {precision} cannot hold", path.display())]
    Range { path: PathBuf, name: String, found: f32, precision: &'static str },
    #[error(
        "{} has {} MB free, {} MB are needed", path.display(), free >> 20, (needed >> 20) + 1
    )]
    Space { path: PathBuf, free: u64, needed: u64 },
    #[error("no kernels for the GPU: {0}")]
    Kernels(String),
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
            Self::Options(_) => exit::USAGE,
            Self::Kernels(_) => exit::UNAVAILABLE,
            Self::Space { .. } => exit::TRY_AGAIN,
            Self::Output { .. } => exit::CANNOT_CREATE,
            Self::Format { .. }
            | Self::Adapter { .. }
            | Self::Tokenizer { .. }
            | Self::MissingTensors { .. }
            | Self::Range { .. }
            | Self::Refused { .. } => exit::DATA,
        }
    }

    /// For `map_err`: a [`ToolError::Format`] with its path, or what the file is in truth.
    pub fn format(path: &Path) -> impl FnOnce(FormatError) -> Self {
        move |source| match StoreError::format(path)(source) {
            StoreError::Format { path, source } => Self::Format { path, source },
            mistaken => Self::Store(mistaken),
        }
    }
}

impl ToolError {
    /// For `map_err`: what `path` leads to, where it is something else than was wanted.
    pub fn explained(path: &Path, wanted: Expected) -> impl FnOnce(Self) -> Self {
        move |error| match error {
            Self::Store(error) => Self::Store(explain(path, wanted, error)),
            Self::Format { path: file, source } => {
                match explain(path, wanted, StoreError::Format { path: file, source }) {
                    StoreError::Format { path, source } => Self::Format { path, source },
                    mistaken => Self::Store(mistaken),
                }
            }
            other => other,
        }
    }

    /// For `map_err`: what is wrong with a text file of `bytes`, or what it is in truth.
    pub fn text(path: PathBuf, bytes: &[u8]) -> impl FnOnce(TextError) -> Self {
        move |source| match mistaken_text(&path, bytes) {
            Some(mistaken) if matches!(source, TextError::Damaged { .. }) => Self::Store(mistaken),
            _ => Self::Tokenizer { path, source },
        }
    }
}

/// Why writing weights stopped.
#[derive(Debug)]
pub enum WriteError {
    Io(io::Error),
    /// A value of that tensor that the written type cannot hold.
    Range {
        name: String,
        found: f32,
        precision: &'static str,
    },
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl WriteError {
    /// What was read, what was written, and how many bytes that takes in all.
    pub fn at(self, source: &Path, target: &Path, needed: u64) -> ToolError {
        match self {
            Self::Range { name, found, precision } => {
                ToolError::Range { path: source.to_owned(), name, found, precision }
            }
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                ToolError::Space { path: target.to_owned(), free: 0, needed }
            }
            Self::Io(error) => StoreError::io(target, "write")(error).into(),
        }
    }
}
