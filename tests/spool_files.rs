//! What producers drop, and what becomes of it: kinds of files, names, collisions, the watch, the lock.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jetspool::spool::operate::{Action, Operator};
use jetspool::spool::status::{self, Daemon};
use jetspool::spool::wire::{Answer, FaultCode, RequestFile};
use jetspool::spool::{
    Arrival, Destination, Inbox, Keep, Opened, Place, Publication, Retention, Spool, SpoolConfig, SpoolError,
    Watch, submit,
};

const GOOD: &str = r#"{"requests":[{"messages":[{"role":"user","content":"hi"}]}]}"#;

struct Scratch {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        Self { _dir: dir, root }
    }

    fn open(&self, config: SpoolConfig) -> Spool {
        Spool::open(&self.root, config).unwrap().0
    }

    fn new_dir(&self) -> PathBuf {
        self.root.join("new")
    }

    fn names(&self, place: Place) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(self.root.join(place.name())).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }
}

/// Nothing settles and nothing is too small a disk.
fn quick() -> SpoolConfig {
    SpoolConfig { settle: Duration::ZERO, min_free_bytes: 0, ..SpoolConfig::default() }
}

/// Takes what the inbox offers, to its end; tells the code of a refusal by name.
fn work_off(spool: &Spool, inbox: &mut Inbox) -> Vec<(OsString, Option<FaultCode>)> {
    let mut seen = Vec::new();
    while let Some(candidate) = inbox.next(spool).unwrap() {
        let Some(claimed) = spool.claim(&candidate).unwrap() else { continue };
        let mut job = match spool.open_job(&claimed).unwrap() {
            Opened::Job(job) => job,
            Opened::Refused(mut job, fault) => {
                seen.push((job.name().to_owned(), Some(fault.code)));
                job.publish(Publication::Rejection(&fault)).unwrap();
                continue;
            }
            Opened::Gone => continue,
        };
        job.start().unwrap();
        match RequestFile::parse(std::mem::take(&mut job.input)) {
            Ok(file) => {
                let answers: Vec<Answer> = (0..file.n_requests()).map(|i| Answer::empty(i, 1)).collect();
                job.record(&answers).unwrap();
                let (n_requests, to) = (answers.len(), Destination::Done);
                job.publish(Publication::Answers { n_requests, warnings: &[], to }).unwrap();
                seen.push((job.name().to_owned(), None));
            }
            Err(fault) => {
                job.publish(Publication::Rejection(&fault)).unwrap();
                seen.push((job.name().to_owned(), Some(fault.code)));
            }
        }
    }
    seen
}

fn age(path: &Path, by: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn makes_its_directories_with_their_modes_and_locks() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    for place in Place::ALL {
        let found = fs::metadata(scratch.root.join(place.name())).unwrap();
        assert_eq!(found.mode() & 0o7777, if place == Place::New { 0o2770 } else { 0o750 }, "{place:?}");
    }
    assert!(matches!(Spool::open(&scratch.root, quick()), Err(SpoolError::Locked { .. })));
    let own = Daemon::Running(Some(std::process::id()));
    assert_eq!(status::snapshot(&scratch.root).unwrap().daemon, own);
    drop(spool);
    assert_eq!(status::snapshot(&scratch.root).unwrap().daemon, Daemon::Stopped);
    // A mode that an administrator chose stays.
    fs::set_permissions(scratch.new_dir(), fs::Permissions::from_mode(0o1777)).unwrap();
    drop(scratch.open(quick()));
    assert_eq!(fs::metadata(scratch.new_dir()).unwrap().mode() & 0o7777, 0o1777);
    fs::remove_dir(scratch.root.join("out")).unwrap();
    fs::write(scratch.root.join("out"), "").unwrap();
    assert!(matches!(Spool::open(&scratch.root, quick()), Err(SpoolError::NotADirectory { .. })));
}

