//! Files as bytes: mapped when they are large, read when they are small. Regular files only.
//!
//! A map shows what is written into its file meanwhile, and zeros where the file was cut short. Nobody is kept
//! from doing so: who computes with a map asks [`FileMap::damage`] before the result is believed.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap, UncheckedAdvice};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::StoreError;
use super::blocks::LARGE_PAGE;
use super::damage::{Damage, Guarded};
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
    /// Nobody can set it back, but a new name or a lost one moves it too.
    ctime_ns: i128,
}

impl Generation {
    /// That of the file that has this path now; none when there is none.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Nanoseconds since 1970, by the clock of the file system.
    pub(super) fn ctime_ns(&self) -> i128 {
        self.ctime_ns
    }

    /// Whether a write has moved size or time; one whose writer set the time back only shows in the ctime.
    pub(super) fn is_written_since(&self, before: &Self) -> bool {
        (self.size, self.mtime_ns) != (before.size, before.mtime_ns)
    }
}

/// A mapped file whose pages can be given back while it stays mapped.
pub struct FileMap {
    /// Stands before the map, because it must be dropped first.
    guard: Option<Guarded>,
    /// None for an empty file, which the system refuses to map.
    map: Option<Mmap>,
    file: File,
    path: PathBuf,
    /// When it was opened.
    generation: Generation,
    n_links: u64,
}

impl FileMap {
    /// Maps a whole file for reading; pages come in as they are touched.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::NotRegular`].
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let (file, metadata) = open_regular(path)?;
        let map = map_opened(path, &file, &metadata)?;
        let guard = map.as_deref().map(|map| Guarded::new(map, path));
        let (generation, n_links) = (Generation::of(&metadata), metadata.nlink());
        Ok(Arc::new(Self { guard, map, file, path: path.to_owned(), generation, n_links }))
    }

    /// The same if the file is there.
    ///
    /// # Errors
    /// As [`FileMap::open`]; [`StoreError::Dangling`] for a link whose file is not there.
    pub fn open_optional(path: &Path) -> Result<Option<Arc<Self>>, StoreError> {
        match Self::open(path) {
            Ok(map) => Ok(Some(map)),
            Err(error) if error.is_not_found() => check_absent(path).map(|()| None),
            Err(error) => Err(error),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the file that is mapped, when it was opened.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Of the mapped file as it is now, whatever its name belongs to.
    pub(super) fn generation_now(&self) -> Result<Generation, StoreError> {
        self.metadata().map(|metadata| Generation::of(&metadata))
    }

    /// Whether pages could not be had, and zeros were read instead.
    pub fn is_damaged(&self) -> bool {
        self.guard.as_ref().is_some_and(Guarded::is_broken)
    }

    /// What happened to the file since it was opened, if its bytes may be others. A new owner or mode counts as
    /// damage, for it cannot be told from a write that set the time back; a new link and a lost name do not.
    pub fn damage(&self) -> Option<Damage> {
        if self.is_damaged() {
            return Some(self.lost());
        }
        let Ok(metadata) = self.metadata() else { return Some(self.lost()) };
        let now = Generation::of(&metadata);
        let is_touched = now.ctime_ns != self.generation.ctime_ns && metadata.nlink() == self.n_links;
        (is_touched || now.is_written_since(&self.generation)).then(|| self.written())
    }

    pub(super) fn lost(&self) -> Damage {
        Damage::Lost { path: self.path.clone() }
    }

    pub(super) fn written(&self) -> Damage {
        Damage::Written { path: self.path.clone() }
    }

    fn metadata(&self) -> Result<Metadata, StoreError> {
        self.file.metadata().map_err(StoreError::io(&self.path, "stat"))
    }

    /// Asks for large pages from `first_byte` on, for what is read as a whole again and again: the processor looks a
    /// translation up for 2 MiB at once. The bytes then come from the disk in such pieces. Where the file system has
    /// none (ext4 before Linux 6.16), or the bytes are in the system's cache in small pages, all stays as it is.
    pub fn prefer_large_pages(&self, first_byte: usize) {
        let Some(map) = &self.map else { return };
        let first = first_byte.next_multiple_of(LARGE_PAGE).min(map.len());
        // Only advice.
        let _ = map.advise_range(Advice::HugePage, first, map.len() - first);
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

/// Maps a whole file, for who asks [`super::Losses`] in the end.
///
/// # Errors
/// As [`FileMap::open`].
pub fn map_file(path: &Path) -> Result<Bytes, StoreError> {
    FileMap::open(path).map(|map| map as Bytes)
}

/// The file's map; none for an empty file, which the system refuses.
fn map_opened(path: &Path, file: &File, metadata: &Metadata) -> Result<Option<Mmap>, StoreError> {
    if metadata.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the bytes should not change while mapped. Our own writers replace these files by rename and never
    // write into them. Where others do, values change under their readers, which only ever compute with them:
    // lengths and offsets are read once, into memory of our own, and what is read twice is bounded each time.
    // Results are kept only after `FileMap::damage` or `Losses` was asked. A file that shrinks is `Guarded`.
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
        Err(error) if error.is_not_found() => check_absent(path).map(|()| None),
        Err(error) => Err(error),
    }
}

/// That a file which could not be found is not there at all.
///
/// # Errors
/// [`StoreError::Dangling`]: somebody meant a file to be there.
pub(super) fn check_absent(path: &Path) -> Result<(), StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(StoreError::Dangling { path: path.to_owned() }),
        Err(_) => Ok(()),
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

    #[test]
    fn names_may_change_and_bytes_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        std::fs::write(&path, [1; 100]).unwrap();
        let open = || FileMap::open(&path).unwrap();
        let map = open();
        assert_eq!(map.damage(), None);
        std::fs::hard_link(&path, &other).unwrap();
        assert_eq!(map.damage(), None, "a link");
        let linked = open();
        std::fs::remove_file(&other).unwrap();
        assert_eq!(linked.damage(), None, "a lost name");
        std::fs::write(&other, [2; 100]).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(map.damage(), None, "replaced by rename");

        let set_times = |path: &Path, time| {
            let file = File::options().append(true).open(path).unwrap();
            file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
        };
        let map = open();
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(&path, [3; 100]).unwrap();
        assert_eq!(map.damage(), Some(map.written()));
        set_times(&path, time);
        assert_eq!(map.damage(), Some(map.written()), "the time set back");
    }
}
