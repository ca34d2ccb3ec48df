//! What the daemon tells about itself: on the screen, as JSON, for Prometheus.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::service::{Service, build_demo, jetspool, long_request, process_demo};
use serde_json::{Value, json};

fn status(spool: &Path, words: &[&str]) -> String {
    let output = jetspool(&["status", "--spool"]).arg(spool).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn report(spool: &Path) -> Value {
    serde_json::from_str::<Value>(&status(spool, &["--json"])).unwrap()["report"].clone()
}

/// Reads the text exposition format by its own grammar: HELP, TYPE, then one sample of that name.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut lines = text.lines();
    let mut samples = BTreeMap::new();
    while let Some(help) = lines.next() {
        let name = help.strip_prefix("# HELP ").unwrap().split(' ').next().unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(matches!(kind, "counter" | "gauge"), "{kind}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        let legal = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.starts_with("jetspool_") && name.chars().all(legal), "{name}");
        let sample = lines.next().unwrap().strip_prefix(name).unwrap();
        let (labels, value) = sample.rsplit_once(' ').unwrap();
        assert!(labels.starts_with("{spool=\"") && labels.ends_with("\"}"), "{labels}");
        let before = samples.insert(name["jetspool_".len()..].to_owned(), value.parse().unwrap());
        assert!(before.is_none(), "{name} comes twice");
    }
    assert!(text.ends_with('\n'));
    samples
}

#[test]
fn the_daemon_tells_what_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine");
    build_demo(&engine, "int8", &["--maxBatchSize", "2"]);
    let adapters = folder.path().join("adapters");
    for name in ["french", "medical"] {
        process_demo(name, &adapters.join(name));
    }
    let metrics = folder.path().join("jetspool.prom");
    let mut service = Service::start(
        folder.path(),
        &engine,
        &format!("adapters = {adapters:?}\nmetrics_file = {metrics:?}"),
    );
    let spool = service.spool.clone();
    let idle = report(&spool);
    assert_eq!((&idle["state"], &idle["pid"]), (&"idle".into(), &service.child.id().into()));
    assert_eq!(
        (&idle["engine"]["precision"], &idle["engine"]["max_batch_size"]),
        (&"int8".into(), &2.into())
    );

    // Of two lengths, so that never both of the two that run have just begun.
    let request = |i: usize| {
        let mut request = long_request(&format!("Number {i}"), None, 50 + i % 2 * 20);
        request["loras"] = json!([{"name": "french"}, {"name": "medical", "scale": 0.1}, {"name": "french"}]);
        request
    };
    let requests: Vec<Value> = (0..30).map(request).collect();
    service.drop_in("long\u{1b}name.json", &requests);
    let busy = service.wait_for("a report of a busy daemon", |_| {
        let report = report(&spool);
        let is_busy = report["state"] == "running" && report["adapters"][0].is_object();
        (is_busy && report["totals"]["generated_tokens"].as_u64() > Some(60)).then_some(report)
    });
    assert_eq!(busy["queue"]["n_open"], 1);
    let job = &busy["queue"]["jobs"][0];
    assert_eq!((&job["n_requests"], &job["priority"]), (&30.into(), &0.into()));
    for (adapter_idx, name) in ["french", "medical"].into_iter().enumerate() {
        let adapter = &busy["adapters"][adapter_idx];
        assert_eq!(adapter["name"], name);
        assert!((1..=2).contains(&adapter["n_requests"].as_u64().unwrap()), "{busy}");
    }
    assert!(busy["speed"]["generated"].as_f64().unwrap() > 0.0, "{busy}");
    assert!(busy["memory"]["kv_in_use"].as_u64().unwrap() > 0, "{busy}");
    // The kernel's own figure, as far as pages come and go meanwhile.
    let told = busy["memory"]["anonymous"].as_u64().unwrap();
    let wanted = service.memory("Anonymous");
    assert!(told.abs_diff(wanted) < wanted / 2 + (8 << 20), "told {told}, the kernel says {wanted}");
    let screen = status(&spool, &[]);
    for words in ["running", "french", "long?name.json", "tokens/s", "of 30"] {
        assert!(screen.contains(words), "no {words:?} in\n{screen}");
    }
    assert!(!screen.contains('\u{1b}'), "colours belong on terminals");
    assert!(screen.lines().all(|line| line.chars().count() <= 120), "{screen}");
    let job = status(&spool, &["long\u{1b}name.json"]);
    assert!(job.contains("long?name.json") && job.contains("of 30 answered"), "{job}");

    service.answers("long\u{1b}name.json");
    service.ask("bad.json", &[long_request("x", Some("klingon"), 4)]);
    let answered = service.wait_for("the counts", |_| {
        let report = report(&spool);
        (report["totals"]["requests_failed"] == 1).then_some(report)
    });
    let totals = &answered["totals"];
    assert_eq!((&totals["files_answered"], &totals["requests_answered"]), (&2.into(), &30.into()));
    assert_eq!(totals["generated_tokens"], 30 * 60);
    let found = service.wait_for("idle metrics", |_| {
        let found = samples(&std::fs::read_to_string(&metrics).ok()?);
        (found["requests_failed_total"] == 1.0 && found["requests_running"] == 0.0).then_some(found)
    });
    assert_eq!((found["up"], found["generated_tokens_total"]), (1.0, 1800.0));

    // An error is kept and shown; the file goes with the daemon.
    std::fs::write(folder.path().join("jetspool.toml"), "threads = \"many\"").unwrap();
    service.signal(nix::sys::signal::SIGHUP);
    service.wait_for("the error", |_| {
        report(&spool)["errors"][1]["message"].as_str()?.contains("the old configuration stays").then_some(())
    });
    assert!(status(&spool, &[]).contains("last errors"));
    let errors = jetspool(&["errors", "--spool"]).arg(&spool).output().unwrap();
    let errors = String::from_utf8(errors.stdout).unwrap();
    assert!(errors.contains("bad.json, request 0: ") && errors.contains("klingon"), "{errors}");
    service.signal(nix::sys::signal::SIGTERM);
    service.child.wait().unwrap();
    assert!(report(&spool).is_null());
    let screen = status(&spool, &[]);
    assert!(screen.contains("stopped; start it"), "{screen}");
    assert_eq!(samples(&std::fs::read_to_string(&metrics).unwrap())["up"], 0.0);
}

#[test]
fn a_killed_daemon_is_not_taken_for_a_running_one() {
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine");
    build_demo(&engine, "int8", &[]);
    let mut service = Service::start(folder.path(), &engine, "");
    service.signal(nix::sys::signal::SIGKILL);
    service.child.wait().unwrap();
    assert!(report(&service.spool).is_null());
    assert!(status(&service.spool, &[]).contains("stopped"));
}
