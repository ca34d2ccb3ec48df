//! The loop: owns the engine, the adapters and the spool, computes nothing itself.
//!
//! executor.rs turns requests into answers; run.rs feeds it one file, serve.rs a spool.

mod activity;
mod adapters;
mod budget;
mod control;
mod engine;
mod engines;
mod error;
mod executor;
mod intake;
mod limits;
mod message;
mod notify;
mod operate;
mod pressure;
mod profile;
mod queue;
mod relief;
mod run;
mod serve;
mod signals;
mod usage;

pub use control::{StatusOptions, SubmitOptions, status, submit};
pub use error::DaemonError;
pub use operate::{OperateOptions, flush, operate};
pub use run::{RunOptions, run};
pub use serve::serve;

pub use crate::spool::operate::Action;
