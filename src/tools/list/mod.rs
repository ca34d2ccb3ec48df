//! `list`: the engines and adapters at hand, and which belong together.

mod adapters;
mod daemon;
mod engines;
mod listing;

pub use adapters::AdapterEntry;
pub use daemon::Daemon;
pub use engines::EngineEntry;
pub use listing::{ListOptions, Listing, list};
