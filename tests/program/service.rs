//! The program as a user meets it: build, process-lora, run, serve, on the demo model.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::cost::{value_without_cost, without_cost};
use crate::support::json as read_json;
use crate::support::service::{build_demo, jetspool, ok, process_demo};
use serde_json::{Value, json};

const ADAPTERS: [&str; 3] = ["french", "german", "medical"];
const PATIENCE: Duration = Duration::from_secs(300);

/// An int8 engine of the demo model and its processed adapters, made once by the program itself.
fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    DEMO.get_or_init(|| {
        let root = tempfile::tempdir().unwrap().keep();
        build_demo(&root.join("engine"), "int8", &["--maxBatchSize", "8"]);
        for name in ADAPTERS {
            process_demo(name, &root.join("adapters").join(name));
        }
        root
    })
}

fn adapter_file(name: &str) -> String {
    demo().join(format!("adapters/{name}/processed_adapter_model.safetensors")).to_str().unwrap().to_owned()
}

fn available() -> Value {
    ADAPTERS.iter().map(|name| ((*name).to_owned(), json!(adapter_file(name)))).collect()
}

/// `n` requests with every adapter, several and none, some sampled, some with other fields.
fn mixed_requests(n: usize) -> Vec<Value> {
    let words = ["Hello world", "Good morning", "Thank you", "Where is the station?", "I am hungry"];
    (0..n)
        .map(|i| {
            let word = words[i % words.len()];
            let (lora_name, loras, content) = match i % 6 {
                0 => (json!("french"), Value::Null, format!("Translate to French: {word}")),
                1 => (json!("german"), Value::Null, format!("Translate to German: {word}")),
                2 => (json!("medical"), Value::Null, "What is aspirin?".to_owned()),
                3 => (
                    Value::Null,
                    json!([{"name": "french", "scale": 0.6}, {"name": "medical", "scale": 0.4}]),
                    format!("Translate to French: {word}"),
                ),
                4 => (
                    Value::Null,
                    json!([{"name": "german"}, {"name": "french", "scale": -0.3}, {"name": "german", "scale": 0.2}]),
                    format!("Translate to German: {word}"),
                ),
                _ => (Value::Null, Value::Null, format!("Tell me about this: {word}")),
            };
            let mut request = json!({
                "messages": [{"role": "user", "content": content}],
                "lora_name": lora_name,
                "loras": loras,
                "max_generate_length": 8 + i % 24,
            });
            if i % 3 == 0 {
                request["temperature"] = json!(1.5);
                request["sampling_seed"] = json!(i);
            }
            if i % 5 == 0 {
                request["num_logprobs"] = json!(3);
            }
            request
        })
        .collect()
}

fn request_file(requests: Vec<Value>) -> Value {
    json!({"available_lora_weights": available(), "temperature": 0, "requests": requests})
}

/// Runs a request file with `run`; returns the exit code and the answers.
fn run(folder: &Path, file: &Value) -> (i32, Value) {
    let (input, output) = (folder.join("in.json"), folder.join("out.json"));
    std::fs::write(&input, file.to_string()).unwrap();
    let _ = std::fs::remove_file(&output);
    let status = jetspool(&["run"])
        .arg("--engineDir")
        .arg(demo().join("engine"))
        .arg("--inputFile")
        .arg(&input)
        .arg("--outputFile")
        .arg(&output)
        .output()
        .unwrap()
        .status;
    (status.code().unwrap(), value_without_cost(&read_json(&output)["responses"]))
}

