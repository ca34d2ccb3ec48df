//! The processor itself: kernels of its instruction set, threads, and what each of them keeps for the next task.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::inputs::Inputs;
use super::rows::Rows;
use super::shared::Shared;
use crate::device::pool::Pool;
use crate::kernels::Kernels;

/// The processor: kernels of its instruction set and a pool of threads.
pub struct Cpu {
    pub(super) kernels: Kernels,
    pub(super) pool: Pool,
    /// One per thread; a lock is never contended.
    pub(super) scratch: Vec<Mutex<Vec<f32>>>,
    /// Of the call that runs; there is never another.
    pub(super) inputs: Mutex<Inputs>,
}

impl Cpu {
    /// Uses `n_threads` threads, the caller's included; 0 means one per available processor.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn new(kernels: Kernels, n_threads: usize) -> std::io::Result<Self> {
        let pool = Pool::new(n_threads)?;
        let scratch = (0..pool.n_threads()).map(|_| Mutex::default()).collect();
        Ok(Self { kernels, pool, scratch, inputs: Mutex::default() })
    }

    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Counts what is computed, piece by piece: it stands still only while nothing is.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        self.pool.n_tasks()
    }

    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Calls `work` once for every row, in parallel where there are enough of them.
    pub(super) fn for_rows(&self, n_rows: usize, work: impl Fn(usize) + Sync) {
        const ROWS_PER_TASK: usize = 8;
        let n_tasks = n_rows.div_ceil(ROWS_PER_TASK);
        self.pool.run(n_tasks, &|task_idx, _| {
            let first = task_idx * ROWS_PER_TASK;
            (first..n_rows.min(first + ROWS_PER_TASK)).for_each(&work);
        });
    }

    /// Calls `work` once for every row, `[width]`, to change it.
    pub(super) fn for_rows_of(&self, x: &mut Rows, work: impl Fn(usize, &mut [f32]) + Sync) {
        let (n_rows, width, stride, out) = (x.n_rows(), x.width(), x.stride(), Shared::new(x.as_mut_ptr()));
        self.for_rows(n_rows, |row_idx| {
            // SAFETY: the row belongs to this task.
            work(row_idx, unsafe { out.part(row_idx * stride..row_idx * stride + width) });
        });
    }
}
