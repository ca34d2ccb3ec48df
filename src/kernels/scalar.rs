//! The meaning: eight lanes as an array, one operation after the other. Never tuned, and nothing is inlined: the
//! operations are written for vectors, which would make far more code of it than anyone runs.

use half::f16;

use super::simd::{LANES, Simd};
use super::tile::{E2M1_DOUBLED, TILE_ROWS, Tile, wide_of_pairs};

/// Runs everywhere.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Scalar {
    /// # Safety
    /// None is asked for; the other instruction sets' are.
    #[inline(always)]
    pub unsafe fn assume() -> Self {
        Self
    }
}

type Lanes = [f32; LANES];

fn each(a: Lanes, b: Lanes, op: impl Fn(f32, f32) -> f32) -> Lanes {
    std::array::from_fn(|i| op(a[i], b[i]))
}

// SAFETY: no instruction beyond the baseline; the loads read exactly the elements that the trait names.
unsafe impl Simd for Scalar {
    type F32 = Lanes;

    #[inline(never)]
    fn splat(self, value: f32) -> Lanes {
        [value; LANES]
    }
    #[inline(never)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a + b)
    }
    #[inline(never)]
    fn sub(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a - b)
    }
    #[inline(never)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a * b)
    }
    #[inline(never)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| a / b)
    }
    #[inline(never)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(never)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(never)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(never)]
    fn round(self, a: Lanes) -> Lanes {
        a.map(f32::round_ties_even)
    }
    #[inline(never)]
    fn exp2_integral(self, a: Lanes) -> Lanes {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, by the trait's contract")]
        a.map(|x| f32::from_bits(((x as i32 + 127) << 23).cast_unsigned()))
    }
    #[inline(never)]
    fn to_array(self, a: Lanes) -> Lanes {
        a
    }
    #[inline(never)]
    unsafe fn load(self, from: *const f32) -> Lanes {
        // SAFETY: 8 elements by the trait's contract; [f32; 8] is read without alignment.
        unsafe { from.cast::<Lanes>().read_unaligned() }
    }
    #[inline(never)]
    unsafe fn store(self, to: *mut f32, value: Lanes) {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { to.cast::<Lanes>().write_unaligned(value) }
    }
    #[inline(never)]
    unsafe fn load_f16(self, from: *const f16) -> Lanes {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32)
    }
    #[inline(never)]
    unsafe fn store_f16(self, to: *mut f16, value: Lanes) {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(value.map(f16::from_f32)) }
    }
    #[inline(never)]
    unsafe fn load_u8(self, from: *const u8) -> Lanes {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(never)]
    unsafe fn load_i8(self, from: *const i8) -> Lanes {
        // SAFETY: 8 elements by the trait's contract.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(never)]
    unsafe fn store_i8(self, to: *mut i8, value: Lanes) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and in range, by the trait's contract")]
        let codes = value.map(|x| x as i8);
        // SAFETY: 8 elements by the trait's contract.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(codes) }
    }
}

// SAFETY: as above.
unsafe impl Tile for Scalar {
    wide_of_pairs!(Lanes);

    #[inline(never)]
    unsafe fn wide_choose(self, numbers: *const f32, words: *const u8, shift: u32) -> Self::Wide {
        // SAFETY: 16 words by the trait's contract; a code is below 16.
        let words = unsafe { words.cast::<[[u8; 4]; TILE_ROWS]>().read_unaligned() }.map(u32::from_le_bytes);
        let number = |word: u32| unsafe { *numbers.add((word >> shift & 15) as usize) };
        [0, LANES].map(|first| std::array::from_fn(|i| number(words[first + i])))
    }
    #[inline(never)]
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [Self::Wide; R] {
        // SAFETY: k < 32 and n < 16.
        dot(32, |r, k| unsafe { *x.add(r * 32 + k) }, |n, k| unsafe { *w.add(k / 4 * 64 + n * 4 + k % 4) })
    }
    #[inline(never)]
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        // SAFETY: k < 32 and n < 16.
        dot(32, |r, k| unsafe { *x.add(r * 32 + k) }, |n, k| unsafe { nibble(w, n, k) }.cast_signed())
    }
    #[inline(never)]
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        // SAFETY: k < 32 and n < 16.
        let code = |n: usize, k: usize| unsafe {
            nibble(w, n, k) | (*w.add(4 * 64 + n * 4 + k % 4) >> (k / 4) & 1) << 4
        };
        // SAFETY: k < 32.
        dot(32, |r, k| unsafe { *x.add(r * 32 + k) }, |n, k| code(n, k).cast_signed())
    }
    #[inline(never)]
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        // SAFETY: k < 16 and n < 16.
        let code = |n: usize, k: usize| unsafe {
            nibble(w, n, k) | (*w.add(2 * 64 + n * 4 + k % 4) >> (k / 4 * 2) & 3) << 4
        };
        // SAFETY: k < 16.
        dot(16, |r, k| unsafe { *x.add(r * 32 + k) }, |n, k| code(n, k).cast_signed() - 32)
    }
    #[inline(never)]
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R] {
        let number = |code: u8| E2M1_DOUBLED[usize::from(code)];
        // SAFETY: k < 16 and n < 16.
        dot(16, |r, k| unsafe { *x.add(r * 32 + k) }, |n, k| number(unsafe { nibble(w, n, k) }))
    }
}

/// Sums of `x(r, k) * w(n, k)` over `n_inputs` for sixteen outputs n.
#[inline(never)]
fn dot<const R: usize>(
    n_inputs: usize,
    x: impl Fn(usize, usize) -> i8,
    w: impl Fn(usize, usize) -> i8,
) -> [[Lanes; 2]; R] {
    let mut sums = [[[0.0; LANES]; 2]; R];
    for (r, n) in (0..R).flat_map(|r| (0..TILE_ROWS).map(move |n| (r, n))) {
        let sum: i32 = (0..n_inputs).map(|k| i32::from(x(r, k)) * i32::from(w(n, k))).sum();
        sums[r][n / LANES][n % LANES] = sum as f32;
    }
    sums
}

/// The code of output n and input k in octs of eight inputs: the first four low, the others high.
///
/// # Safety
/// The oct lies inside the weights.
unsafe fn nibble(w: *const u8, n: usize, k: usize) -> u8 {
    // SAFETY: the caller's promise.
    let byte = unsafe { *w.add(k / 8 * 64 + n * 4 + k % 4) };
    if k % 8 < 4 { byte & 15 } else { byte >> 4 }
}
