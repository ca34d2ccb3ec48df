//! The low-rank update of some rows: `h = x A`, `y += h B` (Hu et al. 2021, arXiv 2106.09685).
//!
//! A is `[in, rank]` and B is `[rank, out]`, f16, read where they lie in the mapped adapter file, once for up to four
//! rows that share the adapter. A projection may have only some columns of B: those of fused projections share one
//! file entry.
//!
//! Sums over the inputs are made in parts of [`PART_INPUTS`], which the caller adds one after the other: so threads
//! can share them. Within a part, and over the ranks, one element is one chain of sums.

use std::ops::Range;

use half::f16;

use super::simd::LANES;
use super::tile::{GROUP_ROWS, Tile};

/// Inputs whose sums are made together.
pub const PART_INPUTS: usize = 512;

/// Elements of A that are asked for before they are needed.
const AHEAD: usize = 2048;
/// The same of each row of B.
const COLUMNS_AHEAD: usize = 128;

/// Sums over some inputs for up to four rows.
pub struct ShrinkTask<'a> {
    /// The first row's first element.
    pub x: &'a [f32],
    /// Elements between rows.
    pub x_stride: usize,
    pub n_rows: usize,
    /// `[in, rank]`
    pub a: &'a [f16],
    pub rank: usize,
    pub inputs: Range<usize>,
    /// `[n_rows, rank]`
    pub h: &'a mut [f32],
}

/// Adds the update of up to four rows to some outputs.
pub struct ExpandTask<'a> {
    /// `[n_rows, rank]`
    pub h: &'a [f32],
    pub n_rows: usize,
    /// `[rank, all_out]`
    pub b: &'a [f16],
    pub rank: usize,
    /// Columns of `b`.
    pub columns: Range<usize>,
    /// The first row's first output.
    pub y: *mut f32,
    /// Elements between rows.
    pub y_stride: usize,
}

/// `h[i, r] = sum_k x[i, k] * a[k, r]` over the task's inputs.
///
/// # Panics
/// When the lengths do not fit together.
///
/// # Safety
/// None is needed beyond what `t` proves.
#[inline(always)]
pub unsafe fn shrink<T: Tile>(t: T, task: &mut ShrinkTask<'_>) {
    let (rank, n_rows) = (task.rank, task.n_rows);
    assert!((1..=GROUP_ROWS).contains(&n_rows) && task.h.len() == n_rows * rank);
    assert!(task.inputs.end * rank <= task.a.len());
    assert!(task.x.len() >= (n_rows - 1) * task.x_stride + task.inputs.end);
    // SAFETY: the asserts; ranks stay below the rank.
    unsafe {
        match n_rows {
            1 => shrink_rows::<T, 1>(t, task),
            2 => shrink_rows::<T, 2>(t, task),
            3 => shrink_rows::<T, 3>(t, task),
            _ => shrink_rows::<T, GROUP_ROWS>(t, task),
        }
    }
}

/// # Safety
/// The task was checked.
#[inline(always)]
unsafe fn shrink_rows<T: Tile, const R: usize>(t: T, task: &mut ShrinkTask<'_>) {
    const PAIR: usize = 2 * LANES;
    let rank = task.rank;
    // SAFETY: the caller's promise.
    unsafe {
        for first in (0..rank / PAIR * PAIR).step_by(PAIR) {
            shrink_ranks::<T, R, 2>(t, task, first, LANES);
        }
        for first in (rank / PAIR * PAIR..rank).step_by(LANES) {
            shrink_ranks::<T, R, 1>(t, task, first, LANES.min(rank - first));
        }
    }
}