#[test]
fn everything_that_is_no_request_file_is_answered_and_put_away() {
    let scratch = Scratch::new();
    let spool = scratch.open(SpoolConfig { max_input_bytes: 100, ..quick() });
    let new = scratch.new_dir();
    let secret = scratch.root.join("secret");
    fs::write(&secret, GOOD).unwrap();
    symlink(&secret, new.join("link.json")).unwrap();
    symlink("/nowhere", new.join("loose.json")).unwrap();
    nix::unistd::mkfifo(&new.join("fifo.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(new.join("dir.json")).unwrap();
    fs::write(new.join("dir.json/inner"), "x").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(new.join("socket.json")).unwrap();
    fs::write(new.join("empty.json"), "").unwrap();
    fs::write(new.join("exact.json"), format!("{GOOD:100}")).unwrap();
    fs::write(new.join("large.json"), format!("{GOOD:101}")).unwrap();
    let huge = File::create(new.join("huge.json")).unwrap();
    huge.set_len(2 << 30).unwrap();
    let mut inbox = Inbox::default();
    inbox.scan(&spool).unwrap();
    let mut seen = work_off(&spool, &mut inbox);
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    drop(socket);
    let refused = |name: &str, code| (OsString::from(name), Some(code));
    let wanted = [
        refused("dir.json", FaultCode::NotAFile),
        refused("empty.json", FaultCode::BadFile),
        (OsString::from("exact.json"), None),
        refused("fifo.json", FaultCode::NotAFile),
        refused("huge.json", FaultCode::TooLarge),
        refused("large.json", FaultCode::TooLarge),
        refused("link.json", FaultCode::NotAFile),
        refused("loose.json", FaultCode::NotAFile),
        refused("socket.json", FaultCode::NotAFile),
    ];
    assert_eq!(seen, wanted);
    let all: Vec<OsString> = wanted.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(scratch.names(Place::Out), all);
    assert_eq!(scratch.names(Place::Failed).len(), 8);
    assert!(scratch.names(Place::New).is_empty() && scratch.names(Place::Work).is_empty());
    assert!(scratch.text("out/link.json").contains("this is a symbolic link"));
    assert!(scratch.text("out/large.json").contains("101 bytes are over the limit of 100"));
    assert!(scratch.text("out/huge.json").contains("\"responses\": []"));
    // The link itself was moved; its target was neither read nor touched.
    assert_eq!(fs::read_link(scratch.root.join("failed/link.json")).unwrap(), secret);
    assert_eq!(fs::read_to_string(&secret).unwrap(), GOOD);
}

#[test]
fn a_file_that_may_not_be_read_is_refused() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let path = scratch.new_dir().join("x.json");
    fs::write(&path, GOOD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let mut inbox = Inbox::default();
    inbox.scan(&spool).unwrap();
    // Root may read everything.
    let wanted = if File::open(&path).is_ok() { None } else { Some(FaultCode::NotAFile) };
    assert_eq!(work_off(&spool, &mut inbox), [(OsString::from("x.json"), wanted)]);
}

#[test]
fn names_are_kept_unless_they_are_taken_or_too_long() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let long = format!("{}.json", "n".repeat(250));
    let odd = OsStr::from_bytes(b"a\nb\xff.json");
    let mut inbox = Inbox::default();
    for name in [OsStr::new("x.json"), OsStr::new("x.json"), OsStr::new(&long), odd] {
        fs::write(scratch.new_dir().join(name), GOOD).unwrap();
        inbox.scan(&spool).unwrap();
        assert_eq!(work_off(&spool, &mut inbox).len(), 1);
    }
    for place in [Place::Out, Place::Done] {
        let names = scratch.names(place);
        assert_eq!(
            (names.len(), names[0].as_os_str(), names[3].to_str()),
            (4, odd, Some("x.json")),
            "{place:?}"
        );
        let with_id = |name: &OsString, start: &str, n: usize| {
            let name = name.to_str().unwrap();
            name.starts_with(start) && name.ends_with(".json") && name.len() > start.len() + n
        };
        assert!(with_id(&names[1], &format!("{}.", "n".repeat(120)), 20), "{names:?}");
        assert!(with_id(&names[2], "x.", 20), "{names:?}");
    }
    assert_eq!(scratch.names(Place::Out)[1..3], scratch.names(Place::Done)[1..3]);
}

#[test]
fn two_jobs_of_one_name_may_be_under_way() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let mut inbox = Inbox::default();
    let mut jobs = Vec::new();
    for _ in 0..2 {
        fs::write(scratch.new_dir().join("x.json"), GOOD).unwrap();
        inbox.scan(&spool).unwrap();
        let claimed = spool.claim(&inbox.next(&spool).unwrap().unwrap()).unwrap().unwrap();
        let Opened::Job(mut job) = spool.open_job(&claimed).unwrap() else { panic!() };
        job.start().unwrap();
        job.record(&[Answer::empty(0, 1)]).unwrap();
        jobs.push(job);
    }
    assert_ne!(jobs[0].id(), jobs[1].id());
    for job in jobs.iter_mut().rev() {
        let (warnings, to) = (&[], Destination::Done);
        job.publish(Publication::Answers { n_requests: 1, warnings, to }).unwrap();
    }
    assert_eq!(scratch.names(Place::Out), scratch.names(Place::Done));
    assert_eq!(scratch.names(Place::Out).len(), 2);
    assert!(scratch.names(Place::Work).is_empty());
}

