//! What producers drop, and what becomes of it: kinds of files, names, collisions, the watch, the lock.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jetspool::spool::name::MAX_NAME_BYTES;
use jetspool::spool::status::{self, Daemon};
use jetspool::spool::wire::{Answer, FaultCode, Form, RequestFile};
use jetspool::spool::{
    Arrival, Candidate, Claimed, Destination, Found, Inbox, InboxConfig, Keep, NewDir, Now, Opened, Order,
    Outcome, Place, Retention, Spool, SpoolConfig, SpoolError, Watch, submit,
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
    SpoolConfig { min_free_bytes: 0, ..SpoolConfig::default() }
}

/// The inbox of a spool, and the directory that it looks into.
struct Intake {
    inbox: Inbox,
    dir: NewDir,
}

impl Intake {
    fn new(spool: &Spool, settle: Duration) -> Self {
        let max_input_bytes = spool.config().max_input_bytes;
        let config = InboxConfig { max_input_bytes, settle, max_name_bytes: MAX_NAME_BYTES };
        Self { inbox: Inbox::new(config), dir: NewDir::open(spool.root()).unwrap() }
    }

    fn scan(&mut self) {
        self.inbox.scan(&self.dir).unwrap();
    }

    fn note(&mut self, arrival: &Arrival) {
        self.inbox.note(&self.dir, arrival).unwrap();
    }

    /// The next file, whatever has to be looked into before it.
    fn next(&mut self) -> Option<Candidate> {
        while self.inbox.due_in(&[]) == Some(Duration::ZERO) {
            if let Some(candidate) = self.inbox.next(&self.dir, &[]).unwrap() {
                return Some(candidate);
            }
        }
        None
    }
}

/// Takes what the inbox offers, to its end; tells the code of a refusal by name.
fn work_off(spool: &mut Spool, inbox: &mut Intake) -> Vec<(OsString, Option<FaultCode>)> {
    let mut seen = Vec::new();
    while let Some(candidate) = inbox.next() {
        let Some(claimed) = spool.claim(&candidate).unwrap() else { continue };
        seen.extend(finish(spool, &claimed).map(|(_, code)| (claimed.name, code)));
    }
    seen
}

/// Answers a job and tells the name of its answer.
fn finish(spool: &mut Spool, claimed: &Claimed) -> Option<(OsString, Option<FaultCode>)> {
    let job = claimed.id;
    let parsed = match spool.open_job(claimed).unwrap() {
        Opened::Gone => return None,
        Opened::Refused(fault) => Err(fault),
        Opened::Job(open) => {
            let (parsed, crc) = RequestFile::read(open.input, open.size, Form::Object).unwrap();
            parsed.map(|file| (file.n_requests(), open.size, crc))
        }
    };
    let code = parsed.as_ref().err().map(|fault| fault.code);
    let orders = match parsed {
        Err(fault) => vec![Order::Reject { job, fault }],
        Ok((n_requests, size, crc)) => {
            let begun = spool.commit(vec![Order::Begin { job, size, crc }]);
            assert!(matches!(begun[..], [Outcome::Begun { .. }]), "{begun:?}");
            let record = |index| {
                let answer = Box::new(Answer::empty(index, 1));
                Order::Record { job, index, is_failed: false, answer }
            };
            let (warnings, to) = (Vec::new(), Destination::Done);
            let publish = Order::Publish { job, n_requests, warnings, to };
            (0..n_requests).map(record).chain([publish]).collect()
        }
    };
    match spool.commit(orders).pop() {
        Some(Outcome::Published { name, .. }) => Some((name, code)),
        other => panic!("{other:?}"),
    }
}

