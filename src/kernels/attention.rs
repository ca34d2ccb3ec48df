//! Causal attention of a few queries against the blocks of their sequence's key-value cache.
//!
//! ```text
//! for each block of 16 positions        keys lie as [head_dim][16], so that scores of positions stand side by side
//!   scores = q K                        times the positions' scales, where keys are codes
//! weights = exp(scores - largest)
//! for each block of 16 positions        values lie as [16][head_stride]
//!   out += weights V                    weights times the scales, where values are codes
//! ```
//!
//! A query's result is made in parts of [`PART`] positions, which are combined one after the other; in a part, scores,
//! softmax and weighted sum walk the positions upwards. So it depends on the query's position and on nothing else: not
//! on the chunk it was computed in, on the queries beside it, or on the threads that share the parts.
//!
//! A score that is NaN or infinite makes the whole output of its query NaN. An infinite one would else be a weight of
//! one or of nothing, and the product that overflowed would go unseen.

use std::ops::Range;

use half::f16;

use super::simd::{LANES, Simd};
use super::tile::{Element, GROUP_ROWS, MAX_QUERIES, TILE_ROWS, Tile};

/// Positions of a block.
pub const BLOCK_LEN: usize = TILE_ROWS;
/// Positions whose softmax is made by itself.
pub const PART: usize = 1024;

/// Elements of the cache; which one is the engine's choice.
#[derive(Clone, Copy)]
pub enum CacheValues<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// Codes, and behind the keys and the values of a block the scales of its positions, `[16]` f32.
    I8(&'a [i8]),
}

/// Keys and values of one layer and one key-value head: of block `b` the keys begin at
/// `blocks[b] * block_stride + key_offset`, the values at `value_offset`.
#[derive(Clone, Copy)]
pub struct HeadCache<'a> {
    pub values: CacheValues<'a>,
    pub blocks: &'a [u32],
    pub block_stride: usize,
    /// Of keys `[head_dim][16]`.
    pub key_offset: usize,
    /// Of values `[16][head_stride]`.
    pub value_offset: usize,
    /// Head elements rounded up to 16; the rest are zero.
    pub head_stride: usize,
}

/// One query, and what becomes of it.
#[derive(Clone, Copy)]
pub struct Query {
    /// `[head_dim]`, rotated.
    pub q: *const f32,
    /// Positions seen, in one part.
    pub start: usize,
    pub end: usize,
    /// `[head_dim]`: the weighted sum, not yet divided by the sum of the weights.
    pub out: *mut f32,
}

/// The largest score of a part and the sum of its weights, NaN if a score is not finite.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weight {
    pub largest: f32,
    pub sum: f32,
}

/// Queries of one sequence and one key-value head: one to four, or [`Tile::QUERIES`].
pub struct AttendTask<'a> {
    pub queries: &'a [Query],
    pub head_dim: usize,
    pub cache: HeadCache<'a>,
    /// Multiplies the scores: 1 / sqrt(head_dim).
    pub scale: f32,
    /// At least [`scratch_len`] elements.
    pub scratch: &'a mut [f32],
    /// As many as queries.
    pub weights: &'a mut [Weight],
}

/// The parts of a query that sees these positions, rising; there is at least one.
pub fn parts(seen: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    (seen.start / PART..seen.end.div_ceil(PART))
        .map(move |part| seen.start.max(part * PART)..seen.end.min((part + 1) * PART))
}

/// Elements of scratch for so many queries with heads of that many elements.
pub fn scratch_len(n_queries: usize, head_dim: usize) -> usize {
    n_queries * (PART + head_dim.next_multiple_of(TILE_ROWS))
}

/// # Safety
/// Every block of the queries' positions lies inside `cache.values`, the pointers of the queries are to the elements
/// of their docs, and nobody else uses what they write to.
///
/// # Panics
/// When the slices have not the lengths of their docs, or the queries' positions lie in different parts.
#[inline(always)]
pub unsafe fn attend<T: Tile>(t: T, task: &mut AttendTask<'_>) {
    let first = task.queries.first().map_or(0, |query| query.start / PART);
    let n_queries = task.queries.len();
    assert!(task.scratch.len() >= scratch_len(n_queries, task.head_dim) && task.weights.len() == n_queries);
    assert!(task.queries.iter().all(|query| {
        query.start < query.end && query.start / PART == first && (query.end - 1) / PART == first
    }));
    // SAFETY: the caller's promise.
    unsafe {
        match task.cache.values {
            CacheValues::F32(v) => attend_queries(t, task, v.as_ptr()),
            CacheValues::F16(v) => attend_queries(t, task, v.as_ptr()),
            CacheValues::I8(v) => attend_queries(t, task, v.as_ptr()),
        }
    }
}

