//! What time it is, whether that can be trusted, and which start of the machine this is.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where systemd-timesyncd says that it has set the clock.
const TIMESYNC_MARK: &str = "/run/systemd/timesync/synchronized";

/// A moment by the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since 1970.
    pub time: Duration,
    /// False while the clock may still jump: a board without a battery starts with an old time.
    pub is_synchronised: bool,
}

impl Now {
    pub fn read() -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { time, is_synchronised: is_synchronised() }
    }
}

/// The kernel's word; where a service may not ask it (`ProtectClock=`), that of systemd-timesyncd.
fn is_synchronised() -> bool {
    // SAFETY: all bytes zero is a valid `timex`, whose `modes` of zero changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to `state` alone, which lives longer than the call.
    match unsafe { libc::adjtimex(&mut state) } {
        -1 => Path::new(TIMESYNC_MARK).exists(),
        found => found != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0,
    }
}

/// The kernel's id of this start of the machine. Without it all starts look like one.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
