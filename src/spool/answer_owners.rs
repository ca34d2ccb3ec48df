//! Whose the latest answers are: the files in out/ are all the daemon's.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};

/// Answers that are remembered.
const N_RECENT: usize = 4096;

/// Whose the latest answers are, by their names in out/.
#[derive(Debug, Default)]
pub struct AnswerOwners {
    owners: BTreeMap<OsString, u32>,
    order: VecDeque<OsString>,
}

impl AnswerOwners {
    /// Whose an answer is, while it is remembered.
    pub fn owner(&self, name: &OsStr) -> Option<u32> {
        self.owners.get(name).copied()
    }

    /// An answer came out.
    pub fn note(&mut self, name: OsString, owner: u32) {
        if self.order.len() == N_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.owners.remove(&oldest);
        }
        self.owners.insert(name.clone(), owner);
        self.order.push_back(name);
    }

    /// It is gone.
    pub fn forget(&mut self, name: &OsStr) {
        if self.owners.remove(name).is_some() {
            self.order.retain(|other| other != name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_answers_are_remembered() {
        let mut answers = AnswerOwners::default();
        let name = |n: u32| OsString::from(format!("{n}.json"));
        let most = u32::try_from(N_RECENT).unwrap();
        for n in 0..=most {
            answers.note(name(n), n);
        }
        assert_eq!(answers.owners.len(), N_RECENT);
        assert_eq!((answers.owners.get(&name(0)), answers.owners.get(&name(most))), (None, Some(&most)));
        answers.forget(&name(most));
        assert_eq!((answers.owners.len(), answers.order.len()), (N_RECENT - 1, N_RECENT - 1));
    }
}
