//! A launch, written down.

use crate::cuda::{Argument, CudaError, Function, Grid};

/// A kernel with all that it is launched with.
#[derive(Clone, PartialEq)]
pub struct Launch {
    pub kernel: Function,
    pub grid: Grid,
    /// The structure that is its first parameter, where it has one.
    pub structure: Vec<u64>,
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// # Errors
    /// [`CudaError`] when it is refused.
    ///
    /// # Safety
    /// As [`Function::launch_with`].
    pub unsafe fn ask(&self) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.kernel.launch_with(self.grid, &self.structure, &self.arguments) }
    }
}
