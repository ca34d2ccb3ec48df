//! Weights that are codes and meet codes: sixteen rows at a time, as sums of products of both.

use half::f16;

use super::numbers::{RowScales, Scales};
use super::tile::{BLOCK, Element, NIBBLES, TILE_ROWS, Tile};
use crate::numbers::kept::{Q5_0_MIDDLE, Q6_K_GROUP, SUPER_BLOCK};
use crate::numbers::kind::INT4_MIDDLE;

/// Bytes of a plane of a tile's block.
const PLANE: usize = 4 * TILE_ROWS;

/// Tiles of codes that meet codes.
pub trait Codes<T: Tile>: Copy {
    /// Adds a block's products to the totals of `R` rows.
    ///
    /// # Safety
    /// Tile and block lie inside the matrix, and `x` has that block.
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    );

    /// As of [`Scales`].
    ///
    /// # Safety
    /// The tile lies inside the matrix.
    #[inline(always)]
    unsafe fn finish(self, _t: T, _tile: usize, total: T::Wide) -> T::Wide {
        total
    }
}

/// A group of quantized rows: what [`super::activations::Codes`] holds of it.
#[derive(Clone, Copy)]
pub struct CodeRows {
    pub codes: *const i8,
    pub scale: *const f32,
    pub sum: *const f32,
    pub n_rows: usize,
}

impl CodeRows {
    #[inline(always)]
    unsafe fn codes(&self, block: usize) -> *const i8 {
        // SAFETY: the caller's block.
        unsafe { self.codes.add(block * self.n_rows * BLOCK) }
    }

    #[inline(always)]
    unsafe fn scale(&self, block: usize, row: usize) -> f32 {
        // SAFETY: the caller's block and row.
        unsafe { *self.scale.add(block * self.n_rows + row) }
    }

    #[inline(always)]
    unsafe fn sum(&self, block: usize, row: usize) -> f32 {
        // SAFETY: the caller's block and row.
        unsafe { *self.sum.add(block * self.n_rows + row) }
    }
}

#[derive(Clone, Copy)]
pub struct I8Tiles {
    pub w: *const i8,
    pub scales: RowScales,
    pub stride: usize,
}

impl<T: Tile> Codes<T> for I8Tiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * TILE_ROWS);
            t.prefetch_ahead(w.cast(), BLOCK * TILE_ROWS);
            let sums = t.dot_i8::<R>(w, x.codes(block));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                *total = t.wide_mul_add(sum, t.wide_splat(x.scale(block, r)), *total);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { self.scales.finish(t, tile, total) }
    }
}

/// Groups of scales; null zeros: all are 0.
#[derive(Clone, Copy)]
pub struct I8GroupTiles {
    pub w: *const i8,
    pub scale: *const f32,
    pub zero: *const f32,
    pub stride: usize,
    pub group: usize,
}

impl<T: Tile> Codes<T> for I8GroupTiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller; groups are whole blocks.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * TILE_ROWS);
            t.prefetch_ahead(w.cast(), BLOCK * TILE_ROWS);
            let group = (tile * (self.stride / self.group) + block * BLOCK / self.group) * TILE_ROWS;
            let scale = t.wide_load(self.scale.add(group));
            let minus_zero = if self.zero.is_null() {
                t.wide_splat(0.0)
            } else {
                t.wide_mul(t.wide_load(self.zero.add(group)), t.wide_splat(-1.0))
            };
            let sums = t.dot_i8::<R>(w, x.codes(block));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                // Whole numbers below 2^24.
                let sum = t.wide_mul_add(minus_zero, t.wide_splat(x.sum(block, r)), sum);
                let sum = t.wide_mul(sum, t.wide_splat(x.scale(block, r)));
                *total = t.wide_mul_add(sum, scale, *total);
            }
        }
    }
}

/// Groups of scales; null zeros: all are [`INT4_MIDDLE`].
#[derive(Clone, Copy)]
pub struct I4Tiles<E> {
    pub w: *const u8,
    pub scale: *const E,
    pub zero: *const u8,
    pub stride: usize,
    pub group: usize,
}

