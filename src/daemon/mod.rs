//! The daemon: owns the spool, the engines and their adapters; it computes nothing itself.

#[cfg(any())]
mod activity;
mod error;
#[cfg(any())]
mod intake;
#[cfg(any())]
mod message;
#[cfg(any())]
mod metrics;
#[cfg(any())]
mod notify;
#[cfg(any())]
mod pressure;
#[cfg(any())]
mod queue;
#[cfg(any())]
mod relief;
#[cfg(any())]
mod serve;
#[cfg(any())]
mod signals;
mod stub;

pub use error::DaemonError;
pub use stub::serve;
