//! Whether anything is computed: counters that others raise, seen as one. The watchdog looks at it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the threads that compute; those whose owner is gone drop out.
#[derive(Debug, Default)]
pub struct Progress {
    counters: Vec<Arc<AtomicU64>>,
}

impl Progress {
    pub fn watch(&mut self, counter: Arc<AtomicU64>) {
        self.counters.retain(|counter| Arc::strong_count(counter) > 1);
        self.counters.push(counter);
    }

    /// Moves whenever one of the counters does.
    pub fn total(&self) -> u64 {
        self.counters.iter().fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_moves_it_and_lost_ones_are_let_go() {
        let mut progress = Progress::default();
        let counters: [Arc<AtomicU64>; 2] = Default::default();
        counters.iter().for_each(|counter| progress.watch(Arc::clone(counter)));
        counters[0].fetch_add(1, Ordering::Relaxed);
        assert_eq!(progress.total(), 1);
        counters[1].fetch_add(5, Ordering::Relaxed);
        assert_eq!(progress.total(), 6);
        drop(counters);
        progress.watch(Arc::default());
        assert_eq!(progress.counters.len(), 1);
    }
}
