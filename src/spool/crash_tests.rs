//! The world ends, or a disk fails, at every single step of a job's life: there is exactly one answer after
//! that, and its bytes are those of the undisturbed run.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::disk::Disk;
use super::job::{Claimed, OpenJob, Opened};
use super::operate::Action;
use super::order::{Order, Outcome, Progress};
use super::place::Place;
use super::root::Spool;
use super::settings::{Durability, SpoolConfig};
use super::states;
use super::trial::{Halt, Trial, answer, config, drop_file, input, names, only, scratch, undisturbed};
use super::wire::{Fault, FaultCode};
use super::{Destination, SpoolError};

/// What is dropped, and where its input goes.
type Files<'a> = &'a [(&'a str, String, Place)];

/// Everything is at rest: one answer for each input, which is put away, and nothing else anywhere.
fn check_at_rest(root: &Path, files: Files, wanted: &BTreeMap<&str, Vec<u8>>, says: &str) {
    for place in [Place::New, Place::Work, Place::Hold, Place::Tmp] {
        assert!(names(root, place).is_empty(), "{says}: {place:?} holds {:?}", names(root, place));
    }
    let all = |put_away: Option<Place>| -> Vec<OsString> {
        let there = files.iter().filter(|(_, _, place)| put_away.is_none_or(|wanted| *place == wanted));
        there.map(|(name, _, _)| OsString::from(name)).collect()
    };
    assert_eq!(names(root, Place::Out), all(None), "{says}");
    for place in [Place::Done, Place::Failed] {
        assert_eq!(names(root, place), all(Some(place)), "{says}");
    }
    for (name, bytes) in wanted {
        assert_eq!(&fs::read(root.join("out").join(name)).unwrap(), bytes, "{says}: {name}");
    }
}

fn wanted<'a>(root: &Path, files: Files<'a>) -> BTreeMap<&'a str, Vec<u8>> {
    files.iter().map(|(name, text, _)| (*name, undisturbed(root, name, text))).collect()
}

fn three_files() -> [(&'static str, String, Place); 3] {
    let bad = "{".to_owned();
    [("a.json", input(5), Place::Done), ("b.json", bad, Place::Failed), ("c.json", input(2), Place::Done)]
}

#[test]
fn a_crash_at_every_step_and_in_the_recovery_leaves_one_answer_each() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let files = three_files();
    let wanted = wanted(&root, &files);
    for crash_at in 0.. {
        let mut second_at = 0;
        loop {
            let mut trial = Trial::new(&|_| {});
            let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
            files.iter().for_each(|(name, text, _)| drop_file(&root, name, text));
            spool.disk.probe.set(crash_at, usize::MAX, libc::EIO);
            let is_over = trial.live(&mut spool, recovery.unfinished).is_ok();
            drop(spool);
            // The next start crashes too.
            let mut disk = Disk::open(&root, Durability::Synced).unwrap();
            disk.probe.set(second_at, usize::MAX, libc::EIO);
            let is_recovered = states::recover(&mut disk).is_ok();
            drop(disk);
            let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
            trial.live(&mut spool, recovery.unfinished).unwrap();
            let says = format!("crash at step {crash_at}, then at {second_at} of the recovery");
            check_at_rest(&root, &files, &wanted, &says);
            // A crash costs at most the pairs that were not journaled.
            assert!(trial.n_runs() <= 7 + 4, "{says}: {:?}", trial.runs);
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
            if is_over {
                assert!(crash_at > 40, "only {crash_at} points");
                return;
            }
            if is_recovered {
                break;
            }
            second_at += 1;
        }
    }
}