#[test]
fn a_scan_waits_for_files_to_settle_and_takes_the_oldest_first() {
    let scratch = Scratch::new();
    let spool = scratch.open(SpoolConfig { settle: Duration::from_secs(3600), ..quick() });
    let new = scratch.new_dir();
    for name in
        ["c.json", "b.json", "a.json", "young.json", ".dot.json", "x.tmp", "y.json.part", "stranger.txt"]
    {
        fs::write(new.join(name), GOOD).unwrap();
    }
    age(&new.join("c.json"), Duration::from_secs(9000));
    let same = SystemTime::now() - Duration::from_secs(8000);
    for name in ["a.json", "b.json"] {
        File::options().write(true).open(new.join(name)).unwrap().set_modified(same).unwrap();
    }
    let mut inbox = Inbox::default();
    for _ in 0..2 {
        inbox.scan(&spool).unwrap();
    }
    assert_eq!(inbox.take_strangers(), ["stranger.txt"]);
    let order: Vec<OsString> = work_off(&spool, &mut inbox).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["c.json", "a.json", "b.json"]);
    assert_eq!((inbox.n_waiting(), inbox.scan_in(&spool)), (1, Some(Duration::from_secs(3600))));
    // A writer that goes on after the scan: what the scan saw no longer holds.
    let late = new.join("late.json");
    fs::write(&late, "{").unwrap();
    age(&late, Duration::from_secs(9000));
    inbox.scan(&spool).unwrap();
    File::options().append(true).open(&late).unwrap().write_all(b"}").unwrap();
    assert!(inbox.next(&spool).unwrap().is_none());
    fs::remove_file(&late).unwrap();
    // The writer goes on: it is still not settled. Then the event says that it is done.
    File::options().append(true).open(new.join("young.json")).unwrap().write_all(b" ").unwrap();
    inbox.scan(&spool).unwrap();
    assert!(inbox.next(&spool).unwrap().is_none());
    inbox.note(&spool, &Arrival::Renamed("young.json".into())).unwrap();
    // Nothing comes of a name that is not there or not ready.
    for name in ["gone.json", ".dot.json", "stranger.txt"] {
        inbox.note(&spool, &Arrival::Renamed(name.into())).unwrap();
    }
    assert_eq!(work_off(&spool, &mut inbox), [(OsString::from("young.json"), None)]);
    assert!(inbox.take_strangers().is_empty() && inbox.scan_in(&spool).is_none());
    assert_eq!(scratch.names(Place::New), [".dot.json", "stranger.txt", "x.tmp", "y.json.part"]);
}

#[test]
fn what_is_set_aside_is_not_offered_until_another_takes_its_name() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let path = scratch.new_dir().join("x.json");
    fs::write(&path, GOOD).unwrap();
    let mut inbox = Inbox::default();
    inbox.scan(&spool).unwrap();
    let candidate = inbox.next(&spool).unwrap().unwrap();
    inbox.set_aside(&candidate);
    inbox.scan(&spool).unwrap();
    assert!(inbox.next(&spool).unwrap().is_none());
    fs::write(scratch.root.join("other"), GOOD).unwrap();
    fs::rename(scratch.root.join("other"), &path).unwrap();
    inbox.scan(&spool).unwrap();
    assert!(inbox.next(&spool).unwrap().is_some());
}

#[test]
fn no_job_is_taken_without_room() {
    let scratch = Scratch::new();
    let spool = scratch.open(SpoolConfig { min_free_bytes: u64::MAX, ..quick() });
    fs::write(scratch.new_dir().join("x.json"), GOOD).unwrap();
    let mut inbox = Inbox::default();
    inbox.scan(&spool).unwrap();
    let result = spool.claim(&inbox.next(&spool).unwrap().unwrap());
    assert!(matches!(result, Err(SpoolError::NoSpace { wanted: u64::MAX, .. })));
    assert_eq!(scratch.names(Place::New), ["x.json"]);
}

