//! What systemd is told (sd_notify(3)). Nothing here waits: a manager that does not read keeps no request waiting.
//!
//! States that it must learn of are sent again until it takes them; of STATUS= only the newest counts, and a
//! WATCHDOG=1 that did not get through is followed by the next one.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::config::ServiceSettings;

/// What was not taken is sent again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A longer time is asked for at most so often.
const EXTEND_EVERY: Duration = Duration::from_secs(1);

/// The service manager; without `NOTIFY_SOCKET` every call does nothing.
#[derive(Debug)]
pub struct Manager {
    line: Option<Line>,
    /// States it has not taken yet, oldest first.
    unsent: VecDeque<String>,
    /// The last status.
    status: String,
    /// The same in words of the protocol, if it has not been taken yet.
    unsent_status: Option<String>,
    watchdog: Option<Watchdog>,
    extended: Option<Instant>,
    /// Whether the log says already that nobody is there.
    is_lost: bool,
}

#[derive(Debug)]
struct Line {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// A sign of life is due at a quarter of the limit, and the loop sleeps no longer than that: two quarters
/// between two signs, and as much again for the step before the second one.
#[derive(Debug)]
struct Watchdog {
    every: Duration,
    last: Option<Instant>,
    /// What was computed at the last sign.
    progress: Option<u64>,
}

impl Manager {
    pub fn new(settings: &ServiceSettings) -> Self {
        let line = settings.notify_socket.as_deref().and_then(|name| {
            Line::new(name.as_bytes())
                .inspect_err(|error| tracing::warn!("cannot notify the service manager: {error}"))
                .ok()
        });
        let watchdog =
            settings.watchdog.map(|limit| Watchdog { every: limit / 4, last: None, progress: None });
        Self {
            line,
            unsent: VecDeque::new(),
            status: String::new(),
            unsent_status: None,
            watchdog,
            extended: None,
            is_lost: false,
        }
    }

    /// Start-up or a reload is done.
    pub fn ready(&mut self) {
        self.queue(&[NotifyState::Ready]);
    }

    /// One line for `systemctl status`; the line before it is not sent twice.
    pub fn status(&mut self, text: &str) {
        if self.line.is_some() && self.status != text {
            text.clone_into(&mut self.status);
            self.unsent_status = Some(NotifyState::Status(&text.replace('\n', " ")).to_string());
            self.flush();
        }
    }

    /// The configuration is being read again; [`Manager::ready`] ends it.
    pub fn reloading(&mut self) {
        // systemd 253 and newer wants the time, to tell this reload from an earlier one.
        match NotifyState::monotonic_usec_now() {
            Ok(time) => self.queue(&[NotifyState::Reloading, time]),
            Err(_) => self.queue(&[NotifyState::Reloading]),
        }
    }

    /// The daemon drains and ends.
    pub fn stopping(&mut self) {
        self.queue(&[NotifyState::Stopping]);
    }

    /// Start-up or the end may take `longer` from now on, whatever the unit's time limits say.
    pub fn extend_timeout(&mut self, longer: Duration) {
        if self.extended.is_none_or(|last| last.elapsed() >= EXTEND_EVERY) {
            self.extended = Some(Instant::now());
            let longer = u32::try_from(longer.as_micros()).unwrap_or(u32::MAX);
            self.queue(&[NotifyState::ExtendTimeoutUsec(longer)]);
        }
    }

    /// To be called by the loop now and then: `progress` is a counter of what was computed, none while there
    /// is nothing to compute. Only if it has moved since the last sign of life is there another.
    pub fn turned(&mut self, progress: Option<u64>) {
        self.flush();
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.last.is_some_and(|last| last.elapsed() < watchdog.every) {
            return;
        }
        if progress.is_some() && progress == watchdog.progress {
            return;
        }
        (watchdog.last, watchdog.progress) = (Some(Instant::now()), progress);
        // It is behind what waits, or it is not heard: then nobody watches the time either.
        if self.unsent.is_empty() {
            self.send(&NotifyState::Watchdog.to_string());
        }
    }

    /// How long the loop may sleep at most.
    pub fn due_in(&self) -> Option<Duration> {
        let is_waiting = !self.unsent.is_empty() || self.unsent_status.is_some();
        let retry = is_waiting.then_some(RETRY_AFTER);
        let sign = self.watchdog.as_ref().map(|watchdog| watchdog.every);
        retry.into_iter().chain(sign).min()
    }

