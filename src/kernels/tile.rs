//! Sixteen output features side by side: what an instruction set adds to [`Simd`] for products with weights.
//!
//! Rows of weights are stored sixteen at a time (see [`super::matrix`]), so that a sum never leaves its lane: a
//! product needs no sum over lanes, and a scale is multiplied with sixteen sums at once. Products of integers are
//! exact, and every f32 that is made of them is a whole number below 2^24: so they are the same on every processor,
//! whatever instructions add them up.

use half::f16;

use super::minifloat::e8m0;
use super::simd::{LANES, Simd};
pub use crate::numbers::tiles::TILE_ROWS;

/// Elements along the input that share a scale of activations, and of sums that are added up by themselves.
pub const BLOCK: usize = 32;
/// Rows of codes that pass through a tile together, as a rule; also rows that share an adapter, and queries that share keys.
pub const GROUP_ROWS: usize = 4;
/// Rows of codes that do, at most.
pub const MAX_CODE_ROWS: usize = 16;
/// Rows of f32 that do, at most: sums that wait for nothing else leave room for more of them in the registers.
pub const F32_GROUP_ROWS: usize = 6;
/// Queries of one task of attention, at most.
pub const MAX_QUERIES: usize = 8;

/// Bytes of a tile per input of nibbles.
pub const NIBBLES: usize = TILE_ROWS / 2;
/// How far ahead of the sums weights are asked for, in bytes.
const AHEAD: usize = 4096;
const LINE: usize = 64;

/// Sixteen f32 lanes, and products of blocks of codes.
///
/// # Safety
/// As of [`Simd`]: the loads read exactly the elements that their docs name.
pub unsafe trait Tile: Simd {
    /// `[TILE_ROWS]` f32.
    type Wide: Copy;

    /// Queries that pass through keys and values together where there are many: [`GROUP_ROWS`], or
    /// [`MAX_QUERIES`] where the registers hold so many sums.
    const QUERIES: usize = GROUP_ROWS;

    /// Rows of codes that pass through a tile together where there are so many: [`GROUP_ROWS`], or [`MAX_CODE_ROWS`]
    /// where an instruction multiplies matrices of that many rows.
    const CODE_ROWS: usize = GROUP_ROWS;

