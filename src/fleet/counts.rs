//! What became of the fleet's jobs, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::heartbeat::JobCounts;
use super::publish::{Published, Status};

/// Counters since the bridge was started.
#[derive(Debug, Default)]
pub struct Counts {
    pulled: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    duplicates: AtomicU64,
    given_back: AtomicU64,
    dead: AtomicU64,
}

impl Counts {
    pub fn pulled(&self) {
        add(&self.pulled);
    }

    pub fn given_back(&self) {
        add(&self.given_back);
    }

    pub fn dead(&self) {
        add(&self.dead);
    }

    pub fn published(&self, published: Published) {
        match published {
            Published::Another => add(&self.duplicates),
            Published::Ours(status) => {
                add(&self.answered);
                match status {
                    Status::Answered => {}
                    Status::Failed => add(&self.failed),
                    Status::Refused => add(&self.refused),
                }
            }
        }
    }

    pub fn read(&self) -> JobCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        JobCounts {
            pulled: read(&self.pulled),
            answered: read(&self.answered),
            failed: read(&self.failed),
            refused: read(&self.refused),
            duplicates: read(&self.duplicates),
            given_back: read(&self.given_back),
            dead: read(&self.dead),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
