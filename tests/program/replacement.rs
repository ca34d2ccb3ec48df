//! Engines and adapters that come, change and go while the daemon runs. What it answers is held against `run`
//! on the same files.

use std::path::{Path, PathBuf};

use crate::support::json as read_json;
use crate::support::service::{
    Service, build_demo, configure, jetspool, long_request, ok, process_demo, runner,
};
use nix::sys::signal::Signal::SIGHUP;
use serde_json::{Value, json};

/// Tokens of a request that is still under way when its engine or adapter is replaced.
fn long() -> usize {
    if runner().is_some() { 200 } else { 1500 }
}

/// What `run` answers to these requests.
fn run(folder: &Path, engine: &Path, adapter: Option<&Path>, requests: &[Value]) -> Value {
    let (input, output) = (folder.join("in.json"), folder.join("out.json"));
    let mut file = json!({"temperature": 0, "requests": requests});
    if let Some(adapter) = adapter {
        file["available_lora_weights"] = json!({"mine": adapter});
    }
    std::fs::write(&input, file.to_string()).unwrap();
    let mut command = jetspool(&["run", "--engineDir"]);
    ok(command.arg(engine).arg("--inputFile").arg(input).arg("--outputFile").arg(&output));
    crate::support::cost::value_without_cost(&read_json(&output)["responses"])
}

fn request(lora_name: Option<&str>, length: usize) -> Vec<Value> {
    vec![long_request("Translate to French: Hello world", lora_name, length)]
}

/// The file is replaced as the tools do it: another one takes its name.
fn put(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let hidden = to.with_extension("tmp");
    std::fs::copy(from, &hidden).unwrap();
    std::fs::rename(hidden, to).unwrap();
}

fn has_answered(service: &Service, name: &str) -> bool {
    service.spool.join("out").join(name).exists()
}

#[test]
fn a_new_engine_takes_new_requests_and_the_old_one_ends_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    build_demo(&path("int8"), "int8", &[]);
    build_demo(&path("f16"), "f16", &[]);
    build_demo(&path("engine"), "int8", &[]);
    let (old, new) = (request(None, long()), request(None, 16));
    let wanted_old = run(folder.path(), &path("int8"), None, &old);
    let wanted_new = run(folder.path(), &path("f16"), None, &new);
    let of_int8 = run(folder.path(), &path("int8"), None, &new);
    assert_ne!(wanted_new, of_int8, "the two engines cannot be told apart");

    let mut service = Service::start(folder.path(), &path("engine"), "");
    service.drop_in("old.json", &old);
    service.wait_for("start of the job", |service| {
        crate::support::journal_of(&service.spool, "old.json").contains("\"run\"").then_some(())
    });
    build_demo(&path("engine"), "f16", &[]);
    service.signal(SIGHUP);
    service.wait_for_log("1 request left for the old one");
    assert_eq!(service.ask("new.json", &new), wanted_new);
    assert!(runner().is_some() || !has_answered(&service, "old.json"), "it was over too soon");
    assert_eq!(service.answers("old.json"), wanted_old);
    service.wait_for_log("the replaced engine has answered its last request");
    assert!(!service.proc("maps").contains("llm.engine (deleted)"), "the old engine is still mapped");

    // The same files again are no new engine.
    service.signal(SIGHUP);
    service.wait_for_log("configuration reloaded\n");
    service.wait_for("second reload", |service| {
        (service.log().matches("configuration reloaded").count() == 2).then_some(())
    });
    assert_eq!(service.log().matches("new engine").count(), 1, "{}", service.log());

    // A broken one changes nothing.
    put(&path("int8/config.json"), &path("engine/config.json"));
    service.signal(SIGHUP);
    service.wait_for_log("come from different builds");
    service.wait_for_log("the old one stays");
    assert_eq!(service.ask("after.json", &new), wanted_new);

    // One that does not fit neither.
    configure(folder.path(), &path("int8"), "memory_mib = 1");
    service.signal(SIGHUP);
    service.wait_for_log("memory_mib of the configuration leaves ");
    assert_eq!(service.log().matches("the old one stays").count(), 2, "{}", service.log());
    assert_eq!(service.ask("small.json", &new), wanted_new);

    // Another directory, by the configuration.
    configure(folder.path(), &path("int8"), "");
    service.signal(SIGHUP);
    service.wait_for_log("0 requests left for the old one");
    assert_eq!(service.ask("other.json", &new), of_int8);
}

