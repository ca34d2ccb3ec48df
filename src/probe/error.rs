//! What ends `logits` or `bench`.

use std::path::PathBuf;

use crate::device::{DeviceError, DeviceFault};
use crate::exit;
use crate::format::AdapterError;
use crate::load::EngineLoadError;
use crate::store::StoreError;

/// Why a probe cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineLoadError),
    #[error("adapter {}: {source}", path.display())]
    Adapter { path: PathBuf, source: AdapterError },
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
    #[error("nothing can be tuned: {why}")]
    NoGpu { why: DeviceError },
    #[error(transparent)]
    Device(#[from] DeviceFault),
    #[error(
        "{n_scales} scales are given for {n_loras} adapters; give --loraScale at most once for each --lora"
    )]
    Scales { n_scales: usize, n_loras: usize },
    #[error("token {token} at position {position} is outside the vocabulary of {vocab_size}")]
    Token { token: u32, position: usize, vocab_size: usize },
    #[error("{found} {what} are wanted, the engine takes 1 to {max} (build it with a larger --{flag})")]
    OutOfRange { what: &'static str, found: usize, max: usize, flag: &'static str },
}

impl ProbeError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Engine(error) => error.exit_code(),
            Self::Adapter { .. } => exit::DATA,
            Self::NoGpu { .. } => exit::UNAVAILABLE,
            Self::System { .. } | Self::Device(_) => exit::SYSTEM,
            Self::Scales { .. } | Self::Token { .. } | Self::OutOfRange { .. } => exit::USAGE,
        }
    }
}
