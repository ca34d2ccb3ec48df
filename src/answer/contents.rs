//! Numbers for what adapter files hold: the same file with the same checksum has the same number, also when it is
//! mapped anew. A number is never given to another content.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::store::Generation;

/// With more of them all are forgotten, and get new numbers.
const MAX_KNOWN: usize = 4096;

/// The numbers by the files' generations and checksums.
#[derive(Default)]
pub struct Contents {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    numbers: HashMap<(Generation, u32), u64>,
    next: u64,
}

impl Contents {
    /// The number of a file's content.
    pub fn number(&self, seal: (Generation, u32)) -> u64 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { numbers, next } = &mut *known;
        if numbers.len() >= MAX_KNOWN && !numbers.contains_key(&seal) {
            numbers.clear();
        }
        *numbers.entry(seal).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    /// What has this number was read while it changed: the number is not given again, whatever the file holds later.
    pub fn retire(&self, number: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.numbers.retain(|_, known| *known != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_content() {
        let dir = tempfile::tempdir().unwrap();
        let generation = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            Generation::at(&path).unwrap()
        };
        let (a, b) = (generation("a"), generation("b"));
        let contents = Contents::default();
        let first = contents.number((a, 1));
        assert_eq!(contents.number((a, 1)), first);
        let others = [(a, 2), (b, 1)].map(|seal| contents.number(seal));
        assert!(others[0] != first && others[1] != first && others[0] != others[1]);
        contents.retire(first);
        let again = contents.number((a, 1));
        assert!(again != first && !others.contains(&again));
        for sum in 0..2 * u32::try_from(MAX_KNOWN).unwrap() {
            assert!(contents.number((b, 10 + sum)) > again);
        }
        assert!(contents.known.lock().unwrap().numbers.len() <= MAX_KNOWN);
    }
}