    fn queue(&mut self, states: &[NotifyState<'_>]) {
        if self.line.is_some() {
            let lines: Vec<String> = states.iter().map(NotifyState::to_string).collect();
            self.unsent.push_back(lines.join("\n"));
            self.flush();
        }
    }

    /// Sends what waits, as far as it is taken.
    fn flush(&mut self) {
        while let Some(state) = self.unsent.pop_front() {
            if !self.send(&state) {
                self.unsent.push_front(state);
                return;
            }
        }
        if let Some(status) = self.unsent_status.take()
            && !self.send(&status)
        {
            self.unsent_status = Some(status);
        }
    }

    /// Whether there is no use in sending it again.
    fn send(&mut self, text: &str) -> bool {
        let Some(line) = &self.line else { return true };
        match line.socket.send_to_addr(text.as_bytes(), &line.address) {
            Ok(_) => self.is_lost = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) if !self.is_lost => {
                self.is_lost = true;
                tracing::warn!("cannot notify the service manager: {error}");
            }
            Err(_) => {}
        }
        true
    }
}

impl Line {
    /// `name` is a path, or begins with `@` and is the name of an abstract socket.
    fn new(name: &[u8]) -> std::io::Result<Self> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(OsStr::from_bytes(name))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Listener {
        socket: UnixDatagram,
        _folder: tempfile::TempDir,
        manager: Manager,
    }

    fn listener(watchdog: Option<Duration>) -> Listener {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::new(&ServiceSettings { notify_socket: Some(path.into()), watchdog });
        Listener { socket, _folder: folder, manager }
    }

    impl Listener {
        fn heard(&self) -> Vec<String> {
            let mut bytes = [0; 4096];
            let texts = std::iter::from_fn(|| self.socket.recv(&mut bytes).ok().map(|n| bytes[..n].to_vec()));
            texts.map(|text| String::from_utf8(text).unwrap().trim_end().to_owned()).collect()
        }
    }

    #[test]
    fn states_are_said_in_the_words_of_sd_notify() {
        let mut listener = listener(None);
        listener.manager.status("two\nlines");
        listener.manager.status("two\nlines");
        listener.manager.ready();
        listener.manager.extend_timeout(Duration::from_secs(2));
        listener.manager.extend_timeout(Duration::from_secs(2));
        listener.manager.stopping();
        let wanted = ["STATUS=two lines", "READY=1", "EXTEND_TIMEOUT_USEC=2000000", "STOPPING=1"];
        assert_eq!(listener.heard(), wanted);
        listener.manager.reloading();
        let heard = listener.heard();
        let microseconds: u64 =
            heard[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // The one counts from the boot as the other does, but for the time asleep.
        assert!(microseconds as f64 / 1e6 <= seconds + 1.0, "{microseconds} us, up for {seconds} s");
    }

    #[test]
    fn a_manager_that_does_not_read_loses_no_state_and_holds_nobody_up() {
        let mut listener = listener(Some(Duration::ZERO));
        for number in 0..5000 {
            listener.manager.status(&number.to_string());
            listener.manager.turned(None);
        }
        listener.manager.reloading();
        listener.manager.ready();
        assert_eq!(listener.manager.due_in(), Some(Duration::ZERO), "the watchdog's is the shorter");
        let n_early = listener.heard().len();
        assert!((1..5000).contains(&n_early), "the socket never was full: {n_early}");
        listener.manager.turned(None);
        let heard = listener.heard();
        assert!(heard[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{heard:?}");
        assert_eq!(heard[1..], ["READY=1", "STATUS=4999", "WATCHDOG=1"]);
    }

    #[test]
    fn the_watchdog_is_fed_by_turns_alone_and_not_at_every_one() {
        let mut listener = listener(Some(Duration::from_secs(4000)));
        assert_eq!(listener.manager.due_in(), Some(Duration::from_secs(1000)));
        listener.manager.ready();
        listener.manager.status("idle");
        assert_eq!(listener.heard(), ["READY=1", "STATUS=idle"]);
        listener.manager.turned(None);
        listener.manager.turned(None);
        assert_eq!(listener.heard(), ["WATCHDOG=1"]);
    }

    #[test]
    fn while_there_is_something_to_compute_only_progress_feeds_the_watchdog() {
        let mut listener = listener(Some(Duration::ZERO));
        let mut n_signs = |progress: &[Option<u64>]| {
            progress.iter().for_each(|progress| listener.manager.turned(*progress));
            listener.heard().len()
        };
        assert_eq!(n_signs(&[None, None]), 2, "idle");
        assert_eq!(n_signs(&[Some(7), Some(7), Some(7)]), 1);
        assert_eq!(n_signs(&[Some(8), Some(9), Some(9)]), 2);
        assert_eq!(n_signs(&[None, Some(9)]), 2, "it was idle meanwhile");
    }

    #[test]
    fn without_a_manager_nothing_is_kept() {
        let mut manager = Manager::new(&ServiceSettings { notify_socket: None, watchdog: None });
        manager.ready();
        manager.status("idle");
        manager.turned(None);
        assert_eq!((manager.unsent.len(), manager.unsent_status.clone(), manager.due_in()), (0, None, None));
        let mut listener = listener(None);
        drop(listener.socket);
        listener.manager.ready();
        assert!(listener.manager.unsent.is_empty(), "nobody is there to take it later");
    }
}
