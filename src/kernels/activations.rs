//! Rows of activations as a product takes them: groups of a few rows, interleaved, so that a group is read from its
//! first element to its last whatever its size.
//!
//! A row is quantized a block of 32 at a time: the largest magnitude becomes 127, everything is rounded to the nearest
//! code, ties to even. A block with a number that is not finite gets the scale NaN, and so makes every sum that it
//! enters NaN; one that is zero (all below 1e-30) gets the scale 0.

use std::ops::Range;

use super::simd::{LANES, Simd};
use super::tile::{BLOCK, F32_GROUP_ROWS, GROUP_ROWS};

/// Below it the inverse of a magnitude would come near the largest f32.
const SMALLEST: f32 = 1e-30;

/// Interleaved rows, of one kind.
#[derive(Clone, Copy)]
pub enum Panel<'a> {
    /// Of each of [`f32_groups`] `[stride][R]`.
    F32(&'a [f32]),
    I8(Codes<'a>),
}

/// Quantized rows.
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    /// Of each group `[stride / 32][R][32]`.
    pub codes: &'a [i8],
    /// Of each group `[stride / 32][R]`.
    pub scale: &'a [f32],
    /// Sums of each block's codes, as `scale`.
    pub sum: &'a [f32],
}

/// The same to be written, for one group.
pub struct CodesMut<'a> {
    /// `[stride / 32][R][32]`
    pub codes: &'a mut [i8],
    /// `[stride / 32][R]`
    pub scale: &'a mut [f32],
    /// `[stride / 32][R]`
    pub sum: &'a mut [f32],
}

/// The usual groups of some rows.
pub fn groups(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(GROUP_ROWS).map(move |first| first..rows.end.min(first + GROUP_ROWS))
}

/// The groups of some rows of codes: of `large` rows as many as there are, the usual ones of what is left.
pub fn code_groups(rows: Range<usize>, large: usize) -> impl Iterator<Item = Range<usize>> {
    let n_rows = rows.len();
    (0..n_code_groups(n_rows, large)).map(move |group| {
        let group = code_group(n_rows, large, group);
        rows.start + group.start..rows.start + group.end
    })
}

pub fn n_code_groups(n_rows: usize, large: usize) -> usize {
    n_rows / large + (n_rows % large).div_ceil(GROUP_ROWS)
}

/// One of the groups of `n_rows` rows.
pub fn code_group(n_rows: usize, large: usize, group: usize) -> Range<usize> {
    let n_large = n_rows / large;
    if group < n_large {
        return group * large..(group + 1) * large;
    }
    let start = n_large * large + (group - n_large) * GROUP_ROWS;
    start..n_rows.min(start + GROUP_ROWS)
}

/// The groups of some rows of f32: as few as can be, none more than a row larger than another.
pub fn f32_groups(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let n_rows = rows.len();
    (0..n_f32_groups(n_rows)).map(move |group| {
        let group = f32_group(n_rows, group);
        rows.start + group.start..rows.start + group.end
    })
}

pub fn n_f32_groups(n_rows: usize) -> usize {
    n_rows.div_ceil(F32_GROUP_ROWS)
}

/// One of the groups of `n_rows` rows.
pub fn f32_group(n_rows: usize, group: usize) -> Range<usize> {
    let start = |group: usize| group * n_rows / n_f32_groups(n_rows);
    start(group)..start(group + 1)
}

/// Interleaves the rows of a group: `x` is `[R, stride]`, `out` `[stride][R]`.
pub fn interleave(x: &[f32], stride: usize, out: &mut [f32]) {
    let n_rows = x.len() / stride;
    for (row_idx, row) in x.chunks_exact(stride).enumerate() {
        for (to, from) in out[row_idx..].iter_mut().step_by(n_rows).zip(row) {
            *to = *from;
        }
    }
}

/// Quantizes the rows of a group: `x` is `[R, stride]`.
///
/// # Safety
/// `out` has the lengths of its docs, and `stride` is a multiple of 32.
#[inline(always)]
pub unsafe fn quantize<S: Simd>(s: S, x: &[f32], stride: usize, out: &mut CodesMut<'_>) {
    let (n_rows, n_blocks) = (x.len() / stride, stride / BLOCK);
    debug_assert!(out.codes.len() == x.len() && out.scale.len() == n_rows * n_blocks);
    let zero = s.splat(0.0);
    for row_idx in 0..n_rows {
        for block in 0..n_blocks {
            let place = block * n_rows + row_idx;
            // SAFETY: the block lies in the row, and its place in the outputs.
            unsafe {
                let from = x.as_ptr().add(row_idx * stride + block * BLOCK);
                let mut values = [zero; BLOCK / LANES];
                let (mut largest, mut poison) = (zero, zero);
                for (i, value) in values.iter_mut().enumerate() {
                    *value = s.load(from.add(i * LANES));
                    let value = *value;
                    largest = s.max(largest, s.max(value, s.sub(zero, value)));
                    // Zero times anything that is not finite is NaN.
                    poison = s.mul_add(value, zero, poison);
                }
                let (largest, poison) = (s.max_lane(largest), s.sum(poison));
                let is_zero = largest < SMALLEST;
                let inverse = if is_zero { 0.0 } else { 127.0 / largest };
                let mut sum = zero;
                for (i, value) in values.into_iter().enumerate() {
                    let code = s.round(s.mul(value, s.splat(inverse)));
                    sum = s.add(sum, code);
                    s.store_i8(out.codes.as_mut_ptr().add(place * BLOCK + i * LANES), code);
                }
                *out.scale.get_unchecked_mut(place) = if is_zero { 0.0 } else { largest / 127.0 } + poison;
                *out.sum.get_unchecked_mut(place) = s.sum(sum);
            }
        }
    }
}
