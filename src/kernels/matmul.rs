//! `y[r, n] = sum_k x[r, k] * w[n, k]`: rows of activations times rows of weights.
//!
//! One output element is one accumulator of eight lanes that walks k upwards, whatever tile it sits in,
//! so a row's result does not depend on how many rows come with it. Weights become f32 on the way:
//! in registers for few rows, once per tile of columns into scratch for many.

use std::ops::Range;

use super::matrix::{Matrix, ROW_ALIGN};
use super::simd::{LANES, Simd};
use super::weight_rows::{F32Rows, Rows, with_rows};

/// Columns that are unpacked together when many rows share them.
const UNPACK_COLUMNS: usize = 4;
/// From this many rows on, unpacking first is cheaper than unpacking in every tile.
const UNPACK_ROWS: usize = 5;
/// Bytes of activations that stay in the second-level cache while the columns pass by.
const PANEL_BYTES: usize = 192 << 10;

/// One call: some output columns for all rows.
pub struct MatmulTask<'a> {
    /// `[n_rows, w.stride()]`, zero beyond the logical input.
    pub x: &'a [f32],
    pub n_rows: usize,
    pub w: Matrix<'a>,
    /// Output columns to compute: rows of `w`.
    pub columns: Range<usize>,
    /// Row 0, column 0 of the output.
    pub y: *mut f32,
    /// Elements between output rows.
    pub y_stride: usize,
    /// At least [`scratch_len`] elements.
    pub scratch: &'a mut [f32],
}

/// Elements of scratch that a call needs for rows of that stride.
pub const fn scratch_len(stride: usize) -> usize {
    UNPACK_COLUMNS * stride
}

/// # Safety
/// `y` is writable at `row * y_stride + column` for every row and every column of the task, and nobody
/// else touches these elements meanwhile. `x`, `columns` and `scratch` have the lengths of their docs.
#[inline(always)]
pub unsafe fn matmul<S: Simd>(s: S, task: &mut MatmulTask<'_>) {
    // SAFETY: Matrix::new proved the lengths that the rows rely on; the rest is the caller's promise.
    unsafe { with_rows!(task.w, rows => panels(s, rows, task)) }
}

/// One row of a matrix as f32 into `out` (`[w.stride()]`).
///
/// # Safety
/// `row < w.n_rows()` and `out` holds `w.stride()` elements.
#[inline(always)]
pub unsafe fn unpack_row<S: Simd>(s: S, w: Matrix<'_>, row: usize, out: &mut [f32]) {
    let (stride, out) = (w.stride(), out.as_mut_ptr());
    // SAFETY: as above.
    unsafe { with_rows!(w, rows => unpack_whole(s, &rows, row, stride, out)) }
}

/// # Safety
/// As [`unpack_row`].
#[inline(always)]
unsafe fn unpack_whole<S: Simd, W: Rows<S>>(s: S, w: &W, row: usize, stride: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        unpack(s, w, row, stride, out);
        let factor = w.factor(row);
        if factor != 1.0 {
            (0..stride).for_each(|k| *out.add(k) *= factor);
        }
    }
}

/// Splits the rows into panels that stay in cache and sweeps the columns for each.
#[inline(always)]
unsafe fn panels<S: Simd, W: Rows<S>>(s: S, w: W, task: &mut MatmulTask<'_>) {
    let stride = task.w.stride();
    debug_assert!(task.x.len() >= task.n_rows * stride && task.columns.end <= task.w.n_rows());
    debug_assert!(task.scratch.len() >= scratch_len(stride));
    let panel_rows = (PANEL_BYTES / (stride * size_of::<f32>())).clamp(4, 64) / 4 * 4;
    let mut first_row = 0;
    while first_row < task.n_rows {
        let n_rows = panel_rows.min(task.n_rows - first_row);
        // SAFETY: the panel lies inside x and y.
        unsafe {
            let panel = Panel {
                x: task.x.as_ptr().add(first_row * stride),
                stride,
                n_rows,
                y: task.y.add(first_row * task.y_stride),
                y_stride: task.y_stride,
            };
            if n_rows < UNPACK_ROWS || W::IS_F32 {
                panel.sweep(s, &w, task.columns.clone());
            } else {
                panel.sweep_unpacked(s, &w, task.columns.clone(), task.scratch.as_mut_ptr());
            }
        }
        first_row += n_rows;
    }
}

/// Some rows of x and of y.
#[derive(Clone, Copy)]
struct Panel {
    x: *const f32,
    stride: usize,
    n_rows: usize,
    y: *mut f32,
    y_stride: usize,
}

