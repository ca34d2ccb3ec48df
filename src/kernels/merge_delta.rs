//! Rows of a low-rank product: `delta = scale * (coefficients x panel)`, for merging an adapter into weights.
//!
//! One element is one accumulator that walks the rank upwards, whatever tile it sits in, so a row's result
//! depends neither on the rows beside it nor on the processor.

use super::simd::{LANES, Simd};

/// Rows and vectors of a tile: 8 accumulators, each panel vector loaded once for 4 rows.
const TILE_ROWS: usize = 4;
const TILE_VECTORS: usize = 2;

/// Some rows of a product.
pub struct LowRankTask<'a> {
    /// `[n_rows, rank]`.
    pub coefficients: &'a [f32],
    /// `[rank, n_columns]`.
    pub panel: &'a [f32],
    pub rank: usize,
    pub scale: f32,
    /// `[n_rows, n_columns]`; what it held is lost.
    pub delta: &'a mut [f32],
}

/// `delta[i, j] = scale * sum_r coefficients[i, r] * panel[r, j]`.
///
/// # Panics
/// When the lengths do not fit together.
///
/// # Safety
/// None is needed beyond what `s` proves.
#[inline(always)]
pub unsafe fn low_rank<S: Simd>(s: S, task: &mut LowRankTask<'_>) {
    let rank = task.rank;
    assert!(
        rank > 0 && task.panel.len().is_multiple_of(rank) && task.coefficients.len().is_multiple_of(rank)
    );
    let (n_rows, n_columns) = (task.coefficients.len() / rank, task.panel.len() / rank);
    assert_eq!(task.delta.len(), n_rows * n_columns);
    let mut row = 0;
    while row < n_rows {
        let block = Block {
            coefficients: task.coefficients[row * rank..].as_ptr(),
            panel: task.panel.as_ptr(),
            delta: task.delta[row * n_columns..].as_mut_ptr(),
            rank,
            n_columns,
            scale: task.scale,
        };
        // SAFETY: the asserts above; the rows of the block lie below n_rows.
        unsafe {
            if n_rows - row >= TILE_ROWS {
                block.run::<S, TILE_ROWS>(s);
                row += TILE_ROWS;
            } else {
                block.run::<S, 1>(s);
                row += 1;
            }
        }
    }
}

/// Consecutive rows; the pointers are to their first elements.
struct Block {
    coefficients: *const f32,
    panel: *const f32,
    delta: *mut f32,
    rank: usize,
    n_columns: usize,
    scale: f32,
}

impl Block {
    /// # Safety
    /// `ROWS` rows of coefficients and delta, and the whole panel.
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize>(&self, s: S) {
        const WIDTH: usize = TILE_VECTORS * LANES;
        let whole = self.n_columns / WIDTH * WIDTH;
        // SAFETY: columns stay below n_columns.
        unsafe {
            for column in (0..whole).step_by(WIDTH) {
                self.tile::<S, ROWS, TILE_VECTORS>(s, column, LANES);
            }
            for column in (whole..self.n_columns).step_by(LANES) {
                self.tile::<S, ROWS, 1>(s, column, LANES.min(self.n_columns - column));
            }
        }
    }

    /// `width` is that of the tile's vectors; below 8 the tile has one vector.
    ///
    /// # Safety
    /// As [`Block::run`]; the tile's columns lie below `n_columns`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        s: S,
        column: usize,
        width: usize,
    ) {
        let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
        let scale = s.splat(self.scale);
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..self.rank {
                let from = self.panel.add(r * self.n_columns + column);
                let mut vectors = [s.splat(0.0); VECTORS];
                for (j, vector) in vectors.iter_mut().enumerate() {
                    let from = from.add(j * LANES);
                    *vector = if width == LANES { s.load(from) } else { s.load_partial(from, width) };
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let coefficient = s.splat(*self.coefficients.add(i * self.rank + r));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = s.mul_add(coefficient, vector, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let to = self.delta.add(i * self.n_columns + column + j * LANES);
                    let value = s.mul(sum, scale);
                    if width == LANES { s.store(to, value) } else { s.store_partial(to, value, width) }
                }
            }
        }
    }
}
