//! Adapters that another process-lora made: used where the numbers are the same, else refused wherever one is opened.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::data;
use crate::support::json as read_json;
use crate::support::service::{build_demo, jetspool, ok, process_demo};

/// Error code and message of the one answer of `run`; none if it is fine.
fn refusal(engine: &Path, adapter: &Path, folder: &Path) -> Option<(String, String)> {
    let [input, output] = ["in.json", "out.json"].map(|name| folder.join(name));
    let job = json!({
        "temperature": 0, "max_generate_length": 2,
        "available_lora_weights": {"a": adapter},
        "requests": [{"messages": [{"role": "user", "content": "Hello"}], "lora_name": "a"}],
    });
    fs::write(&input, job.to_string()).unwrap();
    let mut command = jetspool(&["run", "--engineDir"]);
    command.arg(engine).arg("--inputFile").arg(&input).arg("--outputFile").arg(&output);
    command.output().unwrap();
    let error = read_json(&output)["responses"][0]["error"].clone();
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    Some((text("code")?, text("message")?))
}

#[test]
fn a_risky_file_without_our_mark_is_refused_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine");
    build_demo(&engine, "int8", &[]);
    let directory = folder.path().join("adapters/french");
    let adapter = process_demo("french", &directory);
    assert_eq!(refusal(&engine, &adapter, folder.path()), None);
    // As the workflow's own tool leaves it: PEFT's configuration, byte for byte.
    let foreign = fs::read(data("demo/adapters/french/adapter_config.json")).unwrap();
    fs::write(directory.join("config.json"), &foreign).unwrap();
    assert_eq!(refusal(&engine, &adapter, folder.path()), None);
    let mut config: Value = serde_json::from_slice(&foreign).unwrap();
    config["use_rslora"] = json!(true);
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let (code, message) = refusal(&engine, &adapter, folder.path()).unwrap();
    assert_eq!(code, "adapter-mismatch");
    let is_told = |text: &str| text.contains("use_rslora is true") && text.contains("jetspool process-lora");
    assert!(is_told(&message), "{message}");

    let mut logits = jetspool(&["logits", "--tokens", "5,6", "--engineDir"]);
    logits.arg(&engine).arg("--lora").arg(&adapter).arg("--outputFile").arg(folder.path().join("x"));
    let output = logits.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && is_told(&said), "{said}");
    let mut list = jetspool(&["list", "--json", "--engineDir"]);
    list.arg(&engine).arg("--loraDir").arg(folder.path().join("adapters"));
    let listed: Value = serde_json::from_slice(&ok(&mut list).stdout).unwrap();
    let error = listed["adapters"][0]["error"].as_str().unwrap();
    assert!(is_told(error), "{error}");
}
