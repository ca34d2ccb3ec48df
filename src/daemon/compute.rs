//! The thread that computes: steps of all engines, one after the other, and nothing else. What it is told
//! comes between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::event::{ComputeState, Computed, Event, Events};
use super::relief::Relief;
use crate::answer::{AdapterPlaces, Engines, Runnable, TextEngine, Ticket};
use crate::count::Count;
use crate::spool::wire::Answer;

/// With more adapters mapped, those that no request uses are let go without waiting for a quiet moment.
const MANY_ADAPTERS: usize = 64;

/// What the thread is told.
pub enum Compute {
    Run(Ticket, Box<Runnable>),
    /// Nobody waits for the answers of this job any more.
    Cancel(u64),
    CancelAll,
    /// New requests go to this engine.
    Replace(Box<TextEngine>),
    Places(AdapterPlaces),
    /// The system is short of memory.
    Pressure,
    UnloadAfter(Option<Duration>),
}

pub struct Worker {
    engines: Engines,
    relief: Relief,
    events: Events,
    /// Raised by every command and every step, for what they do besides computing.
    n_turns: Arc<AtomicU64>,
}

impl Worker {
    pub fn new(engines: Engines, relief: Relief, events: Events) -> Self {
        Self { engines, relief, events, n_turns: Arc::default() }
    }

    /// Moves while the thread does anything.
    pub fn n_turns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.n_turns)
    }

    /// The engines as they are now.
    pub fn state(&self) -> ComputeState {
        let current = self.engines.current();
        ComputeState {
            has_rested: self.relief.has_rested(),
            n_active: self.engines.n_active(),
            n_running: self.engines.n_running(),
            counts: self.engines.last_step(),
            batch_limit: current.batch_limit(),
            kv: current.kv_memory(),
            gpu: current.device_memory(),
            adapters: self.engines.adapters_in_use(),
            n_mapped: current.adapters().n_loaded(),
        }
    }

    /// Computes until nobody sends any more.
    pub fn run(mut self, commands: &Receiver<Compute>) {
        let mut finished = Vec::new();
        loop {
            let command = if self.engines.n_active() > 0 || !finished.is_empty() {
                commands.try_recv().map_err(|error| error == TryRecvError::Disconnected)
            } else {
                self.wait(commands)
            };
            self.n_turns.fetch_add(1, Ordering::Relaxed);
            match command {
                Ok(command) => {
                    finished.extend(self.take(command));
                    continue;
                }
                Err(true) => return,
                Err(false) => {}
            }
            let was_active = self.engines.n_active() > 0;
            finished.extend(self.engines.step());
            let damage = self.engines.damage();
            if damage.is_some() {
                finished.clear();
                self.engines.cancel_all();
            }
            if was_active {
                self.relief.note_work();
            }
            self.relief.grow(self.engines.current_mut());
            let adapters = self.engines.current().adapters();
            if adapters.n_loaded() > MANY_ADAPTERS {
                adapters.sweep();
            }
            if was_active || !finished.is_empty() || damage.is_some() {
                let finished = std::mem::take(&mut finished);
                self.events.send(Event::Computed(Computed { finished, state: self.state(), damage }));
            }
        }
    }

    /// Sleeps until there is something to do. True as the error if nobody sends any more.
    fn wait(&mut self, commands: &Receiver<Compute>) -> Result<Compute, bool> {
        let has_rested = self.relief.has_rested();
        let due = self.relief.idle(self.engines.current_mut());
        if has_rested != self.relief.has_rested() {
            self.tell();
        }
        match due {
            Some(due) => commands.recv_timeout(due).map_err(|error| error == RecvTimeoutError::Disconnected),
            None => commands.recv().map_err(|_| true),
        }
    }

    fn take(&mut self, command: Compute) -> Option<(Ticket, Answer)> {
        match command {
            Compute::Run(ticket, runnable) => {
                return self.engines.current_mut().add(ticket, *runnable).map(|answer| (ticket, answer));
            }
            Compute::Cancel(job) => self.engines.cancel_job(job),
            Compute::CancelAll => self.engines.cancel_all(),
            Compute::Replace(engine) => {
                let n_left = self.engines.replace(*engine);
                tracing::info!("new engine; {} left for the old one", Count(n_left, "request"));
                self.relief.note_work();
                self.tell();
            }
            Compute::Places(places) => self.engines.set_places(places),
            Compute::Pressure => {
                let is_idle = self.engines.n_active() == 0;
                self.relief.answer_pressure(self.engines.current_mut(), is_idle);
                self.tell();
            }
            Compute::UnloadAfter(after) => self.relief.set_unload_after(after),
        }
        None
    }

    fn tell(&self) {
        let (finished, damage) = (Vec::new(), None);
        self.events.send(Event::Computed(Computed { finished, state: self.state(), damage }));
    }
}
