//! The daemon: owns the spool, the engines and their adapters; it computes nothing itself.

mod activity;
mod error;
mod intake;
mod message;
mod metrics;
mod notify;
mod pressure;
mod queue;
mod relief;
mod serve;
mod signals;

pub use error::DaemonError;
pub use serve::serve;