/// `out = sum of the parts' outputs times their factors / sum of the weights`; `part_outs` has `[head_dim]` for each.
///
/// # Safety
/// `out` is writable for the elements of each part's output, which have one length.
#[inline(always)]
pub unsafe fn combine<S: Simd>(s: S, weights: &[Weight], part_outs: &[&[f32]], out: *mut f32) {
    let largest = weights.iter().fold(f32::NEG_INFINITY, |most, weight| most.max(weight.largest));
    let mut sum = 0.0;
    let n = part_outs.first().map_or(0, |part| part.len());
    let mut factors = [0.0; LANES];
    for (part_idx, (weight, part)) in weights.iter().zip(part_outs).enumerate() {
        // SAFETY: lanes are as many as loaded; out has n elements.
        unsafe {
            // By the same exponential as the weights, so that it is the same everywhere.
            s.store(factors.as_mut_ptr(), s.exp(s.splat(weight.largest - largest)));
            let factor = if weight.largest == largest { 1.0 } else { factors[0] };
            sum += weight.sum * factor;
            for (i, value) in part.iter().enumerate() {
                let before = if part_idx == 0 { 0.0 } else { *out.add(i) };
                *out.add(i) = before + value * factor;
            }
        }
    }
    let inverse = 1.0 / sum;
    // SAFETY: as above.
    (0..n).for_each(|i| unsafe { *out.add(i) *= inverse });
}

/// What a cache holds: numbers, or codes of which every position has a scale.
trait Cached<T: Tile>: Element<T> {
    /// Scales of a block's positions, which stand behind its keys or values.
    ///
    /// # Safety
    /// They are there, if there are any.
    #[inline(always)]
    unsafe fn scales(_t: T, _behind: *const Self) -> Option<T::Wide> {
        None
    }
}

impl<T: Tile> Cached<T> for f32 {}
impl<T: Tile> Cached<T> for f16 {}
impl<T: Tile> Cached<T> for i8 {
    #[inline(always)]
    unsafe fn scales(t: T, behind: *const i8) -> Option<T::Wide> {
        // SAFETY: the caller's promise.
        Some(unsafe { t.wide_load(behind.cast()) })
    }
}

/// # Safety
/// The task was checked; the rest is the promise of [`attend`].
#[inline(always)]
unsafe fn attend_queries<T: Tile, E: Cached<T>>(t: T, task: &mut AttendTask<'_>, base: *const E) {
    // SAFETY: the caller's promise.
    unsafe {
        match task.queries.len() {
            1 => attend_group::<T, E, 1>(t, task, base),
            2 => attend_group::<T, E, 2>(t, task, base),
            3 => attend_group::<T, E, 3>(t, task, base),
            GROUP_ROWS => attend_group::<T, E, GROUP_ROWS>(t, task, base),
            MAX_QUERIES if T::QUERIES == MAX_QUERIES => attend_group::<T, E, MAX_QUERIES>(t, task, base),
            0 => {}
            n => panic!("a task of {n} queries"),
        }
    }
}

