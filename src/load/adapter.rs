//! A processed adapter is bound to a decoder. It is read through once: its values must be finite, and its checksum tells
//! later whether somebody wrote into the file.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::device::{Opened, OpenedLora};
use crate::format::{AdapterError, Bytes, FiniteCheck, TensorFile, bind_with_config};
use crate::model::Decoder;
use crate::store::{FileMap, Sealed, StoreError, config_beside};

/// An adapter that a decoder computes with.
pub struct BoundAdapter {
    pub lora: Arc<OpenedLora>,
    pub tensors: TensorFile,
    pub file: Sealed,
}

/// Why a mapped file is no adapter of this engine.
#[derive(Debug, thiserror::Error)]
pub enum AdapterLoadError {
    /// Says which file it is.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
}

/// Binds the tensors of a file, as the config.json beside it allows; `max_rank` is what the engine was built for.
///
/// # Errors
/// [`AdapterLoadError`] when they do not fit, when a value is not finite, or when the file changes meanwhile.
pub fn load_adapter(
    map: &Arc<FileMap>,
    decoder: &Decoder<Opened>,
    max_rank: usize,
) -> Result<BoundAdapter, AdapterLoadError> {
    map.prefer_large_pages(0);
    let tensors = TensorFile::parse(Arc::clone(map) as Bytes).map_err(StoreError::format(map.path()))?;
    let config = config_beside(map.path());
    let adapter = bind_with_config(&tensors, config.as_deref(), decoder.architecture(), max_rank)?;
    let check = FiniteCheck::new(&tensors);
    let look = |offset: usize, piece: &[u8]| match check.look(offset, piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(AdapterLoadError::Adapter(error.into())),
    };
    let file = Sealed::new(Arc::clone(map), look)?;
    Ok(BoundAdapter { lora: Arc::new(decoder.lora(&adapter).map_err(AdapterError::from)?), tensors, file })
}
