//! The daemon's memory: given back when idle and under pressure, never more than it was given. The figures are
//! the kernel's (smaps, control groups).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::service::{Service, build_demo, jetspool, long_request, ok, process_demo, runner, under};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const WEIGHTS: &str = "llm.engine";
const ADAPTER: &str = "processed_adapter_model.safetensors";

/// An int8 engine of the demo model for 8 sequences of 2048 tokens, 4 MiB each, and the adapters.
fn demo() -> &'static Path {
    static DEMO: OnceLock<PathBuf> = OnceLock::new();
    DEMO.get_or_init(|| {
        let root = tempfile::tempdir().unwrap().keep();
        let sizes = ["--maxBatchSize", "8", "--maxInputLen", "2000", "--maxKVCacheCapacity", "2048"];
        build_demo(&root.join("engine"), "int8", &sizes);
        for name in ["french", "german", "medical"] {
            process_demo(name, &root.join("adapters").join(name));
        }
        root
    })
}

/// Memory is counted by pages of the program, not of an emulator around it.
fn is_emulated() -> bool {
    if runner().is_some() {
        println!("SKIPPED: an emulator has memory of its own");
    }
    runner().is_some()
}

/// Eight requests that each fill about half of their sequence.
fn long_requests() -> Vec<Value> {
    (0..8).map(|i| long_request(&format!("{i} {}", "many words ".repeat(300)), None, 100)).collect()
}

fn adapter_requests() -> Vec<Value> {
    ["french", "german", "medical"].map(|name| long_request("Hello world", Some(name), 8)).into()
}

fn adapters_line() -> String {
    format!("adapters = {:?}\n", demo().join("adapters"))
}

#[test]
fn idle_gives_the_memory_back_and_the_next_answer_is_equal() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lines = adapters_line() + "idle_unload_seconds = 6";
    let mut service = Service::start(folder.path(), &demo().join("engine"), &lines);
    let mut requests = long_requests();
    requests.extend(adapter_requests());
    let first = service.ask("first.json", &requests);
    let busy = (service.resident(WEIGHTS), service.memory("Anonymous"), service.memory("Rss"));
    assert!(busy.0 > 3 * MIB, "{busy:?}");
    service.wait_for_log("the engine's memory is given back");
    let idle = (service.resident(WEIGHTS), service.memory("Anonymous"), service.memory("Rss"));
    assert_eq!(idle.0, 0, "pages of the weights are still mapped in");
    assert_eq!(service.resident(ADAPTER), 0);
    // 8 sequences of about 1000 tokens, 2 KiB each.
    assert!(idle.1 + 12 * MIB < busy.1, "private: {} busy, {} idle", busy.1, idle.1);
    assert!(idle.2 + 15 * MIB < busy.2, "resident: {} busy, {} idle", busy.2, idle.2);
    assert_eq!(service.ask("second.json", &requests), first);
}

#[test]
fn zero_keeps_the_weights() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // What is kept for requests to come stays with the weights: here at most 2 MiB.
    let lines = "idle_unload_seconds = 0\nscan_seconds = 1\nprefix_cache_mib = 2";
    let mut service = Service::start(folder.path(), &demo().join("engine"), lines);
    service.ask("job.json", &long_requests());
    let busy = service.memory("Anonymous");
    // Private memory is given back after a short rest even so, which tells that the time has passed.
    service.wait_for("rest", |service| (service.memory("Anonymous") + 12 * MIB < busy).then_some(()));
    assert!(service.resident(WEIGHTS) > 3 * MIB);
}

