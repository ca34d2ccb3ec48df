//! How fast this machine reads memory: the bound of a decoding step.

use std::time::Instant;

use memmap2::{Advice, MmapMut};

use super::processor::Cpu;
use super::shared::Shared;

/// Larger than most last-level caches.
const BYTES: usize = 1 << 30;
/// What a thread reads before it looks for more.
const PIECE: usize = 4 << 20;
const PASSES: usize = 4;

impl Cpu {
    /// Bytes per second that the threads read as they read weights, the best of a few passes: one stream each, what
    /// follows asked for ahead, in large pages where the system gives them.
    ///
    /// # Errors
    /// The system's, when it has no memory for the gigabyte that is read.
    pub fn read_rate(&self) -> std::io::Result<f64> {
        let mut map = MmapMut::map_anon(BYTES)?;
        // A kernel without them refuses, and the rate is that of small pages.
        let _ = map.advise(Advice::HugePage);
        // Pages that nobody has written are all the same one.
        let written = Shared::new(map.as_mut_ptr());
        self.pool.run(BYTES / PIECE, &|piece, _| {
            // SAFETY: the piece belongs to this task.
            unsafe { written.part(piece * PIECE..(piece + 1) * PIECE) }.fill(1);
        });
        let pass = || {
            let start = Instant::now();
            self.pool.run(BYTES / PIECE, &|piece, _| {
                // SAFETY: the kernel's set of instructions is this processor's.
                std::hint::black_box(unsafe {
                    (self.kernels.read)(&map[piece * PIECE..(piece + 1) * PIECE])
                });
            });
            BYTES as f64 / start.elapsed().as_secs_f64()
        };
        Ok((0..PASSES).map(|_| pass()).fold(0.0, f64::max))
    }
}
