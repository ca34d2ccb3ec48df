//! The daemon is killed, and its system calls fail, at every point of a job's life. Afterwards every job has
//! exactly one answer, with the bytes of an undisturbed run, and nothing that was answered has run again.

#[path = "support/life.rs"]
mod life;
#[path = "support/random.rs"]
mod random;
#[path = "support/serving.rs"]
mod serving;
#[path = "support/tracer.rs"]
mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use life::{
    check_outcome, end_when_over, for_each, is_over, is_sleep, prepared, started, touches, unanswered,
};
use random::Random;
use serving::{Bench, folder, is_emulated, job};
use tracer::{Call, End, Verdict, trace};

const SEED: u64 = 20_261_124;
/// Points of a usual run.
const N_SAMPLED: usize = 40;

/// The tests below need ptrace(2), which an emulated processor does not have.
fn skip() -> bool {
    if is_emulated() {
        tell("SKIPPED: system calls cannot be stopped on an emulated processor");
    }
    is_emulated()
}

/// Past the test harness, which shows what passing tests print to nobody.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Numbers the calls from the lock of the spool on.
#[derive(Default)]
struct Counter(Option<usize>);

impl Counter {
    fn next(&mut self, call: &Call) -> Option<usize> {
        self.0 = match self.0 {
            None => (call.number == libc::SYS_flock).then_some(0),
            Some(n) => Some(n + 1),
        };
        self.0
    }
}

/// The calls of an undisturbed life, and how many of them touch the spool.
fn count_calls() -> (usize, usize) {
    let folder = folder();
    let bench = prepared(folder.path());
    let (mut counter, mut n_calls, mut n_touching) = (Counter::default(), 0, 0);
    trace(&mut bench.serve("log"), |call| {
        if counter.next(call).is_some() {
            n_calls += 1;
            n_touching += usize::from(touches(&bench, call));
        }
        end_when_over(&bench, call)
    });
    check_outcome(&bench);
    (n_calls, n_touching)
}

fn check_kill(bench: &Bench, point: usize) {
    let mut counter = Counter::default();
    trace(&mut bench.serve("log"), |call| match counter.next(call) {
        Some(n) if n == point => Verdict::Kill,
        _ => end_when_over(bench, call),
    });
    let left = unanswered(bench);
    let daemon = bench.start("second log");
    bench.wait_for("answers", || is_over(bench));
    drop(daemon);
    check_outcome(bench);
    let again = started(&bench.log("second log"));
    assert_eq!(again.len(), again.iter().collect::<BTreeSet<_>>().len(), "a request ran twice");
    assert_eq!(again.into_iter().collect::<BTreeSet<_>>(), left, "what ran after the restart");
}

/// Every `len / n`th of the points, from a place that the seed chooses.
fn sampled<T: Clone>(points: &[T], n: usize) -> Vec<T> {
    let stride = (points.len() / n).max(1);
    let first = Random(SEED).below(stride);
    points.iter().skip(first).step_by(stride).cloned().collect()
}

#[test]
fn a_daemon_killed_at_a_sample_of_its_calls_answers_once() {
    if skip() {
        return;
    }
    let (n_calls, n_touching) = count_calls();
    assert!(n_touching >= 200, "only {n_touching} of {n_calls} calls touch the spool");
    let points: Vec<usize> = (0..n_calls).collect();
    for_each(&sampled(&points, N_SAMPLED), |bench, &point| check_kill(bench, point));
}

#[test]
#[ignore = "long: a kill at every system call"]
fn a_daemon_killed_at_any_of_its_calls_answers_once() {
    if skip() {
        return;
    }
    let (n_calls, n_touching) = count_calls();
    for_each(&(0..n_calls).collect::<Vec<_>>(), |bench, &point| check_kill(bench, point));
    tell(&format!("killed at {n_calls} calls, {n_touching} of them on the spool"));
}

#[test]
#[ignore = "long: 100 kills at random times"]
fn a_daemon_killed_at_random_times_answers_once() {
    tell(&format!("seed {SEED}"));
    let mut random = Random(SEED);
    let folder = folder();
    let bench = Bench::new(folder.path(), "settle_ms = 0\nmax_attempts = 1000\n");
    let n_jobs = 200;
    for kill in 0..100 {
        let daemon = bench.start("log");
        for i in kill * 2..kill * 2 + 2 {
            std::thread::sleep(Duration::from_millis(random.below(40) as u64));
            bench.drop_in(&format!("{i}.json"), &job(1 + i % 6, 4).to_string());
        }
        std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        drop(daemon);
    }
    let daemon = bench.start("log");
    bench.wait_for_long("answers", || bench.n_files("work") + bench.n_files("new") == 0);
    drop(daemon);
    let answers = bench.files("out");
    assert_eq!((answers.len(), bench.n_files("done"), bench.n_files("tmp")), (n_jobs, n_jobs, 0));
    let undisturbed = Bench::new(&folder.path().join("undisturbed"), "settle_ms = 0\n");
    for i in 0..n_jobs {
        undisturbed.drop_in(&format!("{i}.json"), &job(1 + i % 6, 4).to_string());
    }
    let daemon = undisturbed.start("log");
    undisturbed.wait_for_long("answers", || undisturbed.n_files("work") + undisturbed.n_files("new") == 0);
    drop(daemon);
    assert!(answers == undisturbed.files("out"), "the bytes differ");
}

/// Calls that fail in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Write,
    Sync,
    Rename,
    /// Creates or removes a name.
    Name,
    Read,
    /// May be interrupted.
    Slow,
}

