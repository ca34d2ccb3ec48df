//! The world ends, or a disk fails, at every single step of a job's life: there is exactly one answer after
//! that, and its bytes are those of the undisturbed run.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, Durability};
use super::error::SpoolError;
use super::inbox::Inbox;
use super::job::{Attempt, Claimed, Job, Opened};
use super::journal::{Contents, journal_name};
use super::operate::{Action, Operator};
use super::outbox::{Destination, Publication};
use super::place::Place;
use super::root::{Spool, SpoolConfig};
use super::states;
use super::wire::{Answer, Fault, FaultCode, RequestFile};

const N_REQUESTS: usize = 5;

fn config() -> SpoolConfig {
    SpoolConfig { settle: std::time::Duration::ZERO, min_free_bytes: 0, ..SpoolConfig::default() }
}

fn input() -> String {
    let requests: Vec<String> =
        (0..N_REQUESTS).map(|i| format!(r#"{{"messages":[{{"role":"user","content":"q{i}"}}]}}"#)).collect();
    format!(r#"{{"batch_size":2,"extra":1,"requests":[{}]}}"#, requests.join(","))
}

/// The stub for a model: an answer that depends on the run, so that a second run of a request shows.
fn answer(index: usize, run: usize) -> Answer {
    Answer { output_text: format!("answer {index} of run {run}"), ..Answer::empty(index, 2) }
}

/// A daemon's work on one opened job; `runs` counts how often each request ran.
fn work_on(opened: Opened, runs: &mut [usize]) -> Result<(), SpoolError> {
    let mut job = match opened {
        Opened::Gone => return Ok(()),
        Opened::Refused(mut job, fault) => return job.publish(Publication::Rejection(&fault)).map(|_| ()),
        Opened::Job(job) => job,
    };
    if job.attempt() == Attempt::Reject {
        let fault = job.gave_up();
        return job.publish(Publication::Rejection(&fault)).map(|_| ());
    }
    job.start()?;
    let file = match RequestFile::parse(std::mem::take(&mut job.input)) {
        Ok(file) => file,
        Err(fault) => return job.publish(Publication::Rejection(&fault)).map(|_| ()),
    };
    // Two at a time, as requests of one step may end together.
    for pair in (0..file.n_requests()).collect::<Vec<_>>().chunks(2) {
        let open = pair.iter().filter(|index| !job.is_answered(**index));
        let answers: Vec<Answer> = open
            .map(|&index| {
                runs[index] += 1;
                answer(index, 1)
            })
            .collect();
        job.record(&answers)?;
    }
    publish(&mut job, &file)
}

fn publish(job: &mut Job, file: &RequestFile) -> Result<(), SpoolError> {
    let n_requests = file.n_requests();
    let publication = Publication::Answers { n_requests, warnings: &file.warnings, to: Destination::Done };
    job.publish(publication).map(|_| ())
}

/// One life of the daemon on an opened spool, until it is idle or fails.
fn live(spool: &Spool, unfinished: &[Claimed], runs: &mut [usize]) -> Result<(), SpoolError> {
    for claimed in unfinished {
        work_on(spool.open_job(claimed)?, runs)?;
    }
    let mut inbox = Inbox::default();
    inbox.scan(spool)?;
    while let Some(candidate) = inbox.next(spool).unwrap() {
        if let Some(claimed) = spool.claim(&candidate)? {
            work_on(spool.open_job(&claimed)?, runs)?;
        }
    }
    Ok(())
}

fn names(root: &Path, place: Place) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(root.join(place.name())).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    names
}

/// In memory where the system has such a place: every step is synced, thousands of times.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn drop_file(root: &Path, name: &str, text: &str) {
    fs::write(root.join("new").join(name), text).unwrap();
}

/// Everything is at rest: one answer and its input put away, nothing else anywhere.
fn check_at_rest(root: &Path, name: &str, put_away: Place, says: &str) {
    for place in [Place::New, Place::Work, Place::Tmp] {
        assert!(names(root, place).is_empty(), "{says}: {place:?} holds {:?}", names(root, place));
    }
    assert_eq!(names(root, Place::Out), [name], "{says}");
    assert_eq!(names(root, put_away), [name], "{says}");
}

/// Runs the job `text` without any trouble and returns its answer.
fn undisturbed(root: &Path, text: &str) -> Vec<u8> {
    let (spool, recovery) = Spool::open(root, config()).unwrap();
    drop_file(root, "x.json", text);
    live(&spool, &recovery.unfinished, &mut [0; N_REQUESTS]).unwrap();
    let bytes = fs::read(root.join("out/x.json")).unwrap();
    fs::remove_dir_all(root).unwrap();
    bytes
}

/// Ends the world at each step of the job; then at each step of the recovery after the middle one.
fn crash_everywhere(text: &str, put_away: Place, min_points: usize) {
    let dir = scratch();
    let root = dir.path().join("spool");
    let wanted = undisturbed(&root, text);
    for crash_at in 0.. {
        for second_at in (0..24).step_by(if crash_at % 3 == 0 { 1 } else { 24 }) {
            let mut runs = [0; N_REQUESTS];
            let (spool, recovery) = Spool::open(&root, config()).unwrap();
            drop_file(&root, "x.json", text);
            spool.disk.fuse.set(crash_at, usize::MAX, libc::EIO);
            let is_over = live(&spool, &recovery.unfinished, &mut runs).is_ok();
            drop(spool);
            // The next start crashes too.
            let disk = Arc::new(Disk::open(&root, Durability::Synced).unwrap());
            disk.fuse.set(second_at, usize::MAX, libc::EIO);
            let _ = states::recover(&disk);
            let (spool, recovery) = Spool::open(&root, config()).unwrap();
            live(&spool, &recovery.unfinished, &mut runs).unwrap();
            let says = format!("crash at step {crash_at}, then at {second_at} of the recovery");
            check_at_rest(&root, "x.json", put_away, &says);
            assert_eq!(fs::read(root.join("out/x.json")).unwrap(), wanted, "{says}");
            // A crash costs at most the pair that was not journaled.
            assert!(runs.iter().sum::<usize>() <= N_REQUESTS + 2, "{says}: {runs:?}");
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
            if is_over {
                assert!(crash_at > min_points, "only {crash_at} points");
                return;
            }
        }
    }
}

/// Claims the only file of new/.
fn claim_first(spool: &Spool) -> Claimed {
    let mut inbox = Inbox::default();
    inbox.scan(spool).unwrap();
    spool.claim(&inbox.next(spool).unwrap().unwrap()).unwrap().unwrap()
}

#[test]
fn a_crash_at_every_step_leaves_one_answer() {
    crash_everywhere(&input(), Place::Done, 24);
}

#[test]
fn a_crash_at_every_step_of_a_rejection_leaves_one_answer() {
    crash_everywhere("{", Place::Failed, 16);
}

#[test]
fn a_failing_disk_keeps_the_job_until_it_works_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let wanted = undisturbed(&root, &input());
    for (errno, n_failing) in [(libc::ENOSPC, 1), (libc::EIO, 1), (libc::EIO, 3), (libc::EDQUOT, 2)] {
        for fail_at in 0.. {
            let (spool, _) = Spool::open(&root, config()).unwrap();
            drop_file(&root, "x.json", &input());
            spool.disk.fuse.set(fail_at, n_failing, errno);
            let n_before = spool.disk.fuse.n_taken();
            work_with_patience(&spool, 10).unwrap();
            let says = format!("errno {errno} for {n_failing} steps from {fail_at}");
            check_at_rest(&root, "x.json", Place::Done, &says);
            assert_eq!(fs::read(root.join("out/x.json")).unwrap(), wanted, "{says}");
            let n_steps = spool.disk.fuse.n_taken() - n_before;
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
            if fail_at > n_steps {
                break;
            }
        }
    }
}

