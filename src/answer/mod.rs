//! One request to one answer: engines, adapters, text to tokens and back, and the memory that it may take.
//! What `serve` and `run` share; run.rs is a request file without a spool, the workflow's llm_inference.

mod adapters;
mod ask;
mod breakdown;
mod budget;
mod call_grammar;
mod choices;
mod contents;
mod engine;
mod engines;
mod error;
mod executor;
mod gbnf;
mod guides;
mod limits;
mod opening;
mod outcome;
mod profile;
mod prompter;
mod ready;
mod refused;
mod resume;
mod run;
mod settings;
mod text_files;
mod text_process;
mod ticket;
mod usage;
mod white_space;

pub use crate::device::DeviceMemory;
pub use adapters::AdapterPlaces;
pub use ask::{AskOptions, AskSampling, ask};
pub use breakdown::Breakdown;
pub use budget::{Need, TooLittle};
pub use engine::{EngineFacts, EngineOptions, TextEngine};
pub use engines::Engines;
pub use error::AnswerError;
pub use executor::Executor;
pub use guides::Guides;
pub use limits::{Bound, Covers};
pub use opening::{check_source, open_engine};
pub use prompter::{Prepared, PromptRequest, Prompter};
pub use ready::{Ready, Runnable};
pub use run::{RunOptions, run};
pub use text_files::TextFiles;
pub use text_process::{
    Canceller, Launch, NotPrepared, TextLimits, TextProcess, TextProcessOptions, text_worker,
};
pub use ticket::Ticket;
pub use usage::{Usage, give_back_heap, mib};
