//! Writes what the package holds beside the program, from the command line's own definition and from the documents:
//! links under the workflow's names in bin/, man pages in man1/ and man5/, shell completions.
//!
//! `cargo run --example package_files -- DIRECTORY`

mod completions;
mod man;
mod markdown;
mod roff;

use std::io;
use std::path::Path;
use std::process::ExitCode;

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
    let links = directory.join("bin");
    std::fs::create_dir_all(&links)?;
    for (name, _) in cli::program_commands() {
        std::os::unix::fs::symlink("jetspool", links.join(name))?;
    }
    let command = cli::documented_command();
    let pages = man::commands(&command, cli::program_commands()).into_iter().chain(man::formats()?);
    for page in pages {
        let section = directory.join(format!("man{}", page.section));
        std::fs::create_dir_all(&section)?;
        std::fs::write(section.join(page.file_name()), page.text)?;
    }
    completions::write(&command, directory)
}