#[test]
fn each_event_of_pressure_takes_the_next_level() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pressure");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = jetspool(&["serve"]);
    command.env("MEMORY_PRESSURE_WATCH", &path);
    let mut service =
        Service::start_by(&mut command, folder.path(), &demo().join("engine"), &adapters_line());
    let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut press = || writer.write_all(b"x").unwrap();
    let mut requests = adapter_requests();
    requests.push(long_request(&"many words ".repeat(100), None, 8));
    let first = service.ask("first.json", &requests);
    assert!(service.resident(ADAPTER) > 0 && service.resident(WEIGHTS) > 3 * MIB);
    press();
    service.wait_for_log("of cached keys and values are given back");
    assert!(service.resident(ADAPTER) > 0);
    press();
    service.wait_for_log("memory pressure: unmaps 3 idle adapters");
    assert_eq!(service.resident(ADAPTER), 0);
    assert!(service.resident(WEIGHTS) > 3 * MIB);
    press();
    service.wait_for_log("memory pressure: the idle engine's memory is given back");
    assert_eq!(service.resident(WEIGHTS), 0);
    for n_requests in [4, 2, 1] {
        press();
        service.wait_for_log(&format!("memory pressure: {n_requests} requests at once, 8 without it"));
    }
    press();
    service.wait_for_log("memory pressure: nothing is left to give back");
    assert_eq!(service.ask("second.json", &requests), first);
}

