//! The device itself: its context, its kernels, and what went wrong in the step under way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::draws::Draws;
use super::files::Files;
pub(super) use super::grid::{THREADS, grid, whole};
use super::kernels::Kernels;
use super::launch::Launch;
use super::operation::Operation;
use super::program::{Means, Program};
use super::purpose::Purposes;

use super::scratch::{PlanMemory, Scratch};
use super::tuning::Tuning;
use crate::cuda::{Argument, Context, CudaError, Function, Grid};
use crate::device::pool::Pool;
use crate::device::{DeviceFault, DeviceMemory};

/// A GPU.
pub struct Cuda {
    name: String,
    pub(super) context: Arc<Context>,
    pub(super) kernels: Kernels,
    pub(super) purposes: Purposes,
    /// Files whose weights are read where they are mapped.
    pub(super) files: Files,
    /// What is made of logits on the host, where the device leaves it.
    pub(super) pool: Pool,
    pub(super) plan: Mutex<PlanMemory>,
    pub(super) scratch: Mutex<Scratch>,
    pub(super) draws: Mutex<Draws>,
    /// The first thing that went wrong in this step: nothing is asked for after it.
    failure: Mutex<Option<CudaError>>,
    program: Mutex<Program>,
    /// What was chosen for this device.
    tuning: Tuning,
    /// Something was asked for that nobody has waited for.
    is_busy: AtomicBool,
}

impl Cuda {
    /// The device of that number, called `name`, with the kernels of an image for it; none where there is no driver.
    /// `n_threads` are those of the host that draw tokens; 0 means one per available processor.
    ///
    /// # Errors
    /// [`CudaError`] of the driver; the system's, when a thread cannot be started.
    pub fn open(
        ordinal: i32,
        name: String,
        image: &[u8],
        n_threads: usize,
    ) -> Result<Option<Self>, OpenError> {
        let Some(context) = Context::open(ordinal)? else { return Ok(None) };
        let kernels = Kernels::load(&context, image)?;
        Ok(Some(Self {
            name,
            context,
            kernels,
            purposes: Purposes::default(),
            files: Files::default(),
            pool: Pool::new(n_threads)?,
            plan: Mutex::default(),
            scratch: Mutex::default(),
            draws: Mutex::default(),
            failure: Mutex::default(),
            program: Mutex::default(),
            tuning: Tuning::default(),
            is_busy: AtomicBool::new(false),
        }))
    }

    /// With the choices that were made for it.
    #[must_use]
    pub fn with_tuning(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// What the step before asked for, where it was seen for the first time.
    pub(super) fn last_operations(&self) -> Vec<Operation> {
        lock(&self.program).last().to_vec()
    }

    /// Keeps the first error of a step; whoever waits for the step is told.
    pub(super) fn note<T>(&self, result: Result<T, CudaError>) -> Option<T> {
        result.map_err(|error| *lock(&self.failure).get_or_insert(error)).ok()
    }

    /// Writes a launch down, unless something went wrong before.
    ///
    /// # Safety
    /// As of [`Function::launch`]; what it uses stays until [`Self::flush`] or [`Self::wait`].
    pub(super) unsafe fn launch(&self, kernel: &Function, grid: Grid, arguments: &[Argument]) {
        if grid.blocks.contains(&0) {
            return;
        }
        let (kernel, arguments) = (kernel.clone(), arguments.to_vec());
        let launch = Launch { kernel, grid, structure: Vec::new(), arguments };
        // SAFETY: the caller's promise.
        unsafe { self.write_down(launch) };
    }

    /// Writes an operation down, unless something went wrong before.
    ///
    /// # Safety
    /// What it reads and writes has the shapes that it names, and stays until [`Self::flush`] or [`Self::wait`].
    pub(super) unsafe fn write_down(&self, operation: impl Into<Operation>) {
        let operation = operation.into();
        if !operation.is_empty() && lock(&self.failure).is_none() {
            lock(&self.program).push(operation);
        }
    }

    fn means(&self) -> Means<'_> {
        Means { context: &self.context, kernels: &self.kernels, tuning: &self.tuning }
    }

    /// Asks for what was written down. Memory that it uses may be freed then: the driver waits for it.
    pub(super) fn flush(&self) {
        let mut program = lock(&self.program);
        if !program.is_empty() {
            self.is_busy.store(true, Ordering::Relaxed);
            self.note(program.flush(&self.means()));
        }
    }

    /// Forgets the graphs of steps before.
    pub fn forget_steps(&self) {
        lock(&self.program).clear();
    }

    /// Whether nothing is asked for or written down.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy.load(Ordering::Relaxed) && lock(&self.program).is_empty()
    }

    /// Asks for what was written down, and waits for all of it.
    ///
    /// # Errors
    /// The first thing that went wrong since the last time.
    pub(super) fn wait(&self) -> Result<(), DeviceFault> {
        let has_failed = lock(&self.failure).is_some();
        if has_failed {
            lock(&self.program).clear();
        } else {
            self.is_busy.store(true, Ordering::Relaxed);
            self.note(lock(&self.program).run(&self.means()));
        }
        let waited = self.context.synchronize();
        self.is_busy.store(false, Ordering::Relaxed);
        let failed = lock(&self.failure).take();
        self.pool.count_task();
        match failed.map_or(waited, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(DeviceFault(error.to_string())),
        }
    }

    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch> {
        lock(&self.scratch)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's name for it, and its architecture, where [`Self::name`] has both.
    pub fn device(&self) -> (&str, &str) {
        self.name.rsplit_once(", ").unwrap_or((&self.name, ""))
    }

    /// Threads of the host.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// Counts steps and draws: it stands still while the device does.
    pub fn n_tasks(&self) -> Arc<AtomicU64> {
        self.pool.n_tasks()
    }

    pub fn memory(&self) -> DeviceMemory {
        self.purposes.of(self.context.n_bytes())
    }

    /// The driver's calls so far.
    pub fn n_calls(&self) -> u64 {
        self.context.n_calls()
    }
}

/// What lies behind these mutexes is right whoever panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    System(#[from] std::io::Error),
}
