//! Weights as rows, however a checkpoint or a graph stores them.

pub(crate) mod gguf;
pub(crate) mod level_rows;
pub(crate) mod onnx;
pub(crate) mod onnx_files;
mod onnx_scaled;
mod packed_source;
mod plugin_nibbles;
mod quantized_layer;
pub(crate) mod quantized_rows;
pub(crate) mod quantized_source;
pub mod source;
