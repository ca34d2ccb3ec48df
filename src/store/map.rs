//! Files as bytes: mapped when they are large, read when they are small. Regular files only.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::StoreError;
use crate::format::Bytes;

/// Longest file that [`read_small`] takes (a tokenizer has up to 20 MiB).
const SMALL_LIMIT: u64 = 100 << 20;

/// Which content a path had: another file under the same name has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i128,
}

impl Generation {
    /// That of the file that has this path now; none when there is none.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        }
    }
}

/// A mapped file whose pages can be given back while it stays mapped.
pub struct FileMap {
    /// None for an empty file, which the system refuses to map.
    map: Option<Mmap>,
    file: File,
}

impl FileMap {
    /// Maps a whole file.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NotRegular`].
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let (file, metadata) = open_regular(path)?;
        Ok(Arc::new(Self { map: map_opened(path, &file, &metadata)?, file }))
    }

    /// Takes the pages out of this process. The system keeps them as long as it has nothing better to do with
    /// the memory; a read brings them back.
    pub fn release(&self) {
        if let Some(map) = &self.map {
            // SAFETY: a shared map of a file, never written through: what is read next is read from the file.
            let advice = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
            // Only advice: pages that stay are merely not given back.
            let _ = advice;
        }
    }

    /// Releases the pages and asks the system to drop them at once, unless others use the file.
    pub fn drop_cached(&self) {
        self.release();
        // Only advice, as above.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Maps a whole file for reading; pages come in as they are touched.
///
/// # Errors
/// [`StoreError::Io`], [`StoreError::NotRegular`].
pub fn map_file(path: &Path) -> Result<Bytes, StoreError> {
    map_with_generation(path).map(|(bytes, _)| bytes)
}

/// Like [`map_file`], with the generation of exactly the mapped file.
///
/// # Errors
/// As [`map_file`].
pub fn map_with_generation(path: &Path) -> Result<(Bytes, Generation), StoreError> {
    let (file, metadata) = open_regular(path)?;
    let generation = Generation::of(&metadata);
    match map_opened(path, &file, &metadata)? {
        Some(map) => Ok((Arc::new(map), generation)),
        None => Ok((Arc::new(Vec::new()), generation)),
    }
}

/// The file's map; none for an empty file, which the system refuses.
fn map_opened(path: &Path, file: &File, metadata: &Metadata) -> Result<Option<Mmap>, StoreError> {
    if metadata.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the bytes must not change while mapped. Our own writers replace these files by rename and never
    // write into them; whoever truncates a mapped file from outside kills this process by SIGBUS, as documented.
    unsafe { Mmap::map(file) }.map(Some).map_err(StoreError::io(path, "map"))
}

/// Reads a whole small file.
///
/// # Errors
/// [`StoreError::Io`], [`StoreError::NotRegular`], [`StoreError::TooLarge`].
pub fn read_small(path: &Path) -> Result<Vec<u8>, StoreError> {
    let (file, metadata) = open_regular(path)?;
    let too_large = |found| StoreError::TooLarge { path: path.to_owned(), found, limit: SMALL_LIMIT };
    if metadata.len() > SMALL_LIMIT {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    file.take(SMALL_LIMIT + 1).read_to_end(&mut bytes).map_err(StoreError::io(path, "read"))?;
    match bytes.len() as u64 {
        found if found > SMALL_LIMIT => Err(too_large(found)),
        _ => Ok(bytes),
    }
}

/// Reads a small file if it is there.
///
/// # Errors
/// As [`read_small`], but a missing file is `None`.
pub fn read_small_optional(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match read_small(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens without waiting for a writer on a pipe, then looks at what was opened.
pub(super) fn open_regular(path: &Path) -> Result<(File, Metadata), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(StoreError::io(path, "open"))?;
    let metadata = file.metadata().map_err(StoreError::io(path, "stat"))?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(StoreError::NotRegular { path: path.to_owned(), found: kind_of(&metadata) })
}

/// What something that is no regular file is, in words.
pub(super) fn kind_of(metadata: &Metadata) -> &'static str {
    match metadata.file_type() {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!((*map_file(&path).unwrap()).as_ref(), b"abc");
        std::fs::write(&path, b"").unwrap();
        assert_eq!((*map_file(&path).unwrap()).as_ref(), b"");
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(map_file(&pipe), Err(StoreError::NotRegular { found: "a pipe", .. })));
        assert!(matches!(map_file(dir.path()), Err(StoreError::NotRegular { .. })));
        assert!(map_file(&dir.path().join("none")).err().unwrap().is_not_found());
        assert_eq!(read_small_optional(&dir.path().join("none")).unwrap(), None);
    }
}
