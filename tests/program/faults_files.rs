//! What no producer should drop, dropped on a running daemon: it never follows, never hangs, and each is answered
//! or left alone with a reason.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::support::serving::{Bench, Installed, folder, job};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const SETTINGS: &str = "settle_ms = 50\nscan_seconds = 1\nfsync = false\nmax_file_mib = 1\n";

fn new(bench: &Bench, name: &[u8]) -> PathBuf {
    bench.place("new").join(OsStr::from_bytes(name))
}

/// Drops a good file after the odd ones and waits for it: the daemon goes on.
fn wait_for_good(bench: &Bench) {
    bench.drop_in("good.json", &job(1, 1).to_string());
    bench.wait_for("the good answer", || bench.has("done", b"good.json"));
}

fn check_rejected(bench: &Bench, name: &[u8], code: &str) {
    let shown = String::from_utf8_lossy(name);
    bench.wait_for(&shown, || bench.has("failed", name) && !bench.has("work", name));
    let answer = std::fs::read(bench.place("out").join(OsStr::from_bytes(name))).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["error"]["code"], code, "{shown}: {answer}");
    assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
}

#[test]
fn odd_files_are_rejected_and_never_followed() {
    let folder = folder();
    let bench = Bench::new(folder.path(), SETTINGS);
    let _daemon = bench.start("log");
    bench.wait_for("a ready daemon", || bench.log("log").contains("ready"));
    let target = folder.path().join("target");
    std::fs::write(&target, job(1, 1).to_string()).unwrap();
    symlink(&target, new(&bench, b"link.json")).unwrap();
    symlink("/dev/zero", new(&bench, b"endless.json")).unwrap();
    symlink("nowhere", new(&bench, b"dangling.json")).unwrap();
    nix::unistd::mkfifo(&new(&bench, b"fifo.json"), Mode::S_IRWXU).unwrap();
    // A socket's path is short, so it is made through a link to the spool.
    let short = tempfile::tempdir().unwrap();
    symlink(bench.place("new"), short.path().join("new")).unwrap();
    let _socket = UnixListener::bind(short.path().join("new/socket.json")).unwrap();
    std::fs::create_dir(new(&bench, b"directory.json")).unwrap();
    std::fs::write(new(&bench, b"directory.json").join("inside"), "kept").unwrap();
    let mut odd: Vec<&[u8]> = vec![b"link.json", b"endless.json", b"dangling.json", b"fifo.json"];
    odd.extend([b"socket.json".as_slice(), b"directory.json"]);
    let null = mknod(&new(&bench, b"device.json"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3));
    match null {
        Ok(()) => odd.push(b"device.json"),
        Err(error) => tell(&format!("SKIPPED: the device node: {error}")),
    }
    wait_for_good(&bench);
    for name in odd {
        check_rejected(&bench, name, "not-a-file");
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), job(1, 1).to_string());
    assert_eq!(std::fs::read(bench.place("failed/directory.json/inside")).unwrap(), b"kept");
}

#[test]
fn sizes_and_names_at_the_edge_are_answered() {
    let folder = folder();
    let bench = Bench::new(folder.path(), SETTINGS);
    let _daemon = bench.start("log");
    bench.wait_for("a ready daemon", || bench.log("log").contains("ready"));
    let huge = std::fs::File::create(new(&bench, b"huge.json")).unwrap();
    huge.set_len(2 << 30).unwrap();
    drop(huge);
    std::fs::write(new(&bench, b"empty.json"), "").unwrap();
    let long = [&[b'x'; 250][..], b".json"].concat();
    let names: [&[u8]; 5] = [b"two\nlines.json", b"\xff\xfe.json", b" .json", b"-rf.json", b"\x1b[31m.json"];
    for name in names.into_iter().chain([long.as_slice()]) {
        std::fs::write(new(&bench, name), job(1, 1).to_string()).unwrap();
    }
    std::fs::write(new(&bench, b"stranger.txt"), "").unwrap();
    wait_for_good(&bench);
    check_rejected(&bench, b"huge.json", "too-large");
    for name in names {
        bench.wait_for("done", || bench.has("out", name) && bench.has("done", name));
    }
    bench.wait_for("a reason", || bench.log("log").contains("new/stranger.txt is left alone"));
    bench.wait_for("another reason", || bench.log("log").contains("more than 236 bytes"));
    assert_eq!((bench.n_files("done"), bench.n_files("out")), (names.len() + 1, names.len() + 2));
    // The empty one is waited for: somebody may be about to write to it.
    assert!(
        [b"stranger.txt".as_slice(), &long, b"empty.json"].into_iter().all(|name| bench.has("new", name))
    );
    let log = bench.log("log");
    assert!(log.lines().all(|line| line.starts_with("20")), "a name broke a line of the log: {log:?}");
    assert!(!log.contains('\x1b'), "a name reached the terminal raw: {log:?}");
}

#[test]
fn files_of_another_user_are_answered() {
    if !nix::unistd::geteuid().is_root() {
        return tell("SKIPPED: files of another user can only be made by root");
    }
    // Below /tmp: everybody may go there.
    let folder = tempfile::tempdir().unwrap();
    let installed = Installed::new(folder.path(), SETTINGS);
    let _daemon = installed.start();
    let bench = &installed.bench;
    for (name, mode) in [("secret.json", 0o000), ("foreign.json", 0o644)] {
        let aside = folder.path().join(name);
        std::fs::write(&aside, job(1, 1).to_string()).unwrap();
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(aside, new(bench, name.as_bytes())).unwrap();
    }
    let directory = folder.path().join("root.json");
    std::fs::create_dir(&directory).unwrap();
    std::fs::rename(directory, new(bench, b"root.json")).unwrap();
    wait_for_good(bench);
    check_rejected(bench, b"secret.json", "not-a-file");
    bench.wait_for("foreign.json", || bench.has("done", b"foreign.json"));
    // A directory of somebody else cannot be moved: it stays, and the log says so.
    bench.wait_for("a reason", || bench.log("log").contains("new/root.json cannot be claimed"));
    assert!(bench.has("new", b"root.json"));
}

#[test]
fn a_second_daemon_gives_way() {
    let folder = folder();
    let bench = Bench::new(folder.path(), SETTINGS);
    let _daemon = bench.start("log");
    bench.wait_for("a ready daemon", || bench.log("log").contains("ready"));
    let status = bench.serve("second log").status().unwrap();
    assert_eq!(status.code(), Some(75));
    let why = bench.log("second log");
    assert!(why.contains("in use by another daemon") && why.contains("stop that one"), "{why}");
    wait_for_good(&bench);
}

fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
