//! The tool chain as plain functions with option structs. Never a daemon, a scheduler or a spool.

pub mod build;
pub mod build_onnx;
mod build_quantized;
pub mod engine_file;
pub mod error;
pub mod export;
mod export_data;
mod export_graph;
mod export_quantized;
mod export_template;
mod insert_graph;
pub mod insert_lora;
pub mod inspect;
pub mod merge;
mod onnx_scaled;
mod onnx_weights;
mod plugin_nibbles;
pub mod process_lora;
pub mod quantize;
mod quantized_rows;
mod quantized_source;
pub mod staging;
pub mod weights_source;

pub use build::{BuildOptions, BuildReport, build};
pub use build_onnx::build_onnx;
pub use error::{ToolError, WriteError};
pub use export::{ExportOptions, ExportReport, export};
pub use insert_lora::{InsertOptions, InsertReport, insert_lora};
pub use inspect::inspect;
pub use merge::{MergeOptions, MergeReport, MergeType, merge_lora};
pub use process_lora::{ProcessOptions, ProcessReport, process_lora};
