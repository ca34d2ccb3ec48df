//! Tells at once when something arrives in a directory. A hint only: set the watch, then scan.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::error::SpoolError;

/// What happened in the watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// A file was renamed in.
    Renamed(OsString),
    /// A file was closed by a program that could write to it; it may open it again.
    Closed(OsString),
    /// Events were lost: scan.
    Rescan,
    /// The directory was moved, removed or unmounted: no more events come.
    Lost,
}

/// An inotify watch on one directory; its descriptor tells when.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
}

/// Reads of 4 KiB of events in one call, so that a flood does not keep the loop from its work.
const MAX_READS: usize = 64;

impl Watch {
    /// Watches `dir`.
    pub fn new(dir: &Path) -> Result<Self, SpoolError> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed(dir))?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(dir, events).map_err(failed(dir))?;
        Ok(Self { inotify })
    }

    /// What happened since the last call; never waits.
    pub fn arrivals(&self) -> Result<Vec<Arrival>, SpoolError> {
        let mut arrivals = Vec::new();
        for _ in 0..MAX_READS {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(e) => {
                    return Err(SpoolError::Io { doing: "read", path: "inotify".into(), source: e.into() });
                }
            };
            for event in events {
                let lost = AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_UNMOUNT
                    | AddWatchFlags::IN_IGNORED;
                match event.name {
                    _ if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => arrivals.push(Arrival::Rescan),
                    _ if event.mask.intersects(lost) => arrivals.push(Arrival::Lost),
                    Some(name) if event.mask.contains(AddWatchFlags::IN_MOVED_TO) => {
                        arrivals.push(Arrival::Renamed(name));
                    }
                    Some(name) => arrivals.push(Arrival::Closed(name)),
                    None => {}
                }
            }
        }
        Ok(arrivals)
    }
}

fn failed(dir: &Path) -> impl Fn(Errno) -> SpoolError + '_ {
    |e| SpoolError::Io { doing: "watch", path: dir.to_owned(), source: e.into() }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
