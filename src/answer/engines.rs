//! The engine that new requests go to, and the replaced ones that still have requests.
//!
//! A request is answered by one engine from its first to its last token. A job that is open while the engine
//! is replaced may have answers of both; after a crash, what was not finished is computed by the new one.

use std::collections::BTreeMap;

use super::adapters::AdapterPlaces;
use super::breakdown::Breakdown;
use super::engine::TextEngine;
use super::executor::Executor;
use super::ticket::Ticket;
use super::usage::give_back_heap;
use crate::infer::StepCounts;
use crate::spool::wire::Answer;

/// All engines of the daemon.
pub struct Engines {
    current: Executor,
    /// Dropped with all their memory when their last request is answered.
    retired: Vec<Executor>,
    /// What the last step of all of them computed.
    counts: StepCounts,
}

impl Engines {
    /// New requests go to `engine`.
    pub fn new(engine: TextEngine, places: AdapterPlaces) -> Self {
        let current = Executor::new(engine, places);
        Self { current, retired: Vec::new(), counts: StepCounts::default() }
    }

    /// The one that new requests go to.
    pub fn current(&self) -> &Executor {
        &self.current
    }

    pub fn current_mut(&mut self) -> &mut Executor {
        &mut self.current
    }

    /// Adapters of the requests that run on all engines, with how many requests each has.
    pub fn adapters_in_use(&self) -> BTreeMap<String, usize> {
        let mut in_use = BTreeMap::new();
        for name in self.all().flat_map(Executor::adapters_in_use) {
            *in_use.entry(name.to_owned()).or_default() += 1;
        }
        in_use
    }

    /// Requests under way on all engines.
    pub fn n_active(&self) -> usize {
        self.all().map(Executor::n_active).sum()
    }

    /// Requests that generate on all engines.
    pub fn n_running(&self) -> usize {
        self.all().map(Executor::n_running).sum()
    }

    /// Computes one step of every engine; returns the answers that it finished.
    pub fn step(&mut self) -> Vec<(Ticket, Answer)> {
        let mut finished = Vec::new();
        self.counts = StepCounts::default();
        for executor in std::iter::once(&mut self.current).chain(&mut self.retired) {
            finished.extend(executor.step());
            self.counts.add(executor.last_step());
        }
        let n_before = self.retired.len();
        self.retired.retain(|executor| executor.n_active() > 0);
        if self.retired.len() < n_before {
            give_back_heap();
            tracing::info!("the replaced engine has answered its last request and is closed");
        }
        finished
    }

    /// What happened to an engine that has requests or gets new ones.
    pub fn damage(&self) -> Option<Breakdown> {
        self.all().find_map(Executor::damage)
    }

    /// What the last step computed.
    pub fn last_step(&self) -> StepCounts {
        self.counts
    }

    /// Drops what is under way of one job.
    pub fn cancel_job(&mut self, job: u64) {
        self.current.cancel_job(job);
        self.retired.iter_mut().for_each(|executor| executor.cancel_job(job));
        self.retired.retain(|executor| executor.n_active() > 0);
    }

    /// Drops everything under way.
    pub fn cancel_all(&mut self) {
        self.current.cancel_all();
        self.retired.clear();
    }

    /// New requests go to another engine. Returns how many are left to the old one.
    pub fn replace(&mut self, engine: TextEngine) -> usize {
        let places = self.current.adapters().places().clone();
        let mut old = std::mem::replace(&mut self.current, Executor::new(engine, places));
        let n_left = old.n_active();
        if n_left > 0 {
            // Nobody comes who could use them.
            old.drop_prefixes();
            self.retired.push(old);
        }
        n_left
    }

    /// Adapters of new requests come from other places.
    pub fn set_places(&mut self, places: AdapterPlaces) {
        self.current.adapters_mut().set_places(places);
    }

    fn all(&self) -> impl Iterator<Item = &Executor> {
        std::iter::once(&self.current).chain(&self.retired)
    }
}