/// One job by a daemon that tries each call again when it fails, up to `n_tries` times, without starting anew.
fn work_with_patience(spool: &Spool, n_tries: usize) -> Result<(), SpoolError> {
    fn patiently<T>(
        n_tries: usize,
        mut call: impl FnMut() -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        for _ in 1..n_tries {
            match call() {
                Ok(value) => return Ok(value),
                Err(e) => assert_eq!(e.fate(), super::Fate::Later, "{e}"),
            }
        }
        call()
    }
    let mut inbox = Inbox::default();
    inbox.scan(spool)?;
    let candidate = inbox.next(spool)?.unwrap();
    let claimed = patiently(n_tries, || spool.claim(&candidate))?.unwrap();
    let Opened::Job(mut job) = patiently(n_tries, || spool.open_job(&claimed))? else {
        panic!("a job was dropped")
    };
    patiently(n_tries, || job.start())?;
    let file = RequestFile::parse(std::mem::take(&mut job.input)).unwrap();
    for index in 0..file.n_requests() {
        patiently(n_tries, || job.record(&[answer(index, 1)]))?;
    }
    patiently(n_tries, || publish(&mut job, &file))
}

#[test]
fn a_failure_and_then_a_crash_leave_one_answer() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let wanted = undisturbed(&root, &input());
    for fail_at in 0..40 {
        for crash_after in 1..9 {
            let (spool, _) = Spool::open(&root, config()).unwrap();
            drop_file(&root, "x.json", &input());
            spool.disk.fuse.set(fail_at, 1, libc::EIO);
            spool.disk.fuse.set(fail_at + crash_after, usize::MAX, libc::EIO);
            let _ = work_with_patience(&spool, 3);
            drop(spool);
            let (spool, recovery) = Spool::open(&root, config()).unwrap();
            live(&spool, &recovery.unfinished, &mut [0; N_REQUESTS]).unwrap();
            let says = format!("failure at step {fail_at}, crash {crash_after} later");
            check_at_rest(&root, "x.json", Place::Done, &says);
            assert_eq!(fs::read(root.join("out/x.json")).unwrap(), wanted, "{says}");
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn a_journal_whose_sync_failed_is_not_written_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "x.json", &input());
    let claimed = claim_first(&spool);
    let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!() };
    job.start().unwrap();
    let inode = || fs::metadata(root.join("work/x.json.journal")).unwrap().ino();
    let before = inode();
    job.record(&[answer(0, 1)]).unwrap();
    assert_eq!(inode(), before);
    // One write, then the sync.
    spool.disk.fuse.set(1, 1, libc::EIO);
    assert!(job.record(&[answer(1, 1)]).is_err() && !job.is_answered(1));
    job.record(&[answer(1, 1), answer(2, 1)]).unwrap();
    assert_ne!(inode(), before);
    drop(job);
    let Opened::Job(job) = spool.open_job(&claimed).unwrap() else { panic!() };
    assert_eq!((job.n_answered(), job.attempts()), (3, 0));
}

