//! The directory new/ as whoever looks for work sees it: names, what stands under them, their bytes. It
//! changes nothing there; claims are the writer's.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode};

use super::error::SpoolError;
use super::place::Place;

/// An open new/.
#[derive(Debug)]
pub struct NewDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl NewDir {
    /// Opens new/ of the spool at `root`.
    ///
    /// # Errors
    /// [`SpoolError`] when it is not there, or not for this user.
    pub fn open(root: &Path) -> Result<Self, SpoolError> {
        let path = root.join(Place::New.name());
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(Self { path, dir }),
            Err(e) => Err(SpoolError::Io { doing: "open", path, source: e.into() }),
        }
    }

    /// Calls `each` with every name, in no order.
    pub(super) fn list(&self, mut each: impl FnMut(&OsStr)) -> Result<(), SpoolError> {
        let fail = |e: Errno| self.error("list", OsStr::new(""), e.into());
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut dir = nix::dir::Dir::openat(&self.dir, c".", flags, Mode::empty()).map_err(fail)?;
        for entry in dir.iter() {
            let entry = entry.map_err(fail)?;
            let name: &CStr = entry.file_name();
            if name != c"." && name != c".." {
                each(OsStr::from_bytes(name.to_bytes()));
            }
        }
        Ok(())
    }

    /// What stands under a name, a link itself and not its target; none if nothing does.
    pub(super) fn stat(&self, name: &OsStr) -> Result<Option<FileStat>, SpoolError> {
        match nix::sys::stat::fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(self.error("look at", name, e.into())),
        }
    }

    /// Opens for reading; never follows a link and never waits for a FIFO's other end.
    pub(super) fn open_for_reading(&self, name: &OsStr) -> io::Result<File> {
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::openat(&self.dir, name, flags, Mode::empty()).map(File::from)?)
    }

    fn error(&self, doing: &'static str, name: &OsStr, source: io::Error) -> SpoolError {
        SpoolError::Io { doing, path: self.path.join(name), source }
    }
}
