//! A spool that this process alone works on.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::disk::{Disk, Durability, Renamed, name_with_id};
use super::error::SpoolError;
use super::inbox::Candidate;
use super::job::{Claimed, Job, JobId, Opened};
use super::journal::journal_name;
use super::place::Place;
use super::states::{self, Recovery};

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
            Renamed::Done => Ok(Some(Claimed { name: work_name, id: Some(id) })),
            Renamed::Missing => Ok(None),
            Renamed::Taken => {
                Err(self.disk.error("claim", Place::New, name, std::io::ErrorKind::AlreadyExists.into()))
            }
        }
    }

    /// Opens a job in work/ with what its journal kept. After an error it may be opened again.
    pub fn open_job(&self, claimed: &Claimed) -> Result<Opened, SpoolError> {
        Job::open(&self.disk, claimed, &self.config)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), SpoolError> {
    let fail = |source| SpoolError::Io { doing: "make", path: path.to_owned(), source };
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        // The mode again, without the umask. A directory that was there keeps what its owner gave it.
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(SpoolError::NotADirectory { dir: path.to_owned() }),
            Err(e) => Err(fail(e)),
        },
        Err(e) => Err(fail(e)),
    }
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
