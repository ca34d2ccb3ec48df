//! docs/workflow.md, run as it stands: the blocks marked `sh` in one shell, and after each that is followed by a
//! block marked `text`, its lines among what was printed.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A block of commands and the lines that it prints, if the document shows them.
#[derive(Default)]
struct Block {
    commands: String,
    printed: Vec<String>,
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

#[test]
fn the_document_says_what_happens() {
    const MARK: &str = "== end of a block";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let blocks = blocks(&fs::read_to_string(root.join("docs/workflow.md")).unwrap());
    assert!(blocks.iter().filter(|block| !block.printed.is_empty()).count() >= 3);
    let commands: Vec<String> =
        blocks.iter().map(|block| format!("{}echo '{MARK}'\n", block.commands)).collect();
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands.concat()])
        .current_dir(root)
        .env("TMPDIR", scratch.path())
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
}
