//! Devices that share a queue on a real nats-server: one answer per job, whatever is said, cut or killed.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::fleet::{Client, Device, MODEL, Said, Server, key_of, neutral, wait_for};
use crate::support::service::{jetspool, long_request, ok};
use crate::support::serving::folder;
use crate::support::{data, json as read_json};

/// A request that is answered with few tokens.
fn request(content: &str, lora_name: Option<&str>) -> Value {
    json!({"messages": [{"role": "user", "content": content}], "lora_name": lora_name, "max_generate_length": 6})
}

fn file(requests: &[Value]) -> String {
    json!({"temperature": 0, "requests": requests}).to_string()
}

fn answer(said: &Said) -> Value {
    answer_of(&said.body)
}

fn answer_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// `submit --nats` and more words; what it printed.
fn submit(server: &Server, path: &std::path::Path, words: &[&str]) -> std::process::Output {
    let mut command = jetspool(&["submit", "--nats", &server.url()]);
    command.arg(path).args(words).output().unwrap()
}

#[test]
fn what_a_fleet_needs_is_made_once_and_differences_are_told() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let device = Device::new(folder.path(), "one", &server.url(), "");
    let first = String::from_utf8(device.init().stdout).unwrap();
    let second = String::from_utf8(device.init().stdout).unwrap();
    for name in ["stream JETSPOOL_JOBS", "stream JETSPOOL_ANSWERS", "consumer demo-high", "consumer demo-low"]
    {
        assert!(first.contains(&format!("{name}: made")), "{first}");
        assert!(second.contains(&format!("{name}: there already")), "{second}");
    }
    assert!(!second.contains(": made"), "{second}");

    let client = Client::new(&server.url());
    let mut config =
        client.wait(client.context.get_stream("JETSPOOL_ANSWERS")).unwrap().cached_info().config.clone();
    (config.max_age, config.duplicate_window) = (Duration::from_secs(60), Duration::from_secs(60));
    client.wait(client.context.update_stream(&config)).unwrap();
    let third = device.bridge_command(&["init"]).output().unwrap();
    let said = String::from_utf8(third.stdout).unwrap();
    assert_eq!(third.status.code(), Some(65), "{said}");
    assert!(said.contains("stream JETSPOOL_ANSWERS: differs: ") && said.contains("max_age"), "{said}");
}

#[test]
fn a_job_has_the_answer_that_the_device_gives_itself() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "");
    let client = Client::new(&server.url());
    let text =
        file(&[request("Translate to French: Hello world", Some("french")), request("x", Some("klingon"))]);
    device.bench.drop_in("own.json", &text);
    let path = folder.path().join("job.json");
    std::fs::write(&path, &text).unwrap();
    let output = submit(&server, &path, &["--wait", "--id", "first"]);
    // One of its requests fails.
    assert_eq!(
        output.status.code(),
        Some(65),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        device.logs()
    );
    let own = device.bench.place("out").join("own.json");
    wait_for("own answer", || own.exists().then_some(()));
    let own = std::fs::read_to_string(own).unwrap();
    let given = String::from_utf8(output.stdout).unwrap();
    assert_eq!(neutral(&given), neutral(&own));
    let said = client.wait_for_answer("first");
    assert_eq!(said.text(), given);
    assert_eq!((said.header("Jetspool-Job"), said.header("Jetspool-Device")), ("first", "one"));

    // A batch file, to the only model that there is.
    let lines = r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}}"#;
    let path = folder.path().join("batch.jsonl");
    std::fs::write(&path, lines).unwrap();
    let output = submit(&server, &path, &["--wait", "--priority", "high"]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["custom_id"], "a", "{line}");
    client.wait_for_no_jobs();
    wait_for("empty spool", || device.left_of_fleet().is_empty().then_some(()));

    // The same id again is the same job.
    let again = submit(&server, &folder.path().join("job.json"), &["--wait", "--id", "first"]);
    assert_eq!(again.stdout, given.as_bytes());
    assert_eq!(client.n_taken("JETSPOOL_ANSWERS"), Some(2));

    let fleet: Value = wait_for("heartbeat", || {
        let fleet = ok(&mut jetspool(&["fleet", "--json", "--nats", &server.url()]));
        let fleet: Value = serde_json::from_slice(&fleet.stdout).unwrap();
        (fleet["devices"][0]["device"] == "one").then_some(fleet)
    });
    assert_eq!(fleet["devices"][0]["model"], MODEL, "{fleet}");
    assert_eq!((&fleet["n_answers"], fleet["queues"].as_array().unwrap().len()), (&json!(2), 3), "{fleet}");
    let text = ok(&mut jetspool(&["fleet", "--nats", &server.url()])).stdout;
    assert!(String::from_utf8(text).unwrap().contains("demo high"));
    let status = ok(&mut device.bridge_command(&["status", "--json"]));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["device"], "one", "{status}");
}

