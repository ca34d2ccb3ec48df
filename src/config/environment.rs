//! What the environment says: the service manager's words, the log, colours. Nobody else reads it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::file::ConfigError;

/// The variable with the log level.
const LOG_VARIABLE: &str = "JETSPOOL_LOG";

/// What the service manager says of how it wants to be told (sd_notify(3), sd_watchdog_enabled(3)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// The socket for states: a path, or `@` and an abstract name.
    pub notify_socket: Option<OsString>,
    /// A process without a sign of life for so long is killed.
    pub watchdog: Option<Duration>,
}

impl ServiceSettings {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let text = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            notify_socket: text("NOTIFY_SOCKET"),
            // Inherited from a parent that is watched itself, it is not meant for this process.
            watchdog: sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()),
        }
    }
}

/// The user's home directory, `HOME`.
pub fn home_directory() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Whether people want colours (NO_COLOR, no-color.org).
pub fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Who reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogReader {
    /// systemd's journal: it has times and colours of its own.
    Journal,
    /// A person or a file.
    Person,
}

/// What the environment says about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub reader: LogReader,
}

impl LogSettings {
    /// Reads `JETSPOOL_LOG` (default info) and `JOURNAL_STREAM`.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] for an unknown level.
    pub fn from_environment() -> Result<Self, ConfigError> {
        let level = std::env::var_os(LOG_VARIABLE).map(|level| level.to_string_lossy().into_owned());
        // A shell under systemd hands the variable down, but may have redirected stderr.
        let has_journal = std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream));
        let reader = if has_journal { LogReader::Journal } else { LogReader::Person };
        Ok(Self { level: parse_level(level.as_deref())?, reader })
    }
}

/// Whether stderr is the stream `DEVICE:INODE`.
fn is_stderr(stream: &str) -> bool {
    let stat = nix::sys::stat::fstat(io::stderr());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn parse_level(text: Option<&str>) -> Result<LogLevel, ConfigError> {
    match text.unwrap_or_default() {
        "" | "info" => Ok(LogLevel::Info),
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        other => Err(ConfigError::Environment {
            key: LOG_VARIABLE,
            wanted: "error, warn, info, debug or trace",
            found: other.to_owned(),
        }),
    }
}

/// What the service manager says about memory pressure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PressureSettings {
    /// The file to watch, `MEMORY_PRESSURE_WATCH`; `/dev/null` means none at all.
    pub watch: Option<PathBuf>,
    /// What is to be written into it first, in base64: `MEMORY_PRESSURE_WRITE`.
    pub write: Option<String>,
}

impl PressureSettings {
    /// Reads `MEMORY_PRESSURE_WATCH` and `MEMORY_PRESSURE_WRITE`.
    pub fn from_environment() -> Self {
        let text = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            watch: text("MEMORY_PRESSURE_WATCH").map(PathBuf::from),
            write: text("MEMORY_PRESSURE_WRITE").map(|text| text.to_string_lossy().into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels() {
        assert_eq!(parse_level(None).ok(), Some(LogLevel::Info));
        assert_eq!(parse_level(Some("trace")).ok(), Some(LogLevel::Trace));
        let error = parse_level(Some("loud")).expect_err("no level").to_string();
        assert_eq!(
            error,
            "environment: JETSPOOL_LOG: wanted error, warn, info, debug or trace, found \"loud\""
        );
    }
}
