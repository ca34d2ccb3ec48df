//! A hundred thousand files at once: each is answered once, and the daemon does not grow.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::support::serving::{Bench, folder, is_emulated, job};

const N_FILES: usize = 100_000;
/// When the daemon is looked at for the first time.
const N_EARLY: usize = 10_000;
/// What it may grow between the two looks.
const MAX_GROWTH_KIB: usize = 8 * 1024;

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Drops `n_files` copies of `text` on a running daemon, and prints how fast they were answered.
fn check_flood(what: &str, n_files: usize, text: &str, settings: &str) {
    let folder = folder();
    let bench = Bench::new(folder.path(), settings);
    let aside = folder.path().join("aside");
    std::fs::create_dir(&aside).unwrap();
    for i in 0..n_files {
        std::fs::write(aside.join(format!("{i}.json")), text).unwrap();
    }
    let mut command = bench.serve("log");
    // Not a line for each answer: the log is not what is measured.
    let daemon = crate::support::serving::Running(command.env("JETSPOOL_LOG", "error").spawn().unwrap());
    bench.wait_for("a daemon", || bench.place("tmp").is_dir());
    // It has more to do before it takes files: its engine.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let begin = Instant::now();
    for i in 0..n_files {
        let name = format!("{i}.json");
        std::fs::rename(aside.join(&name), bench.place("new").join(&name)).unwrap();
    }
    let dropped = begin.elapsed();
    let early = N_EARLY.min(n_files / 10);
    bench.wait_for_long("early answers", || bench.n_files("done") >= early);
    let at_early = resident_kib(daemon.0.id());
    bench.wait_for_long("all answers", || bench.n_files("done") >= n_files);
    let seconds = begin.elapsed().as_secs_f64();
    bench.wait_for("an empty work/", || bench.n_files("work") == 0);
    let at_end = resident_kib(daemon.0.id());
    tell(&format!(
        "{what}: {n_files} files in {seconds:.1} s (dropped in {:.1} s), {:.0} files/s; \
         RSS {at_early} KiB at {early}, {at_end} KiB at the end; {}",
        dropped.as_secs_f64(),
        n_files as f64 / seconds,
        file_system(&bench.root)
    ));
    for i in 0..n_files {
        let name = format!("{i}.json");
        assert!(bench.has("out", name.as_bytes()) && bench.has("done", name.as_bytes()), "{name}");
    }
    assert_eq!(["out", "done", "new", "tmp"].map(|place| bench.n_files(place)), [n_files, n_files, 0, 0]);
    assert_eq!(bench.log("log"), "");
    assert!(at_end <= at_early + MAX_GROWTH_KIB, "{at_early} KiB grew to {at_end} KiB");
}

fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn file_system(path: &Path) -> String {
    let output = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A request that needs no model: what remains is the spool.
fn without_model() -> String {
    r#"{"requests":[{"messages":[{"role":"user","content":"x"}],"lora_name":"nobody"}]}"#.to_owned()
}

#[test]
fn a_flood_is_answered_once() {
    let n_files = if is_emulated() { 200 } else { 5_000 };
    check_flood("without the model, fsync off", n_files, &without_model(), "fsync = false\n");
}

#[test]
#[ignore = "long: 100,000 files through the spool, with and without fsync, and through the model"]
fn a_hundred_thousand_files_are_answered_once() {
    check_flood("without the model, fsync off", N_FILES, &without_model(), "fsync = false\n");
    check_flood("without the model, fsync on", N_FILES, &without_model(), "fsync = true\n");
    let one_token = job(1, 1).to_string();
    check_flood("one token of the demo model, fsync off", N_FILES, &one_token, "fsync = false\n");
}