#[test]
fn large_jobs_and_answers_travel_as_objects() {
    let folder = folder();
    // Bodies up to 32 KiB.
    let Some(server) = Server::start(folder.path(), "max_payload: 98304") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "");
    let client = Client::new(&server.url());
    let requests: Vec<Value> = (0..80)
        .map(|i| {
            let mut request = long_request(&format!("{i} {}", "padding ".repeat(50)), None, 4);
            request["num_logprobs"] = json!(20);
            request
        })
        .collect();
    let text = file(&requests);
    assert!(text.len() > 32 << 10, "{}", text.len());
    let path = folder.path().join("large.json");
    std::fs::write(&path, &text).unwrap();
    let output = submit(&server, &path, &["--wait", "--id", "large"]);
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), device.logs());
    assert!(output.stdout.len() > 32 << 10, "{}", output.stdout.len());
    device.bench.drop_in("own.json", &text);
    let own = device.bench.place("out").join("own.json");
    wait_for("own answer", || own.exists().then_some(()));
    let own = std::fs::read_to_string(own).unwrap();
    assert_eq!(neutral(&String::from_utf8(output.stdout).unwrap()), neutral(&own));
    let said = client.last("JETSPOOL_ANSWERS", "JETSPOOL.answers.demo.large").unwrap();
    assert!(said.body.is_empty() && !said.header("Jetspool-Object").is_empty(), "{:?}", said.headers);
    client.wait_for_no_jobs();
    wait_for("job's object to go", || client.objects("JETSPOOL_jobs").is_empty().then_some(()));
    assert_eq!(client.objects("JETSPOOL_answers").len(), 1);
}

#[test]
fn adapters_are_fetched_by_digest_and_checked() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "");
    let client = Client::new(&server.url());
    // The device's own directory has it under the name `french`; here it comes as PEFT saved it.
    let peft = data("demo/adapters/french");
    let asked = request("Translate to French: Hello world", Some("mine"));
    let text =
        json!({"temperature": 0, "available_lora_weights": {"mine": peft}, "requests": [asked]}).to_string();
    let path = folder.path().join("job.json");
    std::fs::write(&path, text).unwrap();
    let output = submit(&server, &path, &["--wait", "--id", "peft"]);
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), device.logs());
    let given: Value = serde_json::from_slice(&output.stdout).unwrap();
    device.bench.drop_in("own.json", &file(&[request("Translate to French: Hello world", Some("french"))]));
    let own = device.bench.place("out").join("own.json");
    wait_for("own answer", || own.exists().then_some(()));
    let own = read_json(&own);
    assert_eq!(given["responses"][0]["token_ids"], own["responses"][0]["token_ids"]);
    assert_ne!(given["responses"][0]["token_ids"], json!(null));

    // Sent once, whichever command sends it.
    let add = |directory: &std::path::Path| {
        let mut command = jetspool(&["fleet", "add-adapter", "--nats", &server.url()]);
        String::from_utf8(ok(command.arg(directory)).stdout).unwrap().trim().to_owned()
    };
    let name = add(&peft);
    assert_eq!(client.objects("JETSPOOL_adapters"), [name.replace(':', "-")]);
    // A processed one is taken as it is.
    let processed = add(&crate::support::serving::demo().join("adapters/german"));
    let asked = request("x", Some("a"));
    let job = |name: &str| {
        json!({"temperature": 0, "available_lora_weights": {"a": name}, "requests": [asked]}).to_string()
    };
    client.give("normal", "processed", &job(&processed));
    let said = client.wait_for_answer("processed");
    assert!(answer(&said)["responses"][0]["error"].is_null(), "{}", said.text());

    // Other bytes under a digest, a digest that nobody has, and one that is none.
    let liar = format!("sha256-{}", "0".repeat(64));
    client.put_object("JETSPOOL_adapters", &liar, b"something else");
    let absent = format!("sha256:{}", "1".repeat(64));
    for (id, name) in
        [("liar", liar.replace('-', ":")), ("absent", absent), ("none", "sha256:../../etc".into())]
    {
        client.give("normal", id, &job(&name));
        let said = client.wait_for_answer(id);
        assert_ne!(said.header("Jetspool-Status"), "answered", "{id}: {}", said.text());
        assert!(said.text().contains("error"), "{id}: {}", said.text());
    }
    client.wait_for_no_jobs();
    let fetched: Vec<_> = std::fs::read_dir(device.bench.root.join("fetched")).unwrap().flatten().collect();
    assert_eq!(fetched.len(), 2, "{fetched:?}");
}

