//! Threads that share the tasks of one call at a time.
//!
//! A call publishes a closure and a task count; whoever is awake takes the next task until none is left.
//! Late sleepers are not waited for: the call closes the job first, then waits for those who joined.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// Looks at the epoch this often before a thread goes to sleep.
const SPINS: usize = 2_000;

/// A fixed set of threads; the caller of [`Pool::run`] is one more.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// A job was opened, or the pool ends.
    opened: Condvar,
    /// The last helper left a job.
    left: Condvar,
    /// Counts jobs; a helper that sees it change looks for work.
    epoch: AtomicUsize,
    next_task: AtomicUsize,
    /// Tasks that the caller's thread has done, of all calls.
    n_tasks: Arc<AtomicU64>,
    is_running: AtomicBool,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    n_helpers: usize,
    ending: bool,
}

/// A borrowed closure with its lifetime erased; [`Pool::run`] outlives every use.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize, usize) + Sync),
    n_tasks: usize,
}

// SAFETY: the closure is Sync, and Pool::run keeps it alive until the job is closed and all helpers left.
unsafe impl Send for Job {}

impl Pool {
    /// A pool of `n_threads` in all, the caller included.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn new(n_threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            opened: Condvar::new(),
            left: Condvar::new(),
            epoch: AtomicUsize::new(0),
            next_task: AtomicUsize::new(0),
            n_tasks: Arc::default(),
            is_running: AtomicBool::new(false),
        });
        let threads = (1..n_threads.max(1))
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
        // SAFETY: only the lifetime changes; see Job.
        let call_erased: *const (dyn Fn(usize, usize) + Sync + 'static) =
            unsafe { std::mem::transmute(call) };
        assert!(!shared.is_running.swap(true, Ordering::Acquire), "one call at a time");
        // Helpers may use the closure until they have left: unwinding past this point would free it.
        let guard = AbortOnPanic;
        shared.next_task.store(0, Ordering::Relaxed);
        {
            let mut state = shared.lock();
            state.job = Some(Job { call: call_erased, n_tasks });
            // Under the lock: a helper that is about to sleep sees it or is woken.
            shared.epoch.fetch_add(1, Ordering::Release);
            shared.opened.notify_all();
        }
        shared.take_tasks(call, n_tasks, 0);
        let mut state = shared.lock();
        state.job = None;
        while state.n_helpers > 0 {
            state = shared.left.wait(state).expect("no thread panics while it holds the lock");
        }
        drop(state);
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
        self.shared.lock().ending = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.shared.opened.notify_all();
        for thread in self.threads.drain(..) {
            // A helper that panicked has already told so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
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
}

fn help(shared: &Shared, worker_idx: usize) {
    let mut seen = 0;
    loop {
        for _ in 0..SPINS {
            if shared.epoch.load(Ordering::Acquire) != seen {
                break;
            }
            std::hint::spin_loop();
        }
        let mut state = shared.lock();
        while shared.epoch.load(Ordering::Acquire) == seen && !state.ending {
            state = shared.opened.wait(state).expect("no thread panics while it holds the lock");
        }
        if state.ending {
            return;
        }
        seen = shared.epoch.load(Ordering::Acquire);
        let Some(job) = state.job else { continue };
        state.n_helpers += 1;
        drop(state);
        let guard = AbortOnPanic;
        // SAFETY: the job was open when n_helpers rose, so Pool::run waits for this thread to leave.
        shared.take_tasks(unsafe { &*job.call }, job.n_tasks, worker_idx);
        std::mem::forget(guard);
        let mut state = shared.lock();
        state.n_helpers -= 1;
        if state.n_helpers == 0 {
            shared.left.notify_one();
        }
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
}
