//! docs/workflow.md, run as it stands: the blocks marked `sh` in one shell, and after each that is followed by a
//! block marked `text`, its lines among what was printed. Then every sentence is asked for its proof.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::proof::{Row, prove};
use super::sentences::sentences;
use super::{documented, said};

/// A block of commands and the lines that it prints, if the document shows them.
#[derive(Default)]
struct Block {
    commands: String,
    printed: Vec<String>,
}

/// The folder in which the page's commands were run, with all that they left.
pub struct Site {
    pub root: PathBuf,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut kind = None;
    for line in document.lines() {
        match (kind, line.strip_prefix("```")) {
            (None, Some("sh")) => {
                blocks.push(Block::default());
                kind = Some("sh");
            }
            (None, Some(other)) => kind = Some(other),
            (Some(_), Some(_)) => kind = None,
            (Some("sh"), None) => blocks.last_mut().unwrap().commands.push_str(&format!("{line}\n")),
            (Some("text"), None) => blocks.last_mut().unwrap().printed.push(line.to_owned()),
            _ => {}
        }
    }
    blocks
}

/// Runs the page's commands in a folder of their own below `scratch`.
fn run(document: &str, scratch: &Path) -> Site {
    const MARK: &str = "== end of a block";
    let blocks = blocks(document);
    assert!(blocks.iter().filter(|block| !block.printed.is_empty()).count() >= 4);
    let commands: Vec<String> =
        blocks.iter().map(|block| format!("{}echo '{MARK}'\n", block.commands)).collect();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands.concat()])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", scratch)
        .env("jetspool", env!("CARGO_BIN_EXE_jetspool"))
        .env_remove("JETSPOOL_LOG")
        .output()
        .unwrap();
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaints}");
    let parts: Vec<&str> = said.split(MARK).collect();
    for (block, said) in blocks.iter().zip(parts) {
        for line in &block.printed {
            assert!(said.lines().any(|found| found == line), "{}wanted {line:?} in {said:?}", block.commands);
        }
    }
    let made = fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path());
    let root = made.into_iter().find(|path| path.join("engine/config.json").exists());
    Site { root: root.expect("the page builds `engine`") }
}

#[test]
fn every_sentence_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/workflow.md")).unwrap();
    let found = sentences(&document);
    let rows: Vec<&Row> = said::PAGE.iter().flat_map(|part| part.iter()).collect();
    let without: Vec<&String> = found.iter().filter(|text| rows.iter().all(|row| !row.is_of(text))).collect();
    assert!(without.is_empty(), "sentences of docs/workflow.md without a row in said.rs: {without:#?}");
    for row in &rows {
        let n = found.iter().filter(|text| row.is_of(text)).count();
        assert_eq!(n, 1, "{:?} begins {n} sentences of docs/workflow.md", row.says);
    }
    let scratch = tempfile::tempdir().unwrap();
    let site = run(&document, scratch.path());
    for row in rows.into_iter().chain(documented::WORKFLOW) {
        prove(row, &site);
    }
}
