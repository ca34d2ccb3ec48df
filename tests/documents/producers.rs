//! docs/producers.md run as it stands: each block sends requests to a daemon and gets its answers.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::blocks::{Block, blocks, root};
use crate::support::service::{Service, build_demo};

fn block(language: &str) -> Block {
    let blocks = blocks(&root().join("docs/producers.md"));
    let mut found = blocks.into_iter().filter(|block| block.language == language);
    found.next().unwrap_or_else(|| panic!("no block in {language}"))
}

/// What a command prints; it must succeed.
fn printed(command: &mut Command, spool: &Path, folder: &Path) -> String {
    let output = command.env("spool", spool).current_dir(folder).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_programs_of_the_document_get_answers() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let engine = folder.join("engine");
    build_demo(&engine, "int8", &[]);
    let service = Service::start(folder, &engine, "");
    let spool = service.spool.clone();
    let request = json!({"temperature": 0, "max_generate_length": 8,
        "requests": [{"messages": [{"role": "user", "content": "What is aspirin?"}]}]});
    std::fs::write(folder.join("request.json"), request.to_string()).unwrap();

    let script = format!("{}echo \"$answer\"", block("sh").text);
    let shell = printed(Command::new("sh").args(["-eu", "-c", &script]), &spool, folder);
    assert!(Path::new(shell.trim()).starts_with(spool.join("out")), "{shell}");

    if Command::new("python3").arg("--version").output().is_ok() {
        let python = printed(Command::new("python3").args(["-c", &block("python").text]), &spool, folder);
        let lines: Vec<&str> = python.lines().collect();
        assert!(lines.len() == 2 && lines[1].starts_with("What is aspirin? -> "), "{python}");
        assert!(!python.contains("'code'"), "{python}");
    } else {
        eprintln!("SKIPPED: python3 is not there");
    }

    let source = folder.join("producer.cpp");
    std::fs::write(&source, block("cpp").text).unwrap();
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
    compiler.args([
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        "producer",
        "producer.cpp",
        "-lpthread",
    ]);
    printed(&mut compiler, &spool, folder);
    let answer = printed(&mut Command::new(folder.join("producer")), &spool, folder);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert!(answer["responses"][0]["output_text"].is_string(), "{answer}");
}
