//! A model run without a queue: logits for parity and perplexity, timings for comparison.

mod bandwidth;
mod bench;
mod error;
mod logits;

pub use bench::{BenchMode, BenchOptions, BenchReport, bench};
pub use error::ProbeError;
pub use logits::{LogitsOptions, logits};