    fn wide_splat(self, value: f32) -> Self::Wide;
    fn wide_add(self, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    fn wide_mul(self, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// `a * b + c` with one rounding.
    fn wide_mul_add(self, a: Self::Wide, b: Self::Wide, c: Self::Wide) -> Self::Wide;
    /// # Safety
    /// 16 elements.
    unsafe fn wide_load(self, from: *const f32) -> Self::Wide;
    /// # Safety
    /// 16 elements.
    unsafe fn wide_store(self, to: *mut f32, value: Self::Wide);
    /// # Safety
    /// 16 elements.
    unsafe fn wide_load_f16(self, from: *const f16) -> Self::Wide;
    /// Whole numbers 0..=255.
    ///
    /// # Safety
    /// 16 elements.
    unsafe fn wide_load_u8(self, from: *const u8) -> Self::Wide;
    /// # Safety
    /// 16 elements.
    unsafe fn wide_load_i8(self, from: *const i8) -> Self::Wide;
    /// E4M3 codes as numbers.
    ///
    /// # Safety
    /// 16 elements.
    unsafe fn wide_load_e4m3(self, from: *const u8) -> Self::Wide;

    /// Those of sixteen numbers that codes of four bits choose, which begin at bit `shift` of little-endian words.
    ///
    /// # Safety
    /// 16 numbers, 16 words of four bytes; `shift` is at most 28.
    unsafe fn wide_choose(self, numbers: *const f32, words: *const u8, shift: u32) -> Self::Wide;

    /// E8M0 codes as numbers.
    ///
    /// # Safety
    /// 16 elements.
    #[inline(always)]
    unsafe fn wide_load_e8m0(self, from: *const u8) -> Self::Wide {
        // SAFETY: 16 elements by the caller; numbers has 16.
        unsafe {
            let numbers = from.cast::<[u8; TILE_ROWS]>().read_unaligned().map(e8m0);
            self.wide_load(numbers.as_ptr())
        }
    }

    /// The first `n` lanes.
    ///
    /// # Safety
    /// `n` <= 16 elements.
    #[inline(always)]
    unsafe fn wide_store_partial(self, to: *mut f32, value: Self::Wide, n: usize) {
        let mut lanes = [0.0; TILE_ROWS];
        // SAFETY: the caller gives n writable elements; lanes has 16.
        unsafe {
            self.wide_store(lanes.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }

    /// A hint that these bytes are needed soon; any address will do.
    #[inline(always)]
    fn prefetch(self, _at: *const u8) {}

    /// Asks for the bytes that come some time after these.
    #[inline(always)]
    fn prefetch_ahead(self, at: *const u8, n_bytes: usize) {
        for line in (0..n_bytes).step_by(LINE) {
            self.prefetch(at.wrapping_add(AHEAD + line));
        }
    }

    /// `sum_k w[n, k] * x[r, k]` over a block of 32, for codes of -127..=127: `w` is `[8][TILE_ROWS][4]`, `x` is
    /// `[R][32]`.
    ///
    /// # Safety
    /// So many elements.
    unsafe fn dot_i8<const R: usize>(self, w: *const i8, x: *const i8) -> [Self::Wide; R];

    /// The same for codes of 0..=15: `w` is `[4][TILE_ROWS][4]` bytes, of eight inputs the first four in the low
    /// nibbles.
    ///
    /// # Safety
    /// So many elements.
    unsafe fn dot_u4<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R];

    /// The same for codes of 0..=31: `w` is `[5][TILE_ROWS][4]` bytes, the planes of five bits of [`crate::numbers::tiles`].
    ///
    /// # Safety
    /// So many elements.
    unsafe fn dot_u5<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R];

    /// The same over 16 inputs for codes of 0..=63 less 32: `w` is `[3][TILE_ROWS][4]` bytes, the planes of half a block of
    /// six bits, row r of the activations begins at `x + 32 r`.
    ///
    /// # Safety
    /// So many elements.
    unsafe fn dot_i6<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R];

    /// The same over 16 inputs for codes of E2M1, twice the sums: `w` is `[2][TILE_ROWS][4]` bytes, row r of the
    /// activations begins at `x + 32 r`.
    ///
    /// # Safety
    /// So many elements.
    unsafe fn dot_e2m1<const R: usize>(self, w: *const u8, x: *const i8) -> [Self::Wide; R];
}

/// What sixteen numbers may be stored as.
pub trait Element<T: Tile>: Copy {
    /// # Safety
    /// 16 elements.
    unsafe fn load(t: T, from: *const Self) -> T::Wide;
}

impl<T: Tile> Element<T> for f32 {
    #[inline(always)]
    unsafe fn load(t: T, from: *const f32) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { t.wide_load(from) }
    }
}

impl<T: Tile> Element<T> for f16 {
    #[inline(always)]
    unsafe fn load(t: T, from: *const f16) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { t.wide_load_f16(from) }
    }
}

impl<T: Tile> Element<T> for i8 {
    #[inline(always)]
    unsafe fn load(t: T, from: *const i8) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { t.wide_load_i8(from) }
    }
}

/// A code of E4M3.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct E4m3(pub u8);

impl<T: Tile> Element<T> for E4m3 {
    #[inline(always)]
    unsafe fn load(t: T, from: *const E4m3) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { t.wide_load_e4m3(from.cast()) }
    }
}

