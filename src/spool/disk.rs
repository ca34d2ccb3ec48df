//! The few file operations that a job's life consists of, on open directories, by name.
//!
//! Every change goes through here, one function per operation, so that a test can fail or end the world at any
//! of them, and record them to find out what a power cut leaves. A directory is synced by whoever needs it; one
//! that did not change since its last sync costs nothing.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::Location;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::UnlinkatFlags;

use super::error::SpoolError;
use super::place::Place;
use super::probe::{Change, Probe};
use super::settings::Durability;

/// The open directories of a spool.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    dirs: [Dir; Place::ALL.len()],
    pub durability: Durability,
    pub(super) probe: Probe,
}

#[derive(Debug)]
struct Dir {
    fd: OwnedFd,
    /// Names changed since the last sync, or before this process came.
    is_dirty: bool,
}

/// What may still be written to the spool's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    pub n_bytes: u64,
    /// None where the file system makes inodes as they are needed.
    pub n_inodes: Option<u64>,
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
            let fd = open_dir(AT_FDCWD, path.as_os_str());
            let fd = fd.map_err(|e| SpoolError::Io { doing: "open", path, source: e.into() })?;
            dirs.push(Dir { fd, is_dirty: true });
        }
        let dirs = dirs.try_into().expect("there is one for each place");
        Ok(Self { root: root.to_owned(), dirs, durability, probe: Default::default() })
    }

    /// The path of a name, for messages and for the answer's `input_file`.
    pub fn path(&self, place: Place, name: &OsStr) -> PathBuf {
        self.root.join(place.name()).join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
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

    /// Opens for reading and appending.
    pub fn open_for_append(&self, place: Place, name: &OsStr) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(self.dir(place), name, flags, Mode::empty()).map(File::from)
    }

    /// Makes an empty file for reading and appending in the place of whatever had the name.
    pub fn create(&mut self, place: Place, name: &OsStr) -> Result<File, SpoolError> {
        self.remove(place, name)?;
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let made = self.probe.step().and_then(|()| {
            Ok(nix::fcntl::openat(self.dir(place), name, flags, Mode::from_bits_truncate(0o640))?)
        });
        let file = File::from(made.map_err(|e| self.error("create", place, name, e))?);
        self.dirs[place as usize].is_dirty = true;
        self.probe.did(Change::Create { place, name, file: &file });
        Ok(file)
    }

    /// A writer whose writes count as steps.
    pub fn writer<'d>(&'d self, file: &'d File) -> DiskWriter<'d> {
        DiskWriter { disk: self, file }
    }

    /// Lets the kernel begin to write a file, so that several syncs wait together. A hint: it has no errors.
    pub fn start_writing_back(&self, file: &File) {
        if self.durability == Durability::Synced {
            // SAFETY: the descriptor is open; the call touches no memory of ours.
            unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }

    /// Brings a file's content to the disk. After an error nothing more may be asked of the file: what the
    /// kernel could not write it may have dropped, and the next sync would say that all is well.
    #[track_caller]
    pub fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.durability == Durability::Unsynced || self.probe.is_left_out(Location::caller(), None) {
            return Ok(());
        }
        self.probe.step()?;
        nix::unistd::fdatasync(file)?;
        self.probe.did(Change::SyncFile { file });
        Ok(())
    }

    /// Brings a directory's names to the disk. After an error it stays dirty, and the next sync goes through
    /// another descriptor, since the old one has told its error and would tell it no more.
    #[track_caller]
    pub fn sync_dir(&mut self, place: Place) -> Result<(), SpoolError> {
        let is_clean = !self.dirs[place as usize].is_dirty;
        if is_clean
            || self.durability == Durability::Unsynced
            || self.probe.is_left_out(Location::caller(), Some(place))
        {
            return Ok(());
        }
        let synced = self.probe.step().and_then(|()| Ok(nix::unistd::fsync(self.dir(place))?));
        if let Err(e) = synced {
            if let Ok(fd) = open_dir(self.dir(place), OsStr::new(".")) {
                self.dirs[place as usize].fd = fd;
            }
            return Err(self.error("bring to the disk", place, OsStr::new(""), e));
        }
        self.dirs[place as usize].is_dirty = false;
        self.probe.did(Change::SyncDir { place });
        Ok(())
    }

    /// Cuts a file to `n_bytes`.
    pub fn truncate(&self, file: &File, n_bytes: u64) -> io::Result<()> {
        self.probe.step()?;
        file.set_len(n_bytes)?;
        self.probe.did(Change::Truncate { file, n_bytes });
        Ok(())
    }

    /// Removes a name; a missing one is no error.
    pub fn remove(&mut self, place: Place, name: &OsStr) -> Result<(), SpoolError> {
        let removed = self.probe.step().and_then(|()| {
            match nix::unistd::unlinkat(self.dir(place), name, UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR) => std::fs::remove_dir_all(self.path(place, name)),
                other => Ok(other?),
            }
        });
        match removed {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.error("remove", place, name, e)),
        }
        self.dirs[place as usize].is_dirty = true;
        self.probe.did(Change::Remove { place, name });
        Ok(())
    }

    /// Moves a name without ever replacing another.
    pub fn rename(&mut self, from: (Place, &OsStr), to: (Place, &OsStr)) -> Result<Renamed, SpoolError> {
        match self.rename_with(from, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(Renamed::Done),
            Err(e) => match e.raw_os_error() {
                Some(libc::ENOENT) => Ok(Renamed::Missing),
                Some(libc::EEXIST) => Ok(Renamed::Taken),
                _ => Err(self.error("move", from.0, from.1, e)),
            },
        }
    }

    /// Moves a name over another.
    pub fn replace(&mut self, from: (Place, &OsStr), to: (Place, &OsStr)) -> Result<(), SpoolError> {
        let replaced = self.rename_with(from, to, RenameFlags::empty());
        replaced.map_err(|e| self.error("move", from.0, from.1, e))
    }

    fn rename_with(
        &mut self,
        from: (Place, &OsStr),
        to: (Place, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        self.probe.step()?;
        nix::fcntl::renameat2(self.dir(from.0), from.1, self.dir(to.0), to.1, flags)?;
        self.dirs[from.0 as usize].is_dirty = true;
        self.dirs[to.0 as usize].is_dirty = true;
        self.probe.did(Change::Rename { from, to });
        Ok(())
    }

    /// What may still be written.
    pub fn free(&self) -> Result<Free, SpoolError> {
        let stat = nix::sys::statvfs::fstatvfs(self.dir(Place::New));
        let stat = stat.map_err(|e| self.error("look at", Place::New, OsStr::new(""), e.into()))?;
        let n_bytes = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
        let n_inodes = (stat.files() > 0).then(|| stat.files_available() as u64);
        Ok(Free { n_bytes, n_inodes })
    }

    /// An error of an operation on a name.
    pub fn error(&self, doing: &'static str, place: Place, name: &OsStr, source: io::Error) -> SpoolError {
        SpoolError::Io { doing, path: self.path(place, name), source }
    }

    fn dir(&self, place: Place) -> BorrowedFd<'_> {
        self.dirs[place as usize].fd.as_fd()
    }
}

fn open_dir(at: BorrowedFd, path: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(at, path, flags, Mode::empty())
}

/// See [`Disk::writer`].
pub struct DiskWriter<'d> {
    disk: &'d Disk,
    file: &'d File,
}

impl Write for DiskWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (written, bytes) = match self.disk.probe.step() {
            Ok(()) => (self.file.write(bytes), bytes),
            // A write may be cut anywhere: half of it is on the disk when the world ends.
            Err(e) => (self.file.write(&bytes[..bytes.len() / 2]).and(Err(e)), &bytes[..bytes.len() / 2]),
        };
        let n_written = *written.as_ref().unwrap_or(&bytes.len());
        self.disk.probe.did(Change::Write { file: self.file, bytes: &bytes[..n_written] });
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
