//! Producers that mean harm, or are only clumsy: each costs himself, never a neighbour, an order or the daemon.

use std::fs::File;
use std::io::Write;
use std::process::Output;

use crate::support::serving::{Bench, Installed, NOBODY, Running, folder, is_emulated};
use serde_json::{Value, json};

/// Anonymous memory that no producer makes the daemon take.
const MAX_KIB: usize = 100 << 10;

/// A ready daemon. The log is kept short: what producers do may be much.
fn start(bench: &Bench) -> Running {
    let daemon = Running(bench.serve("log").env("JETSPOOL_LOG", "info").spawn().unwrap());
    bench.wait_for("a ready daemon", || bench.log("log").contains("ready: "));
    daemon
}

fn anonymous_kib(daemon: &Running) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", daemon.0.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn requests(contents: &[&str]) -> String {
    let requests: Vec<Value> =
        contents.iter().map(|text| json!({"messages": [{"role": "user", "content": text}]})).collect();
    json!({"temperature": 0, "max_generate_length": 2, "requests": requests}).to_string()
}

/// Drops a small file and waits for its answer; the daemon must stay small meanwhile.
fn small_is_answered(bench: &Bench, daemon: &Running, name: &str) {
    bench.drop_in(name, &requests(&["hello"]));
    bench.wait_for("a small file's answer", || {
        let found = anonymous_kib(daemon);
        assert!(is_emulated() || found < MAX_KIB, "{found} KiB");
        bench.has("out", name.as_bytes())
    });
}

fn error_codes(answer: &Value) -> Vec<String> {
    let responses = answer["responses"].as_array().unwrap();
    responses.iter().map(|response| response["error"]["code"].as_str().unwrap_or("none").to_owned()).collect()
}

#[test]
fn a_file_that_is_closed_again_and_again_holds_nobody_up() {
    let folder = folder();
    let bench = Bench::new(folder.path(), "settle_ms = 100\nmax_file_mib = 64\n");
    let n_bytes = if is_emulated() { 1 << 20 } else { 60 << 20 };
    let whole = requests(&vec!["x".repeat(100_000).as_str(); n_bytes / 100_000]);
    let partial = &whole[..whole.len() - 1];
    let daemon = start(&bench);
    for (name, n_closes) in [("a.json", 100), ("b.json", 100)] {
        let path = bench.place("new").join(name);
        std::fs::write(&path, partial).unwrap();
        for _ in 0..n_closes {
            drop(File::options().append(true).open(&path).unwrap());
        }
    }
    small_is_answered(&bench, &daemon, "small.json");
    // Not whole yet: nobody takes them, and they are still there to be completed.
    assert!(bench.has("new", b"a.json") && bench.has("new", b"b.json"));
    assert!(!bench.has("out", b"a.json"));
    File::options().append(true).open(bench.place("new").join("a.json")).unwrap().write_all(b"}").unwrap();
    bench.wait_for("the large file's answer", || bench.has("out", b"a.json"));
    let answer: Value =
        serde_json::from_slice(&std::fs::read(bench.place("out").join("a.json")).unwrap()).unwrap();
    assert!(error_codes(&answer).iter().all(|code| code == "prompt-too-long"));
    let found = anonymous_kib(&daemon);
    assert!(is_emulated() || found < MAX_KIB, "{found} KiB");
}

#[test]
fn overlong_prompts_are_refused_before_they_cost_anything() {
    let folder = folder();
    let bench = Bench::new(folder.path(), "");
    let daemon = start(&bench);
    let digits = "1234567890".repeat(13_000);
    let (n_files, n_requests) = if is_emulated() { (2, 2) } else { (40, 7) };
    for i in 0..n_files {
        bench.drop_in(&format!("long-{i}.json"), &requests(&vec![digits.as_str(); n_requests]));
    }
    small_is_answered(&bench, &daemon, "small.json");
    for i in 0..n_files {
        let name = format!("long-{i}.json");
        bench.wait_for(&name, || bench.has("out", name.as_bytes()));
        let text = std::fs::read(bench.place("out").join(&name)).unwrap();
        let codes = error_codes(&serde_json::from_slice(&text).unwrap());
        assert_eq!(codes, vec!["prompt-too-long"; n_requests]);
    }
    let log = bench.log("log");
    assert!(!log.contains("text process"), "a monster reached the tokenizer: {log}");
}

