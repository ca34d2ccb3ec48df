//! When each adapter was asked for last, in a file of the spool: a view like the totals, that is never synced. The
//! daemon writes it, `jetspool list` reads it.

use std::collections::BTreeMap;
use std::path::Path;

/// The file's name in the spool.
pub const LAST_USE_FILE: &str = "last_use.json";
/// Names that are remembered; those that were used longest ago are forgotten.
const MAX_NAMES: usize = 1_000;

/// Seconds since 1970, by the name that requests give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastUse(BTreeMap<String, u64>);

impl LastUse {
    /// What the file of a spool says; nothing where there is none, or where it cannot be read.
    pub fn read(root: &Path) -> Self {
        let text = std::fs::read(root.join(LAST_USE_FILE)).unwrap_or_default();
        Self(serde_json::from_slice(&text).unwrap_or_default())
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// A request that names it is answered.
    pub fn note(&mut self, name: &str, time: u64) {
        self.0.insert(name.to_owned(), time);
        if self.0.len() > MAX_NAMES {
            let oldest = self.0.iter().min_by_key(|(_, time)| **time).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.0.remove(&name));
        }
    }

    /// By name.
    pub fn into_times(self) -> BTreeMap<String, u64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_long_ago_are_forgotten() {
        let mut last_use = LastUse::default();
        (0..MAX_NAMES as u64 + 2).for_each(|time| last_use.note(&format!("adapter {time}"), time));
        last_use.note("adapter 5", 9_999);
        let times = [0, 1, 2, 5].map(|number| last_use.0.get(&format!("adapter {number}")).copied());
        assert_eq!(times, [None, None, Some(2), Some(9_999)]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(LastUse::read(folder.path()), LastUse::default());
        std::fs::write(folder.path().join(LAST_USE_FILE), last_use.to_json()).unwrap();
        assert_eq!(LastUse::read(folder.path()), last_use);
    }
}
