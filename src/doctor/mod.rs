//! What could keep the daemon from working on this machine, each with its remedy. It changes nothing.

mod examine;
mod files;
mod finding;
mod machine;
mod places;

pub use examine::{DoctorOptions, examine};
pub use finding::{Finding, Verdict};
