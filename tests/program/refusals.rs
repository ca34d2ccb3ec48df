//! Where tools must not write, and what they must not make.

use std::fs;

use crate::support::service::{jetspool, ok};
use crate::support::{data, reference};

#[test]
fn the_current_directory_is_nobodys_output() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = data("demo/checkpoint").display().to_string();
    let adapter = data("demo/adapters/french").display().to_string();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::symlink(&place, folder.path().join("link")).unwrap();
    let commands: [&[&str]; 4] = [
        &["build", "--modelDir", &checkpoint, "--engineDir"],
        &["quantize-llm", "--quantization", "fp8", "--model_dir", &checkpoint, "--output_dir"],
        &["export-llm", "--model_dir", &checkpoint, "--output_dir"],
        &["merge-lora", "--model_dir", &checkpoint, "--lora_dir", &adapter, "--output_dir"],
    ];
    for command in commands {
        for output in [".", "../link"] {
            let run = jetspool(command).arg(output).current_dir(&place).output().unwrap();
            let said = String::from_utf8(run.stderr).unwrap();
            let wanted =
                format!("jetspool: {output} is the current directory; choose another output directory\n");
            assert_eq!((run.status.code(), said.as_str()), (Some(73), wanted.as_str()), "{command:?}");
        }
    }
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn an_engine_without_a_tokenizer_is_made_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = reference("models/qwen2").display().to_string();
    let mut build = jetspool(&["build", "--modelDir", &model, "--engineDir", "engine"]);
    build.current_dir(folder.path());
    let refused = build.output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    let wanted = format!(
        "jetspool: {model}: tokenizer.json is not there: the engine would know token ids, but no text; copy the file from \
         where the model came from; AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in transformers writes it from \
         older files; --noTokenizer builds without one"
    );
    assert_eq!(refused.status.code(), Some(65));
    assert!(said.lines().any(|line| line == wanted), "{said}");
    assert!(!folder.path().join("engine").exists());
    let built = ok(build.arg("--noTokenizer"));
    assert!(String::from_utf8(built.stderr).unwrap().contains("this engine knows token ids, but no text"));
    ok(jetspool(&["logits", "--engineDir", "engine", "--tokens", "1,2", "--outputFile", "x"])
        .current_dir(folder.path()));
}