impl Panel {
    #[inline(always)]
    unsafe fn sweep<S: Simd, W: Rows<S>>(self, s: S, w: &W, columns: Range<usize>) {
        let mut column = columns.start;
        let width = if self.n_rows == 1 { 4 } else { 2 };
        while column + width <= columns.end {
            // SAFETY: columns stay inside the range that the caller vouched for.
            unsafe {
                if width == 4 {
                    self.tiles::<S, W, 4>(s, w, column, column);
                } else {
                    self.tiles::<S, W, 2>(s, w, column, column);
                }
            }
            column += width;
        }
        while column < columns.end {
            // SAFETY: as above.
            unsafe { self.tiles::<S, W, 1>(s, w, column, column) };
            column += 1;
        }
    }

    /// Unpacks a few columns, then multiplies the unpacked ones; factors still come from `w`.
    #[inline(always)]
    unsafe fn sweep_unpacked<S: Simd, W: Rows<S>>(
        self,
        s: S,
        w: &W,
        columns: Range<usize>,
        scratch: *mut f32,
    ) {
        let unpacked = Scaled { rows: F32Rows { w: scratch, stride: self.stride }, source: *w, base: 0 };
        for first in columns.clone().step_by(UNPACK_COLUMNS) {
            let n = UNPACK_COLUMNS.min(columns.end - first);
            // SAFETY: scratch holds UNPACK_COLUMNS rows; columns stay inside the range.
            unsafe {
                for i in 0..n {
                    unpack(s, w, first + i, self.stride, scratch.add(i * self.stride));
                }
                let unpacked = Scaled { base: first, ..unpacked };
                if n == UNPACK_COLUMNS {
                    self.tiles::<S, _, 2>(s, &unpacked, 0, first);
                    self.tiles::<S, _, 2>(s, &unpacked, 2, first + 2);
                } else {
                    (0..n).for_each(|i| self.tiles::<S, _, 1>(s, &unpacked, i, first + i));
                }
            }
        }
    }

    /// All rows of the panel for `C` weight rows from `row`, written to columns from `column`.
    #[inline(always)]
    unsafe fn tiles<S: Simd, W: Rows<S>, const C: usize>(self, s: S, w: &W, row: usize, column: usize) {
        let mut first = 0;
        // SAFETY: rows stay inside the panel.
        unsafe {
            while first + 4 <= self.n_rows {
                self.tile::<S, W, 4, C>(s, w, row, column, first);
                first += 4;
            }
            match self.n_rows - first {
                3 => self.tile::<S, W, 3, C>(s, w, row, column, first),
                2 => self.tile::<S, W, 2, C>(s, w, row, column, first),
                1 => self.tile::<S, W, 1, C>(s, w, row, column, first),
                _ => {}
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, W: Rows<S>, const R: usize, const C: usize>(
        self,
        s: S,
        w: &W,
        row: usize,
        column: usize,
        first: usize,
    ) {
        let mut sums = [[s.splat(0.0); C]; R];
        // SAFETY: R rows from `first` lie in the panel, C weight rows in w, k below the stride.
        unsafe {
            let x = self.x.add(first * self.stride);
            for k in (0..self.stride).step_by(ROW_ALIGN) {
                for c in 0..C {
                    let weights = w.load32(s, row + c, k);
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(r * self.stride + k);
                        for (j, weight) in weights.into_iter().enumerate() {
                            sums[c] = s.mul_add(weight, s.load(x.add(j * LANES)), sums[c]);
                        }
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    *self.y.add((first + r) * self.y_stride + column + c) = s.sum(sum) * w.factor(row + c);
                }
            }
        }
    }
}

/// Unpacked rows with the factors of the rows they came from.
#[derive(Clone, Copy)]
struct Scaled<W> {
    rows: F32Rows,
    source: W,
    base: usize,
}

impl<S: Simd, W: Rows<S>> Rows<S> for Scaled<W> {
    #[inline(always)]
    unsafe fn load32(&self, s: S, row: usize, k: usize) -> [S::F32; 4] {
        // SAFETY: the caller's promise, for the scratch rows.
        unsafe { self.rows.load32(s, row, k) }
    }

    #[inline(always)]
    unsafe fn factor(&self, row: usize) -> f32 {
        // SAFETY: scratch row i came from row base + i.
        unsafe { self.source.factor(self.base + row) }
    }
}

#[inline(always)]
unsafe fn unpack<S: Simd, W: Rows<S>>(s: S, w: &W, row: usize, stride: usize, out: *mut f32) {
    for k in (0..stride).step_by(ROW_ALIGN) {
        // SAFETY: the caller gives a row of the matrix and stride elements of out.
        unsafe {
            for (j, lanes) in w.load32(s, row, k).into_iter().enumerate() {
                s.store(out.add(k + j * LANES), lanes);
            }
        }
    }
}
