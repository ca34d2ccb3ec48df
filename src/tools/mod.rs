//! The tool chain as plain functions with option structs. Never a daemon, a scheduler or a spool.

mod adapter_facts;
pub mod build;
pub mod companions;
pub mod error;
pub mod export;
pub mod insert;
pub mod inspect;
pub mod interruption;
mod list;
pub mod merge;
pub mod place;
pub mod process;
pub mod staging;
pub mod templates;
mod ways_out;
pub mod weights;

pub use build::{BuildOptions, BuildReport, build, build_gguf, build_onnx};
pub use error::{ToolError, WriteError};
pub use export::{ExportOptions, ExportReport, export};
pub use insert::{InsertOptions, InsertReport, insert_lora};
pub use inspect::inspect;
pub use interruption::Interruption;
pub use list::{AdapterEntry, Daemon, EngineEntry, ListOptions, Listing, list};
pub use merge::{MergeOptions, MergeReport, MergeType, merge_lora};
pub use process::{Dropping, ProcessInput, ProcessOptions, ProcessReport, process_lora};
