//! How fast this machine reads memory: the bound of a decoding step.

use std::hint::black_box;
use std::time::Instant;

/// Larger than any last-level cache.
const BUFFER_BYTES: usize = 1 << 30;

/// Bytes per second that `n_threads` threads read together, the best of a few passes.
pub fn read_bandwidth(n_threads: usize) -> f64 {
    const PASSES: usize = 4;
    let words: Vec<u64> = (0..BUFFER_BYTES / 8).map(|i| i as u64).collect();
    let per_thread = words.len().div_ceil(n_threads.max(1));
    let pass = || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(per_thread) {
                scope.spawn(|| black_box(sum(part)));
            }
        });
        BUFFER_BYTES as f64 / start.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

/// Several sums side by side, so that loads and not additions are the bound.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for words in words.chunks_exact(32) {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}