#[test]
fn the_watch_tells_of_renames_and_closed_files_only() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let new = scratch.new_dir();
    let watch = Watch::new(&spool.path(Place::New)).unwrap();
    assert!(watch.arrivals().unwrap().is_empty());
    let mut open = File::create(new.join("open.json")).unwrap();
    open.write_all(b"{").unwrap();
    assert!(watch.arrivals().unwrap().is_empty());
    drop(open);
    fs::write(scratch.root.join("other"), GOOD).unwrap();
    fs::rename(scratch.root.join("other"), new.join("moved.json")).unwrap();
    let wanted = [Arrival::Closed("open.json".into()), Arrival::Renamed("moved.json".into())];
    assert_eq!(watch.arrivals().unwrap(), wanted);
    fs::rename(&new, scratch.root.join("elsewhere")).unwrap();
    assert_eq!(watch.arrivals().unwrap(), [Arrival::Lost]);
}

#[test]
fn submit_drops_whole_files_under_free_names_and_waits() {
    let scratch = Scratch::new();
    let mut inbox = Inbox::default();
    let spool = scratch.open(quick());
    let watch = Watch::new(&spool.path(Place::New)).unwrap();
    let first = submit::submit(&scratch.root, OsStr::new("x.json"), GOOD.as_bytes()).unwrap();
    assert_eq!(first, "x.json");
    assert_eq!(watch.arrivals().unwrap().last(), Some(&Arrival::Renamed("x.json".into())));
    let early = submit::wait_for_answer(&scratch.root, &first, Duration::from_millis(1));
    assert!(matches!(early, Err(SpoolError::NoAnswerYet { .. })));
    let second = submit::submit(&scratch.root, OsStr::new("x"), GOOD.as_bytes()).unwrap();
    inbox.scan(&spool).unwrap();
    assert_eq!(work_off(&spool, &mut inbox).len(), 2);
    // An answer of that name is out, so the name is not free.
    let third = submit::submit(&scratch.root, OsStr::new("x.json"), GOOD.as_bytes()).unwrap();
    assert!(second != first && third != first && second != third);
    inbox.scan(&spool).unwrap();
    assert_eq!(work_off(&spool, &mut inbox).len(), 1);
    for name in [first, second, third] {
        let path = submit::wait_for_answer(&scratch.root, &name, Duration::from_secs(60)).unwrap();
        assert_eq!(path, scratch.root.join("out").join(name));
    }
    for name in ["", ".x.json", "a/b", "..", "\0"] {
        let result = submit::submit(&scratch.root, OsStr::new(name), b"");
        assert!(matches!(result, Err(SpoolError::Name { .. })), "{name:?}");
    }
    assert!(scratch.names(Place::New).is_empty());
    let snapshot = status::snapshot(&scratch.root).unwrap();
    let counts: Vec<usize> = snapshot.counts.iter().map(|(_, count)| count.unwrap().n_files).collect();
    assert_eq!(counts, [0, 0, 0, 3, 3, 0]);
}

