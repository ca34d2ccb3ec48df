//! The configuration file and the environment, each read and checked once.

mod bridge;
mod environment;
mod file;
mod value;

pub use crate::numbers::DeviceChoice;
pub use bridge::BridgeConfig;
pub use environment::{
    LogLevel, LogReader, LogSettings, PressureSettings, ServiceSettings, home_directory, may_colour,
};
pub use file::{Config, ConfigError, DEFAULT_FILE, DEFAULT_SPOOL, MAX_THREADS};
