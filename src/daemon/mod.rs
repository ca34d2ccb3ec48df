//! The daemon: a loop that waits, and a thread each for what arrives, for the disk and for computing.

mod activity;
mod compute;
mod control;
mod error;
mod event;
mod followers;
mod jobs;
#[cfg(test)]
mod jobs_tests;
mod link;
mod main_loop;
mod marking;
mod message;
mod metrics;
mod orders;
mod prepare;
mod pressure;
mod progress;
mod relief;
mod renewal;
mod scout;
mod serve;
mod settings;
mod totals;
mod work;
mod writer;

pub use error::DaemonError;
pub use serve::serve;
