//! What the user of this process may do: write to the spool, rename in it, ask the kernel about memory.
//! It leaves nothing behind.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, access, geteuid};

use super::finding::{Finding, word};
use super::unit::Unit;
use crate::config::Config;
use crate::spool::Place;
use crate::store::access::{closed_ancestor, user_name};

const PRESSURE_FILE: &str = "proc/pressure/memory";
/// What the daemon asks for; the last byte is lost.
const THRESHOLD: &[u8] = b"some 200000 2000000\0";

pub fn examine(config: &Config, system_root: &Path, unit: Option<&Unit>) -> Vec<Finding> {
    let mut findings = spool(&config.spool);
    if let Some(directory) = config.metrics_file.as_ref().and_then(|file| file.parent()) {
        findings.extend(writable("metrics", directory));
    }
    findings.push(pressure(&system_root.join(PRESSURE_FILE), unit));
    findings
}

fn spool(root: &Path) -> Vec<Finding> {
    if closed_ancestor(root).is_some() {
        return vec![closed("spool", root, "write to")];
    }
    let mut findings: Vec<Finding> = writable("spool", root).into_iter().collect();
    findings.extend(Place::ALL.iter().filter_map(|place| writable("spool", &root.join(place.name()))));
    findings.extend(lock(&root.join("lock")));
    if findings.is_empty() && root.is_dir() {
        findings.extend(rename(&root.join(Place::Tmp.name())));
    }
    findings
}

/// Whether this user may read all files of an engine's directory.
pub fn is_readable(engine: &Path) -> bool {
    let entries = fs::read_dir(engine).into_iter().flatten().flatten();
    let mut files = entries.map(|entry| access(&entry.path(), AccessFlags::R_OK).is_ok()).peekable();
    files.peek().is_some() && files.all(|is_readable| is_readable)
}

/// Something that this user may not reach or read.
pub fn closed(topic: &str, path: &Path, action: &str) -> Finding {
    let who = user_name(geteuid());
    if let Some(closed) = closed_ancestor(path) {
        let what = format!("{who} cannot {action} {}: {} is closed", path.display(), closed.display());
        return Finding::problem(topic, what).command(format!("chmod a+x {}", word(&closed)));
    }
    let what = format!("{who} cannot {action} {}", path.display());
    Finding::problem(topic, what).command(format!("chmod -R a+rX {}", word(path)))
}

/// What keeps this user from making files in a directory; what is not there is told elsewhere.
fn writable(topic: &str, path: &Path) -> Option<Finding> {
    let wanted = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    let errno = access(path, wanted).err().filter(|errno| *errno != Errno::ENOENT)?;
    if closed_ancestor(path).is_some() {
        return Some(closed(topic, path, "write to"));
    }
    // What is no directory is told elsewhere too.
    if !path.is_dir() {
        return None;
    }
    let (who, shown) = (user_name(geteuid()), path.display());
    let finding = Finding::problem(topic, format!("{who} cannot write to {shown}: {}", errno.desc()));
    Some(match errno {
        Errno::EROFS => finding.command(format!("mount -o remount,rw \"$(stat -c %m {})\"", word(path))),
        _ if topic == "spool" => finding.command(format!("chown {who}: {0} && chmod u+rwx {0}", word(path))),
        _ => finding.command(format!("chgrp {who} {0} && chmod g+rwx {0}", word(path))),
    })
}

/// The daemon must be able to lock the spool.
fn lock(path: &Path) -> Option<Finding> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    match opened {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let (who, file) = (user_name(geteuid()), word(path));
            let what = format!("{who} cannot lock the spool: {}: {error}", path.display());
            let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
            let command = if is_file {
                format!("chown {who}: {file} && chmod 600 {file}")
            } else {
                format!("rm -r {file}")
            };
            Some(Finding::problem("spool", what).command(command))
        }
    }
}

/// Whether the file system can rename without replacing: the spool's every step.
fn rename(directory: &Path) -> Option<Finding> {
    let [from, to] = ["a", "b"].map(|end| directory.join(format!(".doctor-{}-{end}", std::process::id())));
    fs::File::create_new(&from).ok()?;
    let renamed = renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE);
    let _ = fs::remove_file(&from);
    let _ = fs::remove_file(&to);
    let errno = renamed.err()?;
    let what = format!(
        "the file system of {} cannot rename without replacing: {}",
        directory.display(),
        errno.desc()
    );
    Some(Finding::problem("spool", what).advice("put the spool on ext4, xfs, btrfs or f2fs"))
}

/// Whether the kernel tells this user when memory is short.
fn pressure(path: &Path, unit: Option<&Unit>) -> Finding {
    let effect = "the daemon gives memory back only when it is idle";
    if !path.exists() {
        let what = format!("the kernel does not tell of memory pressure: {effect}");
        return Finding::note("pressure", what).advice("add psi=1 to the kernel's command line");
    }
    if unit.is_some_and(|unit| unit.has_pressure_file) {
        return Finding::ok("pressure", "systemd watches it for the service");
    }
    let asked = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    match asked.and_then(|mut file| file.write_all(THRESHOLD)) {
        Ok(()) => Finding::ok("pressure", "the kernel tells of memory pressure"),
        Err(error) => {
            let who = user_name(geteuid());
            let what = format!("the kernel does not tell {who} of memory pressure ({error}): {effect}");
            Finding::note("pressure", what)
                .advice("nothing to be done here: it takes Linux 6.5, or systemd 254 with control groups 2")
        }
    }
}
