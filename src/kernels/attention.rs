//! Causal attention of one query position against the blocks of its sequence's key-value cache.
//!
//! Scores, softmax and the weighted sum walk the positions upwards, so the result depends on the position
//! and on nothing else: not on the chunk it was computed in, nor on other sequences.
//!
//! A score that is NaN or infinite makes the whole head's output NaN. An infinite one would else be a weight of
//! one or of nothing, and the product that overflowed would go unseen.

use half::f16;

use super::simd::{LANES, Simd};

/// Elements of the cache; which one is the engine's choice.
#[derive(Clone, Copy)]
pub enum CacheValues<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

/// Keys and values of one layer and one key-value head: block `b` holds `block_len` positions of
/// `[head_stride]` elements from `blocks[b] * block_stride + key_offset` (`value_offset`).
#[derive(Clone, Copy)]
pub struct HeadCache<'a> {
    pub values: CacheValues<'a>,
    pub blocks: &'a [u32],
    pub block_len: usize,
    pub block_stride: usize,
    pub key_offset: usize,
    pub value_offset: usize,
    /// Head elements rounded up to 8; the rest are zero.
    pub head_stride: usize,
}

/// One query position, all query heads that share a key-value head.
pub struct AttendTask<'a> {
    /// `[n_heads, head_dim]`, rotated.
    pub q: &'a [f32],
    pub n_heads: usize,
    pub head_dim: usize,
    pub cache: HeadCache<'a>,
    /// Positions seen: `start..end`.
    pub start: usize,
    pub end: usize,
    /// Multiplies the scores: 1 / sqrt(head_dim).
    pub scale: f32,
    /// `[end - start]` rounded up to 8.
    pub scores: &'a mut [f32],
    /// `[n_heads, head_dim]`
    pub out: &'a mut [f32],
}

/// # Safety
/// Every block of `start..end` lies inside `cache.values`, and the slices have the lengths of their docs.
#[inline(always)]
pub unsafe fn attend<S: Simd>(s: S, task: &mut AttendTask<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match task.cache.values {
            CacheValues::F32(v) => attend_heads(s, task, v.as_ptr(), |s: S, p| s.load(p)),
            CacheValues::F16(v) => attend_heads(s, task, v.as_ptr(), |s: S, p| s.load_f16(p)),
        }
    }
}

#[inline(always)]
unsafe fn attend_heads<S: Simd, T>(
    s: S,
    task: &mut AttendTask<'_>,
    base: *const T,
    load: impl Fn(S, *const T) -> S::F32 + Copy,
) {
    let n_scores = task.end - task.start;
    for head in 0..task.n_heads {
        // SAFETY: head < n_heads; scores is padded to 8.
        unsafe {
            let q = task.q.as_ptr().add(head * task.head_dim);
            let scores = task.scores.as_mut_ptr();
            let cache = task.cache;
            for t in 0..n_scores {
                let key = base.add(position_offset(&cache, task.start + t, cache.key_offset));
                *scores.add(t) = dot(s, q, key, task.head_dim, load) * task.scale;
            }
            let sum = softmax_numerators(s, scores, n_scores);
            let out = task.out.as_mut_ptr().add(head * task.head_dim);
            weighted_sum(s, task, base, load, 1.0 / sum, out);
        }
    }
}

#[inline(always)]
fn position_offset(cache: &HeadCache<'_>, position: usize, offset: usize) -> usize {
    let block = cache.blocks[position / cache.block_len] as usize;
    block * cache.block_stride + offset + position % cache.block_len * cache.head_stride
}

#[inline(always)]
unsafe fn dot<S: Simd, T>(
    s: S,
    q: *const f32,
    key: *const T,
    n: usize,
    load: impl Fn(S, *const T) -> S::F32,
) -> f32 {
    let mut sum = s.splat(0.0);
    let whole = n / LANES * LANES;
    // SAFETY: keys are padded to 8 elements; the query's tail is read in part.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            sum = s.mul_add(s.load(q.add(i)), load(s, key.add(i)), sum);
        }
        if whole < n {
            sum = s.mul_add(s.load_partial(q.add(whole), n - whole), load(s, key.add(whole)), sum);
        }
    }
    s.sum(sum)
}

/// Replaces scores by `exp(score - max)` and returns their sum, NaN if a score is not finite. Pads to 8 with zeros.
///
/// # Safety
/// `scores` is writable up to `n` rounded up to 8.
#[inline(always)]
unsafe fn softmax_numerators<S: Simd>(s: S, scores: *mut f32, n: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        for i in n..n.next_multiple_of(LANES) {
            *scores.add(i) = *scores;
        }
        let zero = s.splat(0.0);
        let mut largest = s.splat(f32::NEG_INFINITY);
        // Zero times anything that is not finite is NaN.
        let mut poison = zero;
        for i in (0..n).step_by(LANES) {
            let scores = s.load(scores.add(i));
            largest = s.max(largest, scores);
            poison = s.mul_add(scores, zero, poison);
        }
        let largest = s.splat(s.max_lane(largest));
        let mut sum = s.splat(0.0);
        for i in (0..n).step_by(LANES) {
            let numerators = s.exp(s.sub(s.load(scores.add(i)), largest));
            let numerators = if i + LANES <= n {
                numerators
            } else {
                s.store(scores.add(i), numerators);
                s.load_partial(scores.add(i), n - i)
            };
            s.store(scores.add(i), numerators);
            sum = s.add(sum, numerators);
        }
        s.sum(sum) + s.sum(poison)
    }
}

/// `out[d] = factor * sum_t scores[t] * value[t, d]`, in slices of the head that stay in registers.
#[inline(always)]
unsafe fn weighted_sum<S: Simd, T>(
    s: S,
    task: &AttendTask<'_>,
    base: *const T,
    load: impl Fn(S, *const T) -> S::F32,
    factor: f32,
    out: *mut f32,
) {
    const SLICES: usize = 4;
    let factor = s.splat(factor);
    let cache = task.cache;
    for first in (0..task.head_dim).step_by(SLICES * LANES) {
        let n_slices = (task.head_dim - first).div_ceil(LANES).min(SLICES);
        let mut sums = [s.splat(0.0); SLICES];
        // SAFETY: values are padded to 8 elements per position; out's tail is written in part.
        unsafe {
            for t in 0..task.end - task.start {
                let value = base.add(position_offset(&cache, task.start + t, cache.value_offset) + first);
                let score = s.splat(*task.scores.as_ptr().add(t));
                for (j, sum) in sums.iter_mut().enumerate().take(n_slices) {
                    *sum = s.mul_add(score, load(s, value.add(j * LANES)), *sum);
                }
            }
            for (j, sum) in sums.into_iter().enumerate().take(n_slices) {
                let at = first + j * LANES;
                s.store_partial(out.add(at), s.mul(sum, factor), LANES.min(task.head_dim - at));
            }
        }
    }
}
