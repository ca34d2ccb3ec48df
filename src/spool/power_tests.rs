//! The power is cut after every change of the disk, and every state that may be left is recovered: each job has
//! exactly one answer in the end, with the bytes of the undisturbed run; what was told holds; and no sync can
//! be left out.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::id::JobId;
use super::job::Claimed;
use super::name;
use super::old_layout;
use super::operate::Action;
use super::place::Place;
use super::power::{Recorder, Tree};
use super::probe::Site;
use super::root::Spool;
use super::settings::SpoolConfig;
use super::trial::{Halt, Told, Trial, config, drop_file, input, names, scratch, undisturbed};

type Life = fn(&mut Trial, &mut Spool, Vec<Claimed>) -> Result<(), Halt>;

/// A history: what lies in the spool, and what is done in a life of the daemon.
struct Case {
    name: &'static str,
    files: &'static [(&'static str, usize)],
    life: Life,
    /// What is done after a crash.
    second_life: Life,
    /// What lies there before, and what was told of it.
    prepare: fn(&Path, &Answers) -> Vec<Told>,
}

/// By the name of the job.
type Answers = BTreeMap<OsString, Vec<u8>>;

const GO_ON: Life = |trial, spool, unfinished| trial.live(spool, unfinished);

/// What befalls the first life.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    None,
    /// After so many steps.
    Crash(usize),
    /// After so many steps, so many fail.
    Failure(usize, usize),
}

struct Recorded {
    recorder: Arc<Recorder>,
    /// Changes of the first life.
    n_first: usize,
    /// The first life came to its end.
    is_over: bool,
    /// Where something is synced.
    sites: Vec<Site>,
}

/// What is promised at one moment.
struct Promises<'p> {
    told: &'p [Told],
    taken: &'p [OsString],
    wanted: &'p Answers,
}

struct Bench {
    _dir: tempfile::TempDir,
    root: PathBuf,
    wanted: Answers,
    seen: HashSet<u64>,
    /// States of a moment that are all looked at; of more there is a sample.
    max_all: usize,
    /// In one of so many states the power is cut a second time.
    nested_every: Option<usize>,
}

const CASES: [&Case; 7] = [&RELEASE_AND_DELETE, &BY_HAND, &DELETE, &TAKEOVER, &HOLD, &TWO_JOBS, &REQUEUE];

/// One is answered in parts, one whole in the batch that ends both; one is rejected.
const TWO_JOBS: Case = Case {
    name: "two jobs in a batch",
    files: &[("a.json", 3), ("b.json", 0), ("c.json", 1)],
    life: GO_ON,
    second_life: GO_ON,
    prepare: |_, _| Vec::new(),
};

/// One is held half-way and one before it begins; both are released and answered.
const HOLD: Case = Case {
    name: "hold and release",
    files: &[("a.json", 3), ("b.json", 1)],
    life: |trial, spool, _| {
        trial.operate(spool, Action::Hold, "b.json", Place::New)?;
        let claimed = trial.claim_all(spool)?.remove(0);
        trial.begin_and_pause(spool, &claimed)?;
        trial.operate(spool, Action::Hold, "a.json", Place::Work)?;
        let mut jobs = Vec::new();
        for name in ["a.json", "b.json"] {
            jobs.extend(trial.operate(spool, Action::Release, name, Place::Hold)?);
        }
        trial.live(spool, jobs)
    },
    second_life: GO_ON,
    prepare: |_, _| Vec::new(),
};

/// Deleted from each place, beside one that stays.
const DELETE: Case = Case {
    name: "delete",
    files: &[("a.json", 3), ("b.json", 3), ("c.json", 1), ("d.json", 1)],
    life: |trial, spool, _| {
        trial.operate(spool, Action::Delete, "c.json", Place::New)?;
        let claimed = trial.claim_all(spool)?;
        for job in &claimed[..2] {
            trial.begin_and_pause(spool, job)?;
        }
        trial.operate(spool, Action::Hold, "b.json", Place::Work)?;
        trial.operate(spool, Action::Delete, "b.json", Place::Hold)?;
        trial.operate(spool, Action::Delete, "a.json", Place::Work)?;
        trial.finish(spool, &claimed[2..])
    },
    second_life: GO_ON,
    prepare: |_, _| Vec::new(),
};

