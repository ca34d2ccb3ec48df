//! A model run without a queue: logits for parity and perplexity, timings for comparison.

mod bench;
mod case;
mod error;
mod logits;
mod report;
mod sampling;
mod tune;

pub use bench::{BenchOptions, bench};
pub use case::BenchMode;
pub use error::ProbeError;
pub use logits::{LogitsOptions, logits};
pub use report::BenchReport;
pub use tune::{TuneOptions, TuneReport, tune};