/// # Safety
/// As above, with `R` queries.
#[inline(always)]
unsafe fn attend_group<T: Tile, E: Cached<T>, const R: usize>(
    t: T,
    task: &mut AttendTask<'_>,
    base: *const E,
) {
    let queries: [Query; R] = std::array::from_fn(|r| task.queries[r]);
    let start = queries.iter().map(|query| query.start).min().unwrap_or(0);
    let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
    // Positions are counted from the first block.
    let first = start / BLOCK_LEN * BLOCK_LEN;
    let blocks = start / BLOCK_LEN..end.div_ceil(BLOCK_LEN);
    let (scores, sums) = task.scratch.split_at_mut(R * PART);
    let (scores, sums) = (scores.as_mut_ptr(), sums.as_mut_ptr());
    let (scale, behind) = (t.wide_splat(task.scale), BLOCK_LEN * task.cache.head_stride);
    // SAFETY: a part has at most PART positions and begins with a block; the blocks hold all of them.
    unsafe {
        for block in blocks.clone() {
            let keys = base.add(place(&task.cache, block) + task.cache.key_offset);
            let next = base.add(place(&task.cache, following(&blocks, block)) + task.cache.key_offset);
            let mut block_scores = [t.wide_splat(0.0); R];
            for d in 0..task.head_dim {
                t.prefetch(next.add(d * BLOCK_LEN).cast());
                let keys = E::load(t, keys.add(d * BLOCK_LEN));
                for (score, query) in block_scores.iter_mut().zip(&queries) {
                    *score = t.wide_mul_add(keys, t.wide_splat(*query.q.add(d)), *score);
                }
            }
            let scale = match E::scales(t, keys.add(behind)) {
                Some(scales) => t.wide_mul(scales, scale),
                None => scale,
            };
            for (r, score) in block_scores.into_iter().enumerate() {
                let to = scores.add(r * PART + block * BLOCK_LEN - first);
                t.wide_store(to, t.wide_mul(score, scale));
            }
        }
        for (r, query) in queries.iter().enumerate() {
            let seen = query.start - first..query.end - first;
            let n = blocks.len() * BLOCK_LEN;
            task.weights[r] =
                softmax_numerators(t, std::slice::from_raw_parts_mut(scores.add(r * PART), n), seen);
        }
        weighted_sums::<T, E, R>(t, task, &queries, base, (scores, sums));
    }
}

/// Offset of a block of positions.
#[inline(always)]
fn place(cache: &HeadCache<'_>, block: usize) -> usize {
    cache.blocks[block] as usize * cache.block_stride
}

/// The block after one of these, or the last one itself: its bytes are asked for meanwhile.
#[inline(always)]
fn following(blocks: &Range<usize>, block: usize) -> usize {
    (block + 1).min(blocks.end - 1)
}

/// Vectors of a block.
const HALVES: usize = BLOCK_LEN / LANES;