/// Answered, and once more from done/ and from failed/.
const REQUEUE: Case = Case {
    name: "requeue",
    files: &[("a.json", 1), ("b.json", 0)],
    life: |trial, spool, unfinished| {
        trial.live(spool, unfinished)?;
        let mut jobs = Vec::new();
        jobs.extend(trial.operate(spool, Action::Requeue, "a.json", Place::Done)?);
        jobs.extend(trial.operate(spool, Action::Requeue, "b.json", Place::Failed)?);
        trial.live(spool, jobs)
    },
    second_life: GO_ON,
    prepare: |_, _| Vec::new(),
};

/// A file without an id that somebody put into hold/.
const BY_HAND: Case = Case {
    name: "release of what was put into hold/ by hand",
    files: &[("a.json", 1)],
    life: |trial, spool, _| {
        let mut jobs = Vec::new();
        jobs.extend(trial.operate(spool, Action::Release, "a.json", Place::Hold)?);
        trial.live(spool, jobs)
    },
    second_life: GO_ON,
    prepare: |root, _| {
        fs::rename(root.join("new/a.json"), root.join("hold/a.json")).unwrap();
        Vec::new()
    },
};

/// Held before it begins, released, and deleted if a crash left it in work/.
const RELEASE_AND_DELETE: Case = Case {
    name: "release and delete",
    files: &[("b.json", 3)],
    life: |trial, spool, _| {
        trial.operate(spool, Action::Hold, "b.json", Place::New)?;
        let claimed = trial.operate(spool, Action::Release, "b.json", Place::Hold)?;
        trial.finish(spool, claimed.as_slice())
    },
    second_life: |trial, spool, _| {
        for place in [Place::New, Place::Hold, Place::Work] {
            trial.operate(spool, Action::Delete, "b.json", place)?;
        }
        Ok(())
    },
    prepare: |_, _| Vec::new(),
};

/// Jobs of the layout before ids.
const TAKEOVER: Case = Case {
    name: "takeover",
    files: &[("a.json", 3), ("b.json", 2), ("c.json", 1), ("d.json", 1), ("e.json", 1), ("f.json", 2)],
    life: GO_ON,
    second_life: GO_ON,
    // As in a copy of the spool, the inodes are those of no file.
    prepare: |root, answers| {
        old_layout::lay_out(root, answers, |path| {
            1 << 60 | u64::from(path.file_name().unwrap().as_bytes()[0])
        })
    },
};

impl Bench {
    fn new(case: &Case, max_all: usize) -> Self {
        let dir = scratch();
        let root = dir.path().join("spool");
        let wanted =
            case.files.iter().map(|(name, n)| (name.into(), undisturbed(&root, name, &text(*n)))).collect();
        Self { _dir: dir, root, wanted, seen: HashSet::new(), max_all, nested_every: None }
    }

    /// Lives through the history and records it; after a crash a second life goes on.
    fn record(&self, case: &Case, trouble: Trouble, left_out: Option<Site>) -> Recorded {
        let _ = fs::remove_dir_all(&self.root);
        drop(Spool::open(&self.root, config()).unwrap());
        for (name, n_requests) in case.files {
            drop_file(&self.root, name, &text(*n_requests));
        }
        let told = (case.prepare)(&self.root, &self.wanted);
        let recorder = Recorder::of(&self.root);
        told.into_iter().for_each(|told| recorder.tell(told));
        let tell = |told: Told| {
            recorder.tell(told.clone());
            // A reader that waits takes the answer at once.
            if let Told::Published(name, out) = told
                && name == "a.json"
            {
                fs::remove_file(self.root.join("out").join(&out)).unwrap();
                recorder.take(out);
            }
        };
        let mut sites = Vec::new();
        let mut live = |life: Life, n_life: u64, trouble: Trouble, trial: &mut Trial| {
            let probed = Spool::open_probed(&self.root, config(), |probe| recorder.attach(probe, left_out));
            let (mut spool, recovery) = probed.map_err(Arc::new)?;
            // The same ids in every recording.
            spool.last_id = spool.last_id.max(Some(id_of_life(n_life)));
            match trouble {
                Trouble::None => {}
                Trouble::Crash(n_good) => spool.disk.probe.set(n_good, usize::MAX, libc::EIO),
                Trouble::Failure(n_good, n) => spool.disk.probe.set(n_good, n, libc::EIO),
            }
            let ended = life(trial, &mut spool, recovery.unfinished);
            sites.extend(spool.disk.probe.sites());
            ended
        };
        let n_tries = if matches!(trouble, Trouble::Failure(..)) { 4 } else { 1 };
        let mut trial = Trial { n_tries, ..Trial::new(&tell) };
        let is_over = live(case.life, 0, trouble, &mut trial).is_ok();
        let n_first = recorder.n_ops();
        if !is_over {
            live(case.second_life, 1, Trouble::None, &mut Trial::new(&tell))
                .expect("nothing fails in the second life");
        }
        Recorded { recorder: recorder.clone(), n_first, is_over, sites }
    }