impl Class {
    fn holds(self, bench: &Bench, call: &Call) -> bool {
        let creates = call.number == libc::SYS_openat && call.args[2] as i32 & libc::O_CREAT != 0;
        let is_of_class = match self {
            Class::Write => WRITES.contains(&call.number),
            Class::Sync => SYNCS.contains(&call.number),
            Class::Rename => {
                [libc::SYS_renameat2, libc::SYS_renameat, libc::SYS_linkat].contains(&call.number)
            }
            Class::Name => creates || call.number == libc::SYS_unlinkat,
            Class::Read => READS.contains(&call.number) && !creates,
            Class::Slow => {
                is_sleep(call) || [WRITES, SYNCS, READS].iter().any(|class| class.contains(&call.number))
            }
        };
        is_of_class && (is_sleep(call) || touches(bench, call))
    }
}

const WRITES: &[i64] = &[libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_ftruncate];
const SYNCS: &[i64] = &[libc::SYS_fsync, libc::SYS_fdatasync];
const READS: &[i64] =
    &[libc::SYS_openat, libc::SYS_read, libc::SYS_pread64, libc::SYS_getdents64, libc::SYS_fstatfs];

const FAILURES: [(Class, &[i32]); 6] = [
    (Class::Write, &[libc::ENOSPC, libc::EIO, libc::EDQUOT]),
    (Class::Sync, &[libc::EIO, libc::ENOSPC, libc::EDQUOT]),
    (Class::Rename, &[libc::EIO, libc::ENOSPC, libc::EROFS]),
    (Class::Name, &[libc::EIO, libc::ENOSPC, libc::EROFS, libc::EDQUOT]),
    (Class::Read, &[libc::EIO]),
    (Class::Slow, &[libc::EINTR]),
];

/// The calls of a class from the `first` on fail, `n` of them.
#[derive(Debug, Clone, Copy)]
struct Failure {
    class: Class,
    errno: i32,
    first: usize,
    n: usize,
}

/// Every failure of every call of an undisturbed life, alone and with the two calls after it.
fn failures() -> Vec<Failure> {
    let folder = folder();
    let bench = prepared(folder.path());
    let mut n_calls = BTreeMap::new();
    let mut counter = Counter::default();
    trace(&mut bench.serve("log"), |call| {
        if counter.next(call).is_some() {
            for (class_idx, (class, _)) in FAILURES.iter().enumerate() {
                *n_calls.entry(class_idx).or_insert(0) += usize::from(class.holds(&bench, call));
            }
        }
        end_when_over(&bench, call)
    });
    let mut failures = Vec::new();
    for (class_idx, (class, errors)) in FAILURES.into_iter().enumerate() {
        assert!(n_calls[&class_idx] > 0, "{class:?} holds no call");
        for first in 0..n_calls[&class_idx] {
            let all = errors.iter().flat_map(|&errno| [1, 3].map(|n| Failure { class, errno, first, n }));
            failures.extend(all);
        }
    }
    failures
}

/// Checks all of them. How often a daemon looks around depends on the time that it takes, so the last calls of a class
/// may not be made; nine tenths are.
fn check_failures(failures: &[Failure]) {
    let n_made = AtomicUsize::new(0);
    for_each(failures, |bench, failure| {
        n_made.fetch_add(usize::from(check_failure(bench, failure)), Ordering::Relaxed);
    });
    let n_made = n_made.into_inner();
    assert!(n_made * 10 >= failures.len() * 9, "{n_made} of {} calls were made", failures.len());
    tell(&format!("{n_made} failures"));
}

/// Returns whether the first call that is to fail was made.
fn check_failure(bench: &Bench, failure: &Failure) -> bool {
    let (mut counter, mut n_seen) = (Counter::default(), 0);
    let (mut unsynced, mut retried): (Vec<File>, bool) = (Vec::new(), false);
    let end = trace(&mut bench.serve("log"), |call| {
        if counter.next(call).is_none() {
            return Verdict::Go;
        }
        if SYNCS.contains(&call.number) {
            retried |= unsynced.iter().any(|file| is_same(file, call));
        }
        if !failure.class.holds(bench, call) {
            return end_when_over(bench, call);
        }
        n_seen += 1;
        if !(failure.first + 1..=failure.first + failure.n).contains(&n_seen) {
            return end_when_over(bench, call);
        }
        // Held open, so that no other file gets its inode.
        let file = File::open(call.fd_link(0)).ok().filter(|file| file.metadata().unwrap().is_file());
        unsynced.extend(file.filter(|_| SYNCS.contains(&call.number)));
        Verdict::Fail(failure.errno)
    });
    assert!(!retried, "a file whose sync failed was synced again");
    let log = bench.log("log");
    let starts = started(&log);
    assert_eq!(starts.len(), starts.iter().collect::<BTreeSet<_>>().len(), "a request ran twice");
    if let End::Exited(code) = end {
        // At its start a daemon may give up, with a reason, and be started again.
        assert!([71, 74, 75].contains(&code) && starts.is_empty(), "exit code {code}");
        assert!(log.contains("cannot"), "no reason");
        let daemon = bench.start("second log");
        bench.wait_for("answers", || is_over(bench));
        drop(daemon);
    }
    check_outcome(bench);
    n_seen > failure.first
}

fn is_same(file: &File, call: &Call) -> bool {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    std::fs::metadata(call.fd_link(0))
        .is_ok_and(|found| identity(found) == identity(file.metadata().unwrap()))
}

#[test]
fn a_sample_of_failing_calls_loses_nothing() {
    if skip() {
        return;
    }
    check_failures(&sampled(&failures(), N_SAMPLED));
}

#[test]
#[ignore = "long: every call fails in every way"]
fn any_failing_call_loses_nothing() {
    if skip() {
        return;
    }
    check_failures(&failures());
}