#[test]
fn a_file_is_taken_when_its_producer_is_done_with_it() {
    let scratch = Scratch::new();
    let spool = scratch.open(SpoolConfig { settle: Duration::from_secs(3600), ..quick() });
    let new = scratch.new_dir();
    let mut inbox = Inbox::default();
    let mut offered = |name: &str, arrival: fn(OsString) -> Arrival| {
        inbox.note(&spool, &arrival(name.into())).unwrap();
        inbox.next(&spool).unwrap().is_some()
    };
    // A producer that opens the file again and again: only the last piece makes it whole.
    let (first, last) = GOOD.split_at(20);
    let path = new.join("x.json");
    fs::write(&path, first).unwrap();
    assert!(!offered("x.json", Arrival::Closed));
    File::options().append(true).open(&path).unwrap().write_all(last.as_bytes()).unwrap();
    assert!(offered("x.json", Arrival::Closed));
    // Renamed in, it is the producer's word; what no waiting mends is answered at once.
    assert!(!offered("gone.json", Arrival::Renamed));
    fs::write(new.join("half.json"), first).unwrap();
    assert!(offered("half.json", Arrival::Renamed));
    nix::unistd::mkfifo(&new.join("fifo.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(offered("fifo.json", Arrival::Closed));
    fs::write(new.join("empty.json"), "").unwrap();
    assert!(!offered("empty.json", Arrival::Closed));
    age(&new.join("empty.json"), Duration::from_secs(9000));
    inbox.scan(&spool).unwrap();
    assert!(inbox.next(&spool).unwrap().is_some(), "it was left alone for long enough");
}

#[test]
fn operators_move_jobs_that_wait() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let operator = Operator::new(&scratch.root).unwrap();
    let act = |action, name: &str| operator.act(action, OsStr::new(name));
    let drop_in = |place: &str, name: &str| fs::write(scratch.root.join(place).join(name), GOOD).unwrap();
    for name in ["a.json", "b.json", "c.json"] {
        drop_in("new", name);
    }
    assert_eq!(act(Action::Hold, "a").unwrap(), Place::New);
    assert_eq!(act(Action::Hold, "b.json").unwrap(), Place::New);
    assert_eq!(scratch.names(Place::Hold), ["a.json", "b.json"]);
    assert_eq!(operator.jobs(Place::Hold).unwrap(), ["a.json", "b.json"]);
    assert_eq!(act(Action::Release, "a.json").unwrap(), Place::Hold);
    assert_eq!(act(Action::Delete, "b.json").unwrap(), Place::Hold);
    assert_eq!(act(Action::Delete, "c.json").unwrap(), Place::New);
    assert_eq!((scratch.names(Place::New), scratch.names(Place::Hold)), (vec!["a.json".into()], vec![]));
    assert!(scratch.names(Place::Tmp).is_empty());
    // An answered job goes through once more, beside its first answer.
    let mut inbox = Inbox::default();
    for n_answers in 1..3 {
        inbox.scan(&spool).unwrap();
        assert_eq!(work_off(&spool, &mut inbox), [(OsString::from("a.json"), None)]);
        assert_eq!(scratch.names(Place::Out).len(), n_answers);
        assert_eq!(act(Action::Requeue, "a.json").unwrap(), Place::Done);
    }
    // Nothing is ever moved over another, and what is not there is told.
    drop_in("hold", "a.json");
    for action in [Action::Hold, Action::Release] {
        assert!(matches!(act(action, "a.json"), Err(SpoolError::Io { .. })), "{action:?}");
    }
    let absent = act(Action::Release, "z.json").unwrap_err();
    assert_eq!(absent.to_string(), "z.json: there is no job of that name");
    fs::rename(scratch.new_dir().join("a.json"), scratch.root.join("done/d.json")).unwrap();
    let answered = act(Action::Delete, "d.json").unwrap_err();
    assert_eq!(
        (answered.to_string().as_str(), answered.exit_code()),
        ("d.json: the job stands in done/", 66)
    );
    for name in ["../x", ".x.json", ""] {
        assert!(matches!(act(Action::Delete, name), Err(SpoolError::Name { .. })), "{name:?}");
    }
    drop(spool);
    assert!(matches!(operator.flush(), Err(SpoolError::NoDaemon { .. })));
}

#[test]
fn old_files_go_by_age_and_size_the_oldest_first() {
    let scratch = Scratch::new();
    let keep =
        |seconds: Option<u64>, max_bytes| Keep { at_most: seconds.map(Duration::from_secs), max_bytes };
    let spool = |done: Keep| {
        let retention = Retention { done, ..Retention::default() };
        scratch.open(SpoolConfig { retention, ..quick() })
    };
    drop(spool(Keep::default()));
    let done = scratch.root.join("done");
    for name in ["c.json", "a.json", "b.json"] {
        fs::write(done.join(name), [b'x'; 100]).unwrap();
        // The time of change has the resolution of the kernel's tick.
        std::thread::sleep(Duration::from_millis(20));
        fs::write(scratch.root.join("out").join(name), "x").unwrap();
    }
    fs::write(done.join("note.txt"), [b'x'; 1000]).unwrap();
    fs::create_dir(done.join("dir.json")).unwrap();
    symlink("/etc/passwd", done.join("link.json")).unwrap();
    let jobs = || scratch.names(Place::Done).into_iter().filter(|name| name.len() == 6).collect::<Vec<_>>();
    assert_eq!(spool(keep(Some(3600), Some(300))).prune().unwrap(), 0);
    assert_eq!(spool(keep(None, Some(299))).prune().unwrap(), 1);
    assert_eq!(jobs(), ["a.json", "b.json"]);
    assert_eq!(spool(keep(None, Some(0))).prune().unwrap(), 2);
    assert_eq!(scratch.names(Place::Done), ["dir.json", "link.json", "note.txt"]);
    assert_eq!(scratch.names(Place::Out).len(), 3);
    fs::write(done.join("a.json"), "x").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(spool(keep(Some(1), None)).prune().unwrap(), 1);
}
