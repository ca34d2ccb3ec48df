//! How fast the device reads its memory: the bound of a decoding step.

use std::time::Instant;

use super::gpu::{Cuda, grid, whole};
use crate::cuda::{Argument, Buffer, CudaError};

/// Larger than any cache, and small for a Jetson.
const BYTES: usize = 256 << 20;
/// Bytes that a thread reads at a time.
const PIECE: usize = 16;
/// Blocks of threads: some for each multiprocessor of the largest device.
const BLOCKS: usize = 2048;
const PASSES: usize = 5;

impl Cuda {
    /// Bytes per second, the best of a few passes over 256 MiB.
    ///
    /// # Errors
    /// [`CudaError`]: 2 when memory runs out.
    pub fn read_rate(&self) -> Result<f64, CudaError> {
        self.flush();
        let bytes = Buffer::<u8>::zeros(&self.context, BYTES)?;
        let found = Buffer::<u32>::zeros(&self.context, 1)?;
        let arguments =
            [Argument::Address(bytes.address()), whole(BYTES / PIECE), Argument::Address(found.address())];
        let mut best = 0.0_f64;
        for _ in 0..PASSES {
            self.context.synchronize()?;
            let start = Instant::now();
            // SAFETY: the buffers are as long as is said, and live until everything was waited for.
            unsafe { self.kernels.read_all.launch(grid(BLOCKS, 1, 1), &arguments)? };
            self.context.synchronize()?;
            best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}
