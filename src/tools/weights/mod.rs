//! Weights as rows, however a checkpoint or a graph stores them.

pub(crate) mod gguf;
pub(crate) mod onnx;
pub(crate) mod onnx_files;
mod onnx_scaled;
mod plugin_nibbles;
pub(crate) mod quantized_rows;
pub(crate) mod quantized_source;
pub mod source;