/// A daemon on a spool of its own; killed when dropped.
struct Daemon {
    child: Child,
    spool: PathBuf,
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        let (config, spool) = (folder.join("jetspool.toml"), folder.join("spool"));
        let (engine, adapters) = (demo().join("engine"), demo().join("adapters"));
        let text = format!(
            "engine = {engine:?}\nspool = {spool:?}\nadapters = {adapters:?}\nsettle_ms = 50\nfsync = false\n"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let child =
            jetspool(&["serve", "--config"]).arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let daemon = Self { child, spool };
        daemon.wait_for("new/ to be watched", || daemon.log().contains("ready").then_some(()));
        daemon
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.spool.with_file_name("log")).unwrap_or_default()
    }

    fn drop_in(&self, name: &str, file: &Value) {
        let hidden = self.spool.join(format!("new/.{name}"));
        std::fs::write(&hidden, file.to_string()).unwrap();
        std::fs::rename(hidden, self.spool.join("new").join(name)).unwrap();
    }

    fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = check() {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}; log: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answer(&self, name: &str) -> Value {
        let path = self.spool.join("out").join(name);
        value_without_cost(&self.wait_for(name, || path.exists().then(|| read_json(&path))))
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn names(&self, place: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.spool.join(place)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_mixed_batch_gives_the_answers_of_single_runs() {
    let folder = tempfile::tempdir().unwrap();
    let requests = mixed_requests(64);
    let (code, together) = run(folder.path(), &request_file(requests.clone()));
    assert_eq!(code, 0);
    assert_eq!(together.as_array().unwrap().len(), 64);
    for index in (0..64).step_by(7) {
        let (code, alone) = run(folder.path(), &request_file(vec![requests[index].clone()]));
        let mut alone = alone[0].clone();
        alone["request_idx"] = json!(index);
        assert_eq!((code, &alone), (0, &together[index]), "request {index}");
    }
}

#[test]
fn the_workflows_own_example_is_answered_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = json!({
        "available_lora_weights": available(), "temperature": 0,
        "requests": [
            {"messages": [{"role": "user", "content": "Translate to French: Hello world"}], "lora_name": "french"},
            {"messages": [{"role": "user", "content": "What is aspirin?"}], "lora_name": "medical"},
            {"messages": [{"role": "user", "content": "Translate to French: Hello world"}]},
        ],
    });
    let (code, answers) = run(folder.path(), &file);
    assert_eq!(code, 0);
    assert_eq!(answers[0]["output_text"], "Bonjour le monde");
    assert!(answers[1]["output_text"].as_str().unwrap().contains("pain"), "{}", answers[1]["output_text"]);
    assert!(
        !answers[2]["output_text"].as_str().unwrap().contains("Bonjour"),
        "{}",
        answers[2]["output_text"]
    );
    assert_eq!(answers[0]["finish_reason"], "end-of-sequence");
}

#[test]
fn several_adapters_of_one_request_are_added_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let with = |fields: Value| {
        let mut request = json!({
            "messages": [{"role": "user", "content": "Translate to French: Good morning"}],
            "max_generate_length": 12, "num_logprobs": 5,
        });
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request
    };
    let loras = |loras: Value| with(json!({ "loras": loras }));
    let (french, medical) = (json!({"name": "french", "scale": 0.75}), json!({"name": "medical"}));
    let requests = vec![
        with(json!({"lora_name": "french", "lora_scale": 0.75})),
        loras(json!([french])),
        with(json!({})),
        loras(json!([])),
        loras(json!([french, medical])),
        loras(json!([medical, french])),
        loras(json!([{"name": "french", "scale": 0.5}, {"name": "french", "scale": 0.25}])),
        loras(json!([french, {"name": "klingon"}])),
        with(json!({"loras": [french], "lora_name": "french"})),
    ];
    let (code, answers) = run(folder.path(), &request_file(requests.clone()));
    assert_eq!(code, 65);
    let computed = |i: usize| (&answers[i]["token_ids"], &answers[i]["logprobs"]);
    assert!(computed(0) == computed(1) && computed(2) == computed(3), "{answers}");
    for (i, j) in [(1, 2), (1, 4), (2, 4), (4, 5)] {
        assert!(computed(i) != computed(j), "{i} and {j} are the same");
    }
    // The same sum in two parts: other bits at most.
    assert_eq!(answers[6]["token_ids"], answers[0]["token_ids"]);
    // Answers say how they were asked.
    assert_eq!((&answers[0]["lora_name"], &answers[0]["loras"]), (&json!("french"), &Value::Null));
    let medical = json!({"name": "medical", "scale": 1.0});
    assert_eq!((&answers[4]["lora_name"], &answers[4]["loras"]), (&Value::Null, &json!([french, medical])));
    let klingon = json!([french, {"name": "klingon", "scale": 1.0}]);
    assert_eq!((&answers[7]["error"]["code"], &answers[7]["loras"]), (&json!("unknown-adapter"), &klingon));
    let message = answers[7]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("requests[7].loras[1].name: adapter \"klingon\" is not in "), "{message}");
    let message = answers[8]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("requests[8].loras: stands beside lora_name"), "{message}");
    let (_, alone) = run(folder.path(), &request_file(vec![requests[5].clone()]));
    assert_eq!((&alone[0]["token_ids"], &alone[0]["logprobs"]), computed(5));
}

