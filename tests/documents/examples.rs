//! Each request file of examples/ is answered without an error by the demo model, as examples/README.md has it.

use crate::support::service::{build_demo, jetspool, ok, process_demo};

use super::blocks::root;

#[test]
fn the_examples_are_answered() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let engine = folder.join("engine");
    build_demo(&engine, "int8", &["--maxInputLen", "256", "--maxKVCacheCapacity", "512"]);
    let modules: Vec<String> = ["french", "medical"]
        .into_iter()
        .map(|name| {
            process_demo(name, &folder.join(name));
            format!("{name}={}", folder.join(name).display())
        })
        .collect();
    let mut n_files = 0;
    for entry in std::fs::read_dir(root().join("examples/requests")).unwrap() {
        let path = entry.unwrap().path();
        let output = folder.join(path.file_name().unwrap());
        let mut run = jetspool(&["run", "--loraModules", &modules[0], &modules[1]]);
        run.arg("--engineDir").arg(&engine).arg("--inputFile").arg(&path).arg("--outputFile").arg(&output);
        ok(&mut run);
        let answer = std::fs::read_to_string(&output).unwrap();
        assert!(!answer.contains("\"warnings\""), "{}: {answer}", path.display());
        if path.ends_with("translate.json") || path.ends_with("batch.jsonl") {
            assert!(answer.contains("Bonjour le monde"), "{}: {answer}", path.display());
        }
        n_files += 1;
    }
    assert_eq!(n_files, 4);
}
