//! The one way files are written: a temporary name beside the target, fsync, rename, fsync of the directory.
//!
//! A reader sees the old file or the new one, never a part; a crash leaves the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::blocks::Blocks;
use super::map::kind_of;

/// Temporary names tried before giving up; several are taken only by writers of one target at one time.
const MAX_TRIES: usize = 1000;

/// A file being written; it takes its name on [`AtomicFile::commit`] and vanishes when dropped before.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    /// None once committed.
    writer: Option<Blocks>,
}

impl AtomicFile {
    /// Starts a file that will replace `target`, or what a link of that name leads to, and keeps its mode.
    /// Its directory must exist.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::NotRegular`] where the name belongs to a device, a pipe or a directory.
    pub fn create(target: &Path) -> Result<Self, StoreError> {
        let replaced = fs::canonicalize(target).ok();
        let target = replaced.as_deref().unwrap_or(target);
        let mode = match fs::metadata(target) {
            Ok(metadata) if metadata.is_file() => Some(metadata.permissions()),
            Ok(metadata) => {
                return Err(StoreError::NotRegular { path: target.to_owned(), found: kind_of(&metadata) });
            }
            Err(_) => None,
        };
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let mut tries = 0;
        let (temporary, file) = loop {
            let temporary = target.with_file_name(format!(".{name}.tmp-{}-{tries}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < MAX_TRIES => tries += 1,
                Err(error) => return Err(StoreError::io(&temporary, "create")(error)),
                Ok(file) => break (temporary, file),
            }
        };
        if let Some(mode) = mode {
            file.set_permissions(mode).map_err(StoreError::io(&temporary, "set the mode of"))?;
        }
        Ok(Self { target: target.to_owned(), temporary, writer: Some(Blocks::new(file)) })
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    ///
    /// ```
    /// use jetspool::store::AtomicFile;
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("x");
    /// AtomicFile::write(&path, b"all of it")?;
    /// assert_eq!(std::fs::read(&path)?, b"all of it");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn write(target: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = Self::create(target)?;
        file.write_all(bytes).map_err(StoreError::io(target, "write"))?;
        file.commit()
    }

    /// Makes the bytes durable, then gives them their name.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the target is then as it was, unless only the directory could not be synced.
    pub fn commit(mut self) -> Result<(), StoreError> {
        let writer = self.writer.as_mut().expect("only commit takes the writer, and it consumes self");
        writer.flush().map_err(StoreError::io(&self.target, "write"))?;
        writer.file().sync_all().map_err(StoreError::io(&self.target, "sync"))?;
        fs::rename(&self.temporary, &self.target).map_err(StoreError::io(&self.target, "rename to"))?;
        self.writer = None;
        sync_directory(self.target.parent().unwrap_or(Path::new(".")))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().expect("not committed").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().expect("not committed").flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes renames in a directory durable.
///
/// # Errors
/// [`StoreError::Io`].
pub fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let synced = File::open(directory).and_then(|handle| handle.sync_all());
    synced.map_err(StoreError::io(directory, "sync"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_replaced_and_links_and_modes_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&file, b"old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        AtomicFile::write(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&pipe, &dir.path().to_owned(), &PathBuf::from("/dev/null")] {
            let refused = AtomicFile::write(path, b"x");
            assert!(matches!(refused, Err(StoreError::NotRegular { .. })), "{}", path.display());
        }
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        AtomicFile::write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(AtomicFile::create(&dir.path().join("no/x")).is_err());
    }
}