impl<T: Tile, E: Element<T>> Codes<T> for I4Tiles<E> {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller; groups are whole blocks.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * NIBBLES);
            t.prefetch_ahead(w, BLOCK * NIBBLES);
            let group = (tile * (self.stride / self.group) + block * BLOCK / self.group) * TILE_ROWS;
            let scale = E::load(t, self.scale.add(group));
            let minus_zero = if self.zero.is_null() {
                t.wide_splat(-f32::from(INT4_MIDDLE))
            } else {
                t.wide_mul(t.wide_load_u8(self.zero.add(group)), t.wide_splat(-1.0))
            };
            let sums = t.dot_u4::<R>(w, x.codes(block));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                // Whole numbers below 2^24.
                let sum = t.wide_mul_add(minus_zero, t.wide_splat(x.sum(block, r)), sum);
                let sum = t.wide_mul(sum, t.wide_splat(x.scale(block, r)));
                *total = t.wide_mul_add(sum, scale, *total);
            }
        }
    }
}

/// Blocks with a scale and a minimum.
#[derive(Clone, Copy)]
pub struct AffineTiles {
    pub w: *const u8,
    pub scale: *const u8,
    pub factor: *const f32,
    pub stride: usize,
}

impl<T: Tile> Codes<T> for AffineTiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * NIBBLES);
            t.prefetch_ahead(w, BLOCK * NIBBLES);
            let scales = self.scale.add((tile * (self.stride / BLOCK) + block) * 2 * TILE_ROWS);
            t.prefetch_ahead(scales, 2 * TILE_ROWS);
            let scale = t.wide_load_u8(scales);
            let factor = t.wide_load(self.factor.add((tile * 2 + 1) * TILE_ROWS));
            let minimum = t.wide_mul(t.wide_load_u8(scales.add(TILE_ROWS)), factor);
            let sums = t.dot_u4::<R>(w, x.codes(block));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let x_scale = x.scale(block, r);
                let sum = t.wide_mul(sum, t.wide_splat(x_scale));
                let taken_off = t.wide_splat(-(x_scale * x.sum(block, r)));
                *total = t.wide_mul_add(minimum, taken_off, t.wide_mul_add(sum, scale, *total));
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide {
        // SAFETY: two factors per row.
        unsafe { t.wide_mul(total, t.wide_load(self.factor.add(tile * 2 * TILE_ROWS))) }
    }
}

#[derive(Clone, Copy)]
pub struct Nvfp4Tiles {
    pub w: *const u8,
    pub scale: *const u8,
    pub row_scales: RowScales,
    pub stride: usize,
}

impl<T: Tile> Codes<T> for Nvfp4Tiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        const HALF: usize = BLOCK / 2;
        // SAFETY: inside the matrix and the rows by the caller; a block has two scales.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * NIBBLES);
            t.prefetch_ahead(w, BLOCK * NIBBLES);
            let scale = self.scale.add((tile * self.stride / HALF + block * 2) * TILE_ROWS);
            for half in 0..2 {
                let sums = t.dot_e2m1::<R>(w.add(half * HALF * NIBBLES), x.codes(block).add(half * HALF));
                let scale = t.wide_load_e4m3(scale.add(half * TILE_ROWS));
                for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                    let sum = t.wide_mul(sum, t.wide_splat(x.scale(block, r)));
                    *total = t.wide_mul_add(sum, scale, *total);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { self.row_scales.finish(t, tile, t.wide_mul(total, t.wide_splat(0.5))) }
    }
}

/// Scales and offsets of blocks of 32 inputs.
pub trait LineScales<T: Tile>: Copy {
    /// Of the sixteen rows; `block` counts blocks of all tiles.
    ///
    /// # Safety
    /// The block lies inside the matrix.
    unsafe fn get(self, t: T, block: usize) -> [T::Wide; 2];
}

/// Scales whose offsets are -16 times them.
#[derive(Clone, Copy)]
pub struct MiddleScales(pub *const f16);

impl<T: Tile> LineScales<T> for MiddleScales {
    #[inline(always)]
    unsafe fn get(self, t: T, block: usize) -> [T::Wide; 2] {
        // SAFETY: one scale per row and block.
        let scale = unsafe { t.wide_load_f16(self.0.add(block * TILE_ROWS)) };
        [scale, t.wide_mul(scale, t.wide_splat(-f32::from(Q5_0_MIDDLE)))]
    }
}