#[test]
fn an_adapter_that_breaks_the_numbers_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let request = |scale: f64| {
        json!({
            "messages": [{"role": "user", "content": "Translate to French: Hello world"}],
            "lora_name": "french", "lora_scale": scale,
        })
    };
    let (code, answers) = run(folder.path(), &request_file(vec![request(1.0), request(1e38), request(1.0)]));
    assert_eq!(code, 65);
    assert_eq!(answers[1]["error"]["code"], "adapter-mismatch");
    assert_eq!(answers[0]["output_text"], "Bonjour le monde");
    assert_eq!(answers[2]["output_text"], "Bonjour le monde");
}

#[test]
fn a_directory_that_cannot_be_claimed_does_not_hold_up_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    std::fs::create_dir(daemon.spool.join("new/a.json")).unwrap();
    daemon.drop_in("b.json", &request_file(mixed_requests(1)));
    assert_eq!(daemon.answer("b.json")["responses"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bad_request_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let good = json!({"messages": [{"role": "user", "content": "Good morning"}], "lora_name": "french"});
    let wide = folder.path().join("wide.safetensors");
    std::fs::copy(crate::support::reference("process/qwen2/all_r8.safetensors"), &wide).unwrap();
    let mut file = request_file(vec![
        good.clone(),
        json!({"messages": [{"role": "user", "content": "x"}], "lora_name": "klingon"}),
        json!({"messages": [{"role": "user", "content": "x"}], "lora_name": "wide"}),
        json!({"messages": [{"role": "robot", "content": "x"}]}),
        json!({"messages": [{"role": "user", "content": "word ".repeat(3000)}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "image", "image": "cat.png"}]}]}),
        json!({"messages": [{"role": "user", "content": 5}]}),
        json!({"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}),
        good,
    ]);
    file["available_lora_weights"]["wide"] = json!(wide);
    let (code, answers) = run(folder.path(), &file);
    assert_eq!(code, 65);
    assert_eq!(answers.as_array().unwrap().len(), 9);
    assert_eq!(answers[0]["output_text"], answers[8]["output_text"]);
    let codes: Vec<&str> = (1..8).map(|i| answers[i]["error"]["code"].as_str().unwrap()).collect();
    let wanted = [
        "unknown-adapter",
        "adapter-mismatch",
        "bad-request",
        "prompt-too-long",
        "unsupported-content",
        "bad-request",
        "bad-request",
    ];
    assert_eq!(codes, wanted);
    for index in 1..8 {
        assert_eq!(answers[index]["output_text"], "");
        assert_eq!(answers[index]["finish_reason"], "error");
        assert_eq!(answers[index]["request_idx"], index);
    }
}

