//! Completions know the names in a spool and the adapters of a configuration.

use std::fs;
use std::path::Path;
use std::process::Command;

use jetspool::cli;

use crate::completion_scripts;
use crate::support::service::{build_demo, jetspool, ok, process_demo};

/// What bash offers behind these words.
fn offered(folder: &Path, words: &str) -> Vec<String> {
    let script = format!(
        "source '{0}/jetspool.bash'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
        _jetspool_and_names jetspool \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"
        printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        folder.display()
    );
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = ok(Command::new("bash").args(["-c", &script]).env("PATH", path));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_jobs_and_adapters() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    completion_scripts::write(&cli::documented_command(), folder).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_jetspool"), folder.join("jetspool")).unwrap();
    let spool = folder.join("spool");
    for file in [
        "new/a one.json",
        "new/.hidden.json",
        "hold/1k1g0n21fjp.b.json",
        "hold/by-hand.json",
        "failed/c.jsonl",
        "done/d.json",
    ] {
        let path = spool.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "{}").unwrap();
    }
    let of = |command: &str| {
        let mut names = offered(folder, &format!("jetspool {command} --spool '{}' ''", spool.display()));
        names.sort();
        names
    };
    assert_eq!(of("hold"), ["a one.json"]);
    assert_eq!(of("release"), ["b.json", "by-hand.json"]);
    assert_eq!(of("requeue"), ["c.jsonl", "d.json"]);
    assert_eq!(of("delete"), ["a one.json", "b.json", "by-hand.json"]);
    assert_eq!(
        offered(folder, &format!("jetspool release --spool '{}' by", spool.display())),
        ["by-hand.json"]
    );
    assert!(offered(folder, "jetspool hold --a").contains(&"--all".to_owned()));

    build_demo(&folder.join("engine"), "int8", &[]);
    for name in ["french", "medical"] {
        process_demo(name, &folder.join("adapters").join(name));
    }
    let config = folder.join("jetspool.toml");
    let text = format!(
        "engine = \"{0}/engine\"\nspool = \"{0}/spool\"\nadapters = \"{0}/adapters\"\n",
        folder.display()
    );
    fs::write(&config, text).unwrap();
    let words = format!("jetspool ask --config '{}' --lora", config.display());
    assert_eq!(offered(folder, &format!("{words} ''")), ["french", "medical"]);
    assert_eq!(offered(folder, &format!("{words} m")), ["medical"]);
    // The list that they are taken from.
    assert!(ok(&mut jetspool(&["list", "--config", config.to_str().unwrap()])).status.success());
}

#[test]
fn every_shell_reads_its_script() {
    let scratch = tempfile::tempdir().unwrap();
    completion_scripts::write(&cli::documented_command(), scratch.path()).unwrap();
    for (shell, file) in [("bash", "jetspool.bash"), ("zsh", "_jetspool"), ("fish", "jetspool.fish")] {
        match Command::new(shell).arg("-n").arg(scratch.path().join(file)).output() {
            Ok(output) => {
                assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr))
            }
            Err(_) => eprintln!("SKIPPED: {shell} is not there"),
        }
    }
}