#[test]
fn a_failing_disk_keeps_the_jobs_until_it_works_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let files = three_files();
    let wanted = wanted(&root, &files);
    for (errno, n_failing) in
        [(libc::ENOSPC, 1), (libc::EIO, 1), (libc::EIO, 2), (libc::EIO, 5), (libc::EDQUOT, 3)]
    {
        for fail_at in 0.. {
            let mut trial = Trial { n_tries: 12, ..Trial::new(&|_| {}) };
            let (mut spool, _) = Spool::open(&root, config()).unwrap();
            files.iter().for_each(|(name, text, _)| drop_file(&root, name, text));
            let n_before = spool.disk.probe.n_taken();
            spool.disk.probe.set(fail_at, n_failing, errno);
            trial.live(&mut spool, Vec::new()).unwrap();
            let n_steps = spool.disk.probe.n_taken() - n_before;
            drop(spool);
            // A journal that could not be removed goes with the next start.
            drop(Spool::open(&root, config()).unwrap());
            let says = format!("errno {errno} for {n_failing} steps from {fail_at}");
            check_at_rest(&root, &files, &wanted, &says);
            assert_eq!(trial.n_runs(), 7, "{says}");
            fs::remove_dir_all(&root).unwrap();
            if fail_at > n_steps {
                break;
            }
        }
    }
}

#[test]
fn one_job_that_fails_does_not_keep_the_others() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    drop_file(&root, "a.json", &input(1));
    drop_file(&root, "b.json", &input(1));
    let mut trial = Trial::new(&|_| {});
    let jobs = trial.claim_all(&mut spool).unwrap();
    let mut orders = Vec::new();
    for claimed in &jobs {
        begin(&mut spool, claimed);
        orders.extend([record(claimed, 0), publish(claimed, 1)]);
    }
    // The name of the first's ready answer is taken.
    let ready = format!("{}.a.json.done", jobs[0].id);
    fs::write(root.join("work").join(&ready), "").unwrap();
    let outcomes = spool.commit(orders);
    assert!(matches!(outcomes[..2], [Outcome::Failed { .. }, Outcome::Failed { .. }]), "{outcomes:?}");
    assert!(matches!(outcomes[2..], [Outcome::Recorded { .. }, Outcome::Published { .. }]), "{outcomes:?}");
    fs::remove_file(root.join("work").join(&ready)).unwrap();
    let orders = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Failed { order, .. } => Some(order),
        _ => None,
    });
    let outcomes = spool.commit(orders.collect());
    assert!(matches!(outcomes[..], [Outcome::Recorded { .. }, Outcome::Published { .. }]), "{outcomes:?}");
    assert_eq!(names(&root, Place::Out), ["a.json", "b.json"]);
    assert!(names(&root, Place::Work).is_empty() && names(&root, Place::Tmp).is_empty());
}

