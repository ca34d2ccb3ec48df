//! The loop: owns the engine, the adapters and the spool, computes nothing itself.
//!
//! executor.rs turns requests into answers; run.rs feeds it one file, serve.rs a spool.

mod activity;
mod adapters;
mod budget;
mod engine;
mod engines;
mod error;
mod executor;
mod intake;
mod limits;
mod message;
mod metrics;
mod notify;
mod operate;
mod output;
mod pressure;
mod profile;
mod queue;
mod relief;
mod report;
mod run;
mod screen;
mod serve;
mod signals;
mod submit;
mod usage;

pub use error::DaemonError;
pub use operate::{OperateOptions, flush, operate};
pub use run::{RunOptions, run};
pub use screen::{StatusOptions, status};
pub use serve::serve;
pub use submit::{SubmitOptions, submit};

pub use crate::spool::operate::Action;
