//! What the text process may use, and how it is started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Its hidden command.
const COMMAND: &str = "text-worker";
/// The running program, also after its file was replaced by an upgrade.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The budget of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Time that one prompt may take, of the clock and of the processor.
    pub time: Duration,
    /// Private memory of the whole process, in bytes.
    pub memory_bytes: u64,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), memory_bytes: 256 << 20 }
    }
}

/// The words that start the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch(Vec<OsString>);

impl Launch {
    /// This program again, by the emulator that runs it if it is for another processor than the machine's.
    ///
    /// # Errors
    /// The system's.
    pub fn own_program() -> io::Result<Self> {
        // An emulator hides itself in what it shows of /proc/self, but not here.
        let runner = std::fs::read_link("/proc/thread-self/exe")?;
        let program = std::env::current_exe()?;
        if runner == program {
            return Ok(Self(vec![OWN_PROGRAM.into()]));
        }
        let line = std::fs::read("/proc/thread-self/cmdline")?;
        let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
        let n_own = std::env::args_os().count() + 1;
        let of_runner = words.get(1..words.len().saturating_sub(n_own)).unwrap_or_default();
        let of_runner = of_runner.iter().map(|word| OsStr::from_bytes(word).to_owned());
        Ok(Self(std::iter::once(runner.into()).chain(of_runner).chain([program.into()]).collect()))
    }

    /// Another program that knows the command.
    pub fn words(words: impl IntoIterator<Item = OsString>) -> Self {
        Self(words.into_iter().collect())
    }

    pub(super) fn command(&self) -> Command {
        let mut words = self.0.iter().map(OsString::as_os_str);
        let program = words.next().unwrap_or(OWN_PROGRAM.as_ref());
        let mut command = Command::new(program);
        if self.0.len() <= 1 {
            command.arg0("jetspool");
        }
        command.args(words).arg(COMMAND).env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command
    }
}
