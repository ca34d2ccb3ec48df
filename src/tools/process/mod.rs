//! `process-lora`: an adapter to the form that it has at run time.

mod gguf;
mod matrix;
mod pairs;
mod run;

pub use run::{Dropping, ProcessInput, ProcessOptions, ProcessReport, process_lora};
