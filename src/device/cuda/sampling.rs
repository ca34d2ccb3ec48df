//! Tokens drawn on the device: sampling.cu, launched behind the logits of a step. A row that is not decided there is the
//! host's, and so is one for which the device is likely to take longer: sums over the whole vocabulary are made in f64, of
//! which a multiprocessor of a small GPU does a few operations a cycle, about as many as a core of the host.

use super::draws::Draws;
use super::gpu::{Cuda, grid, lock, whole};
use super::rows::Rows;
use crate::cuda::Grid;
use crate::device::{Draw, Drawn};
use crate::numbers::precision::row_stride;

/// Logits of a part, of which each thread has a group.
const SCORE_PART: usize = 4096;
const GROUPS: usize = 128;
/// Logits whose weights are summed by themselves.
const SUM_PART: usize = 1024;
/// Words of a `struct ScorePart`.
const PART_WORDS: usize = 4;
/// Threads of a block that draws.
const DRAW_THREADS: u32 = 256;
/// For so many of the host's threads the device takes one row with a sum over the vocabulary, and one at least.
const THREADS_PER_SUM: usize = 3;

/// Parts of a row of logits, and its elements of [`super::draws::Buffers`].
struct PerRow {
    n_parts: usize,
    n_sum_parts: usize,
    scores: usize,
    groups: usize,
    parts: usize,
    sums: usize,
}

impl PerRow {
    fn of(vocab_size: usize) -> Self {
        let (n_parts, n_sum_parts) = (vocab_size.div_ceil(SCORE_PART), vocab_size.div_ceil(SUM_PART));
        Self {
            n_parts,
            n_sum_parts,
            scores: row_stride(vocab_size),
            groups: n_parts * GROUPS,
            parts: n_parts * PART_WORDS,
            sums: 2 * n_sum_parts,
        }
    }
}

/// See [`crate::device::Device::draw_bytes`]; the tables that the host writes are small.
pub fn draw_bytes(vocab_size: usize) -> usize {
    let PerRow { scores, groups, parts, sums, .. } = PerRow::of(vocab_size);
    size_of::<f32>() * (scores + groups + parts) + size_of::<f64>() * sums
}

impl Cuda {
    /// See [`crate::device::Device::ask_tokens`].
    pub(super) fn ask(&self, asked: &[Draw<'_>], vocab_size: usize) {
        if !self.is_idle() {
            // Whoever wants to know what went wrong asks `finish`.
            let _ = self.wait();
        }
        let max_sums = (self.n_threads() / THREADS_PER_SUM).max(1);
        // SAFETY: everything was waited for.
        self.note(unsafe { lock(&self.draws).write(&self.context, (asked, vocab_size), max_sums) });
    }

    /// See [`crate::device::Device::allow`].
    pub(super) fn tell_allowed(&self, row_idx: usize, tokens: Option<&[u32]>) {
        lock(&self.draws).allow(row_idx, tokens);
    }

    /// See [`crate::device::Device::draw`].
    pub(super) fn draw_all(&self, logits: &Rows) {
        let mut draws = lock(&self.draws);
        let (n_rows, vocab_size) = (logits.n_rows(), logits.width());
        if draws.n_rows != n_rows {
            return;
        }
        let per_row = PerRow::of(vocab_size);
        let PerRow { n_parts, n_sum_parts, .. } = per_row;
        let Draws { has_sums, mask_stride, buffers, .. } = &mut *draws;
        let (has_sums, mask_stride) = (*has_sums, whole(*mask_stride));
        let scores = self.room(&mut buffers.scores, n_rows * per_row.scores);
        let groups = self.room(&mut buffers.groups, n_rows * per_row.groups);
        let parts = self.room(&mut buffers.parts, n_rows * per_row.parts);
        let sums = self.room(&mut buffers.sums, n_rows * per_row.sums);
        let (tables, shape) =
            (draws.tables(), [whole(logits.stride()), whole(vocab_size), draws.tables().entries]);
        let of_score = [tables.biases, tables.masks, mask_stride, scores, groups, parts];
        let score = [&[logits.at()][..], &shape, &of_score].concat();
        let sum = [&[scores][..], &shape, &[parts, whole(n_parts), sums]].concat();
        let of_draw = [groups, parts, whole(n_parts), sums, tables.answers, tables.likeliest];
        let draw = [&[scores][..], &shape, &of_draw].concat();
        let by_row = Grid { threads: DRAW_THREADS, ..grid(n_rows, 1, 1) };
        // SAFETY: every buffer has the size that its doc says, and stays until the step is waited for.
        unsafe {
            self.launch(&self.kernels.score_tokens, grid(n_parts, n_rows, 1), &score);
            if has_sums {
                self.launch(&self.kernels.sum_weights, grid(n_sum_parts, n_rows, 2), &sum);
            }
            self.launch(&self.kernels.draw_token, by_row, &draw);
        }
    }

    /// See [`crate::device::Device::drawn`].
    pub(super) fn answer(&self, row_idx: usize) -> Option<Drawn> {
        if !self.is_idle() {
            return None;
        }
        // SAFETY: everything was waited for.
        unsafe { lock(&self.draws).answer(row_idx) }
    }
}