#[test]
fn a_failure_and_then_a_crash_leave_one_answer_each() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let files = three_files();
    let wanted = wanted(&root, &files);
    for fail_at in 0..70 {
        for crash_after in [1, 2, 3, 4, 6, 9, 14] {
            let mut trial = Trial { n_tries: 3, ..Trial::new(&|_| {}) };
            let (mut spool, _) = Spool::open(&root, config()).unwrap();
            files.iter().for_each(|(name, text, _)| drop_file(&root, name, text));
            spool.disk.probe.set(fail_at, 1, libc::EIO);
            spool.disk.probe.set(fail_at + crash_after, usize::MAX, libc::EIO);
            let _ = trial.live(&mut spool, Vec::new());
            drop(spool);
            let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
            trial.live(&mut spool, recovery.unfinished).unwrap();
            let says = format!("failure at step {fail_at}, crash {crash_after} later");
            check_at_rest(&root, &files, &wanted, &says);
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn an_answer_taken_away_at_once_is_not_given_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    for crash_at in 0.. {
        let (mut spool, _) = Spool::open(&root, config()).unwrap();
        drop_file(&root, "x.json", &input(3));
        spool.disk.probe.set(crash_at, usize::MAX, libc::EIO);
        let is_over = Trial::new(&|_| {}).live(&mut spool, Vec::new()).is_ok();
        drop(spool);
        let n_taken = names(&root, Place::Out).len();
        let _ = fs::remove_file(root.join("out/x.json"));
        let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
        Trial::new(&|_| {}).live(&mut spool, recovery.unfinished).unwrap();
        assert_eq!(n_taken + names(&root, Place::Out).len(), 1, "crash at step {crash_at}");
        drop(spool);
        fs::remove_dir_all(&root).unwrap();
        if is_over {
            break;
        }
    }
}

/// A copy of the spool as it stands at a crash, made as `cp -a` does: other inodes, the same names and times.
#[test]
fn a_copy_made_at_any_step_goes_on_elsewhere() {
    let dir = scratch();
    let (root, copy) = (dir.path().join("spool"), dir.path().join("copy"));
    let files = three_files();
    let wanted = wanted(&root, &files);
    for crash_at in (0..).step_by(3) {
        let mut trial = Trial::new(&|_| {});
        let (mut spool, _) = Spool::open(&root, config()).unwrap();
        files.iter().for_each(|(name, text, _)| drop_file(&root, name, text));
        spool.disk.probe.set(crash_at, usize::MAX, libc::EIO);
        let is_over = trial.live(&mut spool, Vec::new()).is_ok();
        let copied = std::process::Command::new("cp").arg("-a").args([&root, &copy]).status().unwrap();
        assert!(copied.success());
        drop(spool);
        // Another machine.
        let elsewhere = SpoolConfig { boot_id: "other".into(), ..config() };
        let (mut spool, recovery) = Spool::open(&copy, elsewhere).unwrap();
        trial.live(&mut spool, recovery.unfinished).unwrap();
        let says = format!("copied at step {crash_at}");
        // The answers name where their input was dropped.
        let moved = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap().replace("/spool/", "/copy/");
        for name in wanted.keys() {
            let text = fs::read_to_string(copy.join("out").join(name)).unwrap();
            assert_eq!(text.replace("/spool/", "/copy/"), moved(&wanted[name]), "{says}");
        }
        check_at_rest(&copy, &files, &BTreeMap::new(), &says);
        assert!(trial.n_runs() <= 7 + 4, "{says}: {:?}", trial.runs);
        fs::remove_dir_all(&root).unwrap();
        fs::remove_dir_all(&copy).unwrap();
        if is_over {
            break;
        }
    }
}

/// One life in which a job is answered in part, held by its operator, released and answered in whole.
fn live_with_a_hold(trial: &mut Trial, spool: &mut Spool) -> Result<(), Halt> {
    let name = OsStr::new("x.json");
    if spool.find(name)?[0].place == Place::New {
        let claimed = trial.claim_all(spool)?.remove(0);
        trial.begin_and_pause(spool, &claimed)?;
        spool.hold(&spool.find(name)?[0].clone())?;
    }
    let mut jobs = Vec::new();
    if spool.find(name)?[0].place == Place::Hold {
        jobs.push(spool.release(&spool.find(name)?[0].clone())?);
    }
    trial.live(spool, jobs)
}

#[test]
fn a_crash_at_every_step_of_holding_and_releasing_keeps_what_was_answered() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let files = [("x.json", input(5), Place::Done)];
    let wanted = wanted(&root, &files);
    for crash_at in 0.. {
        let mut trial = Trial::new(&|_| {});
        let (mut spool, _) = Spool::open(&root, config()).unwrap();
        drop_file(&root, "x.json", &input(5));
        spool.disk.probe.set(crash_at, usize::MAX, libc::EIO);
        let is_over = live_with_a_hold(&mut trial, &mut spool).is_ok();
        drop(spool);
        let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
        let mut jobs = recovery.unfinished;
        let found = spool.find(OsStr::new("x.json")).unwrap();
        if found.iter().any(|job| job.place == Place::Hold) {
            jobs.push(spool.release(&found[0]).unwrap());
        }
        trial.live(&mut spool, jobs).unwrap();
        let says = format!("crash at step {crash_at}");
        check_at_rest(&root, &files, &wanted, &says);
        assert!(trial.n_runs() <= 5 + 2, "{says}: {:?}", trial.runs);
        if is_over {
            assert_eq!(trial.n_runs(), 5, "nothing is run twice");
            assert!(crash_at > 25, "only {crash_at} points");
            return;
        }
        drop(spool);
        fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn a_crash_at_every_step_of_deleting_leaves_the_job_or_nothing() {
    let dir = scratch();
    let root = dir.path().join("spool");
    for from in [Place::New, Place::Work, Place::Hold] {
        for crash_at in 0.. {
            let mut trial = Trial::new(&|_| {});
            let (mut spool, _) = Spool::open(&root, config()).unwrap();
            for name in ["x.json", "other.json"] {
                drop_file(&root, name, &input(5));
            }
            if from != Place::New {
                for claimed in trial.claim_all(&mut spool).unwrap() {
                    trial.begin_and_pause(&mut spool, &claimed).unwrap();
                }
            }
            if from == Place::Hold {
                spool.hold(&only(&spool, "x")).unwrap();
            }
            let job = only(&spool, "x");
            assert_eq!(job.place, from);
            spool.disk.probe.set(crash_at, usize::MAX, libc::EIO);
            let is_over = spool.delete(&job).is_ok();
            drop(spool);
            let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
            let mut jobs = recovery.unfinished;
            let left = spool.find(OsStr::new("x")).unwrap();
            assert!(left.len() <= usize::from(!is_over), "crash at {crash_at}: {left:?}");
            if let Some(held) = left.iter().find(|job| job.place == Place::Hold) {
                jobs.push(spool.release(held).unwrap());
            }
            trial.live(&mut spool, jobs).unwrap();
            assert_eq!(names(&root, Place::Out).len(), 1 + left.len());
            assert!(names(&root, Place::Work).is_empty() && names(&root, Place::Tmp).is_empty());
            // The other job kept its journal, and so did this one unless it went.
            let runs = |name: &str| trial.runs.iter().filter(|((of, _), _)| of == name).map(|(_, n)| n).sum();
            let (x, other): (usize, usize) = (runs("x.json"), runs("other.json"));
            assert_eq!(other, 5);
            assert!(x == 0 || x == 2 || x == 5, "{x}");
            drop(spool);
            fs::remove_dir_all(&root).unwrap();
            if is_over {
                assert!(crash_at > 1, "only {crash_at} points");
                break;
            }
        }
    }
}

fn begin(spool: &mut Spool, claimed: &Claimed) -> Progress {
    let open = opened(spool, claimed);
    let crc = crc32fast::hash(&std::io::read_to_string(open.input).unwrap().into_bytes());
    let outcomes = spool.commit(vec![Order::Begin { job: claimed.id, size: open.size, crc }]);
    match &outcomes[..] {
        [Outcome::Begun { progress, .. }] => progress.clone(),
        other => panic!("{other:?}"),
    }
}

fn opened(spool: &mut Spool, claimed: &Claimed) -> OpenJob {
    match spool.open_job(claimed).unwrap() {
        Opened::Job(open) => open,
        other => panic!("{other:?}"),
    }
}

fn record(job: &Claimed, index: usize) -> Order {
    Order::Record { job: job.id, index, is_failed: false, answer: answer(index) }
}

fn publish(job: &Claimed, n_requests: usize) -> Order {
    Order::Publish { job: job.id, n_requests, warnings: Vec::new(), to: Destination::Done }
}

/// Claims a file of so many requests.
fn claim_one(spool: &mut Spool, n_requests: usize) -> Claimed {
    drop_file(spool.disk.root(), "x.json", &input(n_requests));
    Trial::new(&|_| {}).claim_all(spool).unwrap().remove(0)
}

#[test]
fn a_journal_whose_sync_failed_is_not_written_again() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let claimed = claim_one(&mut spool, 5);
    begin(&mut spool, &claimed);
    let path = root.join("work").join(format!("{}.journal", claimed.id));
    let inode = || fs::metadata(&path).unwrap().ino();
    let before = inode();
    assert!(matches!(spool.commit(vec![record(&claimed, 0)])[..], [Outcome::Recorded { .. }]));
    assert_eq!(inode(), before);
    // One write, then the sync.
    spool.disk.probe.set(1, 1, libc::EIO);
    assert!(matches!(spool.commit(vec![record(&claimed, 1)])[..], [Outcome::Failed { .. }]));
    let outcomes = spool.commit(vec![record(&claimed, 1), record(&claimed, 2)]);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Recorded { .. })), "{outcomes:?}");
    assert_ne!(inode(), before);
    drop(spool);
    let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
    assert_eq!(begin(&mut spool, &recovery.unfinished[0]).answered, [0, 1, 2].into());
}

