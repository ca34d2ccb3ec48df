//! Name to shared value: each file is loaded once, and a new file under an old name is a new value.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::StoreError;
use super::map::{FileMap, Generation};

/// Values made of mapped files. Who holds an [`Arc`] keeps its value, whatever happens to the file's name.
pub struct Catalog<T> {
    entries: Mutex<HashMap<PathBuf, Entry<T>>>,
}

struct Entry<T> {
    map: Arc<FileMap>,
    value: Arc<T>,
}

impl<T> Default for Catalog<T> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<T> Catalog<T> {
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of the file that has this path now; `load` runs only for a file not seen before.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be mapped or breaks while it is loaded, and what `load` says. Nothing
    /// is kept then.
    pub fn get<E: From<StoreError>>(
        &self,
        path: &Path,
        load: impl FnOnce(&Arc<FileMap>) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fs::metadata(path).map_err(StoreError::io(path, "open"))?;
        if let Some(entry) = entries.get(path)
            && entry.map.generation() == Generation::of(&now)
            && !entry.map.is_damaged()
        {
            return Ok(Arc::clone(&entry.value));
        }
        let map = match FileMap::open(path) {
            // Each map holds its file open: those that nobody uses make room.
            Err(error) if error.is_too_many_files() => {
                entries.retain(|_, entry| Arc::strong_count(&entry.value) > 1);
                FileMap::open(path)?
            }
            opened => opened?,
        };
        let loaded = load(&map);
        // First, because what `load` says of zeros means nothing.
        if map.is_damaged() {
            return Err(StoreError::from(map.lost()).into());
        }
        let value = Arc::new(loaded?);
        entries.insert(path.to_owned(), Entry { map, value: Arc::clone(&value) });
        Ok(value)
    }

    /// Loads the file anew when it is asked for again, whatever its times say.
    pub fn forget(&self, value: &Arc<T>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| !Arc::ptr_eq(&entry.value, value));
    }

    /// Forgets the values that nobody holds. Returns how many.
    pub fn sweep(&self) -> usize {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let before = entries.len();
        entries.retain(|_, entry| Arc::strong_count(&entry.value) > 1);
        before - entries.len()
    }

    /// Values that nobody holds.
    pub fn n_idle(&self) -> usize {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().filter(|entry| Arc::strong_count(&entry.value) == 1).count()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::AtomicFile;
    use super::*;

    fn text(map: &Arc<FileMap>) -> Result<String, StoreError> {
        Ok(String::from_utf8((**map).as_ref().to_vec()).unwrap())
    }

    #[test]
    fn a_new_file_is_a_new_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        AtomicFile::write(&path, b"one").unwrap();
        let catalog = Catalog::new();
        let first = catalog.get(&path, text).unwrap();
        let again = catalog.get(&path, |_| -> Result<String, StoreError> { panic!("loaded twice") }).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        AtomicFile::write(&path, b"two").unwrap();
        let second = catalog.get(&path, text).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("one", "two"));
        assert_eq!(catalog.sweep(), 0);
        drop(second);
        assert_eq!((catalog.sweep(), catalog.len()), (1, 0));
        fs::remove_file(&path).unwrap();
        assert!(catalog.get(&path, text).unwrap_err().is_not_found());
        assert_eq!(first.as_str(), "one");
    }

    #[test]
    fn a_failed_load_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        AtomicFile::write(&path, b"one").unwrap();
        let catalog = Catalog::new();
        let fail = |_: &_| Err(StoreError::NotText { path: PathBuf::new() });
        assert!(catalog.get(&path, fail).is_err());
        assert_eq!(catalog.get(&path, text).unwrap().as_str(), "one");
    }

    #[test]
    fn what_was_forgotten_or_broken_is_loaded_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        AtomicFile::write(&path, &[b'x'; 10_000]).unwrap();
        let catalog = Catalog::new();
        let first = catalog.get(&path, text).unwrap();
        catalog.forget(&first);
        let second = catalog.get(&path, text).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        catalog.forget(&first);
        assert!(Arc::ptr_eq(&second, &catalog.get(&path, text).unwrap()), "another value was forgotten");
        AtomicFile::write(&path, &[b'y'; 10_000]).unwrap();
        let cut = |map: &Arc<FileMap>| {
            File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
            text(map)
        };
        let error = catalog.get(&path, cut).unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
        assert_eq!(catalog.get(&path, text).unwrap().as_str(), "yyyyyyyyyy");
    }
}
