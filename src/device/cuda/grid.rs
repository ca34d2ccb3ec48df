//! Sizes as launches take them.

use crate::cuda::{Argument, Grid};

/// Threads of a block, where nobody says otherwise.
pub const THREADS: u32 = 128;

/// A size as kernels take it.
///
/// # Panics
/// When it has more than 31 bits: no dimension of a model has.
pub fn whole(n: usize) -> Argument {
    Argument::I32(i32::try_from(n).expect("sizes of a model have 31 bits"))
}

/// Blocks of [`THREADS`] threads.
///
/// # Panics
/// As [`whole`].
pub fn grid(x: usize, y: usize, z: usize) -> Grid {
    let blocks = [x, y, z].map(|n| u32::try_from(n).expect("sizes of a model have 31 bits"));
    Grid { blocks, threads: THREADS, shared: 0 }
}
