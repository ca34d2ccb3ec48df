//! Bytes to typed views and back. Takes `&[u8]` or shared [`Bytes`]; never a path, a thread or a kernel.

pub mod adapter;
pub mod architecture;
mod bounds;
pub mod checkpoint;
pub mod engine;
pub mod engine_config;
pub mod error;
pub mod finite;
mod gemma;
pub(crate) mod json;
mod mixture;
pub mod naming;
pub mod onnx;
pub mod peft_config;
pub mod peft_names;
pub mod precision;
pub mod quantization;
mod rope_config;
pub mod shards;
pub mod small_floats;
pub mod storage;
pub mod tensors;
mod windows;

pub use adapter::{Adapter, AdapterError, LoraPair};
pub use checkpoint::{CheckpointConfig, parse_checkpoint_config};
pub use engine::{Limits, Target};
pub use engine_config::EngineConfig;
pub use error::FormatError;
pub use finite::{FiniteCheck, first_not_finite};
pub use peft_config::PeftConfig;
pub use peft_names::{LoraPart, PeftName};
pub use precision::Precision;
pub use quantization::{Algorithm, Quantization};
pub use shards::ShardIndex;
pub use storage::{Kind, Storage, StoredMatrix};
pub use tensors::{Bytes, Tensor, TensorFile};
