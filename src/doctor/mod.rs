//! What could keep the daemon from working on this machine, each with its remedy. It changes nothing.
//!
//! What depends on rights is looked at by a child that is the service's user, with the code that `serve` runs.

mod access;
mod engine;
mod examine;
mod finding;
mod fleet;
mod machine;
mod options;
mod places;
mod service;
mod unit;

pub use examine::examine;
pub use finding::{Finding, Fix, Verdict};
pub use options::DoctorOptions;