#[test]
fn left_overs_are_removed_and_strangers_left_alone() {
    let dir = scratch();
    let root = dir.path().join("spool");
    drop(Spool::open(&root, config()).unwrap());
    for name in ["tmp/half.json", "work/gone.json.journal", "work/stranger"] {
        fs::write(root.join(name), "x").unwrap();
    }
    let (_spool, recovery) = Spool::open(&root, config()).unwrap();
    assert_eq!((recovery.n_removed, recovery.strangers), (2, vec!["stranger".into()]));
    assert_eq!((names(&root, Place::Tmp).len(), names(&root, Place::Work)), (0, vec!["stranger".into()]));
}

#[test]
fn a_start_that_gave_an_answer_does_not_count() {
    let dir = scratch();
    let root = dir.path().join("spool");
    drop(Spool::open(&root, config()).unwrap());
    drop_file(&root, "x.json", &input());
    let mut seen = Vec::new();
    for life in 0..5 {
        let (spool, recovery) = Spool::open(&root, config()).unwrap();
        let mut inbox = Inbox::default();
        inbox.scan(&spool).unwrap();
        let new = inbox.next(&spool).unwrap().map(|candidate| spool.claim(&candidate).unwrap().unwrap());
        let claimed = new.or(recovery.unfinished.first().cloned()).unwrap();
        let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!("life {life}") };
        seen.push(job.attempts());
        job.start().unwrap();
        // The third life gives an answer; the fourth gives the same again, which is nothing new.
        if life >= 2 {
            job.record(&[answer(0, 1)]).unwrap();
        }
    }
    assert_eq!(seen, [0, 1, 2, 0, 1]);
}

#[test]
fn attempts_are_counted_and_the_fourth_start_gives_up() {
    let dir = scratch();
    let root = dir.path().join("spool");
    drop(Spool::open(&root, config()).unwrap());
    drop_file(&root, "x.json", &input());
    let mut seen = Vec::new();
    for life in 0..6 {
        let (spool, recovery) = Spool::open(&root, config()).unwrap();
        let mut inbox = Inbox::default();
        inbox.scan(&spool).unwrap();
        let new = inbox.next(&spool).unwrap().map(|candidate| spool.claim(&candidate).unwrap().unwrap());
        let claimed = new.or(recovery.unfinished.first().cloned()).unwrap();
        let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!("life {life}") };
        seen.push((job.attempts(), job.attempt()));
        job.start().unwrap();
        // The second life ends by request: it does not count.
        if life == 1 {
            job.pause().unwrap();
        }
        if job.attempts() == 5 {
            let fault = job.gave_up();
            job.publish(Publication::Rejection(&fault)).unwrap();
        }
    }
    use Attempt::{GiveUp, Reject, Run};
    assert_eq!(seen, [(0, Run), (1, Run), (1, Run), (2, Run), (3, GiveUp), (4, Reject)]);
    check_at_rest(&root, "x.json", Place::Failed, "after giving up");
}

