//! An engine and a device become a decoder.

use std::path::{Path, PathBuf};

use crate::device::{self, DeviceError, Opened};
use crate::exit;
use crate::format::FormatError;
use crate::model::Decoder;
use crate::numbers::{DeviceChoice, KvCacheDtype};
use crate::store::Engine;

/// Why an engine that was opened cannot compute.
#[derive(Debug, thiserror::Error)]
pub enum EngineLoadError {
    #[error("engine {}: {source}", directory.display())]
    Device { directory: PathBuf, source: DeviceError },
    #[error("engine {}: {source}; build it again", directory.display())]
    Decoder { directory: PathBuf, source: FormatError },
}

impl EngineLoadError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Device { .. } => exit::SYSTEM,
            Self::Decoder { .. } => exit::DATA,
        }
    }
}

/// The engine of `directory` on the device that is wanted. `n_threads` is 0 for one per processor.
///
/// # Errors
/// [`EngineLoadError`] where the device cannot be used, or a tensor is not what the configuration says.
pub fn load_decoder(
    engine: &Engine,
    directory: &Path,
    wanted: DeviceChoice,
    n_threads: usize,
    kv_cache_dtype: KvCacheDtype,
) -> Result<Decoder<Opened>, EngineLoadError> {
    let cubin = |architecture: &str| engine.cubin(architecture);
    let tuning = |architecture: &str| engine.tuning(architecture);
    let device = device::open(wanted, cubin, tuning, n_threads)
        .map_err(|source| EngineLoadError::Device { directory: directory.to_owned(), source })?;
    let decoder = Decoder::new(device, &engine.config, &engine.tensors)
        .map_err(|source| EngineLoadError::Decoder { directory: directory.to_owned(), source })?;
    Ok(decoder.with_kv_cache(kv_cache_dtype))
}
