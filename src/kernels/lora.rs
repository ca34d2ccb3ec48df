//! The low-rank update of one row: `h = x A`, `y += scale * h B` (Hu et al. 2021, arXiv 2106.09685).
//!
//! A is `[in, rank]` and B is `[rank, out]`, f16, read where they lie in the mapped adapter file. A projection may
//! have only some columns of B: those of fused projections share one file entry.

use std::ops::Range;

use half::f16;

use super::simd::{LANES, Simd};

/// Sums over the input are split over this many accumulators, by `k % SPLIT`.
const SPLIT: usize = 4;

/// `h[r] = scale * sum_k x[k] * a[k, r]`.
///
/// # Safety
/// `x` has at least `a.len() / rank` elements, `h` has `rank`, and `rank` divides `a.len()`.
#[inline(always)]
pub unsafe fn shrink<S: Simd>(s: S, x: &[f32], a: &[f16], scale: f32, h: &mut [f32]) {
    let rank = h.len();
    let n_inputs = a.len() / rank;
    debug_assert!(x.len() >= n_inputs && a.len() == n_inputs * rank);
    for first in (0..rank).step_by(LANES) {
        let width = LANES.min(rank - first);
        let mut sums = [s.splat(0.0); SPLIT];
        // SAFETY: k < n_inputs and first + width <= rank.
        unsafe {
            let row = |k: usize| {
                let row = a.as_ptr().add(k * rank + first);
                if width == LANES { s.load_f16(row) } else { s.load_f16_partial(row, width) }
            };
            let whole = n_inputs / SPLIT * SPLIT;
            for k in (0..whole).step_by(SPLIT) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = s.mul_add(s.splat(*x.get_unchecked(k + j)), row(k + j), *sum);
                }
            }
            for k in whole..n_inputs {
                sums[k - whole] = s.mul_add(s.splat(*x.get_unchecked(k)), row(k), sums[k - whole]);
            }
            let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
            s.store_partial(h.as_mut_ptr().add(first), s.mul(sum, s.splat(scale)), width);
        }
    }
}

/// `y[n - columns.start] += sum_r h[r] * b[r, n]` for the given columns.
///
/// # Safety
/// `b` is `[h.len(), n_outputs]`; `y` is writable for `columns.len()` values; the columns lie below `n_outputs`.
#[inline(always)]
pub unsafe fn expand<S: Simd>(s: S, h: &[f32], b: &[f16], columns: Range<usize>, y: *mut f32) {
    let n_outputs = b.len() / h.len();
    debug_assert!(columns.end <= n_outputs && b.len() == n_outputs * h.len());
    for first in columns.clone().step_by(LANES) {
        let width = LANES.min(columns.end - first);
        let mut sum = s.splat(0.0);
        // SAFETY: first + width <= n_outputs; r < rank.
        unsafe {
            for (r, &value) in h.iter().enumerate() {
                let row = b.as_ptr().add(r * n_outputs + first);
                let row = if width == LANES { s.load_f16(row) } else { s.load_f16_partial(row, width) };
                sum = s.mul_add(s.splat(value), row, sum);
            }
            let y = y.add(first - columns.start);
            if width == LANES {
                s.store(y, s.add(s.load(y), sum));
            } else {
                s.store_partial(y, s.add(s.load_partial(y, width), sum), width);
            }
        }
    }
}
