//! What an operator does with jobs while the daemon works on them, and whose requests come first.

use std::path::Path;
use std::process::Output;

use crate::support::service::{Service, build_demo, jetspool, long_request};
use serde_json::{Value, json};

/// A daemon on an engine that runs two requests at once.
struct Bench {
    service: Service,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = folder.path().join("engine");
        build_demo(&engine, "int8", &["--maxBatchSize", "2"]);
        Self { service: Service::start(folder.path(), &engine, lines), _folder: folder }
    }

    /// Runs a command on the spool.
    fn command(&self, words: &[&str]) -> Output {
        jetspool(words).arg("--spool").arg(&self.service.spool).output().unwrap()
    }

    fn must(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn names(&self, place: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.service.spool.join(place)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Answers in the journal of the job of that name.
    fn n_answered(&self, job: &str) -> usize {
        n_answered(&self.service.spool, job)
    }

    fn wait_for_answers(&mut self, job: &str, n: usize) {
        let spool = self.service.spool.clone();
        self.service.wait_for("answers in the journal", |_| (n_answered(&spool, job) >= n).then_some(()));
    }
}

/// Answers in the journal of the job of that name.
fn n_answered(spool: &Path, job: &str) -> usize {
    crate::support::journal_of(spool, job).matches("\"done\"").count()
}

fn requests(n: usize, length: usize) -> Vec<Value> {
    (0..n).map(|i| long_request(&format!("Tell me about number {i}"), None, length)).collect()
}

#[test]
fn a_running_job_is_held_and_goes_on_where_it_was() {
    let mut bench = Bench::new("");
    let wanted = bench.service.ask("undisturbed.json", &requests(12, 40));
    bench.service.drop_in("job.json", &requests(12, 40));
    bench.wait_for_answers("job.json", 2);
    assert_eq!(bench.must(&["hold", "job"]), "job.json: held from work/\n");
    let n_held = bench.n_answered("job.json");
    assert!((2..12).contains(&n_held), "{n_held} of 12 are answered");
    assert_eq!((bench.names("work").len(), bench.names("hold").len()), (1, 1), "the journal and the input");
    // While it is held others run.
    bench.service.ask("other.json", &requests(1, 2));
    assert_eq!(bench.n_answered("job.json"), n_held);
    let held = bench.service.log().matches("job.json").count();
    assert_eq!(bench.must(&["release", "--all"]), "job.json: released from hold/\n");
    assert_eq!(bench.service.answers("job.json"), wanted);
    assert!(bench.names("hold").is_empty());
    assert!(bench.service.log().matches("job.json").count() > held);
}

#[test]
fn a_running_job_is_deleted_without_an_answer() {
    let mut bench = Bench::new("");
    bench.service.drop_in("job.json", &requests(40, 60));
    bench.wait_for_answers("job.json", 1);
    bench.must(&["delete", "job.json"]);
    bench.service.ask("other.json", &requests(1, 2));
    assert_eq!(bench.names("out"), ["other.json"]);
    assert_eq!((bench.names("work"), bench.names("tmp")), (vec![], vec![]));
    let gone = bench.command(&["delete", "job.json"]);
    assert_eq!(gone.status.code(), Some(66), "{}", String::from_utf8_lossy(&gone.stderr));
    assert!(bench.must(&["flush"]).contains("has looked"));
    // Answered jobs are run anew on demand.
    bench.must(&["requeue", "other"]);
    let out = bench.service.spool.join("out");
    bench
        .service
        .wait_for("a second answer", |_| (std::fs::read_dir(&out).unwrap().count() == 2).then_some(()));
}

#[test]
fn a_job_is_held_without_a_daemon() {
    let mut bench = Bench::new("");
    bench.service.drop_in("job.json", &requests(40, 60));
    bench.wait_for_answers("job.json", 1);
    bench.service.signal(nix::sys::signal::SIGKILL);
    bench.service.child.wait().unwrap();
    bench.must(&["hold", "job"]);
    assert!(matches!(bench.names("hold").as_slice(), [name] if name.ends_with(".job.json")));
    let nobody = bench.command(&["flush"]);
    assert_eq!(nobody.status.code(), Some(75), "{}", String::from_utf8_lossy(&nobody.stderr));
}

#[test]
fn a_late_small_file_is_not_starved_and_priority_comes_first() {
    let mut bench = Bench::new("");
    let file =
        |priority: i32, n: usize| json!({"temperature": 0, "priority": priority, "requests": requests(n, 8)});
    let drop_in = |bench: &Bench, name: &str, file: &Value| {
        let hidden = bench.service.spool.join(format!("new/.{name}"));
        std::fs::write(&hidden, file.to_string()).unwrap();
        std::fs::rename(hidden, bench.service.spool.join("new").join(name)).unwrap();
    };
    drop_in(&bench, "large.json", &file(0, 400));
    bench.wait_for_answers("large.json", 1);
    let before = bench.n_answered("large.json");
    drop_in(&bench, "small.json", &file(0, 1));
    bench.service.answers("small.json");
    let after = bench.n_answered("large.json");
    assert!(after < before + 40, "the small file waited for {} requests of the large one", after - before);
    drop_in(&bench, "low.json", &file(-5, 1));
    drop_in(&bench, "high.json", &file(7, 20));
    bench.service.answers("high.json");
    let during = bench.n_answered("large.json") - after;
    assert!(during < 20, "{during} requests of the large file were answered beside 20 of a higher priority");
    assert_eq!(bench.names("out"), ["high.json", "small.json"], "the low one waits for the large one");
    bench.must(&["delete", "large"]);
    bench.service.answers("low.json");
}
