//! A program at a terminal of its own, as a person meets it: Ctrl-C comes from the terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// The person's end.
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Bytes of the screen that were looked at.
    n_seen: usize,
    pub child: Child,
}

impl Terminal {
    /// Starts it with standard input and standard error at the terminal, and standard output where the command has it.
    pub fn start(command: &mut Command) -> Self {
        let (master, slave) = open();
        Self::start_at(command, master, slave)
    }

    /// The same with standard output at the terminal too.
    pub fn start_whole(command: &mut Command) -> Self {
        let (master, slave) = open();
        command.stdout(slave.try_clone().unwrap());
        Self::start_at(command, master, slave)
    }

    fn start_at(command: &mut Command, master: File, slave: OwnedFd) -> Self {
        command.stdin(slave.try_clone().unwrap()).stderr(slave);
        // SAFETY: both calls are allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        // Its own copies would keep the terminal open.
        *command = Command::new("true");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut shown, written) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of a terminal whose other end is closed is an error.
            while let Ok(n_bytes @ 1..) = shown.read(&mut bytes) {
                written.lock().unwrap().extend(&bytes[..n_bytes]);
            }
        });
        Self { keyboard: master, screen, n_seen: 0, child }
    }

    pub fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown after what was looked at before; returns what is new up to its end.
    pub fn wait_for(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let shown = String::from_utf8_lossy(&self.screen.lock().unwrap()[self.n_seen..]).into_owned();
            if let Some(at) = shown.find(text) {
                self.n_seen += at + text.len();
                return shown[..at + text.len()].to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "{text:?} is not shown in {shown:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the program's end.
    pub fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that was shown.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open() -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both numbers and the size live until it returns; name and settings may be null.
    let opened = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    assert_eq!(opened, 0, "no terminal: {}", std::io::Error::last_os_error());
    // SAFETY: they were just opened, and nobody else has them.
    let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    // SAFETY: a number and a flag. The child must not hold the person's end.
    assert_eq!(unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
    (master, slave)
}
