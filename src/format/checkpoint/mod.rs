//! A checkpoint: what its configuration says of the decoder, where its tensors are, how it is quantized.

mod config;
mod gemma;
mod mixture;
pub mod naming;
pub mod quantization;
pub mod shards;
mod windows;

pub use config::{CheckpointConfig, parse_checkpoint_config};
pub use quantization::{Algorithm, Quantization};
pub use shards::ShardIndex;
