//! The producer's side: drop a request file whole, and wait for its answer.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::error::SpoolError;
use super::id::JobId;
use super::name::{self, MAX_NAME_BYTES};
use super::place::Place;
use super::watch::Watch;

/// Drops `bytes` into the spool at `root` as `name`, or, where a job or an answer has that name, as
/// `NAME.MARK.json`. Returns the name that it has, and the inode that tells it from others of that name.
pub fn submit(root: &Path, name: &OsStr, bytes: &[u8]) -> Result<(OsString, u64), SpoolError> {
    let name = name::completed(name).map_err(|why| SpoolError::Name { name: name.to_owned(), why })?;
    let new = root.join(Place::New.name());
    let mut id = JobId::next(None);
    // A producer need not have access to tmp/; the daemon does not look at dot names.
    let (unready, written) = loop {
        let unready = new.join(format!(".{id}-{}.part", std::process::id()));
        match write_whole(&unready, bytes) {
            // Another thread of this process began at the same moment: the file is its own.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => id = JobId::next(Some(id)),
            written => break (unready, written),
        }
    };
    let marked = name::with_id(&name, &id.to_string());
    let dropped =
        written.and_then(|inode| drop_as(root, &unready, [&name, &marked]).map(|name| (name, inode)));
    if dropped.is_err() {
        // If it cannot be removed either, the daemon does not look at it.
        let _ = fs::remove_file(&unready);
    }
    let dropped = dropped.map_err(|source| SpoolError::Io { doing: "submit to", path: new.clone(), source });
    // The name reaches the disk with its directory; a producer that may not open it still has dropped the file.
    let _ = fs::File::open(&new).and_then(|dir| dir.sync_all());
    dropped
}

/// Waits until `out/NAME` is there and returns its path. The producer must be allowed to look at out/.
pub fn wait_for_answer(root: &Path, name: &OsStr, limit: Duration) -> Result<PathBuf, SpoolError> {
    let out = root.join(Place::Out.name());
    let answer = out.join(name);
    let watch = Watch::new(&out)?;
    let start = Instant::now();
    loop {
        match answer.symlink_metadata() {
            Ok(_) => return Ok(answer),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(SpoolError::Io { doing: "look at", path: answer, source }),
        }
        let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(SpoolError::NoAnswerYet { name: name.to_owned(), seconds: limit.as_secs() });
        };
        // The watch is a hint: looked at again every second without it.
        let pause = u16::try_from(left.as_millis().max(1)).map_or(LOOK_AGAIN_MS, |ms| ms.min(LOOK_AGAIN_MS));
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, PollTimeout::from(pause)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(SpoolError::Io { doing: "wait at", path: out, source: e.into() }),
        }
        watch.arrivals()?;
    }
}

/// At the place of an answer, whatever its watch says: in milliseconds.
const LOOK_AGAIN_MS: u16 = 1000;

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    // The daemon reads it as a member of the group that new/ gives to what is in it, whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(0o640))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file.metadata()?.ino())
}

fn drop_as(root: &Path, unready: &Path, names: [&OsString; 2]) -> io::Result<OsString> {
    let [plain, marked] = names;
    let is_taken = |place: Place| root.join(place.name()).join(plain).symlink_metadata().is_ok();
    let is_free = ![Place::New, Place::Work, Place::Out, Place::Hold].into_iter().any(is_taken);
    let new = root.join(Place::New.name());
    if is_free {
        match nix::fcntl::renameat2(
            AT_FDCWD,
            unready,
            AT_FDCWD,
            &new.join(plain),
            RenameFlags::RENAME_NOREPLACE,
        ) {
            Ok(()) => return Ok(plain.clone()),
            // Another producer was faster.
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if marked.len() > MAX_NAME_BYTES {
        let why = "a job or an answer has this name, which is too long to get a mark; give it another one";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let marked_path = new.join(marked);
    nix::fcntl::renameat2(AT_FDCWD, unready, AT_FDCWD, &marked_path, RenameFlags::RENAME_NOREPLACE)?;
    Ok(marked.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_process_do_not_take_each_other_s_files() {
        const N_THREADS: usize = 4;
        const N_EACH: usize = 150;
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(Place::New.name())).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..N_THREADS {
                let root = folder.path();
                scope.spawn(move || {
                    for i in 0..N_EACH {
                        let name = format!("{thread}-{i}.json");
                        submit(root, OsStr::new(&name), b"{}").unwrap();
                    }
                });
            }
        });
        let n_files = fs::read_dir(folder.path().join(Place::New.name())).unwrap().count();
        assert_eq!(n_files, N_THREADS * N_EACH);
    }
}
