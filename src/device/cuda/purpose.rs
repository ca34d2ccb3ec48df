//! What the device's memory is taken for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::device::DeviceMemory;

/// Bytes by purpose, of what is not kept for steps.
#[derive(Clone, Default)]
pub struct Purposes {
    pub weights: Counter,
    pub adapters: Counter,
    pub keys_and_values: Counter,
}

#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts these until they are dropped.
    pub fn count(&self, n_bytes: usize) -> Counted {
        self.0.fetch_add(n_bytes, Ordering::Relaxed);
        Counted { counter: self.clone(), n_bytes }
    }
}

/// Bytes that are counted as long as this lives.
pub struct Counted {
    counter: Counter,
    n_bytes: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.0.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

impl Purposes {
    /// With all that is taken.
    pub fn of(&self, n_bytes: usize) -> DeviceMemory {
        let [weights, adapters, keys_and_values] =
            [&self.weights, &self.adapters, &self.keys_and_values].map(Counter::get);
        let steps = n_bytes.saturating_sub(weights + adapters + keys_and_values);
        DeviceMemory { weights, adapters, keys_and_values, steps }
    }
}
