//! Adapter inputs for ONNX graphs.

mod graph;
mod run;

pub use run::{InsertOptions, InsertReport, insert_lora};
