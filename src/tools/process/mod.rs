//! `process-lora`: a PEFT adapter to the form that it has at run time.

mod matrix;
mod pairs;
mod run;

pub use run::{Dropping, ProcessOptions, ProcessReport, process_lora};
