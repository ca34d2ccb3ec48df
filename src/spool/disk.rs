//! The few file operations that a job's life consists of, on open directories, by name.
//! Every change goes through here, one function per operation, so that a test can end the world after any of them.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::UnlinkatFlags;

use super::error::SpoolError;
use super::place::Place;

/// Whether changes reach the disk before the next step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A power cut loses nothing.
    #[default]
    Synced,
    /// Only the program may crash, not the machine: no fsync at all.
    Unsynced,
}

/// The open directories of a spool.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    dirs: Vec<OwnedFd>,
    durability: Durability,
    #[cfg(test)]
    pub(super) fuse: fuse::Fuse,
}

/// How [`Disk::rename`] ended where it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renamed {
    Done,
    /// There was nothing under the old name.
    Missing,
    /// The new name is taken; nothing was changed.
    Taken,
}

impl Disk {
    /// Opens the directories of `root`, which must exist.
    pub fn open(root: &Path, durability: Durability) -> Result<Self, SpoolError> {
        let mut dirs = Vec::with_capacity(Place::ALL.len());
        for place in Place::ALL {
            let path = root.join(place.name());
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let dir = nix::fcntl::open(&path, flags, Mode::empty());
            dirs.push(dir.map_err(|e| SpoolError::Io { doing: "open", path, source: e.into() })?);
        }
        Ok(Self {
            root: root.to_owned(),
            dirs,
            durability,
            #[cfg(test)]
            fuse: fuse::Fuse::default(),
        })
    }

    /// The path of a name, for messages and for the answer's `input_file`.
    pub fn path(&self, place: Place, name: &OsStr) -> PathBuf {
        self.root.join(place.name()).join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn dir(&self, place: Place) -> BorrowedFd<'_> {
        self.dirs[place as usize].as_fd()
    }

    /// What stands under a name, a link itself and not its target; none if nothing does.
    pub fn stat(&self, place: Place, name: &OsStr) -> Result<Option<FileStat>, SpoolError> {
        match nix::sys::stat::fstatat(self.dir(place), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(self.error("look at", place, name, e.into())),
        }
    }

    /// The names in a directory, without `.` and `..`, in no order.
    pub fn list(&self, place: Place, mut each: impl FnMut(&OsStr)) -> Result<(), SpoolError> {
        let fail = |e: Errno| self.error("list", place, OsStr::new(""), e.into());
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut dir = nix::dir::Dir::openat(self.dir(place), c".", flags, Mode::empty()).map_err(fail)?;
        for entry in dir.iter() {
            let entry = entry.map_err(fail)?;
            let name: &CStr = entry.file_name();
            if name != c"." && name != c".." {
                each(OsStr::from_bytes(name.to_bytes()));
            }
        }
        Ok(())
    }

    /// Opens for reading; never follows a link and never waits for a FIFO's other end.
    pub fn open_for_reading(&self, place: Place, name: &OsStr) -> Result<File, Errno> {
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(self.dir(place), name, flags, Mode::empty()).map(File::from)
    }

