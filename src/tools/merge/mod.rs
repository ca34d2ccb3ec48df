//! `merge-lora`: an adapter's change added to a checkpoint's weights, a few rows in memory at a time.

mod adapter;
mod element;
mod output;
mod plan;
mod rows;
mod run;
mod write;

pub use run::{MergeOptions, MergeReport, MergeType, merge_lora};
