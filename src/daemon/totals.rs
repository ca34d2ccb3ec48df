//! Counts that go on over restarts, in a file of the spool: a view that is never synced. It is written before
//! anybody is told its numbers, so that nobody ever sees them go back.

use std::io;
use std::path::Path;

use crate::spool::report::Totals;

/// The file's name in the spool.
pub const TOTALS_FILE: &str = "totals.json";

/// The totals of the start before; zero where there are none.
pub fn read(root: &Path) -> Totals {
    let text = std::fs::read(root.join(TOTALS_FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Writes a file that readers see whole or not at all, without waiting for the disk.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(".part");
    let part = path.with_file_name(part);
    // Not a file that somebody else put there, nor through a link of his.
    let _ = std::fs::remove_file(&part);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
    let mut file = options.open(&part)?;
    // Whatever the umask: the collector and people of other groups read it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    io::Write::write_all(&mut file, bytes)?;
    std::fs::rename(&part, path)
}
