//! Whose turn it is, who is tried alone and who is given up, over the jobs alone.

use std::collections::BTreeSet;

use super::jobs::{How, Jobs};
use crate::spool::wire::RequestFile;
use crate::spool::{Claimed, Destination, JobId, Progress};

const ROOT: u32 = 0;
const MAX_CRASHES: u32 = 3;

fn file(n_requests: usize, priority: i32) -> RequestFile {
    let request = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    let text = format!(r#"{{"priority":{priority},"requests":[{}]}}"#, vec![request; n_requests].join(","));
    RequestFile::parse(text.into_bytes()).unwrap()
}

fn claimed(id: u64, owner: u32) -> Claimed {
    Claimed { id: JobId::from_micros(id), name: format!("{id}.json").into(), owner }
}

/// `(id, owner, requests, priority, suspects)`
type Of<'a> = (u64, u32, usize, i32, &'a [(usize, u32)]);

/// Jobs that are open, with nothing answered.
fn jobs(of: &[Of<'_>]) -> Jobs {
    let mut jobs = Jobs::new(of.iter().map(|&(id, owner, ..)| claimed(id, owner)), MAX_CRASHES);
    for &(id, _, n_requests, priority, suspects) in of {
        assert_eq!(jobs.open_next().unwrap().id, JobId::from_micros(id));
        assert!(jobs.set_file(JobId::from_micros(id), file(n_requests, priority)));
        let progress = Progress { suspects: suspects.iter().copied().collect(), ..Progress::default() };
        assert_eq!(jobs.begin(JobId::from_micros(id), progress), None);
    }
    jobs
}

/// The next request as `(job, request)`, and how it starts.
fn next(jobs: &mut Jobs) -> Option<(u64, usize, How)> {
    jobs.start_next().map(|start| (start.job.micros(), start.index, start.how))
}

fn answer(jobs: &mut Jobs, id: u64, index: usize) -> bool {
    let (complete, is_wanted) = jobs.answer(JobId::from_micros(id), index, false);
    assert!(is_wanted, "{id} {index}");
    complete.is_some()
}

#[test]
fn files_and_owners_take_turns_within_a_priority() {
    // One owner has two files, the other one; the last file is more urgent than all of them.
    let mut jobs = jobs(&[(1, 10, 4, 0, &[]), (2, 10, 4, 0, &[]), (3, 20, 4, 0, &[]), (4, 10, 1, 5, &[])]);
    let order: Vec<(u64, usize)> =
        std::iter::from_fn(|| next(&mut jobs)).map(|(job, index, _)| (job, index)).collect();
    assert_eq!(order[0], (4, 0), "the highest priority first");
    let owner = |job: u64| if job == 3 { 20 } else { 10 };
    let n_of_20 = order[1..9].iter().filter(|(job, _)| owner(*job) == 20).count();
    assert_eq!(n_of_20, 4, "whoever has one file gets as many turns as whoever has two: {order:?}");
    let first_of_10: Vec<u64> =
        order[1..].iter().map(|(job, _)| *job).filter(|job| owner(*job) == 10).collect();
    assert!(first_of_10[..4] == [1, 2, 1, 2] || first_of_10[..4] == [2, 1, 2, 1], "{first_of_10:?}");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 13, "each request starts once");
}

#[test]
fn suspects_are_tried_alone_before_anything_else() {
    let mut jobs = jobs(&[(1, ROOT, 3, 0, &[(1, 0), (2, 0)]), (2, ROOT, 1, 100, &[])]);
    assert_eq!(next(&mut jobs), Some((1, 1, How::Alone)));
    assert_eq!(next(&mut jobs), None, "nothing beside it, whatever its priority");
    answer(&mut jobs, 1, 1);
    assert_eq!(next(&mut jobs), Some((1, 2, How::Alone)));
    answer(&mut jobs, 1, 2);
    assert_eq!(next(&mut jobs), Some((2, 0, How::Shared)));
    assert_eq!(next(&mut jobs), Some((1, 0, How::Shared)));
    assert!(answer(&mut jobs, 1, 0) && answer(&mut jobs, 2, 0));
    assert!(jobs.n_left() == 0 && next(&mut jobs).is_none());
}

#[test]
fn a_suspect_waits_for_what_runs() {
    let mut jobs = jobs(&[(1, ROOT, 1, 0, &[])]);
    assert_eq!(next(&mut jobs), Some((1, 0, How::Shared)));
    jobs.take(claimed(2, ROOT));
    jobs.open_next().unwrap();
    jobs.set_file(JobId::from_micros(2), file(1, 0));
    let suspects = [(0, 0)].into_iter().collect();
    jobs.begin(JobId::from_micros(2), Progress { suspects, ..Progress::default() });
    assert_eq!(next(&mut jobs), None);
    answer(&mut jobs, 1, 0);
    assert_eq!(next(&mut jobs), Some((2, 0, How::Alone)));
}