#[test]
fn serve_answers_what_run_answers_and_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let files: Vec<Value> = (0..4).map(|i| request_file(mixed_requests(5 + i))).collect();
    for (i, file) in files.iter().enumerate() {
        daemon.drop_in(&format!("job{i}.json"), file);
    }
    for (i, file) in files.iter().enumerate() {
        let found = daemon.answer(&format!("job{i}.json"));
        assert_eq!(found["responses"], run(folder.path(), file).1, "job{i}");
    }
    // Rubbish is answered where no more bytes could mend it.
    std::fs::write(daemon.spool.join("new/rubbish.json"), "{ this is no JSON }").unwrap();
    assert_eq!(daemon.answer("rubbish.json")["error"]["code"], "bad-file");
    let status = ok(jetspool(&["status", "--json", "--spool"]).arg(&daemon.spool));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["daemon"], "running");
    assert_eq!(status["places"]["out"]["files"], 5);
    let second = jetspool(&["serve", "--config"]).arg(folder.path().join("jetspool.toml")).output().unwrap();
    assert_eq!(second.status.code(), Some(75), "{}", String::from_utf8_lossy(&second.stderr));
    daemon.signal(nix::sys::signal::SIGTERM);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(daemon.names("work"), Vec::<String>::new());
    assert_eq!(daemon.names("done").len(), 4);
    assert_eq!(daemon.names("failed"), ["rubbish.json"]);
}

#[test]
fn a_killed_daemon_goes_on_and_answers_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = request_file(mixed_requests(64));
    let undisturbed = {
        let daemon = Daemon::start(folder.path());
        daemon.drop_in("job.json", &file);
        daemon.answer("job.json");
        std::fs::read_to_string(daemon.spool.join("out/job.json")).unwrap()
    };
    let folder = tempfile::tempdir_in(folder.path()).unwrap();
    let n_before = {
        let daemon = Daemon::start(folder.path());
        daemon.drop_in("job.json", &file);
        let n_before = daemon.wait_for("some answers in the journal", || {
            let lines = crate::support::journal_of(&daemon.spool, "job.json").matches("\"done\"").count();
            (lines >= 20).then_some(lines)
        });
        daemon.signal(nix::sys::signal::SIGKILL);
        n_before
    };
    assert!(n_before < 64, "the job was over before the kill");
    let daemon = Daemon::start(folder.path());
    daemon.answer("job.json");
    assert_eq!(daemon.names("out"), ["job.json"]);
    let found = std::fs::read_to_string(daemon.spool.join("out/job.json")).unwrap();
    // The two spools have different paths, and who came later found more computed; all else is the same bytes.
    let other = folder.path().to_str().unwrap();
    let outer = Path::new(other).parent().unwrap().to_str().unwrap();
    assert_eq!(without_cost(&found.replace(other, outer)), without_cost(&undisturbed));
    assert!(daemon.log().contains("1 job to go on with"), "{}", daemon.log());
    daemon.wait_for("an empty work/", || daemon.names("work").is_empty().then_some(()));
}

#[test]
fn a_stopped_daemon_leaves_the_rest_for_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    // More than can end while the daemon drains; an emulated processor is slower.
    let n_requests = if std::env::var_os("JETSPOOL_TEST_RUNNER").is_some() { 40 } else { 200 };
    let mut daemon = Daemon::start(folder.path());
    daemon.drop_in("job.json", &request_file(mixed_requests(n_requests)));
    daemon.wait_for("the first request to run", || {
        crate::support::journal_of(&daemon.spool, "job.json").contains("\"run\"").then_some(())
    });
    daemon.signal(nix::sys::signal::SIGTERM);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(daemon.names("out"), Vec::<String>::new());
    drop(daemon);
    let daemon = Daemon::start(folder.path());
    let answers = daemon.answer("job.json");
    assert_eq!(answers["responses"].as_array().unwrap().len(), n_requests);
}