#[test]
fn left_overs_are_removed_and_foreign_files_left_alone() {
    let dir = scratch();
    let root = dir.path().join("spool");
    drop(Spool::open(&root, config()).unwrap());
    for name in ["tmp/half.json", "tmp/1kvzb7c8m0a.part", "work/1kvzb7c8m0b.journal", "work/stranger"] {
        fs::write(root.join(name), "x").unwrap();
    }
    fs::create_dir_all(root.join("tmp/1kvzb7c8m0c.trash/inner")).unwrap();
    let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
    assert_eq!((recovery.n_removed, recovery.foreign_names), (4, vec!["stranger".into()]));
    assert_eq!((names(&root, Place::Tmp).len(), names(&root, Place::Work)), (0, vec!["stranger".into()]));
    // An id that was seen is never given again, even by a clock that went back.
    fs::write(root.join("work/3gzzzzzzzz0.y.json"), input(1)).unwrap();
    drop(spool);
    spool = Spool::open(&root, config()).unwrap().0;
    assert_eq!(claim_one(&mut spool, 1).id.to_string(), "3gzzzzzzzz1");
}

#[test]
fn who_ran_at_a_crash_is_told_and_a_power_cut_blames_nobody() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let mut claimed = claim_one(&mut spool, 5);
    let run = |job: &Claimed, index, is_alone| Order::Run { job: job.id, index, is_alone };
    let mut seen = Vec::new();
    for life in 0..6 {
        let n_opens = opened(&mut spool, &claimed).n_opens;
        // The second life ends while it reads.
        if life != 1 {
            let progress = begin(&mut spool, &claimed);
            seen.push((n_opens, progress.suspects.into_iter().collect::<Vec<_>>()));
            let runs = match life {
                0 => vec![run(&claimed, 0, false), run(&claimed, 1, false)],
                _ => vec![run(&claimed, 1, true)],
            };
            let outcomes = spool.commit(runs);
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Marked { .. })));
        }
        // The fourth ends in good order.
        if life == 3 {
            let outcomes = spool.commit(vec![Order::Pause { job: claimed.id }]);
            assert!(matches!(outcomes[..], [Outcome::Paused { .. }]));
        }
        drop(spool);
        // Before the last one the machine is started anew.
        let boot_id = if life == 4 { "another" } else { "boot" };
        let recovery;
        (spool, recovery) = Spool::open(&root, SpoolConfig { boot_id: boot_id.into(), ..config() }).unwrap();
        claimed = recovery.unfinished[0].clone();
    }
    let suspects = |n_alone| vec![(0, 0), (1, n_alone)];
    assert_eq!(seen, [(0, vec![]), (1, suspects(0)), (0, suspects(1)), (0, suspects(1)), (0, vec![])]);
}