#[test]
fn who_ended_the_daemon_alone_lets_others_go_first_and_is_given_up_in_the_end() {
    let mut jobs = jobs(&[(1, ROOT, 2, 0, &[(0, 1)]), (2, ROOT, 1, 0, &[])]);
    let shared: BTreeSet<(u64, usize)> =
        (0..2).map(|_| next(&mut jobs).unwrap()).map(|(job, index, _)| (job, index)).collect();
    assert_eq!(shared, BTreeSet::from([(1, 1), (2, 0)]));
    assert_eq!(next(&mut jobs), None, "the others run");
    answer(&mut jobs, 2, 0);
    answer(&mut jobs, 1, 1);
    assert_eq!(next(&mut jobs), Some((1, 0, How::Alone)), "nobody else is left");

    // Others that come again and again do not put it off for ever.
    let mut jobs = self::jobs(&[(1, ROOT, 1, 0, &[(0, 1)]), (2, ROOT, 9, 0, &[])]);
    assert_eq!(next(&mut jobs), Some((2, 0, How::Shared)));
    jobs.stop_waiting_for_suspects();
    assert_eq!(next(&mut jobs), None, "it is its turn as soon as what runs has ended");
    answer(&mut jobs, 2, 0);
    assert_eq!(next(&mut jobs), Some((1, 0, How::Alone)));

    let mut jobs = self::jobs(&[(1, ROOT, 2, 0, &[(0, MAX_CRASHES)])]);
    assert_eq!(next(&mut jobs), Some((1, 0, How::GiveUp(MAX_CRASHES))));
    answer(&mut jobs, 1, 0);
    assert_eq!(next(&mut jobs), Some((1, 1, How::Shared)), "its neighbour is answered");
    let (complete, _) = jobs.answer(JobId::from_micros(1), 1, false);
    assert_eq!(complete.unwrap().to, Destination::Failed);
}

#[test]
fn what_was_answered_before_does_not_start_again() {
    let mut jobs = Jobs::new([claimed(1, ROOT)], MAX_CRASHES);
    jobs.open_next().unwrap();
    jobs.set_file(JobId::from_micros(1), file(3, 0));
    let progress = Progress { answered: [0, 2].into(), failed: [2].into(), ..Progress::default() };
    jobs.begin(JobId::from_micros(1), progress);
    assert_eq!(jobs.counts(), (3, 2));
    assert_eq!(next(&mut jobs), Some((1, 1, How::Shared)));
    assert_eq!(next(&mut jobs), None);
    let (complete, _) = jobs.answer(JobId::from_micros(1), 1, false);
    assert_eq!(complete.unwrap().to, Destination::Done);
    let report = &jobs.report()[0];
    assert_eq!((report.n_requests, report.n_answered, report.n_failed), (3, 3, 1));
}

#[test]
fn what_is_withdrawn_or_taken_back_is_nobodys() {
    let mut jobs = jobs(&[(1, ROOT, 2, 0, &[]), (2, ROOT, 1, 0, &[(0, 0)])]);
    assert_eq!(next(&mut jobs), Some((2, 0, How::Alone)));
    jobs.set_slow(JobId::from_micros(2), 0, true);
    assert_eq!((jobs.n_on_their_way(), jobs.n_slow()), (0, 1));
    assert!(jobs.withdraw(JobId::from_micros(2)));
    assert_eq!((jobs.n_on_their_way(), jobs.n_slow()), (0, 0));
    assert_eq!(jobs.answer(JobId::from_micros(2), 0, false), (None, false), "its answer comes too late");
    assert_eq!(next(&mut jobs), Some((1, 0, How::Shared)), "nobody is alone any more");
    assert_eq!(next(&mut jobs), Some((1, 1, How::Shared)));
    answer(&mut jobs, 1, 1);
    jobs.take_back();
    assert_eq!(next(&mut jobs), Some((1, 0, How::Shared)), "computed anew");
    assert_eq!(next(&mut jobs), None);
}

#[test]
fn one_owner_does_not_take_every_place() {
    let n_files = 200;
    let mut jobs = Jobs::new((1..=n_files).map(|id| claimed(id, 10)), MAX_CRASHES);
    while jobs.open_next().is_some() {}
    let (n_wanted, closed) = jobs.wanted();
    assert!(n_wanted > 0 && closed == [10], "the first owner waits, others do not: {n_wanted} {closed:?}");
    jobs.take(claimed(500, 20));
    assert_eq!(jobs.wanted().0, 0, "what is claimed is opened before more is");
    jobs.open_next().unwrap();
    assert_eq!(jobs.wanted().1, [10]);
}
