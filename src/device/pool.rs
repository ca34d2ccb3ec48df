//! Threads that share the tasks of one call at a time.
//!
//! A call publishes a closure, opens the gate and takes tasks itself; helpers that see the gate open join and take the
//! next task until none is left. The call closes the gate, so that nobody joins any more, and waits for those who are
//! inside. Helpers look at the gate for a while after each call, for the next one comes within microseconds as long as
//! a model computes; then they sleep, and cost nothing.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a helper looks for the next call before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);
/// Looks between two looks at the clock.
const LOOKS: usize = 64;

/// A fixed set of threads; the caller of [`Pool::run`] is one more.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    gate: Gate,
    /// Written while the gate is closed and nobody is inside; read by those who are.
    job: UnsafeCell<Job>,
    next_task: AtomicUsize,
    /// Tasks that the caller's thread has done, of all calls.
    n_tasks: Arc<AtomicU64>,
    is_running: AtomicBool,
    /// Helpers that sleep or are about to.
    n_asleep: AtomicUsize,
    ending: Mutex<bool>,
    /// The gate was opened, or the pool ends.
    woken: Condvar,
}

/// A borrowed closure with its lifetime erased; [`Pool::run`] outlives every use.
#[derive(Clone, Copy)]
struct Job {
    call: Option<*const (dyn Fn(usize, usize) + Sync)>,
    n_tasks: usize,
}

// SAFETY: the closure is Sync, and Pool::run keeps it alive until the gate is closed and all helpers left; the job
// changes only then.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Number of the call, whether it takes helpers, and how many are inside, in one word.
#[derive(Default)]
struct Gate(AtomicU64);

impl Gate {
    const OPEN: u64 = 1 << 31;
    const INSIDE: u64 = Self::OPEN - 1;
    const CALL: u64 = 1 << 32;

    /// Begins the next call. What was written before is seen by those who join.
    fn open(&self) {
        let gate = self.0.load(Ordering::Relaxed);
        self.0.store((gate & !Self::INSIDE).wrapping_add(Self::CALL) | Self::OPEN, Ordering::SeqCst);
    }

