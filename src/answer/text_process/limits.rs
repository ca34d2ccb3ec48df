//! What the text process may use, and how it is started.

use std::ffi::OsString;
use std::io;
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
    /// This program again. `emulator` are the words in front of it where it is for another processor than the
    /// machine's, else nothing.
    ///
    /// # Errors
    /// The system's, if an emulated program cannot be found.
    pub fn own_program(emulator: &[String]) -> io::Result<Self> {
        let mut words: Vec<OsString> = emulator.iter().map(OsString::from).collect();
        words.push(if words.is_empty() { OWN_PROGRAM.into() } else { std::env::current_exe()?.into() });
        Ok(Self(words))
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
