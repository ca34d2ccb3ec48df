//! Row operations: normalization, gate, rotation. One row in, one row out.

use half::f16;

use super::simd::{LANES, Simd};
use super::tile::{TILE_ROWS, Tile};

/// `y = x / sqrt(mean(x^2) + eps) * weight` (RMSNorm, Zhang & Sennrich 2019, arXiv 1910.07467).
/// `y` may be `x`. All of `y` is NaN if the sum of squares is not finite: it would else be zeros.
///
/// # Safety
/// `x` and `y` point to `weight.len()` elements.
#[inline(always)]
pub unsafe fn rms_norm<S: Simd>(s: S, x: *const f32, weight: &[f32], eps: f32, y: *mut f32) {
    let n = weight.len();
    let whole = n / LANES * LANES;
    let w = weight.as_ptr();
    // SAFETY: all indices lie below n.
    unsafe {
        let mut squares = s.splat(0.0);
        for i in (0..whole).step_by(LANES) {
            let x = s.load(x.add(i));
            squares = s.mul_add(x, x, squares);
        }
        let tail = s.load_partial(x.add(whole), n - whole);
        squares = s.mul_add(tail, tail, squares);
        let sum = s.sum(squares);
        let inverse = if sum.is_finite() { 1.0 / (sum / n as f32 + eps).sqrt() } else { f32::NAN };
        let inverse = s.splat(inverse);
        for i in (0..whole).step_by(LANES) {
            s.store(y.add(i), s.mul(s.mul(s.load(x.add(i)), inverse), s.load(w.add(i))));
        }
        let tail = s.mul(s.mul(tail, inverse), s.load_partial(w.add(whole), n - whole));
        s.store_partial(y.add(whole), tail, n - whole);
    }
}

/// `gate = gate / (1 + exp(-gate)) * up` (SwiGLU, Shazeer 2020, arXiv 2002.05202).
///
/// # Safety
/// `up` has as many elements as `gate`, a multiple of 8.
#[inline(always)]
pub unsafe fn silu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    debug_assert!(gate.len() == up.len() && gate.len().is_multiple_of(LANES));
    let one = s.splat(1.0);
    for i in (0..gate.len()).step_by(LANES) {
        // SAFETY: i + 8 <= len.
        unsafe {
            let at = gate.as_mut_ptr().add(i);
            let value = s.load(at);
            let sigmoid = s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), value))));
            s.store(at, s.mul(s.mul(value, sigmoid), s.load(up.as_ptr().add(i))));
        }
    }
}

/// `gate = gelu(gate) * up` with the tanh formula (Hendrycks & Gimpel 2016, arXiv 1606.08415):
/// `x / 2 * (1 + tanh(u)) = x / (1 + exp(-2 u))` for `u = sqrt(2 / pi) * (x + 0.044715 x^3)`.
///
/// # Safety
/// `up` has as many elements as `gate`, a multiple of 8.
#[inline(always)]
pub unsafe fn gelu_mul<S: Simd>(s: S, gate: &mut [f32], up: &[f32]) {
    /// Twice sqrt(2 / pi), negative.
    const FACTOR: f32 = -1.595_769;
    debug_assert!(gate.len() == up.len() && gate.len().is_multiple_of(LANES));
    let one = s.splat(1.0);
    for i in (0..gate.len()).step_by(LANES) {
        // SAFETY: i + 8 <= len.
        unsafe {
            let at = gate.as_mut_ptr().add(i);
            let value = s.load(at);
            let cubic = s.mul_add(s.mul(value, value), s.splat(0.044_715), one);
            let exponent = s.mul(s.mul(value, cubic), s.splat(FACTOR));
            let weight = s.div(one, s.add(one, s.exp(exponent)));
            s.store(at, s.mul(s.mul(value, weight), s.load(up.as_ptr().add(i))));
        }
    }
}

/// Rotates the pairs `(i, i + n / 2)` of one head by the angles whose cosine and sine are given.
#[inline(always)]
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = head.len() / 2;
    let (low, high) = head.split_at_mut(half);
    for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// `y += x`
#[inline(always)]
pub fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// `y += x * factor`, each product rounded before it is added.
#[inline(always)]
pub fn add_scaled(y: &mut [f32], x: &[f32], factor: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x * factor);
}

/// `x = x * factor`
#[inline(always)]
pub fn scale(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

/// Rounds a row to f16.
///
/// # Safety
/// `to` has as many elements as `from`.
#[inline(always)]
pub unsafe fn narrow<S: Simd>(s: S, from: &[f32], to: &mut [f16]) {
    let whole = from.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        // SAFETY: i + 8 <= len of both.
        unsafe { s.store_f16(to.as_mut_ptr().add(i), s.load(from.as_ptr().add(i))) };
    }
    for i in whole..from.len() {
        to[i] = f16::from_f32(from[i]);
    }
}

/// Sums up bytes as if they were f32, as weights are read: nothing is wanted but the time that it takes.
///
/// # Safety
/// None is needed beyond what `t` proves.
#[inline(always)]
pub unsafe fn read<T: Tile>(t: T, bytes: &[u8]) -> f32 {
    const SUMS: usize = 4;
    const WIDE: usize = TILE_ROWS * size_of::<f32>();
    let mut sums = [t.wide_splat(0.0); SUMS];
    for piece in bytes.chunks_exact(SUMS * WIDE) {
        t.prefetch_ahead(piece.as_ptr(), SUMS * WIDE);
        for (sum, values) in sums.iter_mut().zip(piece.chunks_exact(WIDE)) {
            // SAFETY: 16 elements, of which every bit pattern is one.
            *sum = t.wide_add(*sum, unsafe { t.wide_load(values.as_ptr().cast()) });
        }
    }
    let mut lanes = [0.0; TILE_ROWS];
    let sum = sums.into_iter().fold(t.wide_splat(0.0), |sum, wide| t.wide_add(sum, wide));
    // SAFETY: 16 elements.
    unsafe { t.wide_store(lanes.as_mut_ptr(), sum) };
    lanes.into_iter().sum()
}