    /// Cuts the power after each change from `first` on. Returns how many states were looked at.
    fn sweep(&mut self, recorder: &Recorder, first: usize) -> Result<usize, String> {
        self.sweep_after(recorder, first, &[], &[])
    }

    fn sweep_after(
        &mut self,
        recorder: &Recorder,
        first: usize,
        told: &[Told],
        taken: &[OsString],
    ) -> Result<usize, String> {
        let mut n_states = 0;
        for n_ops in first..=recorder.n_ops() {
            let moment = recorder.moment(n_ops);
            let key = moment.key();
            let told = [told, &moment.told].concat();
            let taken = [taken, &moment.taken].concat();
            for tree in moment.trees(self.max_all) {
                if !self.seen.insert(tree.key(key)) {
                    continue;
                }
                n_states += 1;
                let promises = Promises { told: &told, taken: &taken, wanted: &self.wanted };
                let broken = |broken: String| format!("after change {n_ops}: {broken}\n{:?}", tree.0.keys());
                promises.check(&self.root, &tree).map_err(broken)?;
                if self.nested_every.is_some_and(|every| n_states % every == 0) {
                    n_states += self.cut_again(&tree, &told, &taken).map_err(broken)?;
                }
            }
        }
        Ok(n_states)
    }

    /// The power is cut once more while the daemon recovers and goes on.
    fn cut_again(&mut self, tree: &Tree, told: &[Told], taken: &[OsString]) -> Result<usize, String> {
        tree.lay_out(&self.root);
        let recorder = Recorder::of(&self.root);
        let tell = |told| recorder.tell(told);
        let opened = Spool::open_probed(&self.root, config(), |probe| recorder.attach(probe, None));
        let (mut spool, recovery) = opened.map_err(|e| e.to_string())?;
        spool.last_id = spool.last_id.max(Some(id_of_life(2)));
        Trial::new(&tell).live(&mut spool, recovery.unfinished).map_err(|e| e.to_string())?;
        drop(spool);
        let (nested_every, max_all) = (self.nested_every.take(), std::mem::replace(&mut self.max_all, 16));
        let swept = self.sweep_after(&recorder, 0, told, taken);
        (self.nested_every, self.max_all) = (nested_every, max_all);
        swept.map_err(|broken| format!("second cut {broken}"))
    }
}

impl Promises<'_> {
    /// Recovers what is left, and works it off.
    fn check(&self, root: &Path, tree: &Tree) -> Result<(), String> {
        tree.lay_out(root);
        self.check_whole(root)?;
        let after = SpoolConfig { boot_id: "after".into(), ..config() };
        let (mut spool, recovery) = Spool::open(root, after).map_err(|e| e.to_string())?;
        let mut jobs = recovery.unfinished;
        self.check_held(&spool)?;
        for held in spool.jobs(Place::Hold).unwrap() {
            jobs.push(spool.release(&held).map_err(|e| e.to_string())?);
        }
        let mut trial = Trial::new(&|_| {});
        trial.live(&mut spool, jobs).map_err(|e| e.to_string())?;
        let out: Vec<OsString> = self.check_whole(root)?.iter().map(|out| original(out)).collect();
        self.check_runs(&trial)?;
        for place in [Place::New, Place::Work, Place::Hold, Place::Tmp] {
            if !names(root, place).is_empty() {
                return Err(format!("{place:?} holds {:?}", names(root, place)));
            }
        }
        for name in self.wanted.keys() {
            let n_out = out.iter().filter(|out| *out == name).count();
            let n_taken = self.taken.iter().filter(|out| original(out) == *name).count();
            let allowed = self.n_answers(name);
            if !allowed.contains(&(n_out + n_taken)) {
                return Err(format!(
                    "{name:?} has {n_out} answers, {n_taken} were taken, wanted {allowed:?}"
                ));
            }
        }
        Ok(())
    }

    /// Nothing in out/ is ever anything but a whole answer.
    fn check_whole(&self, root: &Path) -> Result<Vec<OsString>, String> {
        let all = names(root, Place::Out);
        for out in &all {
            if fs::read(root.join("out").join(out)).unwrap() != self.wanted[&original(out)] {
                return Err(format!("{out:?} is not the answer"));
            }
        }
        Ok(all)
    }

    /// What is held stays so, and what is released too.
    fn check_held(&self, spool: &Spool) -> Result<(), String> {
        for name in self.wanted.keys() {
            let of_name = |told: &&Told| matches!(told, Told::Asked(_, of) | Told::Done(_, of) if of == name);
            let places = || spool.find(name).unwrap().iter().map(|job| job.place).collect::<Vec<Place>>();
            let is_broken = match self.told.iter().rfind(of_name) {
                Some(Told::Done(Action::Hold, _)) => places() != [Place::Hold],
                Some(Told::Done(Action::Release, _)) => places().contains(&Place::Hold),
                _ => false,
            };
            if is_broken {
                return Err(format!("{name:?} is in {:?}, which is not where it was moved", places()));
            }
        }
        Ok(())
    }

    /// What was recorded is not run again.
    fn check_runs(&self, trial: &Trial) -> Result<(), String> {
        for told in self.told {
            let Told::Recorded(name, index) = told else { continue };
            if trial.runs.contains_key(&(name.clone(), *index)) && !self.was_asked(Action::Requeue, name) {
                return Err(format!("request {index} of {name:?} was recorded and ran again"));
            }
        }
        Ok(())
    }

    fn n_answers(&self, name: &OsStr) -> RangeInclusive<usize> {
        let is_done = |action| {
            self.told.iter().any(|told| matches!(told, Told::Done(a, of) if *a == action && of == name))
        };
        let at_least =
            usize::from(!self.was_asked(Action::Delete, name)) + usize::from(is_done(Action::Requeue));
        let at_most =
            usize::from(!is_done(Action::Delete)) + usize::from(self.was_asked(Action::Requeue, name));
        at_least..=at_most
    }

    fn was_asked(&self, action: Action, name: &OsStr) -> bool {
        self.told.iter().any(|told| matches!(told, Told::Asked(a, of) if *a == action && of == name))
    }
}

