//! Name to shared value: each file is loaded once, and a new file under an old name is a new value.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::StoreError;
use super::map::{Generation, map_with_generation};
use crate::format::Bytes;

/// Values made of mapped files. Who holds an [`Arc`] keeps its value, whatever happens to the file's name.
pub struct Catalog<T> {
    entries: Mutex<HashMap<PathBuf, Entry<T>>>,
}

struct Entry<T> {
    generation: Generation,
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
    /// [`StoreError`] when the file cannot be mapped, and what `load` says. Nothing is kept then.
    pub fn get<E: From<StoreError>>(
        &self,
        path: &Path,
        load: impl FnOnce(Bytes) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fs::metadata(path).map_err(StoreError::io(path, "open"))?;
        if let Some(entry) = entries.get(path)
            && entry.generation == Generation::of(&now)
        {
            return Ok(Arc::clone(&entry.value));
        }
        let (bytes, generation) = map_with_generation(path)?;
        let value = Arc::new(load(bytes)?);
        entries.insert(path.to_owned(), Entry { generation, value: Arc::clone(&value) });
        Ok(value)
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
    use super::super::AtomicFile;
    use super::*;

    fn text(bytes: Bytes) -> Result<String, StoreError> {
        Ok(String::from_utf8((*bytes).as_ref().to_vec()).unwrap())
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
        let fail = |_| Err(StoreError::NotText { path: PathBuf::new() });
        assert!(catalog.get(&path, fail).is_err());
        assert_eq!(catalog.get(&path, text).unwrap().as_str(), "one");
    }
}