#[test]
fn an_answer_taken_away_at_once_is_not_given_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    for crash_at in 0..60 {
        let (spool, _) = Spool::open(&root, config()).unwrap();
        drop_file(&root, "x.json", &input());
        spool.disk.fuse.set(crash_at, usize::MAX, libc::EIO);
        let _ = live(&spool, &[], &mut [0; N_REQUESTS]);
        drop(spool);
        let n_taken = names(&root, Place::Out).len();
        let _ = fs::remove_file(root.join("out/x.json"));
        let (spool, recovery) = Spool::open(&root, config()).unwrap();
        live(&spool, &recovery.unfinished, &mut [0; N_REQUESTS]).unwrap();
        assert_eq!(n_taken + names(&root, Place::Out).len(), 1, "crash at step {crash_at}");
        drop(spool);
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn a_journal_counts_only_for_its_own_input() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "x.json", &input());
    let claimed = claim_first(&spool);
    let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!() };
    job.start().unwrap();
    job.record(&[answer(0, 1)]).unwrap();
    let id = job.id();
    drop((job, spool));
    let reopen = || {
        let (spool, recovery) = Spool::open(&root, config()).unwrap();
        let Opened::Job(job) = spool.open_job(&recovery.unfinished[0]).unwrap() else { panic!() };
        (job.id() == id, job.n_answered(), job.attempts())
    };
    assert_eq!(reopen(), (true, 1, 0));
    // The producer still had the file open and wrote to it: the answers may be to other questions.
    let work = root.join("work/x.json");
    fs::write(&work, input().replace("q0", "Q0")).unwrap();
    assert_eq!(reopen(), (false, 0, 0));
    fs::write(&work, input()).unwrap();
    assert_eq!(reopen(), (true, 1, 0));
    // Another file under the name.
    fs::copy(&work, root.join("other")).unwrap();
    fs::rename(root.join("other"), &work).unwrap();
    assert_eq!(reopen(), (false, 0, 0));
}

#[test]
fn a_damaged_journal_is_read_up_to_the_damage() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "x.json", &input());
    let claimed = claim_first(&spool);
    let open = || match spool.open_job(&claimed).unwrap() {
        Opened::Job(job) => job,
        other => panic!("{other:?}"),
    };
    let mut job = open();
    job.start().unwrap();
    job.record(&[answer(0, 1), answer(1, 1)]).unwrap();
    job.record(&[answer(2, 1), answer(1, 2)]).unwrap();
    assert_eq!(job.n_answered(), 3);
    drop(job);
    let path = root.join("work").join(journal_name(OsStr::new("x.json")));
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> =
        whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    assert_eq!(ends.len(), 5, "claim, start and three answers");
    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        let n_lines = ends.iter().filter(|line_end| **line_end <= end).count();
        assert_eq!(open().n_answered(), n_lines.saturating_sub(2), "cut at {end}");
        if end % 97 == 0 {
            // The torn tail goes, and what is appended is found again.
            open().record(&[answer(4, 1)]).unwrap();
            let job = open();
            assert!(job.is_answered(4) && job.n_answered() == n_lines.saturating_sub(2) + 1, "cut at {end}");
        }
    }
    let mut state = 1u32;
    let mut next = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    for _ in 0..2000 {
        let mut bytes = whole.clone();
        let at = next(bytes.len());
        bytes[at] ^= 1 << next(8);
        let contents = Contents::read(&bytes[..]).unwrap();
        fs::write(&path, &bytes).unwrap();
        let job = open();
        assert!(job.n_answered() <= 3 && contents.announced().is_none());
        for index in (0..3).filter(|index| job.is_answered(*index)) {
            assert_eq!(job.journal.answer(index).unwrap().unwrap(), answer(index, 1).to_json());
        }
    }
}

#[test]
fn publishing_without_an_answer_is_refused() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "x.json", &input());
    let claimed = claim_first(&spool);
    let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!() };
    job.start().unwrap();
    job.record(&[answer(1, 1)]).unwrap();
    let publication = Publication::Answers { n_requests: 2, warnings: &[], to: Destination::Done };
    assert!(matches!(job.publish(publication), Err(SpoolError::Unanswered { index: 0, .. })));
    assert!(names(&root, Place::Out).is_empty());
    let fault = Fault::new(FaultCode::Internal, "stub");
    let out = job.publish(Publication::Rejection(&fault)).unwrap();
    assert_eq!(out, Some(root.join("out/x.json")));
    assert_eq!(job.publish(Publication::Rejection(&fault)).unwrap(), None);
    check_at_rest(&root, "x.json", Place::Failed, "after the rejection");
}

