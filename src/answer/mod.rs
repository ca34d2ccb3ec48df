//! One request to one answer: engines, adapters, text to tokens and back, and the memory that it may take.
//! What `serve` and `run` share; run.rs is a request file without a spool, the workflow's llm_inference.

mod adapters;
mod budget;
mod engine;
mod engines;
mod error;
mod executor;
mod limits;
mod profile;
mod run;
mod usage;

pub use adapters::AdapterPlaces;
pub use budget::{Need, TooLittle};
pub use engine::EngineOptions;
pub use engines::{Engines, Renewal};
pub use error::AnswerError;
pub use executor::{Executor, Source, Ticket, refused};
pub use limits::{Bound, Covers};
pub use run::{RunOptions, run};
pub use usage::{Usage, give_back_heap, mib};
