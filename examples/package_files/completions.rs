//! Completions: what clap knows of the flags, and the names that only the spool and the adapters directory know.

use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};

const BASH: &str = include_str!("names.bash");
const ZSH: &str = include_str!("names.zsh");
const FISH: &str = include_str!("names.fish");

/// Writes jetspool.bash, _jetspool and jetspool.fish.
///
/// # Errors
/// The system's; or that clap writes another script than the names were put into.
pub fn write(command: &Command, directory: &Path) -> io::Result<()> {
    let script = |shell| {
        let mut script = Vec::new();
        generate(shell, &mut command.clone(), "jetspool", &mut script);
        String::from_utf8(script).map_err(io::Error::other)
    };
    std::fs::write(directory.join("jetspool.bash"), format!("{}\n{BASH}", script(Shell::Bash)?))?;
    std::fs::write(directory.join("_jetspool"), zsh(&script(Shell::Zsh)?)?)?;
    std::fs::write(directory.join("jetspool.fish"), format!("{}\n{FISH}", script(Shell::Fish)?))
}

/// Names in the place of files that clap offers.
fn zsh(script: &str) -> io::Result<String> {
    let (head, rest) = script
        .split_once("\n\n")
        .ok_or_else(|| io::Error::other("the script for zsh does not begin with a paragraph"))?;
    let mut named = String::new();
    let mut n_named = 0;
    for line in rest.lines() {
        let is_job =
            line.contains("::names -- ") || line.contains(":names -- ") || line.contains("::job -- ");
        let is_adapter = line.contains("'--lora=[") && line.contains("NAME|PATH");
        let line = match (is_job, is_adapter) {
            (true, _) => line.replace(":_default'", ":_jetspool_jobs'"),
            (_, true) => line.replace(":_files'", ":_jetspool_adapters'"),
            _ => line.to_owned(),
        };
        n_named += usize::from(line.contains(":_jetspool_jobs'") || line.contains(":_jetspool_adapters'"));
        named += &format!("{line}\n");
    }
    match n_named {
        6.. => Ok(format!("{head}\n\n{ZSH}\n{named}")),
        n => Err(io::Error::other(format!(
            "{n} places for names in the script for zsh, wanted 6: 5 of jobs, one of adapters"
        ))),
    }
}