/// One life in which a job is answered in part, held by its operator, released and answered in whole.
fn live_with_a_hold(spool: &Spool, root: &Path, runs: &mut [usize]) -> Result<(), SpoolError> {
    let name = OsStr::new("x.json");
    if spool.disk.stat(Place::New, name)?.is_some() {
        let claimed = claim_one(spool)?;
        let Opened::Job(mut job) = spool.open_job(&claimed)? else { panic!("the job was dropped") };
        job.start()?;
        if !job.is_answered(0) {
            runs[0] += 1;
            job.record(&[answer(0, 1)])?;
        }
        job.pause()?;
        drop(job);
        spool.set_aside(name)?;
    }
    if spool.disk.stat(Place::Hold, name)?.is_some() {
        Operator::new(root)?.act(Action::Release, name)?;
    }
    live(spool, &[], runs)
}

fn claim_one(spool: &Spool) -> Result<Claimed, SpoolError> {
    let mut inbox = Inbox::default();
    inbox.scan(spool)?;
    Ok(spool.claim(&inbox.next(spool)?.expect("a file waits"))?.expect("it is there"))
}

#[test]
fn a_crash_at_every_step_of_holding_and_releasing_keeps_what_was_answered() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let wanted = undisturbed(&root, &input());
    for crash_at in 0.. {
        let mut runs = [0; N_REQUESTS];
        let (spool, _) = Spool::open(&root, config()).unwrap();
        drop_file(&root, "x.json", &input());
        spool.disk.fuse.set(crash_at, usize::MAX, libc::EIO);
        let is_over = live_with_a_hold(&spool, &root, &mut runs).is_ok();
        drop(spool);
        let (spool, recovery) = Spool::open(&root, config()).unwrap();
        if spool.disk.stat(Place::Hold, OsStr::new("x.json")).unwrap().is_some() {
            Operator::new(&root).unwrap().act(Action::Release, OsStr::new("x.json")).unwrap();
        }
        live(&spool, &recovery.unfinished, &mut runs).unwrap();
        let says = format!("crash at step {crash_at}");
        check_at_rest(&root, "x.json", Place::Done, &says);
        assert!(names(&root, Place::Hold).is_empty(), "{says}");
        assert_eq!(fs::read(root.join("out/x.json")).unwrap(), wanted, "{says}");
        // A crash costs at most the pair that was not journaled.
        assert!(runs.iter().sum::<usize>() <= N_REQUESTS + 2, "{says}: {runs:?}");
        if is_over {
            assert_eq!(runs, [1; N_REQUESTS], "nothing is run twice");
            assert!(crash_at > 30, "only {crash_at} points");
            return;
        }
        drop(spool);
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn journals_in_hold_go_with_their_jobs_only() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "x.json", &input());
    let claimed = claim_first(&spool);
    let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!() };
    job.start().unwrap();
    job.record(&[answer(0, 1)]).unwrap();
    drop(job);
    spool.set_aside(OsStr::new("x.json")).unwrap();
    // Another job of the name runs and ends: the held one keeps its journal, and can be held alone only.
    drop_file(&root, "x.json", "{");
    let other = claim_first(&spool);
    assert!(spool.set_aside(other.name()).is_err());
    work_on(spool.open_job(&other).unwrap(), &mut []).unwrap();
    assert_eq!(names(&root, Place::Hold), ["x.json", "x.json.journal"]);
    // Released while again another one runs: it waits, then goes on with its journal.
    drop_file(&root, "x.json", "{");
    let other = claim_first(&spool);
    let operator = Operator::new(&root).unwrap();
    operator.act(Action::Release, OsStr::new("x.json")).unwrap();
    let mut inbox = Inbox::default();
    inbox.scan(&spool).unwrap();
    assert_eq!(spool.claim(&inbox.next(&spool).unwrap().unwrap()).unwrap(), None);
    spool.discard(other.name()).unwrap();
    let Opened::Job(job) = spool.open_job(&claim_first(&spool)).unwrap() else { panic!() };
    assert!(job.is_answered(0) && names(&root, Place::Hold).is_empty());
    // A journal whose job an operator removed goes with the next start.
    drop(job);
    spool.set_aside(OsStr::new("x.json")).unwrap();
    fs::remove_file(root.join("hold/x.json")).unwrap();
    drop(spool);
    let (_, recovery) = Spool::open(&root, config()).unwrap();
    assert_eq!((recovery.n_removed, names(&root, Place::Hold).len()), (1, 0));
}
