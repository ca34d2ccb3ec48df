//! Writes what the package holds beside the program, from the command line's own definition: links under the
//! workflow's names in bin/, man pages in man/, shell completions.
//!
//! `cargo run --example package_files -- DIRECTORY`

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::{Shell, generate_to};
use jetspool::cli;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: package_files DIRECTORY");
        return ExitCode::from(64);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::from(74)
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let (links, pages) = (directory.join("bin"), directory.join("man"));
    for made in [&links, &pages] {
        std::fs::create_dir_all(made)?;
    }
    for name in cli::program_names() {
        std::os::unix::fs::symlink("jetspool", links.join(name))?;
    }
    let command = cli::documented_command();
    clap_mangen::generate_to(command.clone(), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command.clone(), "jetspool", directory)?;
    }
    Ok(())
}
