//! A spool that this process alone works on.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::FileStat;

use super::disk::{Disk, Durability, Renamed, name_with_id};
use super::error::SpoolError;
use super::inbox::Candidate;
use super::job::{Claimed, Job, JobId, Opened};
use super::journal::journal_name;
use super::place::Place;
use super::retention::Retention;
use super::states::{self, Recovery};
use super::wire::json::Value;
use super::wish::{self, WishFile};

/// The file under the root that is locked; it holds the daemon's process id.
pub const LOCK_NAME: &str = "lock";

/// Names up to this length keep it; a longer one could not carry the id and `.journal` within 255 bytes.
const NAME_BYTES: usize = 180;

/// What is kept of a longer name.
const SHORT_BYTES: usize = 120;

/// How a spool is worked on.
#[derive(Debug, Clone)]
pub struct SpoolConfig {
    pub durability: Durability,
    /// Largest request file.
    pub max_input_bytes: u64,
    /// How long a file must have been left alone before a scan takes it.
    pub settle: Duration,
    /// Bytes that must be free before a job is taken.
    pub min_free_bytes: u64,
    /// What is removed when it is old.
    pub retention: Retention,
    /// Starts of a job in a row that may end without any new answer before it is given up.
    pub max_attempts: u32,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Synced,
            max_input_bytes: 64 << 20,
            settle: Duration::from_secs(1),
            min_free_bytes: 16 << 20,
            retention: Retention::default(),
            max_attempts: 3,
        }
    }
}

/// A locked spool. The lock goes with it.
#[derive(Debug)]
pub struct Spool {
    pub(super) disk: Arc<Disk>,
    config: SpoolConfig,
    _lock: Flock<File>,
}

impl Spool {
    /// Makes what is missing, locks, and cleans up after a crash. The jobs that were under way are in the
    /// [`Recovery`]; they are to be opened first.
    pub fn open(root: &Path, config: SpoolConfig) -> Result<(Self, Recovery), SpoolError> {
        make_dir(root, 0o755)?;
        let lock = lock(root)?;
        for place in Place::ALL {
            make_dir(&root.join(place.name()), place.mode())?;
        }
        check_one_file_system(root)?;
        let disk = Arc::new(Disk::open(root, config.durability)?);
        let recovery = states::recover(&disk)?;
        Ok((Self { disk, config, _lock: lock }, recovery))
    }

    pub fn config(&self) -> &SpoolConfig {
        &self.config
    }

    /// Works by another configuration from now on; how answers reach the disk stays as it was.
    pub fn set_config(&mut self, config: SpoolConfig) {
        self.config = SpoolConfig { durability: self.config.durability, ..config };
    }

    /// The path of one of the directories.
    pub fn path(&self, place: Place) -> PathBuf {
        self.disk.path(place, OsStr::new(""))
    }

    /// Bytes that may still be written.
    pub fn free_bytes(&self) -> Result<u64, SpoolError> {
        self.disk.free_bytes()
    }

    /// Takes a file out of new/ by one rename to work/, whatever it is; none if it is gone. It keeps its name
    /// unless a job of that name is under way or the name is very long; then the job's id goes before `.json`.
    pub fn claim(&self, candidate: &Candidate) -> Result<Option<Claimed>, SpoolError> {
        let (free, wanted) = (self.free_bytes()?, self.config.min_free_bytes);
        if free < wanted {
            return Err(SpoolError::NoSpace { free, wanted });
        }
        let name = candidate.name();
        let Some(stat) = self.disk.stat(Place::New, name)? else { return Ok(None) };
        let id = JobId::now(&stat);
        let is_long = name.len() > NAME_BYTES;
        // A job that was under way before it was held has a short name.
        let was_held = !is_long && states::is_journal_of(&self.disk, Place::Hold, name, &stat)?;
        if was_held && self.disk.stat(Place::Work, name)?.is_some() {
            // Its journal knows it by this name: it waits until the other job is out.
            return Ok(None);
        }
        let work_name = if is_long || self.disk.stat(Place::Work, name)?.is_some() {
            let start = if is_long { &name.as_bytes()[..SHORT_BYTES] } else { name.as_bytes() };
            name_with_id(OsStr::from_bytes(start), &id.to_string())
        } else {
            name.to_owned()
        };
        // Of an earlier job of that name, if removing it failed then.
        let journal = journal_name(&work_name);
        if self.disk.stat(Place::Work, &journal)?.is_some() {
            self.disk.remove(Place::Work, &journal)?;
        }
        match self.disk.rename((Place::New, name), (Place::Work, &work_name))? {
            Renamed::Done => {
                if was_held {
                    states::bring_journal(&self.disk, name, Place::Hold, Place::Work)?;
                }
                Ok(Some(Claimed { name: work_name, id: Some(id) }))
            }
            Renamed::Missing => Ok(None),
            Renamed::Taken => {
                Err(self.disk.error("claim", Place::New, name, std::io::ErrorKind::AlreadyExists.into()))
            }
        }
    }

