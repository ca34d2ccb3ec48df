//! The daemon is killed again and again, and its spool is copied away under it. Afterwards every job has exactly
//! one answer, with the bytes of an undisturbed run; only a request that was alone every time is given up.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::support::random::Random;
use crate::support::serving::{Bench, folder, is_emulated, job};
use serde_json::{Value, json};

const SEED: u64 = 20_261_125;

/// Jobs and kills of a usual run; the long one is that of the promise.
const USUAL: (usize, usize) = (20, 8);
const LONG: (usize, usize) = (60, 12);

fn bench(folder: &std::path::Path, n_jobs: usize) -> Bench {
    let bench = Bench::new(folder, "");
    for i in 0..n_jobs {
        bench.drop_in(&format!("job-{i:02}.json"), &job(2 + i % 3, 12).to_string());
    }
    bench
}

fn answered(bench: &Bench, n_jobs: usize, log: &str) -> BTreeMap<String, String> {
    let daemon = bench.start(log);
    bench.wait_for("answers", || bench.n_files("out") == n_jobs && bench.n_files("work") == 0);
    drop(daemon);
    assert_eq!(bench.n_files("done"), n_jobs);
    assert_eq!((bench.n_files("new"), bench.n_files("tmp"), bench.n_files("failed")), (0, 0, 0));
    bench.files("out")
}

fn undisturbed(n_jobs: usize) -> BTreeMap<String, String> {
    let folder = folder();
    answered(&bench(folder.path(), n_jobs), n_jobs, "log")
}

fn check_kills((n_jobs, n_kills): (usize, usize)) {
    let wanted = undisturbed(n_jobs);
    let folder = folder();
    let bench = bench(folder.path(), n_jobs);
    let mut random = Random(SEED);
    for _ in 0..n_kills {
        let mut daemon = bench.start("log");
        std::thread::sleep(Duration::from_millis(100 + random.below(500) as u64));
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
    }
    let found = answered(&bench, n_jobs, "log");
    assert!(found == wanted, "{}", bench.log("log"));
    assert!(!found.values().any(|answer| answer.contains("gave-up")));
}

#[test]
fn random_kills_cost_no_answer_and_blame_nobody() {
    check_kills(if is_emulated() { (4, 2) } else { USUAL });
}

#[test]
#[ignore = "long: 60 jobs"]
fn many_random_kills_cost_no_answer_and_blame_nobody() {
    check_kills(LONG);
}

#[test]
fn a_spool_copied_in_mid_flight_goes_on_elsewhere() {
    let n_jobs = if is_emulated() { 2 } else { 10 };
    let wanted = undisturbed(n_jobs);
    let (here, there) = (folder(), folder());
    let first = bench(here.path(), n_jobs);
    let daemon = first.start("log");
    first.wait_for("the first answers", || first.n_files("out") > n_jobs / 4);
    let second = Bench::new(there.path(), "");
    std::fs::remove_dir_all(there.path().join("spool")).unwrap();
    // What the daemon moves meanwhile is copied in both places, or in none: stopped, it moves nothing.
    let stopped = |signal: &str| {
        let pid = daemon.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    };
    stopped("-STOP");
    let copied = Command::new("cp").arg("-a").arg(here.path().join("spool")).arg(there.path()).status();
    assert!(copied.unwrap().success());
    stopped("-KILL");
    let mut found = answered(&second, n_jobs, "log");
    // What was out already names the place where it was dropped.
    let root = here.path().to_str().unwrap();
    found.values_mut().for_each(|answer| *answer = answer.replace(root, "ROOT"));
    assert_eq!(found, wanted);
}

/// A request that is alone whenever the daemon ends is given up; its neighbours, in its file and in others, are not.
#[test]
fn only_a_request_that_was_alone_each_time_is_given_up() {
    if is_emulated() {
        return;
    }
    let folder = folder();
    let bench = Bench::new(folder.path(), "");
    let request = |content: &str, length: usize| {
        json!({
            "messages": [{"role": "user", "content": content}], "max_generate_length": length,
            "logit_bias": {"4095": -100, "4093": -100},
        })
    };
    let file = |requests: Vec<Value>| json!({"temperature": 0, "requests": requests}).to_string();
    bench.drop_in("bad.json", &file(vec![request("a", 400), request("b", 4)]));
    let marks = |mark: &str| -> usize {
        let texts = bench.files("work").into_iter().filter(|(name, _)| name.ends_with(".journal"));
        texts.map(|(_, text)| text.matches(mark).count()).sum()
    };
    // It runs with its neighbour, then alone, three times; each time the daemon ends.
    for n_alone in 0..=3 {
        let daemon = bench.start("log");
        let mark = "\"index\":0,\"alone\":true";
        bench.wait_for("the long request to run", || match n_alone {
            0 => marks("\"index\":0,\"alone\":false") == 1 && marks("\"done\",\"index\":1") == 1,
            n => marks(mark) == n,
        });
        drop(daemon);
    }
    bench.drop_in("good.json", &file(vec![request("c", 4)]));
    let daemon = bench.start("log");
    bench.wait_for("answers", || bench.n_files("out") == 2 && bench.n_files("work") == 0);
    drop(daemon);
    let answers = bench.files("out");
    let finishes = |name: &str| -> Vec<String> {
        let answer: Value = serde_json::from_str(&answers[name]).unwrap();
        let responses = answer["responses"].as_array().unwrap();
        responses.iter().map(|r| format!("{} {}", r["finish_reason"], r["error"]["code"])).collect()
    };
    assert_eq!(finishes("bad.json"), ["\"error\" \"gave-up\"", "\"max-length\" null"]);
    assert_eq!(finishes("good.json"), ["\"max-length\" null"]);
    assert!(bench.has("failed", b"bad.json") && bench.has("done", b"good.json"));
}
