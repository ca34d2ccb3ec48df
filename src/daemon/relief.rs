//! When memory goes back to the system: step by step while the daemon is idle, one level per event of memory
//! pressure. What it costs to have it again grows with every level.

use std::time::{Duration, Instant};

use crate::answer::{Executor, Usage, mib};
use crate::count::Count;

/// Idle for so long, the daemon gives private memory back that the next job can do without.
const REST_AFTER: Duration = Duration::from_secs(5);
/// So long after the last pressure a batch that was made smaller doubles.
const GROW_AFTER: Duration = Duration::from_secs(30);

/// Gives memory back.
pub struct Relief {
    given: Given,
    last_work: Instant,
    /// The last event of pressure, or the last growth after it.
    last_change: Instant,
    /// When an event took the cached prefixes, and when one took what was unused.
    dropped: Option<Instant>,
    swept: Option<Instant>,
    unload_after: Option<Duration>,
}

/// What was given back since the last work; each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Given {
    Nothing,
    Private,
    Weights,
    /// The weights are not even in the system's cache any more.
    Cached,
}

/// What an event of memory pressure takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Keys and values that are kept for requests to come.
    Prefixes,
    /// Idle adapters, free blocks of the key-value cache, free heap.
    Unused,
    /// The weights, and all private memory that the next job can do without.
    Weights,
    /// Requests that run at once.
    Batch(usize),
}

/// What nobody uses and no event has taken lately.
#[derive(Debug, Clone, Copy)]
struct Spare {
    has_prefixes: bool,
    has_adapters: bool,
}

impl Relief {
    /// `unload_after`: so long idle, the engine's memory is given back; none keeps it.
    pub fn new(unload_after: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            given: Given::Nothing,
            last_work: now,
            last_change: now,
            dropped: None,
            swept: None,
            unload_after,
        }
    }

    pub fn set_unload_after(&mut self, unload_after: Option<Duration>) {
        self.unload_after = unload_after;
    }

    /// Whether the engine's memory was given back since the last work.
    pub fn has_rested(&self) -> bool {
        self.given >= Given::Weights
    }

    /// A step was computed.
    pub fn note_work(&mut self) {
        self.given = Given::Nothing;
        self.last_work = Instant::now();
    }

    /// Nothing is to be computed: gives back what is due. Returns when it should be called again.
    pub fn idle(&mut self, executor: &mut Executor) -> Option<Duration> {
        let idle = self.last_work.elapsed();
        let kv = executor.kv_memory();
        if self.given < Given::Weights && self.unload_after.is_some_and(|after| idle >= after) {
            executor.drop_prefixes();
            executor.rest();
            executor.engine().release();
            self.given = Given::Weights;
            tell(&format!("idle for {} s, the engine's memory is given back", idle.as_secs()));
        }
        if self.given < Given::Private && idle >= REST_AFTER {
            executor.rest();
            self.given = Given::Private;
            tracing::debug!("idle: {} of keys and values are given back", mib(kv.committed - kv.cached));
        }
        let private = (self.given < Given::Private).then_some(REST_AFTER);
        let weights = self.unload_after.filter(|_| self.given < Given::Weights);
        private.into_iter().chain(weights).min().map(|after| after.saturating_sub(idle))
    }

    /// Lets a batch that was made smaller grow again after a while.
    pub fn grow(&mut self, executor: &mut Executor) {
        let (limit, most) = (executor.batch_limit(), executor.engine().limits().max_batch_size);
        if let Some(larger) = grown(limit, most, self.last_change.elapsed()) {
            self.last_change = Instant::now();
            executor.limit_batch(larger);
            tracing::info!("memory pressure is over for a while: {larger} requests at once");
        }
    }

    /// The system is short of memory.
    pub fn answer_pressure(&mut self, executor: &mut Executor, is_idle: bool) {
        let (limit, most) = (executor.batch_limit(), executor.engine().limits().max_batch_size);
        self.last_change = Instant::now();
        let (n_idle, cached) = (executor.adapters().n_idle(), executor.kv_memory().cached);
        // Under load prefixes and adapters fall idle all the time: if that did not help, the next level must.
        let is_fresh = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < GROW_AFTER);
        let spare = Spare {
            has_prefixes: cached > 0 && !is_fresh(self.dropped),
            has_adapters: n_idle > 0 && !is_fresh(self.swept),
        };
        match level(spare, is_idle, self.given, limit) {
            Some(Level::Prefixes) => {
                self.dropped = Some(Instant::now());
                executor.drop_prefixes();
                tell(&format!("memory pressure: {} of cached keys and values are given back", mib(cached)));
            }
            Some(Level::Unused) => {
                self.swept = Some(Instant::now());
                executor.drop_prefixes();
                executor.give_back_unused();
                tell(&format!("memory pressure: unmaps {}", Count(n_idle, "idle adapter")));
            }
            Some(Level::Weights) => {
                executor.drop_prefixes();
                executor.rest();
                executor.engine().drop_cached();
                self.given = Given::Cached;
                tell("memory pressure: the idle engine's memory is given back");
            }
            Some(Level::Batch(smaller)) => {
                executor.limit_batch(smaller);
                executor.drop_prefixes();
                executor.give_back_unused();
                tell(&format!("memory pressure: {smaller} requests at once, {most} without it"));
            }
            None => tracing::info!("memory pressure: nothing is left to give back"),
        }
    }
}