#[test]
fn a_request_keeps_the_adapter_that_it_started_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    build_demo(&path("engine"), "int8", &[]);
    let files: Vec<PathBuf> =
        ["french", "german", "medical"].iter().map(|name| process_demo(name, &path(name))).collect();
    let wanted = |file: &Path, length: usize| {
        run(folder.path(), &path("engine"), Some(file), &request(Some("mine"), length))
    };
    let (french_long, german_long) = (wanted(&files[0], long()), wanted(&files[1], long()));
    let (german, medical) = (wanted(&files[1], 16), wanted(&files[2], 16));
    assert_ne!(german, medical);

    let adapters = path("adapters");
    std::fs::create_dir(&adapters).unwrap();
    let place = adapters.join("mine.safetensors");
    let lines = format!("adapters = {adapters:?}");
    let mut service = Service::start(folder.path(), &path("engine"), &lines);
    let code = |answers: &Value| answers[0]["error"]["code"].clone();
    assert_eq!(code(&service.ask("none.json", &request(Some("mine"), 4))), "unknown-adapter");

    put(&files[0], &place);
    let is_in_use = |service: &Service| service.proc("maps").contains("mine.safetensors").then_some(());
    service.drop_in("first.json", &request(Some("mine"), long()));
    service.wait_for("the adapter in use", is_in_use);
    put(&files[1], &place);
    assert_eq!(service.ask("second.json", &request(Some("mine"), 16)), german);
    assert!(runner().is_some() || !has_answered(&service, "first.json"), "it was over too soon");
    assert_eq!(service.answers("first.json"), french_long);

    service.drop_in("third.json", &request(Some("mine"), long()));
    service.wait_for("start of the job", |service| {
        crate::support::journal_of(&service.spool, "third.json").contains("\"run\"").then_some(())
    });
    // An answer that comes later says that the one before it has started.
    assert_eq!(service.ask("fourth.json", &request(Some("mine"), 16)), german);
    std::fs::remove_file(&place).unwrap();
    assert_eq!(code(&service.ask("gone.json", &request(Some("mine"), 4))), "unknown-adapter");
    assert!(runner().is_some() || !has_answered(&service, "third.json"), "it was over too soon");
    assert_eq!(service.answers("third.json"), german_long);

    put(&files[2], &place);
    assert_eq!(service.ask("again.json", &request(Some("mine"), 16)), medical);
}

#[test]
fn a_broken_engine_is_waited_for_and_nobody_is_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    build_demo(&path("good"), "int8", &[]);
    build_demo(&path("engine"), "int8", &[]);
    let (old, new) = (request(None, long()), request(None, 16));
    let wanted_old = run(folder.path(), &path("good"), None, &old);
    let wanted_new = run(folder.path(), &path("good"), None, &new);

    let mut service = Service::start(folder.path(), &path("engine"), "");
    service.drop_in("old.json", &old);
    service.wait_for("start of the job", |service| {
        crate::support::journal_of(&service.spool, "old.json").contains("\"run\"").then_some(())
    });
    // As `cp` over it begins: the file is cut, in place.
    let weights = path("engine/llm.engine");
    std::fs::File::options().write(true).truncate(true).open(&weights).unwrap();
    service.wait_for_log("what was computed with it is thrown away");
    let spool = service.spool.clone();
    let status = |words: &[&str]| {
        let output = ok(&mut jetspool(&[&["status", "--spool", spool.to_str().unwrap()], words].concat()));
        String::from_utf8(output.stdout).unwrap()
    };
    service.wait_for("a reason", |_| status(&[]).contains("requests wait").then_some(()));
    service.drop_in("new.json", &new);
    service.wait_for("the second job", |_| status(&[]).contains("new.json").then_some(()));
    assert!(!has_answered(&service, "old.json") && !has_answered(&service, "new.json"));
    // And as it ends.
    std::fs::write(&weights, std::fs::read(path("good/llm.engine")).unwrap()).unwrap();
    assert_eq!(service.answers("new.json"), wanted_new);
    assert_eq!(service.answers("old.json"), wanted_old);
    let report: Value = serde_json::from_str(&status(&["--json"])).unwrap();
    assert_eq!(report["report"].get("trouble"), Some(&Value::Null), "{report}");
    let log = service.log();
    assert!(log.matches("thrown away").count() == 1 && !log.contains("configuration reloaded"), "{log}");
}