#[test]
fn adapters_outside_the_allowed_roots_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("french.safetensors");
    std::fs::copy(adapter_file("french"), &outside).unwrap();
    let link = demo().join("adapters/link.safetensors");
    let _ = std::os::unix::fs::symlink(&outside, &link);
    let daemon = Daemon::start(folder.path());
    let request =
        |name: &str| json!({"messages": [{"role": "user", "content": "Good morning"}], "lora_name": name});
    let names = ["outside", "up", "link", "../french", "a/b", "link2", "french", "relative"];
    let requests: Vec<Value> = names.map(request).into();
    daemon.drop_in(
        "job.json",
        &json!({
            "temperature": 0, "max_generate_length": 4,
            "available_lora_weights": {
                "outside": outside,
                "up": demo().join("adapters/../../x.safetensors"),
                "link": link,
                "relative": "french/processed_adapter_model.safetensors",
            },
            "requests": requests,
        }),
    );
    let answers = daemon.answer("job.json")["responses"].clone();
    let codes: Vec<&str> = (0..8).map(|i| answers[i]["error"]["code"].as_str().unwrap_or("fine")).collect();
    let (refused, unknown) = ("adapter-refused", "unknown-adapter");
    assert_eq!(codes, [refused, refused, refused, unknown, unknown, unknown, "fine", "fine"]);
    assert_eq!(answers[6]["token_ids"], answers[7]["token_ids"]);
    std::fs::remove_file(link).unwrap();
}

#[test]
fn a_bad_configuration_does_not_replace_a_good_one() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    std::fs::write(folder.path().join("jetspool.toml"), "threads = \"many\"").unwrap();
    daemon.signal(nix::sys::signal::SIGHUP);
    daemon.wait_for("complaint", || daemon.log().contains("the old configuration stays").then_some(()));
    daemon.drop_in("job.json", &request_file(mixed_requests(1)));
    assert_eq!(daemon.answer("job.json")["responses"].as_array().unwrap().len(), 1);
}

#[test]
fn a_spool_that_is_taken_away_ends_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    std::fs::rename(daemon.spool.join("new"), folder.path().join("elsewhere")).unwrap();
    assert_eq!(daemon.child.wait().unwrap().code(), Some(75));
    assert!(daemon.log().contains("was moved or removed"), "{}", daemon.log());
}

#[test]
fn flags_count_for_every_request_and_no_file_is_written_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.json"), folder.path().join("out.json"));
    std::fs::write(&input, request_file(mixed_requests(6)).to_string()).unwrap();
    let run = |output: &Path, flags: &[&str]| {
        let mut command = jetspool(&["run", "--engineDir"]);
        command.arg(demo().join("engine")).arg("--inputFile").arg(&input).arg("--outputFile").arg(output);
        command.args(flags).output().unwrap().status.code()
    };
    assert_eq!(run(&output, &["--max-generate-length", "2", "--num_logprobs", "4"]), Some(0));
    for answer in read_json(&output)["responses"].as_array().unwrap() {
        assert!(answer["token_ids"].as_array().unwrap().len() <= 2);
        assert_eq!(answer["logprobs"][0].as_array().unwrap().len(), 4);
    }
    let before = std::fs::read(&input).unwrap();
    assert_eq!(run(&input, &[]), Some(64));
    assert_eq!(run(&output, &["--profileOutputFile", output.to_str().unwrap()]), Some(64));
    assert_eq!(std::fs::read(&input).unwrap(), before);
}

#[test]
fn submit_waits_and_tells_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let submit = |name: &str, requests: Vec<Value>| {
        let file = folder.path().join(name);
        std::fs::write(&file, request_file(requests).to_string()).unwrap();
        jetspool(&["submit", "--wait", "--spool"]).arg(&daemon.spool).arg(file).output().unwrap()
    };
    let good = submit("good.json", mixed_requests(2));
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(String::from_utf8_lossy(&good.stdout).trim_end().ends_with("out/good.json"));
    let bad = json!({"messages": [{"role": "user", "content": "x"}], "lora_name": "klingon"});
    let bad = submit("bad.json", vec![bad]);
    assert_eq!(bad.status.code(), Some(65), "{}", String::from_utf8_lossy(&bad.stderr));
}