/// The first level that has something to give.
fn level(spare: Spare, is_idle: bool, given: Given, batch_limit: usize) -> Option<Level> {
    if spare.has_prefixes {
        Some(Level::Prefixes)
    } else if spare.has_adapters {
        Some(Level::Unused)
    } else if is_idle && given < Given::Cached {
        Some(Level::Weights)
    } else if batch_limit > 1 {
        Some(Level::Batch(batch_limit / 2))
    } else {
        None
    }
}

/// The next larger batch, if it is time.
fn grown(limit: usize, most: usize, quiet: Duration) -> Option<usize> {
    (limit < most && quiet >= GROW_AFTER).then(|| most.min(limit * 2))
}

/// Says what was done and what is left.
fn tell(what: &str) {
    match Usage::read() {
        Ok(usage) => tracing::info!("{what}; left are {}", usage.in_words()),
        Err(_) => tracing::info!("{what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_takes_the_next_level() {
        struct Case {
            spare: Spare,
            is_idle: bool,
            given: Given,
            batch_limit: usize,
            wanted: Option<Level>,
        }
        let case = |(has_prefixes, has_adapters), is_idle, given, batch_limit, wanted| Case {
            spare: Spare { has_prefixes, has_adapters },
            is_idle,
            given,
            batch_limit,
            wanted,
        };
        let cases = [
            case((true, true), true, Given::Nothing, 8, Some(Level::Prefixes)),
            case((true, false), false, Given::Nothing, 8, Some(Level::Prefixes)),
            case((false, true), true, Given::Nothing, 8, Some(Level::Unused)),
            case((false, true), false, Given::Nothing, 8, Some(Level::Unused)),
            case((false, false), true, Given::Nothing, 8, Some(Level::Weights)),
            case((false, false), true, Given::Weights, 8, Some(Level::Weights)),
            case((false, false), true, Given::Cached, 8, Some(Level::Batch(4))),
            case((false, false), false, Given::Nothing, 3, Some(Level::Batch(1))),
            case((false, false), false, Given::Nothing, 1, None),
        ];
        for (case_idx, case) in cases.into_iter().enumerate() {
            let found = level(case.spare, case.is_idle, case.given, case.batch_limit);
            assert_eq!(found, case.wanted, "case {case_idx}");
        }
    }

    #[test]
    fn the_batch_grows_back_by_and_by() {
        let (soon, later) = (GROW_AFTER / 2, GROW_AFTER);
        assert_eq!(grown(1, 6, soon), None);
        assert_eq!(grown(1, 6, later), Some(2));
        assert_eq!(grown(4, 6, later), Some(6));
        assert_eq!(grown(6, 6, later), None);
    }
}
