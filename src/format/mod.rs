//! Bytes to typed views and back. Takes `&[u8]` or shared [`Bytes`]; never a path, a thread or a kernel.

pub mod adapter;
mod bounds;
pub mod checkpoint;
pub mod contents;
pub mod engine;
pub mod error;
pub mod finite;
pub mod gguf;
pub mod header;
pub(crate) mod json;
pub mod onnx;
mod rope;
pub mod tensors;
mod workflow;

pub use adapter::{
    Adapter, AdapterError, LoraPair, LoraPart, PeftConfig, PeftName, bind_with_config, check_origin,
};
pub use checkpoint::{Algorithm, CheckpointConfig, Quantization, ShardIndex, parse_checkpoint_config};
pub use contents::Contents;
pub use engine::{EngineConfig, GpuTuning, Limits, StoredMatrix, Target, TunedProduct, TuningFile};
pub use error::{FormatError, GGUF_FILE, ONNX_DATA, ONNX_MODEL, SAFETENSORS_FILE};
pub use finite::{FiniteCheck, first_not_finite};
pub use tensors::{Bytes, Tensor, TensorFile};
