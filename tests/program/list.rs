//! `list`: engines and adapters with the facts that their own files say, and what fits what.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::ask::build_for_rank_8;
use crate::support::data;
use crate::support::service::{Service, build_demo, jetspool, ok, process_demo};

/// Engines for rank 16 and rank 8, adapters of rank 16, 8 and 16, one not processed, and what is none.
fn site(folder: &Path) {
    build_demo(&folder.join("engine"), "int8", &[]);
    build_for_rank_8(&folder.join("engines/small"), &["--precision", "int4", "--maxBatchSize", "2"]);
    for name in ["french", "german"] {
        process_demo(name, &folder.join("adapters").join(name));
    }
    let medical = process_demo("medical", &folder.join("scratch"));
    fs::rename(medical, folder.join("adapters/medical.safetensors")).unwrap();
    let raw = folder.join("adapters/raw");
    fs::create_dir(&raw).unwrap();
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(data("demo/adapters/german").join(file), raw.join(file)).unwrap();
    }
    fs::write(folder.join("adapters/broken.safetensors"), "x").unwrap();
    fs::write(folder.join("adapters/README"), "x").unwrap();
}

fn list(arguments: &[&str]) -> Value {
    let output = ok(jetspool(&["list", "--json"]).args(arguments));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn engines_and_adapters_are_listed_with_what_fits() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    site(folder.path());
    let lines = format!("adapters = {:?}\n", path("adapters"));
    let mut service = Service::start(folder.path(), &folder.path().join("engine"), &lines);
    let config = path("jetspool.toml");
    let request = |name: &str| json!({ "messages": [{ "role": "user", "content": "x" }], "lora_name": name });
    service.ask("x.json", &[request("german"), request("nobody")]);
    // It is written down a moment after the answer.
    let used = service.wait_for("last use", |_| {
        let listed = list(&["--config", &config]);
        listed["adapters"][2]["last_use"].as_u64()
    });
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(used <= now && now - used < 600, "{used}, {now}");
    let listed = list(&["--config", &config]);
    assert_eq!(listed["adapters"][1]["last_use"], Value::Null);
    let engine = |index: usize| &listed["engines"][index];
    // The configuration of an engine says the same.
    for (index, directory) in ["engine", "engines/small"].into_iter().enumerate() {
        let text = fs::read(folder.path().join(directory).join("config.json")).unwrap();
        let wanted: Value = serde_json::from_slice(&text).unwrap();
        for key in ["max_batch_size", "max_input_len", "max_kv_cache_capacity", "max_lora_rank"] {
            assert_eq!(engine(index)[key], wanted["builder_config"][key], "{directory}: {key}");
        }
        assert_eq!(engine(index)["precision"], wanted["jetspool"]["precision"]);
        assert_eq!(engine(index)["family"], wanted["jetspool"]["family"]);
        let files = fs::read_dir(folder.path().join(directory)).unwrap();
        let n_bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(engine(index)["n_bytes"], json!(n_bytes));
        assert_eq!(engine(index)["served"], json!(index == 0));
    }
    assert_eq!(listed["daemon"], "running");
    let adapters = listed["adapters"].as_array().unwrap();
    let names: Vec<&str> = adapters.iter().map(|adapter| adapter["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["broken", "french", "german", "medical", "raw"]);
    for (index, rank, fits) in [(1, 16, [true, false]), (2, 8, [true, true]), (3, 16, [true, false])] {
        let adapter = &adapters[index];
        assert_eq!(adapter["rank"], rank, "{adapter}");
        let found = adapter["engines"].as_array().unwrap();
        let found: Vec<bool> = found.iter().map(|fit| fit["why_not"].is_null()).collect();
        assert_eq!(found, fits, "{adapter}");
        let peft = data("demo/adapters").join(names[index]).join("adapter_config.json");
        let peft: Value = serde_json::from_slice(&fs::read(peft).unwrap()).unwrap();
        let sorted = |names: &Value| {
            let mut names: Vec<String> =
                names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(&adapter["targets"]), sorted(&peft["target_modules"]));
        assert_eq!(adapter["n_requests"], 0);
    }
    assert!(adapters[1]["engines"][1]["why_not"].as_str().unwrap().contains("--maxLoraRank 16"));
    assert!(adapters[4]["error"].as_str().unwrap().contains("process-lora"), "{}", adapters[4]);
    assert!(!adapters[0]["error"].is_null());

    let output = ok(jetspool(&["list", "--config"]).arg(&config));
    let text = String::from_utf8(output.stdout).unwrap();
    let is_path = |line: &str| line.starts_with("  /") || line.starts_with("adapters in");
    assert!(text.lines().all(|line| is_path(line) || line.chars().count() <= 80), "{text}");
    for line in [
        "engine  qwen2   int8",
        "small   qwen2   int4",
        "  fits engine, small",
        "  not small: its rank is 16, the engine takes 8\n",
        "q k v o gate up down",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    // Without a daemon nothing is served.
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    assert_eq!(list(&["--config", &config])["engines"][0]["served"], false);
}

#[test]
fn what_is_named_is_listed_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    build_demo(&folder.path().join("engine"), "int8", &[]);
    // A directory of engines stands for those in it. There may be a configuration on this machine too.
    let listed = list(&["--engineDir", &path("")]);
    let found = listed["engines"].as_array().unwrap().iter();
    let found = found.filter(|engine| engine["path"].as_str().unwrap().starts_with(&path("")));
    let names: Vec<&Value> = found.map(|engine| &engine["name"]).collect();
    assert_eq!(names, ["engine"]);
    // What is there is shown, and what is wrong is said.
    let (engine, nowhere) = (path("engine"), path("nowhere"));
    let output = jetspool(&["list", "--engineDir", &engine, "--engine-dir", &nowhere]).output().unwrap();
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8(output.stdout).unwrap().contains("qwen2"));
    let output = jetspool(&["list", "--engineDir", &engine, "--loraDir", &nowhere]).output().unwrap();
    assert_eq!(output.status.code(), Some(66));
    let output = jetspool(&["list", "--config", &nowhere]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
}
