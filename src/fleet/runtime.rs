//! The one thread on which the fleet's commands wait.

use std::future::Future;

use super::error::FleetError;

/// Threads for work on files; each has a stack, and there is little of it.
const MAX_BLOCKING_THREADS: usize = 2;

/// Waits on this thread.
///
/// # Errors
/// [`FleetError`] of what is waited for, or when the runtime cannot be started.
pub fn block_on<T>(work: impl Future<Output = Result<T, FleetError>>) -> Result<T, FleetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .map_err(FleetError::system("start the runtime"))?;
    let result = runtime.block_on(work);
    // Nobody waits for a file that is still being worked on.
    runtime.shutdown_background();
    result
}