/// Replaces the scores of the positions seen by `exp(score - largest)` and all others by zero. Whole blocks.
#[inline(always)]
fn softmax_numerators<S: Simd>(s: S, scores: &mut [f32], seen: Range<usize>) -> Weight {
    let n = scores.len();
    let any = scores[seen.start];
    scores[..seen.start].fill(any);
    scores[seen.end..].fill(any);
    let zero = s.splat(0.0);
    // Neither the largest nor a zero depends on an order, so that halves of a block need not wait for each other.
    let mut largest = [s.splat(f32::NEG_INFINITY); HALVES];
    // Zero times anything that is not finite is NaN.
    let mut poison = [zero; HALVES];
    let at = scores.as_mut_ptr();
    // SAFETY: whole vectors below n, which is a multiple of a block.
    unsafe {
        for i in (0..n).step_by(BLOCK_LEN) {
            for (half, (largest, poison)) in largest.iter_mut().zip(&mut poison).enumerate() {
                let scores = s.load(at.add(i + half * LANES));
                *largest = s.max(*largest, scores);
                *poison = s.mul_add(scores, zero, *poison);
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, |most, lanes| most.max(s.max_lane(lanes)));
        let mut sum = zero;
        for i in (0..n).step_by(LANES) {
            let mut weights = s.exp(s.sub(s.load(at.add(i)), s.splat(largest)));
            s.store(at.add(i), weights);
            if i < seen.start || i + LANES > seen.end {
                (i..i + LANES).filter(|p| !seen.contains(p)).for_each(|p| *at.add(p) = 0.0);
                weights = s.load(at.add(i));
            }
            sum = s.add(sum, weights);
        }
        let poison = poison.into_iter().fold(zero, |sum, lanes| s.add(sum, lanes));
        Weight { largest, sum: s.sum(sum) + s.sum(poison) }
    }
}

/// `out[d] = sum_p weight[p] * value[p, d]` over the positions that each query sees.
///
/// # Safety
/// As [`attend_group`]; `scores` has the weights, `sums` room for `[R, head_stride]`.
#[inline(always)]
unsafe fn weighted_sums<T: Tile, E: Cached<T>, const R: usize>(
    t: T,
    task: &AttendTask<'_>,
    queries: &[Query; R],
    base: *const E,
    (scores, sums): (*mut f32, *mut f32),
) {
    let (cache, stride) = (&task.cache, task.head_dim.next_multiple_of(TILE_ROWS));
    let start = queries.iter().map(|query| query.start).min().unwrap_or(0);
    let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
    let first = start / BLOCK_LEN * BLOCK_LEN;
    // What all of them see; beyond it each goes alone, for values that one does not see may be no numbers.
    let common = queries.iter().map(|query| query.start).max().unwrap_or(0)
        ..queries.iter().map(|query| query.end).min().unwrap_or(0);
    // SAFETY: the caller's promise.
    unsafe {
        sums.write_bytes(0, R * stride);
        let blocks = start / BLOCK_LEN..end.div_ceil(BLOCK_LEN);
        for block in blocks.clone() {
            let values = base.add(place(cache, block) + cache.value_offset);
            let next = base.add(place(cache, following(&blocks, block)) + cache.value_offset);
            let position = block * BLOCK_LEN;
            let weights = scores.add(position - first);
            // What lies in the block, counted from its first position.
            let inside = |at: usize| at.saturating_sub(position).min(BLOCK_LEN);
            let together = inside(common.start)..inside(common.end);
            if let Some(scales) = E::scales(t, values.add(BLOCK_LEN * cache.head_stride)) {
                for r in 0..R {
                    let weights = weights.add(r * PART);
                    t.wide_store(weights, t.wide_mul(t.wide_load(weights), scales));
                }
            }
            for slice in (0..stride).step_by(TILE_ROWS) {
                let (sums, values) =
                    (sums.add(slice), Columns { at: values.add(slice), stride: cache.head_stride });
                if together.is_empty() {
                    for (r, query) in queries.iter().enumerate() {
                        let (at, seen) = (sums.add(r * stride), inside(query.start)..inside(query.end));
                        t.wide_store(at, values.add(t, weights.add(r * PART), seen, t.wide_load(at)));
                    }
                    continue;
                }
                let mut block_sums = [t.wide_splat(0.0); R];
                for (r, sum) in block_sums.iter_mut().enumerate() {
                    let before = inside(queries[r].start)..together.start;
                    *sum = values.add(t, weights.add(r * PART), before, t.wide_load(sums.add(r * stride)));
                }
                for p in together.clone() {
                    t.prefetch(next.add(p * cache.head_stride + slice).cast());
                    let value = values.load(t, p);
                    for (r, sum) in block_sums.iter_mut().enumerate() {
                        *sum = t.wide_mul_add(t.wide_splat(*weights.add(r * PART + p)), value, *sum);
                    }
                }
                for (r, sum) in block_sums.into_iter().enumerate() {
                    let after = together.end..inside(queries[r].end);
                    t.wide_store(sums.add(r * stride), values.add(t, weights.add(r * PART), after, sum));
                }
            }
        }
        for (r, query) in queries.iter().enumerate() {
            std::ptr::copy_nonoverlapping(sums.add(r * stride), query.out, task.head_dim);
        }
    }
}

/// Sixteen columns of a block's values.
#[derive(Clone, Copy)]
struct Columns<E> {
    at: *const E,
    /// Elements between positions.
    stride: usize,
}

impl<E> Columns<E> {
    /// # Safety
    /// Position `p` of the block holds values.
    #[inline(always)]
    unsafe fn load<T: Tile>(self, t: T, p: usize) -> T::Wide
    where
        E: Element<T>,
    {
        // SAFETY: the caller's promise.
        unsafe { E::load(t, self.at.add(p * self.stride)) }
    }

    /// `sum` and the weighted values of some positions, one after the other.
    ///
    /// # Safety
    /// These positions of the block hold values, and have weights.
    #[inline(always)]
    unsafe fn add<T: Tile>(
        self,
        t: T,
        weights: *const f32,
        positions: Range<usize>,
        mut sum: T::Wide,
    ) -> T::Wide
    where
        E: Element<T>,
    {
        for p in positions {
            // SAFETY: the caller's promise.
            unsafe { sum = t.wide_mul_add(t.wide_splat(*weights.add(p)), self.load(t, p), sum) };
        }
        sum
    }
}