#[test]
fn a_journal_counts_only_for_its_own_input() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let claimed = claim_one(&mut spool, 5);
    begin(&mut spool, &claimed);
    spool.commit(vec![record(&claimed, 0)]);
    drop(spool);
    let work = root.join("work").join(format!("{}.x.json", claimed.id));
    let reopen = || {
        let (mut spool, recovery) = Spool::open(&root, config()).unwrap();
        begin(&mut spool, &recovery.unfinished[0]).answered.len()
    };
    assert_eq!(reopen(), 1);
    // Another file of the same bytes is as good: the spool may have been restored from a copy.
    fs::copy(&work, root.join("other")).unwrap();
    fs::rename(root.join("other"), &work).unwrap();
    assert_eq!(reopen(), 1);
    // The producer still had the file open and wrote to it: the answers may be to other questions.
    fs::write(&work, input(5).replace("q0", "Q0")).unwrap();
    assert_eq!(reopen(), 0);
    fs::write(&work, input(5)).unwrap();
    assert_eq!(reopen(), 0);
}

#[test]
fn a_damaged_journal_is_read_up_to_the_damage() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let claimed = claim_one(&mut spool, 5);
    begin(&mut spool, &claimed);
    spool.commit(vec![record(&claimed, 0), record(&claimed, 1)]);
    spool.commit(vec![record(&claimed, 2), record(&claimed, 1)]);
    drop(spool);
    let path = root.join("work").join(format!("{}.journal", claimed.id));
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> =
        whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    assert_eq!(ends.len(), 6, "open, claim, opened and three answers");
    for end in (0..whole.len()).step_by(5).chain(ends.iter().flat_map(|end| [end - 1, *end])) {
        fs::write(&path, &whole[..end]).unwrap();
        let n_answers = ends.iter().filter(|line_end| **line_end <= end).count().saturating_sub(3);
        let (mut spool, _) = Spool::open(&root, config()).unwrap();
        let progress = begin(&mut spool, &claimed);
        assert_eq!(progress.answered, (0..n_answers).collect(), "cut at {end}");
        // The torn tail goes, and what is appended is found again.
        spool.commit(vec![record(&claimed, 4)]);
        drop(spool);
        let (mut spool, _) = Spool::open(&root, config()).unwrap();
        let answered = begin(&mut spool, &claimed).answered;
        assert_eq!(answered, (0..n_answers).chain([4]).collect(), "cut at {end}");
    }
}