#[test]
fn what_requests_have_in_common_is_read_once_and_told() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path(), &demo().join("engine"), &adapters_line());
    let asked = |adapter: Option<&str>| vec![long_request(&"many words ".repeat(100), adapter, 8)];
    let usage = |service: &Service, name: &str| {
        let answer = crate::support::json(&service.spool.join("out").join(name));
        let usage = &answer["responses"][0]["usage"];
        ["cached_tokens", "prompt_tokens"].map(|key| usage[key].as_u64().unwrap())
    };
    let first = service.ask("first.json", &asked(None));
    let [cached, n_tokens] = usage(&service, "first.json");
    assert_eq!(cached, 0);
    assert_eq!(service.ask("second.json", &asked(None)), first);
    // All but the token whose logits are wanted.
    let shared = n_tokens - 1;
    assert_eq!(usage(&service, "second.json"), [shared, n_tokens]);
    service.ask("adapter.json", &asked(Some("french")));
    assert_eq!(usage(&service, "adapter.json"), [0, n_tokens], "an adapter has keys and values of its own");
    let report = service.wait_for("the counts", |service| {
        let mut status = jetspool(&["status", "--json", "--spool"]);
        let status: Value = serde_json::from_slice(&ok(status.arg(&service.spool)).stdout).unwrap();
        let report = status["report"].clone();
        (report["totals"]["requests_answered"] == 3).then_some(report)
    });
    assert_eq!(
        (&report["totals"]["cached_tokens"], &report["totals"]["prompt_tokens"]),
        (&json!(shared), &json!(3 * n_tokens - shared))
    );
    assert!(report["memory"]["kv_cached"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn requests_wait_for_their_share_of_the_budget() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (few, all) = (folder.path().join("few"), folder.path().join("all"));
    std::fs::create_dir(&few).unwrap();
    std::fs::create_dir(&all).unwrap();
    let mut all = Service::start(&all, &demo().join("engine"), "");
    assert!(all.log().contains("may take 32.0 MiB"), "{}", all.log());
    let wanted = all.ask("job.json", &long_requests());
    let private_of_all = all.memory("Anonymous");
    // Weights of 4 MiB, activations of 3 MiB and answers of 6 MiB beside the fixed 24: some are left for sequences.
    let mut few = Service::start(&few, &demo().join("engine"), "memory_mib = 44");
    let log = few.log();
    let may = log.split("may take ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let may: f64 = may.parse().unwrap();
    assert!((4.0..16.0).contains(&may), "{log}");
    assert_eq!(few.ask("job.json", &long_requests()), wanted);
    // Eight sequences of about 1000 tokens are 16 MiB, of which `may` were to be had.
    let saved = private_of_all as f64 - few.memory("Anonymous") as f64;
    assert!(saved > (15.0 - may) * 0.5 * MIB as f64, "{saved} bytes were saved of {private_of_all}");
}

#[test]
fn an_engine_that_cannot_fit_is_refused_with_the_numbers() {
    if is_emulated() {
        return;
    }
    struct Case<'a> {
        prefix: &'a [&'a str],
        lines: &'a str,
        parts: &'a [&'a str],
    }
    let cases = [
        Case {
            prefix: &[],
            lines: "memory_mib = 20",
            parts: &[
                "it needs ",
                "one sequence of full length 4.0 MiB",
                "memory_mib of the configuration leaves 1",
            ],
        },
        Case {
            prefix: &["sh", "-c", "ulimit -d 30000; exec \"$@\"", "sh"],
            lines: "threads = 1",
            parts: &["it needs ", "the data limit (RLIMIT_DATA) leaves "],
        },
    ];
    for Case { prefix, lines, parts } in cases {
        let folder = tempfile::tempdir().unwrap();
        crate::support::service::configure(folder.path(), &demo().join("engine"), lines);
        let mut command = under(prefix, &["serve", "--config"]);
        let output = command.arg(folder.path().join("jetspool.toml")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
}

/// A control group of its own with a limit of memory; removed when dropped.
struct Group {
    path: PathBuf,
    usage: &'static str,
}

impl Group {
    /// None where the system lets nobody make one.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("jetspool-test-{}", std::process::id());
        let (version_1, version_2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (path, limit_file, usage) = if version_1.join("memory.limit_in_bytes").exists() {
            (version_1.join(name), "memory.limit_in_bytes", "memory.max_usage_in_bytes")
        } else {
            (version_2.join(name), "memory.max", "memory.peak")
        };
        std::fs::create_dir(&path).ok()?;
        let group = Self { path, usage };
        std::fs::write(group.path.join(limit_file), limit.to_string()).ok()?;
        Some(group)
    }

    fn peak(&self) -> u64 {
        std::fs::read_to_string(self.path.join(self.usage)).unwrap().trim().parse().unwrap()
    }

    fn n_killed(&self) -> u64 {
        let names = ["memory.oom_control", "memory.events"];
        let texts = names.iter().filter_map(|name| std::fs::read_to_string(self.path.join(name)).ok());
        let lines: String = texts.collect();
        let count = lines.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        count.trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// With room for 64 sequences of 4 MiB, a daemon that took what the engine allows would be killed.
#[test]
#[ignore = "needs root and a memory controller"]
fn a_control_group_of_the_weights_and_64_mib_is_never_too_small() {
    if is_emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let engine = folder.path().join("engine");
    let sizes = ["--maxBatchSize", "64", "--maxInputLen", "2000", "--maxKVCacheCapacity", "2048"];
    build_demo(&engine, "int8", &sizes);
    let weights = std::fs::metadata(engine.join(WEIGHTS)).unwrap().len();
    let limit = weights + 64 * MIB;
    let Some(group) = Group::new(limit) else {
        println!("SKIPPED: no control group with a memory limit can be made here");
        return;
    };
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.path.display());
    let requests: Vec<Value> =
        (0..64).map(|i| long_request(&format!("{i} {}", "many words ".repeat(300)), None, 400)).collect();
    {
        let mut command = under(&["sh", "-c", &enter, "sh"], &["serve"]);
        let mut service = Service::start_by(&mut command, folder.path(), &engine, &adapters_line());
        let answers = service.ask("job.json", &requests);
        let lengths: Vec<&Value> =
            answers.as_array().unwrap().iter().map(|answer| &answer["usage"]["generated_tokens"]).collect();
        assert!(lengths.len() == 64 && lengths.iter().all(|&length| length == &json!(400)), "{lengths:?}");
        println!("limit {limit}, peak {}", group.peak());
        assert_eq!(group.n_killed(), 0);
        // The requests take more than the group holds, so that the budget did matter.
        assert!(64 * 2048 * 1200 > 2 * limit);
    }
}