    /// Joins an open call other than `last`, the number of the one joined before.
    fn join(&self, last: &mut u64) -> bool {
        let mut gate = self.0.load(Ordering::SeqCst);
        while gate & Self::OPEN != 0 && gate >> 32 != *last {
            match self.0.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    *last = gate >> 32;
                    return true;
                }
                Err(now) => gate = now,
            }
        }
        false
    }

    /// What a helper did is seen by the one that closes the gate.
    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Lets nobody in any more, and waits until nobody is inside.
    fn close(&self) {
        self.0.fetch_and(!Self::OPEN, Ordering::Relaxed);
        let mut n_looks = 0_usize;
        while self.0.load(Ordering::Acquire) & Self::INSIDE != 0 {
            n_looks += 1;
            if n_looks.is_multiple_of(4096) {
                // A helper may wait for this very processor.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

impl Pool {
    /// A pool of `n_threads` in all, the caller included; 0 means one per available processor.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn new(n_threads: usize) -> std::io::Result<Self> {
        let n_threads = match n_threads {
            0 => std::thread::available_parallelism()?.get(),
            n => n,
        };
        let shared = Arc::new(Shared {
            gate: Gate::default(),
            job: UnsafeCell::new(Job { call: None, n_tasks: 0 }),
            next_task: AtomicUsize::new(0),
            n_tasks: Arc::default(),
            is_running: AtomicBool::new(false),
            n_asleep: AtomicUsize::new(0),
            ending: Mutex::new(false),
            woken: Condvar::new(),
        });
        let threads = (1..n_threads)
            .map(|worker_idx| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("jetspool-{worker_idx}"))
                    .spawn(move || help(&shared, worker_idx))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Threads in all, the caller included.
    pub fn n_threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Counts the tasks of the calling thread, for those who watch whether it gets on.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.n_tasks)
    }

    /// Counts something that the caller has done otherwise.
    pub fn count_task(&self) {
        self.shared.count_task();
    }

    /// Calls `call(task_idx, worker_idx)` once for every task below `n_tasks`; returns when all are done.
    ///
    /// # Panics
    /// When it is called from inside a task or from two threads at once. A task that panics ends the program.
    pub fn run(&self, n_tasks: usize, call: &(dyn Fn(usize, usize) + Sync)) {
        if n_tasks <= 1 || self.threads.is_empty() {
            for task_idx in 0..n_tasks {
                call(task_idx, 0);
                self.shared.count_task();
            }
            return;
        }
        let shared = &*self.shared;
        assert!(!shared.is_running.swap(true, Ordering::Acquire), "one call at a time");
        // Helpers may use the closure until they have left: unwinding past this point would free it.
        let guard = AbortOnPanic;
        // SAFETY: only the lifetime changes; see Job. The gate is closed and nobody is inside.
        unsafe {
            let call: *const (dyn Fn(usize, usize) + Sync + 'static) = std::mem::transmute(call);
            *shared.job.get() = Job { call: Some(call), n_tasks };
        }
        shared.next_task.store(0, Ordering::Relaxed);
        shared.gate.open();
        // Either a helper that falls asleep is counted here, or it sees the gate open.
        if shared.n_asleep.load(Ordering::SeqCst) > 0 {
            let _ending = shared.lock();
            shared.woken.notify_all();
        }
        shared.take_tasks(call, n_tasks, 0);
        shared.gate.close();
        std::mem::forget(guard);
        shared.is_running.store(false, Ordering::Release);
    }
}

/// Ends the program when it is dropped, which only a panic does.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        *self.shared.lock() = true;
        self.shared.woken.notify_all();
        for thread in self.threads.drain(..) {
            // A helper that panicked has already told so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ending.lock().expect("no thread panics while it holds the lock")
    }

    fn take_tasks(&self, call: &(dyn Fn(usize, usize) + Sync), n_tasks: usize, worker_idx: usize) {
        loop {
            let task_idx = self.next_task.fetch_add(1, Ordering::Relaxed);
            if task_idx >= n_tasks {
                return;
            }
            call(task_idx, worker_idx);
            if worker_idx == 0 {
                self.count_task();
            }
        }
    }

    /// Of one thread only, so that nobody waits for the others' cache lines.
    fn count_task(&self) {
        self.n_tasks.store(self.n_tasks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Joins the next call, sleeping where it does not come at once; false when the pool ends.
    fn join(&self, last: &mut u64) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for _ in 0..LOOKS {
                if self.gate.join(last) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        let mut ending = self.lock();
        self.n_asleep.fetch_add(1, Ordering::SeqCst);
        let joined = loop {
            if *ending {
                break false;
            }
            if self.gate.join(last) {
                break true;
            }
            ending = self.woken.wait(ending).expect("no thread panics while it holds the lock");
        };
        self.n_asleep.fetch_sub(1, Ordering::SeqCst);
        joined
    }
}

fn help(shared: &Shared, worker_idx: usize) {
    let mut last = 0;
    while shared.join(&mut last) {
        // SAFETY: the job was written before the gate opened, and stays until this thread has left.
        let job = unsafe { *shared.job.get() };
        let guard = AbortOnPanic;
        if let Some(call) = job.call {
            // SAFETY: the same.
            shared.take_tasks(unsafe { &*call }, job.n_tasks, worker_idx);
        }
        std::mem::forget(guard);
        shared.gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for n_threads in [1, 2, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for n_tasks in [0, 1, 2, 7, 100, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(n_tasks, &|task_idx, worker_idx| {
                    assert!(worker_idx < n_threads);
                    counts[task_idx].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n_threads} {n_tasks}");
            }
        }
    }

    #[test]
    fn whoever_watches_sees_a_long_call_get_on() {
        for n_threads in [1, 3] {
            let pool = Pool::new(n_threads).unwrap();
            let n_tasks = pool.n_tasks();
            let seen = Mutex::new(std::collections::BTreeSet::new());
            pool.run(50, &|_, worker_idx| {
                if worker_idx == 0 {
                    seen.lock().unwrap().insert(n_tasks.load(Ordering::Relaxed));
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            });
            let seen = seen.into_inner().unwrap();
            assert!(seen.len() > 1 && seen.len() as u64 == n_tasks.load(Ordering::Relaxed), "{seen:?}");
        }
    }

    #[test]
    fn many_short_jobs_do_not_lose_a_wake_up() {
        let pool = Pool::new(3).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..20_000 {
            pool.run(3, &|task_idx, _| {
                sum.fetch_add(task_idx, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 3 * 20_000);
    }

    /// Two tasks that wait for each other: both threads must come, awake or asleep.
    #[test]
    fn helpers_come_after_any_pause() {
        let pool = Pool::new(2).unwrap();
        for pause_us in [0, 100, 190, 200, 210, 300, 1000, 5000].into_iter().cycle().take(400) {
            let arrived = AtomicUsize::new(0);
            pool.run(2, &|_, _| {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
            });
            std::thread::sleep(Duration::from_micros(pause_us));
        }
    }
}
