//! A map that is known by the checksum of its bytes, so that a file that was written into is told from one that
//! only got another name or mode.
//!
//! A file's times move in ticks of some milliseconds: a write in the tick of the one before it shows nothing. So
//! a checksum taken that close to a change is taken again until the change is old enough.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::StoreError;
use super::damage::Damage;
use super::map::{FileMap, Generation};

/// Bytes that are looked at and summed while they are in the first-level cache.
const PIECE: usize = 16 << 10;
/// Longer than a tick of any file system's clock.
const TICK_NS: i128 = 100_000_000;
/// Passes over a file whose name or mode changes meanwhile.
const MAX_PASSES: usize = 3;

/// A map and its checksum.
pub struct Sealed {
    map: Arc<FileMap>,
    sum: u32,
    seen: Mutex<Seen>,
}

/// The file when the checksum was last right.
#[derive(Clone, Copy)]
struct Seen {
    generation: Generation,
    /// Whether a write since then would show in the generation.
    is_settled: bool,
}

impl Sealed {
    /// Reads the whole file once. `look` gets each piece with its offset, and may end the reading.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file changes meanwhile; what `look` broke off with, if it did.
    pub fn new<E: From<StoreError>>(
        map: Arc<FileMap>,
        mut look: impl FnMut(usize, &[u8]) -> ControlFlow<E>,
    ) -> Result<Self, E> {
        for _ in 0..MAX_PASSES {
            let seen = Seen::now(&map)?;
            let mut hasher = crc32fast::Hasher::new();
            for (piece_idx, piece) in (*map).as_ref().chunks(PIECE).enumerate() {
                hasher.update(piece);
                if let ControlFlow::Break(error) = look(piece_idx * PIECE, piece) {
                    return Err(error);
                }
            }
            let now = map.generation_now()?;
            if map.is_damaged() {
                return Err(StoreError::from(map.lost()).into());
            }
            if now.is_written_since(&map.generation()) {
                break;
            }
            if now == seen.generation {
                return Ok(Self { map, sum: hasher.finalize(), seen: Mutex::new(seen) });
            }
        }
        Err(StoreError::from(map.written()).into())
    }

    pub fn map(&self) -> &Arc<FileMap> {
        &self.map
    }

    /// The checksum, and the file's generation when it was taken.
    pub fn seal(&self) -> (Generation, u32) {
        (self.map.generation(), self.sum)
    }

    /// What happened to the file, if bytes that were read since the last call may be others than those sealed.
    /// Costs a system call, and a pass over the file where only its ctime tells of a change.
    pub fn damage(&self) -> Option<Damage> {
        if self.map.is_damaged() {
            return Some(self.map.lost());
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(now) = Seen::now(&self.map) else { return Some(self.map.lost()) };
        if now.generation == seen.generation && seen.is_settled {
            return None;
        }
        if now.generation.is_written_since(&seen.generation) {
            return Some(self.map.written());
        }
        let sum = crc32fast::hash((*self.map).as_ref());
        if self.map.is_damaged() {
            return Some(self.map.lost());
        }
        if sum != self.sum {
            return Some(self.map.written());
        }
        // A change during the pass makes another generation, and the next call passes again.
        *seen = now;
        None
    }
}

impl Seen {
    fn now(map: &FileMap) -> Result<Self, StoreError> {
        // Before the file's time is read, so that the age is never taken for more than it is.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let generation = map.generation_now()?;
        let age = i128::try_from(clock).unwrap_or(i128::MAX) - generation.ctime_ns();
        // A time in the future is as good: no write of today gets it again.
        Ok(Self { generation, is_settled: age.abs() > TICK_NS })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::os::unix::fs::{FileExt, PermissionsExt};
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    fn seal(path: &Path) -> Sealed {
        let look = |_: usize, _: &[u8]| ControlFlow::<StoreError>::Continue(());
        Sealed::new(FileMap::open(path).unwrap(), look).unwrap()
    }

    fn settle() {
        std::thread::sleep(Duration::from_millis(150));
    }

    fn write_at(path: &Path, offset: u64, byte: u8) {
        File::options().write(true).open(path).unwrap().write_all_at(&[byte], offset).unwrap();
    }

    #[test]
    fn a_byte_that_changes_is_seen_and_a_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, [7; 100_000]).unwrap();
        // In the tick of the first write, too: by the checksum.
        let fresh = seal(&path);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        write_at(&path, 99_999, 8);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
        assert!(matches!(fresh.damage(), Some(Damage::Written { .. })));

        settle();
        let sealed = seal(&path);
        assert!(sealed.damage().is_none() && sealed.seen.lock().unwrap().is_settled);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(sealed.damage(), None, "another mode");
        fs::rename(&path, &other).unwrap();
        assert_eq!(sealed.damage(), None, "another name");
        assert!(!sealed.seen.lock().unwrap().is_settled);
        settle();
        assert_eq!(sealed.damage(), None);
        assert!(sealed.seen.lock().unwrap().is_settled);
        write_at(&other, 5, 9);
        assert!(matches!(sealed.damage(), Some(Damage::Written { .. })));
        // Bytes in between may have been read, though the last ones are those of the seal.
        write_at(&other, 5, 7);
        assert!(matches!(sealed.damage(), Some(Damage::Written { .. })));
    }

    #[test]
    fn a_file_that_changes_while_it_is_sealed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for change in [|path: &Path| write_at(path, 3, 1), |path: &Path| fs::write(path, [1; 10]).unwrap()] {
            fs::write(&path, [7; 3 * PIECE]).unwrap();
            settle();
            let map = FileMap::open(&path).unwrap();
            let look = |offset: usize, _: &[u8]| {
                if offset == PIECE {
                    change(&path);
                }
                ControlFlow::<StoreError>::Continue(())
            };
            assert!(matches!(Sealed::new(map, look), Err(StoreError::Damaged(_))));
        }
    }
}
