//! What can go wrong with a live file; every variant carries its path.

use std::io;
use std::path::{Path, PathBuf};

use super::access::Closed;
use super::damage::Damage;
use crate::count::Count;
use crate::exit;
use crate::format::FormatError;

/// What is found where nothing is.
pub(super) const NOT_THERE: &str = "not there";

/// Why a file or directory was not used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused.
    #[error("{}: cannot {action}: {source}{}", path.display(), hint(source))]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    /// This user may not.
    #[error("{} is {}, wanted {}; {}", path.display(), closed.found, closed.wanted, closed.advice)]
    Closed { path: PathBuf, closed: Closed },
    /// Something else than was meant.
    #[error("{} is {found}, wanted {wanted}; {advice}", path.display())]
    Mistaken { path: PathBuf, found: String, wanted: &'static str, advice: String },
    /// A link whose file is gone, where a file that is not there at all would be fine.
    #[error(
        "{} is a link to a file that is not there; mend it or remove it (cp -rL copies a snapshot of the hub's cache with \
         the files that its links lead to)", path.display()
    )]
    Dangling { path: PathBuf },
    /// A directory, a pipe, a device.
    #[error("{} is {found}, wanted a regular file", path.display())]
    NotRegular { path: PathBuf, found: &'static str },
    /// More bytes than such a file may have.
    #[error("{} has {found} bytes, the limit is {limit}", path.display())]
    TooLarge { path: PathBuf, found: u64, limit: u64 },
    /// The bytes are not what they should be.
    #[error("{}: {source}", path.display())]
    Format { path: PathBuf, source: FormatError },
    /// The file is text by contract, and is not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    /// Weights in a form that is not read.
    #[error("{} is not read; {advice}", path.display())]
    WrongWeights { path: PathBuf, advice: &'static str },
    /// A directory without weights.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json", path.display())]
    NoWeights { path: PathBuf },
    /// The index names shards that are not there.
    #[error(
        "{}: {} of model.safetensors.index.json missing: {names}; fetch them: hf download \
         OWNER/NAME --local-dir {}", path.display(), Count(*count, "shard"), path.display()
    )]
    MissingShards { path: PathBuf, count: usize, names: String },
    /// The index says that a shard holds a tensor, the shard says no.
    #[error("{}: tensor {tensor} is missing, but the index says it is here", path.display())]
    NotInShard { path: PathBuf, tensor: String },
    /// `llm.engine` and `config.json` come from different builds.
    #[error("{}: llm.engine and config.json come from different builds; build the engine again", path.display())]
    MixedEngine { path: PathBuf },
    /// A path that requests may not name.
    #[error("{} lies outside the allowed directories ({roots})", path.display())]
    OutsideRoots { path: PathBuf, roots: String },
    /// A mapped file changed under its reader.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A name that is a path.
    #[error("{} is not a plain name: no slash, not . or ..", path.display())]
    NotPlainName { path: PathBuf },
}

/// What to do about an error of the system.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on the disk",
        _ => "",
    }
}

impl StoreError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { action: "create", .. } => exit::CANNOT_CREATE,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => exit::NO_INPUT,
                io::ErrorKind::PermissionDenied => exit::NOT_ALLOWED,
                _ => exit::IO,
            },
            Self::Mistaken { found, .. } if found == NOT_THERE => exit::NO_INPUT,
            Self::NoWeights { .. } | Self::MissingShards { .. } | Self::Dangling { .. } => exit::NO_INPUT,
            Self::OutsideRoots { .. } | Self::Closed { .. } => exit::NOT_ALLOWED,
            Self::Damaged(_) => exit::IO,
            _ => exit::DATA,
        }
    }

    /// Whether the cause is that this process holds as many files open as it may.
    pub fn is_too_many_files(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(libc::EMFILE))
    }

    /// What this user may not open, where that is the cause.
    pub fn closed_path(&self) -> Option<&Path> {
        match self {
            Self::Closed { path, .. } => Some(path),
            Self::Io { path, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Some(path),
            _ => None,
        }
    }

    /// Whether the cause is that nothing is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
