//! A spool that this process alone works on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::answer_owners::AnswerOwners;
use super::clock::Now;
use super::disk::{Disk, Free, Renamed};
use super::error::SpoolError;
use super::id::JobId;
use super::job::Job;
use super::place::Place;
use super::probe::Probe;
use super::settings::SpoolConfig;
use super::states::{Recovery, recover};

/// The file under the root that is locked; it holds the daemon's process id.
pub const LOCK_NAME: &str = "lock";

/// A locked spool. The lock goes with it.
#[derive(Debug)]
pub struct Spool {
    pub(super) disk: Disk,
    pub(super) config: SpoolConfig,
    /// Jobs in work/ that were opened.
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Whose the latest answers are.
    pub(super) answers: AnswerOwners,
    /// The greatest id so far.
    pub(super) last_id: Option<JobId>,
    _lock: Flock<File>,
}

impl Spool {
    /// Makes what is missing, locks, and cleans up after a crash. The jobs that were under way are in the
    /// [`Recovery`]; they are to be opened first.
    pub fn open(root: &Path, config: SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        Self::open_probed(root, config, |_| {})
    }

    /// The same, with a look at every change.
    pub(super) fn open_probed(
        root: &Path,
        config: SpoolConfig,
        prepare: impl FnOnce(&Probe),
    ) -> Result<(Self, Recovery), SpoolError> {
        make_dir(root, 0o755)?;
        let lock = lock(root)?;
        for place in Place::ALL {
            make_dir(&root.join(place.name()), place.mode())?;
        }
        for private in [Place::Work, Place::Tmp] {
            narrow(&root.join(private.name()), private.mode());
        }
        check_one_file_system(root)?;
        let mut disk = Disk::open(root, config.durability)?;
        prepare(&disk.probe);
        check_renames(&mut disk)?;
        let (recovery, last_id) = recover(&mut disk)?;
        Ok((
            Self {
                disk,
                config,
                jobs: BTreeMap::new(),
                answers: AnswerOwners::default(),
                last_id,
                _lock: lock,
            },
            recovery,
        ))
    }

    pub fn config(&self) -> &SpoolConfig {
        &self.config
    }

    /// Works by another configuration from now on.
    pub fn set_config(&mut self, config: SpoolConfig) {
        self.disk.durability = config.durability;
        self.config = config;
    }

    /// The directory of the whole spool.
    pub fn root(&self) -> &Path {
        self.disk.root()
    }

    /// The path of one of the directories.
    pub fn path(&self, place: Place) -> PathBuf {
        self.disk.path(place, OsStr::new(""))
    }

    /// What may still be written.
    pub fn free(&self) -> Result<Free, SpoolError> {
        self.disk.free()
    }

    /// Removes old inputs and answers as the configuration says; returns how many. Ages count only by a clock
    /// that is set.
    pub fn prune(&mut self, now: Now) -> Result<usize, SpoolError> {
        self.config.retention.prune(&mut self.disk, now)
    }
}

/// Refuses what is no spool, before anything is looked for or made in it. One that this user may not look at passes.
///
/// # Errors
/// [`SpoolError::NoSpool`].
pub fn check_spool(root: &Path) -> Result<(), SpoolError> {
    let refuse = |found| Err(SpoolError::NoSpool { root: root.to_owned(), found });
    match std::fs::metadata(root) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            refuse("not there")
        }
        Ok(found) if !found.is_dir() => refuse("a file"),
        Ok(_) => match std::fs::metadata(root.join(Place::New.name())) {
            Err(error) if error.kind() == ErrorKind::NotFound => refuse("another directory"),
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), SpoolError> {
    let fail = |source| SpoolError::Io { doing: "make", path: path.to_owned(), source };
    // A directory that was there keeps what its owner gave it. It is looked for first: a service that may not
    // set setgid bits may not even try to make new/.
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(SpoolError::NotADirectory { dir: path.to_owned() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    std::fs::DirBuilder::new().mode(mode).create(path).map_err(fail)?;
    // The mode again, without the umask.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail)
}

/// Takes rights away that `mode` does not have. What an administrator may not be denied is left as it is.
fn narrow(path: &Path, mode: u32) {
    let Ok(found) = std::fs::metadata(path) else { return };
    let now = found.permissions().mode() & 0o7777;
    if now & !mode != 0 {
        let _ = std::fs::set_permissions(path, Permissions::from_mode(now & mode));
    }
}

fn lock(root: &Path) -> Result<Flock<File>, SpoolError> {
    let path = root.join(LOCK_NAME);
    let fail = |source| SpoolError::Io { doing: "lock", path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&path).map_err(fail)?;
    // One that an earlier version made is open to all. Whoever may not open it asks the daemon's socket.
    let _ = file.set_permissions(Permissions::from_mode(0o600));
    // `status` holds the lock for an instant when it looks whether a daemon runs: hence some tries.
    for _ in 0..5 {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                // For people only: without it nothing is lost.
                let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
                return Ok(lock);
            }
            Err((back, nix::errno::Errno::EWOULDBLOCK)) => file = back,
            Err((_, e)) => return Err(fail(e.into())),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(SpoolError::Locked { root: root.to_owned() })
}

fn check_one_file_system(root: &Path) -> Result<(), SpoolError> {
    let device = |path: &Path| {
        let found = std::fs::metadata(path).map(|found| found.dev());
        found.map_err(|source| SpoolError::Io { doing: "look at", path: path.to_owned(), source })
    };
    let wanted = device(root)?;
    for place in Place::ALL {
        let dir = root.join(place.name());
        if device(&dir)? != wanted {
            return Err(SpoolError::OtherFileSystem { dir });
        }
    }
    Ok(())
}

/// The spool's promises rest on renames that replace nothing. A full disk is no reason to refuse the spool.
fn check_renames(disk: &mut Disk) -> Result<(), SpoolError> {
    let [from, to] = ["probe", "probe.renamed"].map(OsStr::new);
    disk.remove(Place::Tmp, to)?;
    let is_full = |e: &std::io::Error| {
        matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    };
    match disk.create(Place::Tmp, from) {
        Ok(_) => {}
        Err(SpoolError::Io { source, .. }) if is_full(&source) => return Ok(()),
        Err(error) => return Err(error),
    }
    let renamed = disk.rename((Place::Tmp, from), (Place::Tmp, to));
    disk.remove(Place::Tmp, from)?;
    disk.remove(Place::Tmp, to)?;
    match renamed {
        Ok(Renamed::Done) => Ok(()),
        Err(SpoolError::Io { source, .. })
            if !matches!(source.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) =>
        {
            Err(disk.error("move", Place::Tmp, from, source))
        }
        _ => Err(SpoolError::NoExclusiveRename { root: disk.root().to_owned() }),
    }
}
