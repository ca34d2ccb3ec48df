//! Ctrl-C and SIGTERM while a tool works: what is half written goes away, and the program ends as a shell expects it.
//!
//! Temporary names hold the process's id (staging.rs, store/atomic_file.rs), so that they are found by the place of the
//! output alone, and nobody has to tell of them.

use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::staging::{parent_of, real_target, temporary_end};

/// Looks for half-written files; the tool may be making one more while the first are removed.
const MAX_LOOKS: usize = 20;
/// Looks in a row that must find nothing.
const N_EMPTY: usize = 2;
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// While it lives, a signal removes what the tool has half written and ends the program.
pub struct Interruption {
    is_ending: Arc<AtomicBool>,
}

/// Where a tool writes.
struct Place {
    /// The output, where links lead to.
    output: PathBuf,
    /// Directories that are not there yet, the innermost first.
    missing: Vec<PathBuf>,
}

impl Interruption {
    /// Watches for a tool that writes to the directory `output`; without one, signals stay as they are. So they do where
    /// no thread can be had.
    pub fn watch(output: Option<&Path>) -> Self {
        let is_ending = Arc::new(AtomicBool::new(false));
        if let Some(output) = output {
            let _ = start(Place::new(output), Arc::clone(&is_ending));
        }
        Self { is_ending }
    }
}

impl Drop for Interruption {
    /// A tool that fails because its files went away leaves the last word to the thread that took them.
    fn drop(&mut self) {
        while self.is_ending.load(Ordering::Acquire) {
            thread::park();
        }
    }
}

fn start(place: Place, is_ending: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let end = move || {
        let Some(signal) = signals.forever().next() else { return };
        is_ending.store(true, Ordering::Release);
        let _ = writeln!(stderr(), "\njetspool: interrupted; what is half written is removed");
        // The end follows at once: the tool goes on working until then.
        place.clean();
        signal_hook::low_level::exit(128 + signal);
    };
    thread::Builder::new().name("interruption".to_owned()).spawn(end).map(drop)
}

impl Place {
    fn new(output: &Path) -> Self {
        let output = real_target(output).unwrap_or_else(|_| output.to_owned());
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing = output.ancestors().take_while(is_missing).map(Path::to_owned).collect();
        Self { output, missing }
    }

    fn clean(&self) {
        let mut n_empty = 0;
        for _ in 0..MAX_LOOKS {
            let n_found = remove_ours(parent_of(&self.output)) + remove_ours(&self.output);
            n_empty = if n_found == 0 { n_empty + 1 } else { 0 };
            if n_empty == N_EMPTY {
                break;
            }
            thread::sleep(BETWEEN_LOOKS);
        }
        // Only empty ones go.
        for directory in &self.missing {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Removes the temporary files and directories of this process from a directory; how many there were.
fn remove_ours(directory: &Path) -> usize {
    let end = temporary_end();
    let is_ours = |name: &str| {
        let number = name.rsplit_once(&end).map(|(_, number)| number);
        number.is_some_and(|number| {
            number.is_empty() || number.strip_prefix('-').is_some_and(|n| n.parse::<u32>().is_ok())
        })
    };
    let mut n_found = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_ours) {
            n_found += 1;
            let path = entry.path();
            let _ = if path.is_dir() { remove_directory(&path) } else { fs::remove_file(&path) };
        }
    }
    n_found
}

/// Takes the directory away at once, and empties it then: the tool could give it the output's name in between.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    let mut away = path.as_os_str().to_owned();
    away.push("-0");
    fs::rename(path, &away)?;
    fs::remove_dir_all(away)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_processs_leftovers_go() {
        let scratch = tempfile::tempdir().unwrap();
        let output = scratch.path().join("a/engine");
        let place = Place::new(&output);
        assert_eq!(place.missing.len(), 2);
        let ours = std::process::id();
        let kept = [format!("a/engine.tmp-{ours}1"), "a/engine.tmp-1".to_owned(), format!("a/x{ours}")];
        let gone = [format!("a/engine.tmp-{ours}/deep"), format!("a/engine/.file.tmp-{ours}-12")];
        for path in kept.iter().chain(&gone) {
            fs::create_dir_all(scratch.path().join(path).parent().unwrap()).unwrap();
            fs::write(scratch.path().join(path), b"x").unwrap();
        }
        place.clean();
        let left = |path: &String| scratch.path().join(path).exists();
        assert!(kept.iter().all(left) && !gone.iter().any(left));
        assert!(!output.exists() && scratch.path().join("a").exists());
    }
}
