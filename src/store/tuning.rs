//! What `tune` leaves in an engine's directory, and whoever computes there finds.

use std::path::Path;

use super::atomic_file::AtomicFile;
use super::digest::sha256;
use super::engine::Engine;
use super::engine_files::{cubin_file, tuning_file};
use super::error::StoreError;
use super::map::read_small_optional;
use crate::format::{FormatError, GpuTuning, TuningFile};

/// Why a tuning is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TuningError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("the tuning is not what `tune` wrote: its digest is another one")]
    Damaged,
    #[error("the tuning is of other kernels than the engine has")]
    OtherKernels,
}

impl Engine {
    /// Digest of its kernels for GPUs of an architecture, if it has them.
    pub fn kernels_digest(&self, architecture: &str) -> Option<&str> {
        self.config.sha256.get(&cubin_file(architecture)).map(String::as_str)
    }

    /// What was chosen for GPUs of an architecture with the kernels that the engine has.
    ///
    /// # Errors
    /// [`TuningError`] when it cannot be read, is damaged, or is of other kernels.
    pub fn tuning(&self, architecture: &str) -> Result<Option<GpuTuning>, TuningError> {
        let path = self.directory().join(tuning_file(architecture));
        let Some(bytes) = read_small_optional(&path)? else { return Ok(None) };
        let TuningFile { tuning, sha256: wanted } = TuningFile::from_json(&bytes)?;
        if sha256(tuning.to_json().as_bytes()) != wanted {
            return Err(TuningError::Damaged);
        }
        if self.kernels_digest(architecture) != Some(&tuning.kernels) {
            return Err(TuningError::OtherKernels);
        }
        Ok(Some(tuning))
    }
}

/// Leaves it in an engine's directory, and says where.
///
/// # Errors
/// [`StoreError`] when the file cannot be written.
pub fn write_tuning(directory: &Path, tuning: GpuTuning) -> Result<std::path::PathBuf, StoreError> {
    let path = directory.join(tuning_file(&tuning.architecture));
    let sha256 = sha256(tuning.to_json().as_bytes());
    AtomicFile::write(&path, TuningFile { tuning, sha256 }.to_json().as_bytes())?;
    Ok(path)
}