fn age(path: &Path, by: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn makes_its_directories_with_their_modes_and_locks() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let mode = |name: &str| fs::metadata(scratch.root.join(name)).unwrap().mode() & 0o7777;
    let modes = [("new", 0o3770), ("out", 0o750), ("done", 0o750), ("failed", 0o750), ("hold", 0o750)];
    for (name, wanted) in modes.into_iter().chain([("work", 0o700), ("tmp", 0o700), ("lock", 0o600)]) {
        assert_eq!(mode(name), wanted, "{name}");
    }
    assert!(matches!(Spool::open(&scratch.root, quick()), Err(SpoolError::Locked { .. })));
    let own = Daemon::Running(Some(std::process::id()));
    assert_eq!(status::snapshot(&scratch.root).unwrap().daemon, own);
    drop(spool);
    assert_eq!(status::snapshot(&scratch.root).unwrap().daemon, Daemon::Stopped);
    // A mode that an administrator chose stays; what is the spool's own is closed to others.
    for (name, mode) in [("new", 0o1777), ("out", 0o755), ("work", 0o755), ("tmp", 0o770), ("lock", 0o644)] {
        fs::set_permissions(scratch.root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    drop(scratch.open(quick()));
    for (name, wanted) in [("new", 0o1777), ("out", 0o755), ("work", 0o700), ("tmp", 0o700), ("lock", 0o600)]
    {
        assert_eq!(mode(name), wanted, "{name}");
    }
    fs::remove_dir(scratch.root.join("out")).unwrap();
    fs::write(scratch.root.join("out"), "").unwrap();
    assert!(matches!(Spool::open(&scratch.root, quick()), Err(SpoolError::NotADirectory { .. })));
}

#[test]
fn everything_that_is_no_request_file_is_answered_and_put_away() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(SpoolConfig { max_input_bytes: 100, ..quick() });
    let new = scratch.new_dir();
    let secret = scratch.root.join("secret");
    fs::write(&secret, GOOD).unwrap();
    symlink(&secret, new.join("link.json")).unwrap();
    symlink("/nowhere", new.join("loose.json")).unwrap();
    nix::unistd::mkfifo(&new.join("fifo.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(new.join("dir.json")).unwrap();
    fs::write(new.join("dir.json/inner"), "x").unwrap();
    let socket = std::os::unix::net::UnixListener::bind(new.join("socket.json")).unwrap();
    fs::write(new.join("exact.json"), format!("{GOOD:100}")).unwrap();
    fs::write(new.join("large.json"), format!("{GOOD:101}")).unwrap();
    let huge = File::create(new.join("huge.json")).unwrap();
    huge.set_len(2 << 30).unwrap();
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    let mut seen = work_off(&mut spool, &mut inbox);
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    drop(socket);
    let refused = |name: &str, code| (OsString::from(name), Some(code));
    let wanted = [
        refused("dir.json", FaultCode::NotAFile),
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
    assert_eq!(scratch.names(Place::Failed).len(), 7);
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
    let mut spool = scratch.open(quick());
    let path = scratch.new_dir().join("x.json");
    fs::write(&path, GOOD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    // Root may read everything.
    let wanted = if File::open(&path).is_ok() { None } else { Some(FaultCode::NotAFile) };
    assert_eq!(work_off(&mut spool, &mut inbox), [(OsString::from("x.json"), wanted)]);
}

#[test]
fn names_are_kept_unless_they_are_taken() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let longest = OsString::from(format!("{}.json", "n".repeat(231)));
    let odd = OsStr::from_bytes(b"a\x1b[2J\nb\xff.json");
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    let mut before = Vec::new();
    for name in [OsStr::new("x.json"), OsStr::new("x.json"), &longest, &longest, odd] {
        fs::write(scratch.new_dir().join(name), GOOD).unwrap();
        inbox.scan();
        let claimed = spool.claim(&inbox.next().unwrap()).unwrap().unwrap();
        assert_eq!(claimed.name, name);
        let (out, _) = finish(&mut spool, &claimed).unwrap();
        let with_id = format!("{}.{}.json", name.to_string_lossy().trim_end_matches(".json"), claimed.id);
        assert_eq!(out, if before.contains(&name) { OsStr::new(&with_id) } else { name });
        before.push(name);
    }
    assert_eq!(scratch.names(Place::Out), scratch.names(Place::Done));
    assert_eq!(scratch.names(Place::Out).len(), 5);
}

#[test]
fn a_name_that_is_too_long_is_never_claimed() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let name = format!("{}.json", "n".repeat(232));
    fs::write(scratch.new_dir().join(&name), GOOD).unwrap();
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    assert!(inbox.next().is_none());
    assert_eq!(inbox.inbox.take_foreign_names(), [name.as_str()]);
    // An inbox that would take it changes nothing.
    inbox.inbox.set_config(InboxConfig {
        max_input_bytes: 1000,
        settle: Duration::ZERO,
        max_name_bytes: 255,
    });
    inbox.scan();
    let result = spool.claim(&inbox.next().unwrap());
    assert!(matches!(&result, Err(SpoolError::Name { why, .. }) if why.contains("236 bytes")), "{result:?}");
    assert_eq!(scratch.names(Place::New), [OsString::from(name)]);
}

#[test]
fn two_jobs_of_one_name_may_be_under_way() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    let mut jobs = Vec::new();
    for _ in 0..2 {
        fs::write(scratch.new_dir().join("x.json"), GOOD).unwrap();
        inbox.scan();
        jobs.push(spool.claim(&inbox.next().unwrap()).unwrap().unwrap());
    }
    assert!(jobs[0].id < jobs[1].id);
    assert_eq!(jobs[0].owner, fs::metadata(&scratch.root).unwrap().uid());
    for claimed in jobs.iter().rev() {
        finish(&mut spool, claimed).unwrap();
    }
    let later = OsString::from(format!("x.{}.json", jobs[0].id));
    assert_eq!(scratch.names(Place::Out), [later, "x.json".into()]);
    assert_eq!(scratch.names(Place::Out), scratch.names(Place::Done));
    assert!(scratch.names(Place::Work).is_empty());
}

#[test]
fn a_scan_waits_for_files_to_settle_and_takes_the_first_one_first() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let new = scratch.new_dir();
    for name in ["c.json", "a.json", "b.json", ".dot.json", "x.tmp", "y.json.part", "stranger.txt"] {
        fs::write(new.join(name), GOOD).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    // A producer may set what it likes, but for the time of change of the inode.
    age(&new.join("b.json"), Duration::from_secs(9000));
    let mut patient = Intake::new(&spool, Duration::from_secs(3600));
    patient.scan();
    assert!(patient.next().is_none());
    assert_eq!(
        (patient.inbox.n_waiting(), patient.inbox.take_foreign_names()),
        (3, vec!["stranger.txt".into()])
    );
    patient.note(&Arrival::Closed("a.json".into()));
    // Nothing comes of a name that is not there or not ready.
    for name in ["gone.json", ".dot.json", "stranger.txt"] {
        patient.note(&Arrival::Renamed(name.into()));
    }
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    let order: Vec<OsString> = work_off(&mut spool, &mut inbox).into_iter().map(|(name, _)| name).collect();
    assert_eq!(order, ["c.json", "a.json", "b.json"]);
    assert_eq!(scratch.names(Place::New), [".dot.json", "stranger.txt", "x.tmp", "y.json.part"]);
}

/// However slowly a file comes: it is waited for, and nobody behind it.
#[test]
fn files_that_are_not_whole_are_waited_for() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let new = scratch.new_dir();
    for (name, text) in [("empty.json", ""), ("cut.json", &GOOD[..GOOD.len() - 1]), ("good.json", GOOD)] {
        fs::write(new.join(name), text).unwrap();
    }
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    for _ in 0..3 {
        inbox.scan();
    }
    assert_eq!(work_off(&mut spool, &mut inbox), [(OsString::from("good.json"), None)]);
    assert_eq!((inbox.inbox.n_waiting(), inbox.inbox.n_partial()), (2, 2));
    let rest = &GOOD[GOOD.len() - 1..];
    File::options().append(true).open(new.join("cut.json")).unwrap().write_all(rest.as_bytes()).unwrap();
    inbox.note(&Arrival::Closed("cut.json".into()));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(work_off(&mut spool, &mut inbox), [(OsString::from("cut.json"), None)]);
}

#[test]
fn what_is_set_aside_is_not_offered_until_another_takes_its_name() {
    let scratch = Scratch::new();
    let spool = scratch.open(quick());
    let path = scratch.new_dir().join("x.json");
    fs::write(&path, GOOD).unwrap();
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    let candidate = inbox.next().unwrap();
    inbox.inbox.set_aside(candidate);
    inbox.scan();
    assert!(inbox.next().is_none());
    fs::write(scratch.root.join("other"), GOOD).unwrap();
    fs::rename(scratch.root.join("other"), &path).unwrap();
    inbox.scan();
    assert!(inbox.next().is_some());
}

#[test]
fn no_job_is_taken_without_room() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(SpoolConfig { min_free_bytes: u64::MAX, ..quick() });
    fs::write(scratch.new_dir().join("x.json"), GOOD).unwrap();
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    inbox.scan();
    let result = spool.claim(&inbox.next().unwrap());
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
    let mut spool = scratch.open(quick());
    let mut inbox = Intake::new(&spool, Duration::ZERO);
    let watch = Watch::new(&spool.path(Place::New)).unwrap();
    let (first, _) = submit::submit(&scratch.root, OsStr::new("x.json"), GOOD.as_bytes()).unwrap();
    assert_eq!(first, "x.json");
    assert_eq!(watch.arrivals().unwrap().last(), Some(&Arrival::Renamed("x.json".into())));
    let early = submit::wait_for_answer(&scratch.root, &first, Duration::from_millis(1));
    assert!(matches!(early, Err(SpoolError::NoAnswerYet { .. })));
    let (second, _) = submit::submit(&scratch.root, OsStr::new("x"), GOOD.as_bytes()).unwrap();
    inbox.scan();
    assert_eq!(work_off(&mut spool, &mut inbox).len(), 2);
    // An answer of that name is out, so the name is not free.
    let (third, _) = submit::submit(&scratch.root, OsStr::new("x.json"), GOOD.as_bytes()).unwrap();
    assert!(second != first && third != first && second != third);
    inbox.scan();
    assert_eq!(work_off(&mut spool, &mut inbox).len(), 1);
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
fn operators_move_jobs_by_any_of_their_names() {
    let scratch = Scratch::new();
    let mut spool = scratch.open(quick());
    let drop_in = |place: &str, name: &str| fs::write(scratch.root.join(place).join(name), GOOD).unwrap();
    let only = |spool: &Spool, name: &str| -> Found {
        let mut found = spool.find(OsStr::new(name)).unwrap();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    };
    for name in ["a.json", "b.json", "c.json"] {
        drop_in("new", name);
    }
    let a = spool.hold(&only(&spool, "a")).unwrap();
    let b = spool.hold(&only(&spool, "b.json")).unwrap();
    let held = [OsString::from(format!("{a}.a.json")), OsString::from(format!("{b}.b.json"))];
    assert_eq!(scratch.names(Place::Hold), held);
    assert_eq!(only(&spool, &a.to_string()), only(&spool, &format!("{a}.a")));
    let released = spool.release(&only(&spool, &a.to_string())).unwrap();
    assert_eq!((released.id, released.name.as_os_str()), (a, OsStr::new("a.json")));
    spool.delete(&only(&spool, &format!("{b}.b.json"))).unwrap();
    spool.delete(&only(&spool, "c.json")).unwrap();
    assert_eq!(scratch.names(Place::Work), [format!("{a}.a.json").as_str()]);
    for place in [Place::New, Place::Hold, Place::Tmp] {
        assert!(scratch.names(place).is_empty(), "{place:?}");
    }
    // An answered job goes through once more, beside its first answer.
    assert_eq!(finish(&mut spool, &released).unwrap().0, "a.json");
    let again = spool.requeue(&only(&spool, "a")).unwrap();
    assert_eq!(finish(&mut spool, &again).unwrap().0, format!("a.{}.json", again.id).as_str());
    // Put away under its plain name, since the first input is this one.
    assert_eq!(scratch.names(Place::Done), ["a.json"]);
    // Several jobs of one name, and one that was put into hold/ by hand.
    for (place, name) in [("new", "a.json"), ("hold", "a.json"), ("failed", "a.json")] {
        drop_in(place, name);
    }
    let places: Vec<Place> = spool.find(OsStr::new("a")).unwrap().iter().map(|job| job.place).collect();
    assert_eq!(places, [Place::New, Place::Hold, Place::Failed, Place::Done]);
    let by_hand = spool.release(&spool.jobs(Place::Hold).unwrap()[0]).unwrap();
    assert_eq!(finish(&mut spool, &by_hand).unwrap().0, format!("a.{}.json", by_hand.id).as_str());
    assert_eq!(only(&spool, &by_hand.id.to_string()).place, Place::Done);
    // What is not there, or not for that, is told.
    let answered = spool.find(OsStr::new("a.json")).unwrap().pop().unwrap();
    let error = spool.delete(&answered).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("a.json: the job stands in done/", 66));
    fs::remove_file(scratch.root.join("done/a.json")).unwrap();
    let error = spool.requeue(&answered).unwrap_err();
    assert_eq!(error.to_string(), "a.json: there is no job of that name");
    for name in ["../x", ".x.json", ""] {
        let result = spool.find(OsStr::new(name));
        assert!(matches!(result, Err(SpoolError::Name { .. })), "{name:?}");
    }
    // Whatever was dropped can be deleted.
    fs::create_dir_all(scratch.new_dir().join("dir.json/inner")).unwrap();
    spool.delete(&only(&spool, "dir")).unwrap();
    assert!(scratch.names(Place::Tmp).is_empty());
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
    let set = || Now { is_synchronised: true, ..Now::read() };
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
    assert_eq!(spool(keep(Some(3600), Some(300))).prune(set()).unwrap(), 0);
    assert_eq!(spool(keep(None, Some(299))).prune(set()).unwrap(), 1);
    assert_eq!(jobs(), ["a.json", "b.json"]);
    assert_eq!(spool(keep(None, Some(0))).prune(set()).unwrap(), 2);
    assert_eq!(scratch.names(Place::Done), ["dir.json", "link.json", "note.txt"]);
    assert_eq!(scratch.names(Place::Out).len(), 3);
    fs::write(done.join("a.json"), "x").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    // A clock that will still jump says nothing of ages.
    let unset = Now { is_synchronised: false, ..Now::read() };
    assert_eq!(spool(keep(Some(1), None)).prune(unset).unwrap(), 0);
    assert_eq!(spool(keep(Some(1), None)).prune(set()).unwrap(), 1);
}