fn id_of_life(n_life: u64) -> JobId {
    JobId::at(4_000_000_000_000_000 + 1000 * n_life, None)
}

/// No requests: a file that is rejected.
fn text(n_requests: usize) -> String {
    if n_requests == 0 { "{".into() } else { input(n_requests) }
}

fn original(out: &OsStr) -> OsString {
    name::without_id(out).unwrap_or_else(|| out.to_owned())
}

/// Power cuts in a history without trouble.
fn cut_everywhere(case: &Case, max_all: usize) {
    let mut bench = Bench::new(case, max_all);
    bench.nested_every = Some(307);
    let Recorded { recorder, n_first, .. } = bench.record(case, Trouble::None, None);
    let n_states = bench.sweep(&recorder, 0).unwrap_or_else(|broken| panic!("{}: {broken}", case.name));
    println!("{}: {n_first} changes, {n_states} states", case.name);
    assert!(n_states > 3 * n_first);
}

/// The daemon crashes, or the disk fails, at each step or one of a few; then the power is cut.
fn trouble_everywhere(case: &Case, every: usize, trouble: impl Fn(usize) -> Trouble, max_all: usize) {
    let mut bench = Bench::new(case, max_all);
    let mut n_states = 0;
    for step in (0..).step_by(every) {
        let trouble = trouble(step);
        let Recorded { recorder, n_first, is_over, .. } = bench.record(case, trouble, None);
        let first = if matches!(trouble, Trouble::Crash(_)) { n_first } else { step };
        let swept = bench.sweep(&recorder, first);
        n_states += swept.unwrap_or_else(|broken| panic!("{}, {trouble:?}: {broken}", case.name));
        if step > 120 || (is_over && matches!(trouble, Trouble::Crash(_))) {
            println!("{}: {step} steps, {n_states} states", case.name);
            return;
        }
    }
}

#[test]
fn a_power_cut_while_two_jobs_are_answered() {
    cut_everywhere(&TWO_JOBS, 256);
}

#[test]
fn a_power_cut_while_jobs_are_held_and_released() {
    cut_everywhere(&HOLD, 256);
    cut_everywhere(&BY_HAND, 256);
}

#[test]
fn a_power_cut_while_jobs_are_deleted() {
    cut_everywhere(&DELETE, 64);
}

#[test]
fn a_power_cut_while_an_old_spool_is_taken_over() {
    cut_everywhere(&TAKEOVER, 64);
}

#[test]
fn a_power_cut_while_jobs_are_requeued() {
    cut_everywhere(&REQUEUE, 64);
}