    /// Opens a file that must be there, for reading and appending.
    pub fn open_for_append(&self, place: Place, name: &OsStr) -> Result<File, SpoolError> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(self.dir(place), name, flags, Mode::empty());
        file.map(File::from).map_err(|e| self.error("open", place, name, e.into()))
    }

    /// Makes an empty file for reading and appending in the place of whatever had the name.
    pub fn create(&self, place: Place, name: &OsStr) -> Result<File, SpoolError> {
        self.remove(place, name)?;
        self.step().map_err(|e| self.error("create", place, name, e))?;
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(self.dir(place), name, flags, Mode::from_bits_truncate(0o640));
        file.map(File::from).map_err(|e| self.error("create", place, name, e.into()))
    }

    /// A writer whose writes count as steps.
    pub fn writer<'d>(&'d self, file: &'d File) -> DiskWriter<'d> {
        DiskWriter { disk: self, file }
    }

    /// Brings a file's content to the disk.
    pub fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.durability == Durability::Unsynced {
            return Ok(());
        }
        self.step()?;
        Ok(nix::unistd::fdatasync(file)?)
    }

    /// Brings a directory's names to the disk.
    pub fn sync_dir(&self, place: Place) -> Result<(), SpoolError> {
        if self.durability == Durability::Unsynced {
            return Ok(());
        }
        let fail = |e| self.error("bring to the disk", place, OsStr::new(""), e);
        self.step().map_err(fail)?;
        nix::unistd::fsync(self.dir(place)).map_err(|e| fail(e.into()))
    }

    /// Cuts a file to `n_bytes`.
    pub fn truncate(&self, file: &File, n_bytes: u64) -> io::Result<()> {
        self.step()?;
        file.set_len(n_bytes)
    }

    /// Removes a name; one that is missing is as good.
    pub fn remove(&self, place: Place, name: &OsStr) -> Result<(), SpoolError> {
        self.step().map_err(|e| self.error("remove", place, name, e))?;
        match nix::unistd::unlinkat(self.dir(place), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(self.error("remove", place, name, e.into())),
        }
    }

    /// Moves a name without ever replacing another.
    pub fn rename(&self, from: (Place, &OsStr), to: (Place, &OsStr)) -> Result<Renamed, SpoolError> {
        let fail = |e| self.error("move", from.0, from.1, e);
        self.step().map_err(fail)?;
        let (from_dir, to_dir) = (self.dir(from.0), self.dir(to.0));
        match nix::fcntl::renameat2(from_dir, from.1, to_dir, to.1, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(Renamed::Done),
            Err(Errno::ENOENT) => Ok(Renamed::Missing),
            Err(Errno::EEXIST) => Ok(Renamed::Taken),
            Err(Errno::EINVAL | Errno::ENOSYS) => self.rename_by_link(from, to),
            Err(e) => Err(fail(e.into())),
        }
    }

    /// Moves a name over another of the same place.
    pub fn replace(&self, from: (Place, &OsStr), to: (Place, &OsStr)) -> Result<(), SpoolError> {
        let fail = |e| self.error("move", from.0, from.1, e);
        self.step().map_err(fail)?;
        let renamed = nix::fcntl::renameat(self.dir(from.0), from.1, self.dir(to.0), to.1);
        renamed.map_err(|e| fail(e.into()))
    }

    /// For file systems that cannot refuse to replace: a second link, then the first goes. What cannot be
    /// linked (a directory, or no links at all) is moved after a look; only the daemon writes to the targets.
    fn rename_by_link(&self, from: (Place, &OsStr), to: (Place, &OsStr)) -> Result<Renamed, SpoolError> {
        match nix::unistd::linkat(self.dir(from.0), from.1, self.dir(to.0), to.1, AtFlags::empty()) {
            Ok(()) => self.remove(from.0, from.1).map(|()| Renamed::Done),
            Err(Errno::ENOENT) => Ok(Renamed::Missing),
            Err(Errno::EEXIST) => Ok(Renamed::Taken),
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                if self.stat(to.0, to.1)?.is_some() {
                    return Ok(Renamed::Taken);
                }
                self.replace(from, to).map(|()| Renamed::Done)
            }
            Err(e) => Err(self.error("move", from.0, from.1, e.into())),
        }
    }

    /// Bytes that the daemon may still write to the spool's file system.
    pub fn free_bytes(&self) -> Result<u64, SpoolError> {
        let stat = nix::sys::statvfs::fstatvfs(self.dir(Place::New));
        let stat = stat.map_err(|e| self.error("look at", Place::New, OsStr::new(""), e.into()))?;
        Ok((stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64))
    }

    /// An error of an operation on a name.
    pub fn error(&self, doing: &'static str, place: Place, name: &OsStr, source: io::Error) -> SpoolError {
        SpoolError::Io { doing, path: self.path(place, name), source }
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        self.fuse.step()
    }

    #[cfg(not(test))]
    #[inline]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }
}

/// See [`Disk::writer`].
pub struct DiskWriter<'d> {
    disk: &'d Disk,
    file: &'d File,
}

impl Write for DiskWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(e) = self.disk.step() {
            // A write may be cut anywhere: half of it is on the disk when the world ends.
            let _ = self.file.write(&bytes[..bytes.len() / 2]);
            return Err(e);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A name that two files of the same name can both have: `x.json` becomes `x.ID.json`.
pub fn name_with_id(name: &OsStr, id: &str) -> OsString {
    let bytes = name.as_bytes();
    let stem = bytes.strip_suffix(b".json").unwrap_or(bytes);
    let mut longer = OsStr::from_bytes(stem).to_owned();
    longer.push(format!(".{id}.json"));
    longer
}

#[cfg(test)]
pub(super) mod fuse {
    //! Ends the world after a number of steps: the tests' stand-in for a crash, a full or a failing disk.

    use std::io;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    pub struct Fuse(Mutex<State>);

    #[derive(Debug, Default)]
    struct State {
        n_taken: usize,
        burns: Vec<Burn>,
    }

    #[derive(Debug, Clone, Copy)]
    struct Burn {
        at: usize,
        n_failing: usize,
        errno: i32,
    }

    impl Fuse {
        /// From now on, `n_good` steps succeed, then `n_failing` fail with `errno`. May be called again for
        /// further failures, all counted from their call.
        pub fn set(&self, n_good: usize, n_failing: usize, errno: i32) {
            let mut state = self.0.lock().unwrap();
            let at = state.n_taken + n_good;
            state.burns.push(Burn { at, n_failing, errno });
        }

        pub fn n_taken(&self) -> usize {
            self.0.lock().unwrap().n_taken
        }

        pub fn step(&self) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let step = state.n_taken;
            state.n_taken += 1;
            let burning = state.burns.iter().find(|burn| step >= burn.at && step - burn.at < burn.n_failing);
            burning.map_or(Ok(()), |burn| Err(io::Error::from_raw_os_error(burn.errno)))
        }
    }
}
