//! How far long work is, on a terminal.

mod bar;

pub use bar::{Bar, Progress};