#[test]
fn archives_that_mean_harm_write_nothing_anywhere() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "adapters_mib = 1");
    let client = Client::new(&server.url());
    let make = |script: &str| {
        let place = tempfile::tempdir().unwrap();
        let archive = place.path().join("x.tar");
        let script = format!("set -e; cd {}; mkdir a; cd a; {script}", place.path().display());
        ok(Command::new("sh").args(["-c", &script]));
        std::fs::read(archive).unwrap()
    };
    let names = "adapter_config.json adapter_model.safetensors";
    let cases = [
        ("up", make("touch ../victim; tar -P -cf ../x.tar ../victim")),
        ("root", make("touch /tmp/jetspool-victim; tar -P -cf ../x.tar /tmp/jetspool-victim")),
        (
            "link",
            make(&format!(
                "ln -s /etc/passwd adapter_config.json; touch adapter_model.safetensors; tar -cf ../x.tar {names}"
            )),
        ),
        (
            "fifo",
            make(&format!(
                "mkfifo adapter_config.json; touch adapter_model.safetensors; tar -cf ../x.tar {names}"
            )),
        ),
        ("other", make("touch evil.so; tar -cf ../x.tar evil.so")),
        (
            "large",
            make(&format!(
                "echo '{{}}' > adapter_config.json; head -c 3000000 /dev/zero > adapter_model.safetensors; tar -cf ../x.tar {names}"
            )),
        ),
        ("no-tar", b"no tar".to_vec()),
        (
            "cut",
            make(&format!(
                "echo '{{}}' > adapter_config.json; head -c 3000 /dev/zero > adapter_model.safetensors; tar -cf - {names} | head -c 2000 > ../x.tar"
            )),
        ),
        (
            "no-adapter",
            make(&format!(
                "echo '{{}}' > adapter_config.json; head -c 3000 /dev/zero > adapter_model.safetensors; tar -cf ../x.tar {names}"
            )),
        ),
    ];
    for (id, bytes) in &cases {
        use sha2::Digest;
        let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        client.put_object("JETSPOOL_adapters", &format!("sha256-{hex}"), bytes);
        let asked = request("x", Some("a"));
        let name = format!("sha256:{hex}");
        client.give(
            "high",
            id,
            &json!({"available_lora_weights": {"a": name}, "requests": [asked]}).to_string(),
        );
    }
    for (id, _) in &cases {
        let said = client.wait_for_answer(id);
        assert_ne!(said.header("Jetspool-Status"), "answered", "{id}: {}", said.text());
    }
    client.wait_for_no_jobs();
    let _ = std::fs::remove_file("/tmp/jetspool-victim");
    let fetched = std::fs::read_dir(device.bench.root.join("fetched")).map_or(0, Iterator::count);
    assert_eq!(fetched, 0);
}

