//! ONNX directories from checkpoints.

pub(crate) mod data;
mod graph;
mod mlp;
mod quantized;
pub(crate) mod run;
mod template;

pub use run::{ExportOptions, ExportReport, export};