    /// Moves a job from work/ to hold/, then its journal. The job is not open.
    pub fn set_aside(&self, name: &OsStr) -> Result<(), SpoolError> {
        let taken = || self.disk.error("hold", Place::Hold, name, std::io::ErrorKind::AlreadyExists.into());
        if self.disk.stat(Place::Hold, &journal_name(name))?.is_some() {
            return Err(taken());
        }
        match self.disk.rename((Place::Work, name), (Place::Hold, name))? {
            Renamed::Taken => return Err(taken()),
            Renamed::Done | Renamed::Missing => {}
        }
        states::bring_journal(&self.disk, name, Place::Work, Place::Hold)?;
        self.disk.sync_dir(Place::Hold)?;
        self.disk.sync_dir(Place::Work)
    }

    /// Removes a job from work/, then its journal. The job is not open.
    pub fn discard(&self, name: &OsStr) -> Result<(), SpoolError> {
        self.disk.remove(Place::Work, name)?;
        self.disk.sync_dir(Place::Work)?;
        self.disk.remove(Place::Work, &journal_name(name))
    }

    /// Whether a file in new/ holds a whole JSON text, or will not become a job by waiting: anything but a
    /// regular file of a size that is taken. One that cannot be read counts as not complete.
    pub(super) fn is_complete(&self, name: &OsStr, stat: &FileStat) -> bool {
        let n_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || n_bytes > self.config.max_input_bytes {
            return true;
        }
        let Ok(file) = self.disk.open_for_reading(Place::New, name) else { return false };
        let mut text = String::new();
        let is_read = file.take(self.config.max_input_bytes).read_to_string(&mut text).is_ok();
        is_read && Value::parse(text.strip_prefix('\u{feff}').unwrap_or(&text)).is_ok()
    }

    /// A job in work/, as it is offered again after it was closed.
    pub fn claimed(&self, name: &OsStr) -> Result<Option<Claimed>, SpoolError> {
        let is_there = self.disk.stat(Place::Work, name)?.is_some();
        Ok(is_there.then(|| Claimed { name: name.to_owned(), id: None }))
    }

    /// What operators ask for.
    pub fn wishes(&self) -> Result<Vec<WishFile>, SpoolError> {
        wish::waiting(&self.disk)
    }

    /// The wish is granted, or cannot be: whoever asked looks at the job.
    pub fn end_wish(&self, file: &WishFile) -> Result<(), SpoolError> {
        self.disk.remove(Place::Control, &file.name)
    }

    /// Removes old inputs and answers as the configuration says; returns how many.
    pub fn prune(&self) -> Result<usize, SpoolError> {
        self.config.retention.prune(&self.disk)
    }

    /// Opens a job in work/ with what its journal kept. After an error it may be opened again.
    pub fn open_job(&self, claimed: &Claimed) -> Result<Opened, SpoolError> {
        Job::open(&self.disk, claimed, &self.config)
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
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)
}

fn lock(root: &Path) -> Result<Flock<File>, SpoolError> {
    let path = root.join(LOCK_NAME);
    let fail = |source| SpoolError::Io { doing: "lock", path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(&path).map_err(fail)?;
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
