//! The tool chain as plain functions with option structs. Never a daemon, a scheduler or a spool.

pub mod build;
pub mod engine_file;
pub mod error;
pub mod inspect;
pub mod process_lora;
pub mod quantize;
pub mod staging;
pub mod weights_source;

pub use build::{BuildOptions, BuildReport, build};
pub use error::ToolError;
pub use inspect::inspect;
pub use process_lora::{ProcessOptions, ProcessReport, process_lora};