#[test]
#[ignore = "long: half a minute"]
fn a_power_cut_some_time_after_a_crash() {
    for case in [&RELEASE_AND_DELETE, &BY_HAND, &HOLD, &TWO_JOBS] {
        trouble_everywhere(case, 1, Trouble::Crash, 8);
    }
    for (case, every) in [(&DELETE, 4), (&TAKEOVER, 3), (&REQUEUE, 3)] {
        trouble_everywhere(case, every, Trouble::Crash, 8);
    }
}

#[test]
fn a_power_cut_some_time_after_a_failure() {
    trouble_everywhere(&TWO_JOBS, 1, |step| Trouble::Failure(step, 1 + step % 3), 8);
}

/// The same with many more states of each moment, for hours when nobody waits.
#[test]
#[ignore = "takes minutes"]
fn power_cuts_thoroughly() {
    for case in CASES {
        cut_everywhere(case, 1 << 12);
        trouble_everywhere(case, 1, Trouble::Crash, 1 << 8);
    }
}

/// A sync that can be left out without anybody noticing is not needed.
#[test]
#[ignore = "long: half a minute"]
fn no_sync_can_be_left_out() {
    let mut sites = Vec::new();
    for case in CASES {
        let bench = Bench::new(case, 0);
        for step in 0..70 {
            sites.extend(bench.record(case, Trouble::Crash(step), None).sites);
            if case.name == TWO_JOBS.name {
                sites.extend(bench.record(case, Trouble::Failure(step, 1), None).sites);
            }
        }
    }
    sites.sort();
    sites.dedup();
    assert_eq!(sites.iter().map(|(file, line, _)| (*file, *line)).collect::<HashSet<_>>(), written_sites());
    // What is well once is well in every history: the states that were looked at are shared.
    let mut benches: Vec<(&Case, Bench)> = CASES.iter().map(|case| (*case, Bench::new(case, 16))).collect();
    let unnoticed: Vec<&Site> = sites.iter().filter(|site| !is_noticed(**site, &mut benches)).collect();
    assert!(unnoticed.is_empty(), "nobody notices if these are left out: {unnoticed:#?}");
}

/// The calls that sync, as the sources have them.
fn written_sites() -> HashSet<(&'static str, u32)> {
    let sources = [
        ("src/spool/claim.rs", include_str!("claim.rs")),
        ("src/spool/commit.rs", include_str!("commit.rs")),
        ("src/spool/journal.rs", include_str!("journal.rs")),
        ("src/spool/operate.rs", include_str!("operate.rs")),
        ("src/spool/outbox.rs", include_str!("outbox.rs")),
        ("src/spool/retention.rs", include_str!("retention.rs")),
        ("src/spool/root.rs", include_str!("root.rs")),
        ("src/spool/states.rs", include_str!("states.rs")),
        ("src/spool/takeover.rs", include_str!("takeover.rs")),
    ];
    let calls = [".sync_file(", ".sync_dir(", "sync_work(disk, "];
    // Inside the function that syncs for several callers.
    let is_passed_on =
        |file: &str, line: &str| file.ends_with("outbox.rs") && line.contains("sync_dir(Place::Work)");
    let mut sites = HashSet::new();
    for (file, text) in sources {
        for (at, line) in (1_u32..).zip(text.lines()) {
            if calls.iter().any(|call| line.contains(call)) && !is_passed_on(file, line) {
                sites.insert((file, at));
            }
        }
    }
    sites
}

/// Some state breaks a promise, in one history or another.
fn is_noticed(site: Site, benches: &mut [(&Case, Bench)]) -> bool {
    let is_broken = |case: &Case, bench: &mut Bench, trouble: Trouble| {
        let Recorded { recorder, is_over, .. } = bench.record(case, trouble, Some(site));
        let broken = bench.sweep(&recorder, 0).err();
        if let Some(broken) = &broken {
            let broken = broken.lines().next().unwrap_or_default();
            println!("{site:?}: {}, {trouble:?}, {broken}", case.name);
        }
        (broken.is_some(), is_over)
    };
    if benches.iter_mut().any(|(case, bench)| is_broken(case, bench, Trouble::None).0) {
        return true;
    }
    let (case, bench) = benches.iter_mut().find(|(case, _)| case.name == TWO_JOBS.name).unwrap();
    if (0..60).any(|step| is_broken(case, bench, Trouble::Failure(step, 1)).0) {
        return true;
    }
    for (case, bench) in benches {
        for step in 0.. {
            match is_broken(case, bench, Trouble::Crash(step)) {
                (true, _) => return true,
                (false, true) => break,
                (false, false) => {}
            }
        }
    }
    false
}