#[test]
fn publishing_without_an_answer_is_refused() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let claimed = claim_one(&mut spool, 5);
    begin(&mut spool, &claimed);
    // The answer that there is stays.
    let outcomes = spool.commit(vec![record(&claimed, 1), publish(&claimed, 2)]);
    match &outcomes[..] {
        [Outcome::Recorded { index: 1, .. }, Outcome::Failed { error, .. }] => {
            assert!(matches!(**error, SpoolError::Unanswered { index: 0, .. }));
        }
        other => panic!("{other:?}"),
    }
    assert!(names(&root, Place::Out).is_empty() && names(&root, Place::Tmp).is_empty());
    let reject = Order::Reject { job: claimed.id, fault: Fault::new(FaultCode::Internal, "stub") };
    let outcomes = spool.commit(vec![reject.clone()]);
    assert!(matches!(&outcomes[..], [Outcome::Published { name, .. }] if name == "x.json"), "{outcomes:?}");
    let outcomes = spool.commit(vec![reject]);
    assert!(matches!(&outcomes[..], [Outcome::Failed { error, .. }] if error.exit_code() == 70));
    assert_eq!((names(&root, Place::Failed), names(&root, Place::Work).len()), (vec!["x.json".into()], 0));
}

#[test]
fn an_answer_that_is_ready_is_not_stopped() {
    let dir = scratch();
    let root = dir.path().join("spool");
    let (mut spool, _) = Spool::open(&root, config()).unwrap();
    let claimed = claim_one(&mut spool, 1);
    begin(&mut spool, &claimed);
    let orders = || vec![record(&claimed, 0), publish(&claimed, 1)];
    // Part: removed, made, written, synced; new/, hold/; made ready; the sync of work/ fails.
    spool.disk.probe.set(7, 1, libc::EIO);
    assert!(spool.commit(orders()).iter().all(|outcome| matches!(outcome, Outcome::Failed { .. })));
    let job = only(&spool, "x");
    for action in [Action::Hold, Action::Delete] {
        let result = if action == Action::Hold { spool.hold(&job).map(drop) } else { spool.delete(&job) };
        assert!(matches!(result, Err(SpoolError::TooLate { .. })), "{result:?}");
    }
    assert!(matches!(spool.open_job(&claimed).unwrap(), Opened::Gone));
    let outcomes = spool.commit(orders());
    assert!(matches!(outcomes[..], [Outcome::Recorded { .. }, Outcome::Published { .. }]), "{outcomes:?}");
}

#[test]
fn a_file_system_without_exclusive_renames_is_refused() {
    let dir = scratch();
    let root = dir.path().join("spool");
    for errno in [libc::EINVAL, libc::ENOSYS] {
        // Removal and creation of the scratch file come first.
        let opened = Spool::open_probed(&root, config(), |probe| probe.set(3, 1, errno));
        match opened {
            Err(error) => assert_eq!(error.exit_code(), 78, "{error}"),
            Ok(_) => panic!("errno {errno}"),
        }
    }
    // A full disk must not keep an operator from making room.
    let opened = Spool::open_probed(&root, config(), |probe| probe.set(2, 1, libc::ENOSPC));
    assert!(opened.is_ok());
}
