//! What systemd is told (sd_notify(3)): ready, alive, a line for `systemctl status`, the end.

use std::time::Instant;

use sd_notify::NotifyState;

use crate::config::ServiceSettings;

/// The service manager; without one every call does nothing.
pub struct Manager {
    is_there: bool,
    watchdog: Option<std::time::Duration>,
    last: Option<Instant>,
    line: String,
}

impl Manager {
    pub fn from_environment() -> Self {
        let settings = ServiceSettings::from_environment();
        Self {
            is_there: settings.notify_socket.is_some(),
            watchdog: settings.watchdog,
            last: None,
            line: String::new(),
        }
    }

    /// The start is done.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// The bridge gives back what was not begun, and ends.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// The loop has turned.
    pub fn turned(&mut self, line: &str) {
        if line != self.line {
            line.clone_into(&mut self.line);
            self.send(&[NotifyState::Status(line)]);
        }
        let is_due = |limit| self.last.is_none_or(|last| last.elapsed() >= limit / 4);
        if self.watchdog.is_some_and(is_due) {
            self.last = Some(Instant::now());
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// A manager that does not hear costs nobody an answer.
    fn send(&self, states: &[NotifyState]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!("cannot notify the service manager: {error}");
        }
    }
}
