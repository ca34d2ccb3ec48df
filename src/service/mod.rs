//! A process under a service manager: the signals it gets, and what the manager is told. Never what the process does.

mod manager;
mod signals;

pub use manager::Manager;
pub use signals::Signals;
