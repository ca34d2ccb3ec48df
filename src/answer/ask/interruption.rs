//! Ctrl-C as a byte in a pipe: it can be asked for between two steps, and waited for together with a line.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGINT;

/// The readable end.
pub struct Interruption(UnixStream);

impl Interruption {
    /// From now on Ctrl-C does not end the program.
    ///
    /// # Errors
    /// The system's.
    pub fn watch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGINT, writer)?;
        Ok(Self(reader))
    }

    /// The same, and a second Ctrl-C ends the program at once, with 130 as a shell says it.
    ///
    /// # Errors
    /// The system's.
    pub fn watch_once() -> io::Result<Self> {
        let is_second = Arc::new(AtomicBool::new(false));
        // In this order: the first one sets the flag that the second one finds.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&is_second))?;
        signal_hook::flag::register(SIGINT, is_second)?;
        Self::watch()
    }

    /// Whether there was one since this was asked last.
    pub fn take(&self) -> bool {
        let mut bytes = [0; 64];
        // More than fit are signals of the same moment.
        matches!((&self.0).read(&mut bytes), Ok(n_bytes) if n_bytes > 0)
    }
}

impl AsFd for Interruption {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