#[test]
fn hostile_messages_are_answered_with_an_error_and_never_come_again() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "max_payload: 4194304") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "max_job_mib = 1");
    let client = Client::new(&server.url());
    let good = file(&[request("hi", None)]);
    let large = format!("{good}{}", " ".repeat(2 << 20));
    client.put_object("JETSPOOL_jobs", "large", large.as_bytes());
    let subject = "JETSPOOL.jobs.demo.normal";
    let long_id = "n".repeat(1000);
    struct Case<'a> {
        id: &'a str,
        headers: Vec<(&'a str, &'a str)>,
        body: &'a str,
        is_answered: bool,
    }
    let cases = [
        Case { id: "no-json", headers: vec![], body: "\0\u{1}{", is_answered: false },
        Case { id: "empty", headers: vec![], body: "", is_answered: false },
        Case { id: "list", headers: vec![], body: "[[[[", is_answered: false },
        Case { id: "format", headers: vec![("Jetspool-Format", "../sh")], body: &good, is_answered: false },
        Case { id: "no-object", headers: vec![("Jetspool-Object", "nothing")], body: "", is_answered: false },
        Case {
            id: "path",
            headers: vec![("Jetspool-Object", "../../etc/passwd")],
            body: "",
            is_answered: false,
        },
        Case {
            id: "large-object",
            headers: vec![("Jetspool-Object", "large")],
            body: "",
            is_answered: false,
        },
        Case { id: "large-body", headers: vec![], body: &large, is_answered: false },
        // Strange names are names.
        Case { id: "../../../tmp/x", headers: vec![], body: &good, is_answered: true },
        Case { id: "a b;$(reboot)", headers: vec![], body: &good, is_answered: true },
        Case { id: &long_id, headers: vec![], body: &good, is_answered: true },
    ];
    for Case { id, headers, body, .. } in &cases {
        let headers = [&[("Nats-Msg-Id", *id)][..], headers.as_slice()].concat();
        client.publish(subject, &headers, body.as_bytes());
    }
    // Who has no id at all has one too.
    client.publish(subject, &[], good.as_bytes());
    wait_for("all answers", || {
        (client.n_messages("JETSPOOL_ANSWERS")? == cases.len() as u64 + 1).then_some(())
    });
    client.wait_for_no_jobs();
    for Case { id, is_answered, .. } in &cases {
        let key = key_of(id);
        let said = client.answer(&key).unwrap_or_else(|| panic!("no answer to {id}"));
        assert_eq!(said.header("Jetspool-Status") == "answered", *is_answered, "{id}: {}", said.text());
        if !is_answered {
            let value = answer(&said);
            assert!(value["error"]["message"].is_string(), "{id}: {value}");
        }
    }
    let n_cases = u64::try_from(cases.len()).unwrap();
    assert!(client.answer(&format!("s{}", n_cases + 1)).is_some());
    wait_for("empty spool", || device.left_of_fleet().is_empty().then_some(()));
    let paths =
        json!({"available_lora_weights": {"a": "/etc/passwd"}, "requests": [request("x", Some("a"))]});
    client.give("high", "a-path", &paths.to_string());
    let said = client.wait_for_answer("a-path");
    assert!(!answer(&said)["responses"][0]["error"].is_null(), "{}", said.text());
}

#[test]
fn a_job_that_comes_again_is_acknowledged_without_work() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let device = Device::started_and_made(folder.path(), "one", &server.url(), "");
    let client = Client::new(&server.url());
    let mut jobs =
        client.wait(client.context.get_stream("JETSPOOL_JOBS")).unwrap().cached_info().config.clone();
    // As if the producer repeated it after the server's window.
    jobs.duplicate_window = Duration::from_millis(100);
    client.wait(client.context.update_stream(&jobs)).unwrap();
    let text = file(&[request("hi", None)]);
    client.give("normal", "again", &text);
    let first = client.wait_for_answer("again");
    client.wait_for_no_jobs();
    for priority in ["normal", "high", "low"] {
        std::thread::sleep(Duration::from_millis(200));
        client.give(priority, "again", &text);
        client.wait_for_no_jobs();
    }
    assert_eq!(client.n_taken("JETSPOOL_JOBS"), Some(4));
    assert_eq!((client.n_taken("JETSPOOL_ANSWERS"), client.answer("again")), (Some(1), Some(first)));
    assert_eq!(device.bench.n_files("done"), 1);
}

#[test]
fn a_job_that_nobody_survives_is_given_up() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let mut device = Device::new(folder.path(), "one", &server.url(), "max_deliveries = 2");
    device.init();
    let client = Client::new(&server.url());
    let text = file(&[request("hi", None)]);
    client.give("normal", "bad", &text);
    // Two others had it and are gone.
    for _ in 0..2 {
        client.take_and_give_back("demo-normal");
    }
    device.start_daemon();
    device.start_bridge();
    let said = client.wait_for_answer("bad");
    assert_ne!(said.header("Jetspool-Status"), "answered", "{}", said.text());
    client.wait_for_no_jobs();
    let dead = wait_for("dead letter", || client.last("JETSPOOL_DEAD", "JETSPOOL.dead.demo"));
    assert_eq!(dead.text(), text);
    assert_eq!(device.bench.n_files("done"), 0);
}

