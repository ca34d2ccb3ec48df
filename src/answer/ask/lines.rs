//! Lines of a terminal, as they are entered. Standard input's own buffer cannot be waited for together with Ctrl-C.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::interruption::Interruption;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Without its end.
    Line(String),
    /// Ctrl-D, or the terminal is gone.
    End,
    /// Ctrl-C; what had been typed is dropped.
    Interrupted,
}

/// Reads from a terminal, or from anything else that has lines.
pub struct Lines<Source> {
    source: Source,
    /// Read and not yet given.
    bytes: Vec<u8>,
}

impl<Source: AsFd> Lines<Source> {
    pub fn new(source: Source) -> Self {
        Self { source, bytes: Vec::new() }
    }

    /// Forgets lines that were read and not yet given.
    pub fn drop_waiting(&mut self) {
        self.bytes.clear();
    }

    /// Waits for a line, for its end or for Ctrl-C.
    ///
    /// # Errors
    /// The system's.
    pub fn next(&mut self, interruption: &Interruption) -> io::Result<Entry> {
        loop {
            if let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Ok(Entry::Line(text(&line[..end])));
            }
            let mut fds = [
                PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
                PollFd::new(interruption.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let has_input = fds[0].any().unwrap_or(false);
            if interruption.take() {
                self.bytes.clear();
                return Ok(Entry::Interrupted);
            }
            if has_input && !self.read()? {
                let rest = std::mem::take(&mut self.bytes);
                return Ok(if rest.is_empty() { Entry::End } else { Entry::Line(text(&rest)) });
            }
        }
    }

    /// Whether there was more.
    fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        match nix::unistd::read(&self.source, &mut bytes) {
            Ok(n_bytes) => {
                self.bytes.extend(&bytes[..n_bytes]);
                Ok(n_bytes > 0)
            }
            Err(Errno::EINTR) => Ok(true),
            // A terminal that was hung up.
            Err(Errno::EIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lines_come_however_they_were_cut() {
        let interruption = Interruption::watch().unwrap();
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(reader);
        writer.write_all(b"one\r\ntwo\n\nth").unwrap();
        for wanted in ["one", "two", ""] {
            assert_eq!(lines.next(&interruption).unwrap(), Entry::Line(wanted.to_owned()));
        }
        writer.write_all("ré\ne\u{e9}".as_bytes()).unwrap();
        drop(writer);
        for wanted in ["thré", "eé"] {
            assert_eq!(lines.next(&interruption).unwrap(), Entry::Line(wanted.to_owned()));
        }
        assert_eq!(lines.next(&interruption).unwrap(), Entry::End);
    }
}