#[test]
fn a_flood_of_names_takes_little_memory() {
    let folder = folder();
    let bench = Bench::new(folder.path(), "settle_ms = 3600000\n");
    let n_names = if is_emulated() { 1_000 } else { 100_000 };
    let daemon = start(&bench);
    let before = anonymous_kib(&daemon);
    let new = bench.place("new");
    for i in 0..n_names {
        drop(File::create(new.join(format!("{i:06}{}.json", "n".repeat(190)))).unwrap());
    }
    small_is_answered(&bench, &daemon, "small.json");
    let grown = anonymous_kib(&daemon).saturating_sub(before);
    assert!(is_emulated() || grown < 16 << 10, "{grown} KiB more for {n_names} names");
}

#[test]
fn orders_are_for_root_the_service_and_the_owner_of_a_job() {
    if !nix::unistd::geteuid().is_root() || is_emulated() {
        eprintln!("SKIPPED: only root can be other users, and an emulator does not know their groups");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let installed = Installed::new(folder.path(), "");
    let _daemon = installed.start();
    let bench = &installed.bench;
    let order = |words: &[&str], user: u32, group: u32| {
        let spool = bench.place("");
        let words = [words, &["--spool", spool.to_str().unwrap()]].concat();
        installed.command(&words, user, group).output().unwrap()
    };
    let long = json!({"messages": [{"role": "user", "content": "x"}], "max_generate_length": 400,
        "logit_bias": {"4095": -100, "4093": -100}});
    let file = json!({"temperature": 0, "requests": vec![long; 200]}).to_string();
    // (1000, 1001) are members of the group; (1000, 3000) is not.
    for (name, user) in [("one.json", 1000), ("two.json", 1001)] {
        let path = bench.place("new").join(format!(".{name}"));
        std::fs::write(&path, &file).unwrap();
        std::os::unix::fs::chown(&path, Some(user), Some(NOBODY)).unwrap();
        std::fs::rename(path, bench.place("new").join(name)).unwrap();
    }
    let said = |output: &Output| {
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let check = |words: &[&str], user: u32, group: u32, code: i32, wanted: &str| {
        let (found, text) = said(&order(words, user, group));
        assert!(found == Some(code) && text.contains(wanted), "{words:?} by {user}: {found:?} {text:?}");
    };
    bench.wait_for("both jobs", || said(&order(&["status", "two.json"], 0, 0)).0 == Some(0));
    check(&["status"], 1000, 3000, 77, "");
    check(&["hold", "one.json"], 1000, 3000, 77, "");
    check(&["hold", "two.json"], 1000, NOBODY, 77, "two.json");
    check(&["delete", "two.json"], 1000, NOBODY, 77, "two.json");
    check(&["hold", "one.json"], 1000, NOBODY, 0, "one.json: held from work/");
    check(&["release", "one.json"], 1000, NOBODY, 0, "one.json: released");
    // All of his own, none of another's.
    check(&["hold", "--all"], 1000, NOBODY, 0, "one.json: held");
    assert!(bench.n_files("hold") == 1);
    check(&["hold", "two.json"], 0, 0, 0, "two.json: held from work/");
    check(&["delete", "two.json"], NOBODY, NOBODY, 0, "two.json: deleted");
    check(&["delete", "two.json"], 0, 0, 66, "two.json");
    check(&["delete", "one.json"], 0, 0, 0, "one.json: deleted");
    for place in ["new", "work", "hold", "out", "done", "failed"] {
        assert_eq!(bench.n_files(place), 0, "{place}");
    }
}
