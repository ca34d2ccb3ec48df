//! Word from the system that memory is short: what the service manager names (systemd's memory pressure
//! protocol, <https://systemd.io/PRESSURE/>), else the machine's own pressure file (kernel, accounting/psi).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;

use crate::config::PressureSettings;

const OF_MACHINE: &str = "/proc/pressure/memory";
/// 200 ms of stalls in 2 s; a window of 2 s is what an unprivileged process may ask for. The last byte is lost.
const THRESHOLD: &[u8] = b"some 200000 2000000\0";
/// Data in a pipe is thrown away in such pieces, so many at a time.
const PIECE: usize = 4096;
const MAX_PIECES: usize = 64;

/// A descriptor that says when memory is short.
pub struct Pressure {
    file: File,
    /// POLLPRI for a file of the kernel, of which nothing is read; POLLIN for a pipe or a socket.
    event: PollFlags,
}

impl Pressure {
    /// Opens what there is; without any, one line of the log says so.
    pub fn open(settings: &PressureSettings) -> Option<Self> {
        let (path, write) = match &settings.watch {
            Some(path) if path == Path::new("/dev/null") => {
                tracing::info!("memory pressure is not watched: MEMORY_PRESSURE_WATCH is /dev/null");
                return None;
            }
            Some(path) => {
                let text = settings.write.as_deref().unwrap_or_default();
                (
                    path.as_path(),
                    base64(text).ok_or_else(|| io::Error::other("MEMORY_PRESSURE_WRITE is no base64")),
                )
            }
            None => (Path::new(OF_MACHINE), Ok(THRESHOLD.to_vec())),
        };
        match write.and_then(|write| Self::watch(path, &write)) {
            Ok(pressure) => Some(pressure),
            Err(error) => {
                tracing::info!("memory pressure is not watched: {}: {error}", path.display());
                None
            }
        }
    }

    /// What the runtime is to wait for.
    pub fn interest(&self) -> Interest {
        if self.event == PollFlags::POLLIN { Interest::READABLE } else { Interest::PRIORITY }
    }

    fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(self.file.as_fd(), self.event)
    }

    /// Whether memory was short since the last call.
    ///
    /// # Errors
    /// When no more will come.
    pub fn take_event(&mut self) -> io::Result<bool> {
        let mut fds = [self.poll_fd()];
        poll(&mut fds, PollTimeout::ZERO)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.is_empty() {
            return Ok(false);
        }
        if self.event == PollFlags::POLLIN {
            return discard(&mut self.file);
        }
        if events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(io::Error::other("the control group is gone"));
        }
        Ok(true)
    }

    fn watch(path: &Path, write: &[u8]) -> io::Result<Self> {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_socket() {
            let mut stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            stream.write_all(write)?;
            return Ok(Self { file: OwnedFd::from(stream).into(), event: PollFlags::POLLIN });
        }
        // A pipe is held open for writing too: it never ends, whoever else writes and goes.
        let mut file = OpenOptions::new()
            .read(true)
            .write(kind.is_fifo() || !write.is_empty())
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)?;
        // At once: the kernel takes a threshold by a single write.
        if !write.is_empty() && file.write(write)? < write.len() {
            return Err(io::Error::other("the threshold cannot be written at once"));
        }
        Ok(Self { file, event: if kind.is_fifo() { PollFlags::POLLIN } else { PollFlags::POLLPRI } })
    }
}

impl AsRawFd for Pressure {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Throws away what a pipe or socket holds; says whether it held anything.
fn discard(stream: &mut File) -> io::Result<bool> {
    let mut piece = [0; PIECE];
    let mut is_event = false;
    for _ in 0..MAX_PIECES {
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::other("the other side has closed it")),
            Ok(_) => is_event = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(is_event)
}

/// Base64 (RFC 4648, section 4) to bytes.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let n_padding = text.iter().rev().take_while(|&&letter| letter == b'=').count();
    let letters = &text[..text.len() - n_padding];
    let mut bytes = Vec::new();
    let (mut bits, mut n_bits) = (0u32, 0);
    for letter in letters {
        let (value, _) = (0_u32..).zip(ALPHABET).find(|(_, known)| *known == letter)?;
        bits = (bits << 6 | value) & 0xffff;
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits).to_le_bytes()[0]);
        }
    }
    (n_padding <= 2).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_standard_shows_it() {
        let cases = [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ];
        for (text, wanted) in cases {
            assert_eq!(base64(text).as_deref(), Some(wanted.as_bytes()), "{text}");
        }
        for wrong in ["Z", "Zg", "Zg=", "Z===", "Zm9v!mFy", "Zg==Zg=="] {
            assert_eq!(base64(wrong), None, "{wrong}");
        }
        assert_eq!(base64("/+8A").unwrap(), [0xff, 0xef, 0]);
    }

    fn settings(path: &Path) -> PressureSettings {
        PressureSettings { watch: Some(path.to_owned()), write: Some("c29tZQA=".into()) }
    }

    #[test]
    fn a_pipe_says_it_once_for_all_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let unwritten = PressureSettings { write: None, ..settings(&path) };
        let mut pressure = Pressure::open(&unwritten).unwrap();
        assert!(!pressure.take_event().unwrap());
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(&[1; 9000]).unwrap();
        assert!(pressure.take_event().unwrap());
        drop(writer);
        assert!(!pressure.take_event().unwrap(), "a writer that goes is no event");
    }

    #[test]
    fn a_socket_gets_the_threshold_and_may_close() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut pressure = Pressure::open(&settings(&path)).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let mut got = [0; 5];
        other.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"some\0");
        other.write_all(b"x").unwrap();
        assert!(pressure.take_event().unwrap());
        drop(other);
        assert!(pressure.take_event().is_err());
    }

    #[test]
    fn a_file_gets_the_threshold_and_nothing_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pressure");
        std::fs::write(&path, "some avg10=0.00").unwrap();
        let mut pressure = Pressure::open(&settings(&path)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"some\0avg10=0.00");
        assert!(!pressure.take_event().unwrap(), "readable, but not of priority");
    }

    #[test]
    fn without_a_source_it_is_off() {
        let off = |path: &str, write: &str| {
            let settings = PressureSettings { watch: Some(path.into()), write: Some(write.into()) };
            Pressure::open(&settings).is_none()
        };
        assert!(off("/dev/null", "") && off("/nowhere", "") && off("/proc/self/status", "no base64"));
    }

    #[test]
    fn the_kernel_takes_the_threshold() {
        if !Path::new(OF_MACHINE).exists() {
            println!("SKIPPED: {OF_MACHINE} is not there");
            return;
        }
        match Pressure::watch(Path::new(OF_MACHINE), THRESHOLD) {
            Ok(mut pressure) => assert!(pressure.take_event().is_ok()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => println!("SKIPPED: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