/// Twice the numbers of E2M1, which are whole.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// [`Tile`]'s sixteen lanes as two vectors of eight.
macro_rules! wide_of_pairs {
    ($lanes:ty) => {
        type Wide = [$lanes; 2];

        #[inline(always)]
        fn wide_splat(self, value: f32) -> Self::Wide {
            [self.splat(value); 2]
        }
        #[inline(always)]
        fn wide_add(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
            [self.add(a[0], b[0]), self.add(a[1], b[1])]
        }
        #[inline(always)]
        fn wide_mul(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
            [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
        }
        #[inline(always)]
        fn wide_mul_add(self, a: Self::Wide, b: Self::Wide, c: Self::Wide) -> Self::Wide {
            [self.mul_add(a[0], b[0], c[0]), self.mul_add(a[1], b[1], c[1])]
        }
        #[inline(always)]
        unsafe fn wide_load(self, from: *const f32) -> Self::Wide {
            unsafe { [self.load(from), self.load(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn wide_store(self, to: *mut f32, value: Self::Wide) {
            unsafe {
                self.store(to, value[0]);
                self.store(to.add(8), value[1]);
            }
        }
        #[inline(always)]
        unsafe fn wide_load_f16(self, from: *const f16) -> Self::Wide {
            unsafe { [self.load_f16(from), self.load_f16(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn wide_load_u8(self, from: *const u8) -> Self::Wide {
            unsafe { [self.load_u8(from), self.load_u8(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn wide_load_i8(self, from: *const i8) -> Self::Wide {
            unsafe { [self.load_i8(from), self.load_i8(from.add(8))] }
        }
        #[inline(always)]
        unsafe fn wide_load_e4m3(self, from: *const u8) -> Self::Wide {
            unsafe { [self.load_e4m3(from), self.load_e4m3(from.add(8))] }
        }
    };
}
pub(super) use wide_of_pairs;

const _: () = assert!(TILE_ROWS == 2 * LANES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::scalar::Scalar;

    const N_ROWS: usize = 4;

    /// Every product and load of a tile, sixteen numbers each.
    fn results<T: Tile>(t: T) -> Vec<[f32; TILE_ROWS]> {
        let mut state = 12_345_u32;
        let mut bytes = |n: usize| -> Vec<u8> {
            let mut byte = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..n).map(|_| byte()).collect()
        };
        let weights = bytes(BLOCK * TILE_ROWS);
        let codes =
            |bytes: &[u8]| -> Vec<i8> { bytes.iter().map(|&byte| byte.cast_signed().max(-127)).collect() };
        let (signed, x) = (codes(&weights), codes(&bytes(N_ROWS * BLOCK)));
        let numbers: Vec<f32> = signed.iter().map(|&code| f32::from(code) / 3.0).collect();
        let halves: Vec<f16> = numbers.iter().map(|&number| f16::from_f32_const(number)).collect();
        let mut found = Vec::new();
        let mut keep = |wide: T::Wide| {
            let mut lanes = [0.0; TILE_ROWS];
            // SAFETY: sixteen elements.
            unsafe { t.wide_store(lanes.as_mut_ptr(), wide) };
            found.push(lanes);
        };
        // SAFETY: the arrays have the lengths of the docs; sixteen elements lie behind every pointer.
        unsafe {
            t.dot_i8::<N_ROWS>(signed.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_i8::<1>(signed.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_u4::<N_ROWS>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_u4::<3>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_u5::<N_ROWS>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_u5::<3>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_i6::<N_ROWS>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_i6::<1>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            t.dot_e2m1::<N_ROWS>(weights.as_ptr(), x.as_ptr()).into_iter().for_each(&mut keep);
            let loaded = [
                t.wide_load(numbers.as_ptr()),
                t.wide_load_u8(weights.as_ptr()),
                t.wide_load_i8(signed.as_ptr()),
                t.wide_load_e8m0([120_u8; TILE_ROWS].as_ptr()),
            ];
            loaded.into_iter().for_each(&mut keep);
            for shift in (0..32).step_by(4) {
                keep(t.wide_choose(numbers.as_ptr(), weights.as_ptr(), shift));
            }
            let sum = t.wide_add(loaded[2], t.wide_splat(0.3));
            keep(t.wide_mul_add(loaded[0], loaded[1], t.wide_mul(loaded[2], sum)));
            let mut partial = [7.0; TILE_ROWS];
            t.wide_store_partial(partial.as_mut_ptr(), loaded[0], 11);
            keep(t.wide_load(partial.as_ptr()));
            if cfg!(miri) {
                return found;
            }
            keep(t.wide_load_f16(halves.as_ptr()));
            // 0x7f and 0xff are NaN.
            let numbers: Vec<u8> = weights.iter().copied().filter(|byte| byte & 0x7f != 0x7f).collect();
            (0..4).for_each(|i| keep(t.wide_load_e4m3(numbers.as_ptr().add(i * TILE_ROWS))));
        }
        found
    }

    /// Small enough for an interpreter of instructions that this processor has not, but for those that convert f16:
    /// `cargo +nightly miri test kernels::tile` with `-C target-feature=+avx512f,+avx512bw,+avx512vl,+avx512vnni,+avx2,+fma,+f16c`.
    #[test]
    fn every_tile_gives_the_bits_of_scalar() {
        let wanted = results(Scalar);
        #[cfg(target_arch = "x86_64")]
        {
            use crate::kernels::x86_64::{Avx2, Avx512};
            assert!(Avx2::new().map(results).is_none_or(|found| found == wanted));
            assert!(Avx512::new().map(results).is_none_or(|found| found == wanted));
        }
        #[cfg(target_arch = "aarch64")]
        {
            use crate::kernels::aarch64::{DOT, MATRIX, Neon, PLAIN};
            assert!(Neon::<PLAIN>::new().map(results).is_none_or(|found| found == wanted));
            assert!(Neon::<DOT>::new().map(results).is_none_or(|found| found == wanted));
            assert!(Neon::<MATRIX>::new().map(results).is_none_or(|found| found == wanted));
        }
        assert!(wanted.iter().flatten().all(|number| number.is_finite()));
    }
}