/// # Safety
/// As above; `V` vectors of ranks from `first`, the last of `width`.
#[inline(always)]
unsafe fn shrink_ranks<T: Tile, const R: usize, const V: usize>(
    t: T,
    task: &mut ShrinkTask<'_>,
    first: usize,
    width: usize,
) {
    let mut sums = [[t.splat(0.0); V]; R];
    // SAFETY: the caller's promise.
    unsafe {
        for k in task.inputs.clone() {
            let from = task.a.as_ptr().add(k * task.rank + first);
            t.prefetch(from.wrapping_add(AHEAD).cast());
            let mut ranks = [t.splat(0.0); V];
            for (v, ranks) in ranks.iter_mut().enumerate() {
                *ranks = load(t, from.add(v * LANES), width);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = t.splat(*task.x.as_ptr().add(r * task.x_stride + k));
                for (sum, ranks) in sums.iter_mut().zip(ranks) {
                    *sum = t.mul_add(x, ranks, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let to = task.h.as_mut_ptr().add(r * task.rank + first + v * LANES);
                t.store_partial(to, sum, width);
            }
        }
    }
}

/// `y[i, n] += sum_r h[i, r] * b[r, n]` for the task's columns.
///
/// # Panics
/// When the lengths do not fit together.
///
/// # Safety
/// `y` is writable for `columns.len()` values in each row, and nobody else touches them.
#[inline(always)]
pub unsafe fn expand<T: Tile>(t: T, task: &ExpandTask<'_>) {
    let (rank, n_rows) = (task.rank, task.n_rows);
    assert!((1..=GROUP_ROWS).contains(&n_rows) && rank > 0 && task.h.len() == n_rows * rank);
    assert!(task.b.len().is_multiple_of(rank) && task.columns.end <= task.b.len() / rank);
    // SAFETY: the asserts and the caller's promise.
    unsafe {
        match n_rows {
            1 => expand_rows::<T, 1, 4>(t, task),
            2 => expand_rows::<T, 2, 4>(t, task),
            3 => expand_rows::<T, 3, 2>(t, task),
            _ => expand_rows::<T, GROUP_ROWS, 2>(t, task),
        }
    }
}

/// # Safety
/// The task was checked.
#[inline(always)]
unsafe fn expand_rows<T: Tile, const R: usize, const V: usize>(t: T, task: &ExpandTask<'_>) {
    let mut first = task.columns.start;
    // SAFETY: the caller's promise.
    unsafe {
        while first + V * LANES <= task.columns.end {
            expand_columns::<T, R, V>(t, task, first, LANES);
            first += V * LANES;
        }
        while first < task.columns.end {
            expand_columns::<T, R, 1>(t, task, first, LANES.min(task.columns.end - first));
            first += LANES;
        }
    }
}

/// # Safety
/// As above; `V` vectors of columns from `first`, the last of `width`.
#[inline(always)]
unsafe fn expand_columns<T: Tile, const R: usize, const V: usize>(
    t: T,
    task: &ExpandTask<'_>,
    first: usize,
    width: usize,
) {
    let n_outputs = task.b.len() / task.rank;
    let mut sums = [[t.splat(0.0); V]; R];
    // SAFETY: the caller's promise.
    unsafe {
        for rank in 0..task.rank {
            let from = task.b.as_ptr().add(rank * n_outputs + first);
            t.prefetch(from.wrapping_add(COLUMNS_AHEAD).cast());
            let mut columns = [t.splat(0.0); V];
            for (v, columns) in columns.iter_mut().enumerate() {
                *columns = load(t, from.add(v * LANES), width);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let h = t.splat(*task.h.as_ptr().add(r * task.rank + rank));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = t.mul_add(h, columns, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                let y = task.y.add(r * task.y_stride + first - task.columns.start + v * LANES);
                if width == LANES {
                    t.store(y, t.add(t.load(y), sum));
                } else {
                    t.store_partial(y, t.add(t.load_partial(y, width), sum), width);
                }
            }
        }
    }
}

/// # Safety
/// `width` <= 8 elements.
#[inline(always)]
unsafe fn load<T: Tile>(t: T, from: *const f16, width: usize) -> T::F32 {
    // SAFETY: the caller's promise.
    unsafe { if width == LANES { t.load_f16(from) } else { t.load_f16_partial(from, width) } }
}
