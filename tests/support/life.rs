//! A few jobs whose life is disturbed, and what must hold of them afterwards.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::serving::{Bench, folder, job};
use super::tracer::{Call, Verdict};

/// Requests of each good job.
const N_REQUESTS: [(&str, usize); 4] = [("a.json", 6), ("b.json", 3), ("d.json", 2), ("e.json", 1)];
/// A job that is no request file.
const RUBBISH: &str = "c.json";
/// Cycles at the same time; most of a cycle is waiting.
const N_WORKERS: usize = 8;

/// Every job of this bench was put in; trouble is tried again soon.
pub fn prepared(root: &Path) -> Bench {
    let bench = Bench::new(root, "settle_ms = 0\nscan_seconds = 1\n");
    for (name, n_requests) in N_REQUESTS {
        bench.drop_in(name, &job(n_requests, 3).to_string());
    }
    bench.drop_in(RUBBISH, "{ no JSON");
    bench
}

/// Whether all is answered and put away.
pub fn is_over(bench: &Bench) -> bool {
    bench.n_files("work") == 0 && bench.n_files("new") == 0 && bench.n_files("out") > N_REQUESTS.len()
}

/// What an undisturbed daemon answers.
pub fn undisturbed() -> &'static BTreeMap<String, String> {
    static ANSWERS: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let folder = folder();
        let bench = prepared(folder.path());
        let daemon = bench.start("log");
        bench.wait_for("answers", || is_over(&bench));
        drop(daemon);
        assert!(bench.files("out")["a.json"].contains("\"output_text\""));
        bench.files("out")
    })
}

/// Fails unless every job has exactly the answer of the undisturbed run and nothing is left over.
pub fn check_outcome(bench: &Bench) {
    assert_eq!(&bench.files("out"), undisturbed(), "answers");
    let inputs = |place| bench.files(place).into_keys().collect::<Vec<_>>();
    assert_eq!(inputs("done"), N_REQUESTS.map(|(name, _)| name), "done/");
    assert_eq!(inputs("failed"), [RUBBISH], "failed/");
    for place in ["new", "work", "tmp", "hold"] {
        assert_eq!(bench.files(place), BTreeMap::new(), "left in {place}/");
    }
}

/// A request: the file's name and its place in the file.
pub type Request = (String, usize);

/// The requests that a daemon started, in order.
pub fn started(log: &str) -> Vec<Request> {
    let starts = log.lines().filter(|line| line.ends_with(" starts"));
    let words = starts.map(|line| line.rsplit(' ').take(4).collect::<Vec<_>>());
    words
        .map(|words| {
            let name = words[3].strip_suffix(':').unwrap();
            (name.to_owned(), words[1].parse().unwrap())
        })
        .collect()
}

/// The requests that still have to run, by what a killed daemon left on the disk.
pub fn unanswered(bench: &Bench) -> BTreeSet<Request> {
    let mut all = BTreeSet::new();
    for (name, n_requests) in N_REQUESTS {
        let journal = std::fs::read(bench.place("work").join(format!("{name}.journal"))).unwrap_or_default();
        let answered = answered(&journal);
        if !bench.has("out", name.as_bytes()) {
            let left = (0..n_requests).filter(|index| !answered.contains(index));
            all.extend(left.map(|index| (name.to_owned(), index)));
        }
    }
    all
}

/// Answers in the whole lines of a journal whose checksum is right.
fn answered(journal: &[u8]) -> BTreeSet<usize> {
    let mut answered = BTreeSet::new();
    for line in journal.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let (crc, json) = line.split_at(9);
        assert_eq!(std::str::from_utf8(&crc[..8]).unwrap(), format!("{:08x}", crc32fast::hash(json)));
        let event: serde_json::Value = serde_json::from_slice(json).unwrap();
        if event["event"] == "done" {
            assert!(answered.insert(event["index"].as_u64().unwrap() as usize), "answered twice");
        }
    }
    answered
}

/// Runs `cycle` for every point, several at once. The first three failures are shown.
pub fn for_each<T: Sync + std::fmt::Debug>(points: &[T], cycle: impl Fn(&Bench, &T) + Sync) {
    undisturbed();
    let (next, failures) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..N_WORKERS {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let folder = folder();
                    let bench = prepared(folder.path());
                    if catch_unwind(AssertUnwindSafe(|| cycle(&bench, point))).is_err() {
                        failures.lock().unwrap().push(format!("{point:?}; log:\n{}", bench.log("log")));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let shown = failures.iter().take(3).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {} points fail, among them {shown}", failures.len(), points.len());
}

/// Whether a call names something in the spool, by path or by descriptor.
pub fn touches(bench: &Bench, call: &Call) -> bool {
    let (fd_first, path_first) = (
        [
            libc::SYS_write,
            libc::SYS_pwrite64,
            libc::SYS_writev,
            libc::SYS_read,
            libc::SYS_pread64,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_ftruncate,
            libc::SYS_getdents64,
            libc::SYS_openat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_unlinkat,
            libc::SYS_linkat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_mkdirat,
            libc::SYS_close,
            libc::SYS_flock,
            libc::SYS_fstatfs,
            libc::SYS_lseek,
            libc::SYS_fstat,
        ]
        .contains(&call.number),
        [libc::SYS_openat, libc::SYS_newfstatat, libc::SYS_statx].contains(&call.number),
    );
    let spool = bench.place("");
    let by_fd = fd_first && call.fd(0).is_some_and(|path| path.starts_with(&spool));
    let by_path =
        path_first && call.text(1).is_some_and(|text| text.starts_with(spool.as_os_str().as_bytes()));
    by_fd || by_path
}

/// Ends the program where it would sleep with everything done.
pub fn end_when_over(bench: &Bench, call: &Call) -> Verdict {
    if is_sleep(call) && is_over(bench) { Verdict::Kill } else { Verdict::Go }
}

/// Whether the daemon waits for something to happen.
pub fn is_sleep(call: &Call) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call.number == libc::SYS_poll {
        return true;
    }
    call.number == libc::SYS_ppoll
}