/// Scales, then offsets.
#[derive(Clone, Copy)]
pub struct PairScales(pub *const f16);

impl<T: Tile> LineScales<T> for PairScales {
    #[inline(always)]
    unsafe fn get(self, t: T, block: usize) -> [T::Wide; 2] {
        // SAFETY: a scale and an offset per row and block.
        unsafe {
            let scale = self.0.add(block * 2 * TILE_ROWS);
            [t.wide_load_f16(scale), t.wide_load_f16(scale.add(TILE_ROWS))]
        }
    }
}

/// The same as bytes, with factors for each 256 inputs.
#[derive(Clone, Copy)]
pub struct SuperScales {
    pub scale: *const u8,
    pub factor: *const f16,
}

impl<T: Tile> LineScales<T> for SuperScales {
    #[inline(always)]
    unsafe fn get(self, t: T, block: usize) -> [T::Wide; 2] {
        // SAFETY: a scale and an offset per row and block, two factors per eight blocks, which a tile has whole.
        unsafe {
            let scale = self.scale.add(block * 2 * TILE_ROWS);
            t.prefetch_ahead(scale, 2 * TILE_ROWS);
            let factor = self.factor.add(block / (SUPER_BLOCK / BLOCK) * 2 * TILE_ROWS);
            let offset = t.wide_load_u8(scale.add(TILE_ROWS));
            [
                t.wide_mul(t.wide_load_u8(scale), t.wide_load_f16(factor)),
                t.wide_mul(offset, t.wide_load_f16(factor.add(TILE_ROWS))),
            ]
        }
    }
}

/// Codes of `BITS` bits, 4 or 5, with scales and offsets.
#[derive(Clone, Copy)]
pub struct LineTiles<S, const BITS: usize> {
    pub w: *const u8,
    pub scales: S,
    pub stride: usize,
}

impl<T: Tile, S: LineScales<T>, const BITS: usize> Codes<T> for LineTiles<S, BITS> {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller.
        unsafe {
            let of_all = tile * (self.stride / BLOCK) + block;
            let w = self.w.add(of_all * BITS * PLANE);
            t.prefetch_ahead(w, BITS * PLANE);
            let [scale, offset] = self.scales.get(t, of_all);
            let codes = x.codes(block);
            let sums = if BITS == 4 { t.dot_u4::<R>(w, codes) } else { t.dot_u5::<R>(w, codes) };
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let x_scale = x.scale(block, r);
                let sum = t.wide_mul(sum, t.wide_splat(x_scale));
                let of_inputs = t.wide_splat(x_scale * x.sum(block, r));
                *total = t.wide_mul_add(offset, of_inputs, t.wide_mul_add(sum, scale, *total));
            }
        }
    }
}

/// Codes of six bits, two scales a block.
#[derive(Clone, Copy)]
pub struct SixTiles {
    pub w: *const u8,
    pub scale: *const i8,
    pub factor: *const f16,
    pub stride: usize,
}

impl<T: Tile> Codes<T> for SixTiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: &CodeRows,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller; a block has two scales, eight of them a factor.
        unsafe {
            let of_all = tile * (self.stride / BLOCK) + block;
            let w = self.w.add(of_all * 6 * PLANE);
            t.prefetch_ahead(w, 6 * PLANE);
            let scale = self.scale.add(of_all * 2 * TILE_ROWS);
            let factor = t.wide_load_f16(self.factor.add(of_all / (SUPER_BLOCK / BLOCK) * TILE_ROWS));
            for half in 0..2 {
                let codes = x.codes(block).add(half * Q6_K_GROUP);
                let sums = t.dot_i6::<R>(w.add(half * 3 * PLANE), codes);
                let scale = t.wide_mul(t.wide_load_i8(scale.add(half * TILE_ROWS)), factor);
                for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                    let sum = t.wide_mul(sum, t.wide_splat(x.scale(block, r)));
                    *total = t.wide_mul_add(sum, scale, *total);
                }
            }
        }
    }
}