#[test]
fn high_priorities_come_first_and_only_a_few_jobs_are_taken_ahead() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let mut device = Device::new(folder.path(), "one", &server.url(), "ahead = 1");
    device.init();
    let client = Client::new(&server.url());
    for (priority, letter) in [("low", 'l'), ("normal", 'n'), ("high", 'h')] {
        for i in 0..3 {
            client.give(priority, &format!("{letter}{i}"), &file(&[request("hi", None)]));
        }
    }
    // Nobody computes: nothing is taken.
    device.start_bridge();
    std::thread::sleep(Duration::from_secs(1));
    assert!(device.left_of_fleet().is_empty(), "{:?}", device.left_of_fleet());
    device.start_daemon();
    wait_for("all answers", || (client.n_messages("JETSPOOL_ANSWERS")? == 9).then_some(()));
    let order: String = client.answered_in_order().iter().map(|id| id.chars().next().unwrap()).collect();
    assert_eq!(order, "hhhnnnlll");
}

#[test]
fn a_bridge_that_is_told_to_end_gives_back_what_was_not_begun() {
    let folder = folder();
    let Some(server) = Server::start(folder.path(), "") else { return };
    let mut device = Device::started_and_made(folder.path(), "one", &server.url(), "");
    let client = Client::new(&server.url());
    client.give("normal", "long", &file(&vec![long_request("hi", None, 400); 8]));
    wait_for("job in the spool", || (!device.left_of_fleet().is_empty()).then_some(()));
    let bridge = device.bridge.as_mut().unwrap();
    bridge.signal(Signal::SIGTERM);
    let code = wait_for("end of the bridge", || bridge.0.try_wait().unwrap()).code();
    assert_eq!(code, Some(0), "{}", device.logs());
    // What was begun goes on, and is published by whoever comes next.
    device.start_bridge();
    let said = client.wait_for_answer("long");
    assert_eq!(said.header("Jetspool-Status"), "answered", "{}", said.text());
    client.wait_for_no_jobs();
    assert_eq!(client.n_taken("JETSPOOL_ANSWERS"), Some(1));
}

#[test]
fn the_rights_that_the_document_names_are_enough_and_open_secrets_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let place = folder.path();
    // As `scripts/make_fleet_fixtures.py` made them; a checkout gives them to everybody.
    for entry in std::fs::read_dir(data("fleet")).unwrap() {
        let path = entry.unwrap().path();
        let copy = place.join(path.file_name().unwrap());
        std::fs::copy(&path, &copy).unwrap();
        std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let file_of = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(file_of);
    let accounts = std::fs::read_to_string(place.join("accounts.conf")).unwrap();
    let lines = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {ca:?}, verify: true }}\n{accounts}",
        file_of("server.pem"),
        file_of("server.key")
    );
    let Some(server) = Server::start(place, &lines) else { return };
    let url = server.url().replace("nats://", "tls://");
    let secrets = format!(
        "credentials = {:?}\ntls_ca = {ca:?}\ntls_cert = {cert:?}\ntls_key = {key:?}",
        file_of("device.creds")
    );
    let device = Device::started_and_made(place, "one", &url, &secrets);
    let path = place.join("job.json");
    let peft = data("demo/adapters/french");
    let asked = request("Translate to French: Hello world", Some("mine"));
    let text =
        json!({"temperature": 0, "available_lora_weights": {"mine": peft}, "requests": [asked]}).to_string();
    std::fs::write(&path, text).unwrap();
    let producer = file_of("producer.creds");
    let submit = || {
        let mut command = jetspool(&["submit", "--wait", "--timeout", "30", "--nats", &url, "--tlsCa", &ca]);
        command.args(["--tlsCert", &cert, "--tlsKey", &key, "--credentials", &producer]);
        command.arg(&path).output().unwrap()
    };
    let output = submit();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", device.logs());
    assert!(answer_of(&output.stdout)["responses"][0]["token_ids"].is_array());
    std::fs::set_permissions(&producer, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = submit();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && said.contains("chmod o= "), "{said}");
    // Who has nothing is refused by the server.
    let output = jetspool(&["fleet", "--nats", &server.url()]).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}
