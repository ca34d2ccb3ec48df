//! Weights that are numbers and meet f32: sixteen rows at a time, and what their sums are multiplied by.

use super::tile::{BLOCK, Element, NIBBLES, TILE_ROWS, Tile};

/// Tiles of numbers that meet f32.
pub trait Numbers<T: Tile>: Copy {
    /// Adds a block's products to the totals of `R` rows, whose inputs lie side by side from `x` on: `[BLOCK][R]`.
    ///
    /// # Safety
    /// Tile and block lie inside the matrix, and `x` has so many elements.
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: *const f32,
        totals: &mut [T::Wide; R],
    );

    /// As of [`Scales`].
    ///
    /// # Safety
    /// The tile lies inside the matrix.
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide;
}

/// Numbers that lie as `[inputs][TILE_ROWS]`.
#[derive(Clone, Copy)]
pub struct NumberTiles<E, S> {
    pub w: *const E,
    pub scales: S,
    pub stride: usize,
}

impl<T: Tile, E: Element<T>, S: Scales<T>> Numbers<T> for NumberTiles<E, S> {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: *const f32,
        totals: &mut [T::Wide; R],
    ) {
        // SAFETY: inside the matrix and the rows by the caller.
        unsafe {
            let w = self.w.add((tile * self.stride + block * BLOCK) * TILE_ROWS);
            t.prefetch_ahead(w.cast(), BLOCK * TILE_ROWS * size_of::<E>());
            let mut sums = [t.wide_splat(0.0); R];
            for k in 0..BLOCK {
                let weights = E::load(t, w.add(k * TILE_ROWS));
                add_products(t, weights, x.add(k * R), &mut sums);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = self.scales.add(t, tile, block, sum, *total);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide {
        // SAFETY: the caller's promise.
        unsafe { self.scales.finish(t, tile, total) }
    }
}

/// Nibbles that choose one of sixteen numbers.
#[derive(Clone, Copy)]
pub struct LevelTiles {
    pub w: *const u8,
    /// `[16]`
    pub levels: *const f32,
    pub scales: GroupScales,
}

impl<T: Tile> Numbers<T> for LevelTiles {
    #[inline(always)]
    unsafe fn add_block<const R: usize>(
        self,
        t: T,
        tile: usize,
        block: usize,
        x: *const f32,
        totals: &mut [T::Wide; R],
    ) {
        const OCT: usize = 8;
        // SAFETY: inside the matrix and the rows by the caller.
        unsafe {
            let w = self.w.add((tile * self.scales.stride + block * BLOCK) * NIBBLES);
            t.prefetch_ahead(w, BLOCK * NIBBLES);
            let mut sums = [t.wide_splat(0.0); R];
            for oct in 0..BLOCK / OCT {
                for (i, shift) in [0, 8, 16, 24, 4, 12, 20, 28].into_iter().enumerate() {
                    let weights = t.wide_choose(self.levels, w.add(oct * OCT * NIBBLES), shift);
                    add_products(t, weights, x.add((oct * OCT + i) * R), &mut sums);
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = self.scales.add(t, tile, block, sum, *total);
            }
        }
    }

    #[inline(always)]
    unsafe fn finish(self, _t: T, _tile: usize, total: T::Wide) -> T::Wide {
        total
    }
}

/// Adds the products of sixteen weights with an input of each of `R` rows.
///
/// # Safety
/// `R` inputs.
#[inline(always)]
unsafe fn add_products<T: Tile, const R: usize>(
    t: T,
    weights: T::Wide,
    x: *const f32,
    sums: &mut [T::Wide; R],
) {
    for (r, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *sum = t.wide_mul_add(weights, t.wide_splat(unsafe { *x.add(r) }), *sum);
    }
}

/// What sums are multiplied by.
pub trait Scales<T: Tile>: Copy {
    /// Adds the sums of a block to the totals.
    ///
    /// # Safety
    /// Tile and block lie inside the matrix.
    #[inline(always)]
    unsafe fn add(self, t: T, _tile: usize, _block: usize, sums: T::Wide, total: T::Wide) -> T::Wide {
        t.wide_add(total, sums)
    }

    /// What totals become in the end.
    ///
    /// # Safety
    /// The tile lies inside the matrix.
    #[inline(always)]
    unsafe fn finish(self, _t: T, _tile: usize, total: T::Wide) -> T::Wide {
        total
    }
}

/// By nothing.
#[derive(Clone, Copy)]
pub struct Unscaled;

impl<T: Tile> Scales<T> for Unscaled {}

/// By an f32 for each row.
#[derive(Clone, Copy)]
pub struct RowScales(pub *const f32);

impl<T: Tile> Scales<T> for RowScales {
    #[inline(always)]
    unsafe fn finish(self, t: T, tile: usize, total: T::Wide) -> T::Wide {
        // SAFETY: one scale per row.
        unsafe { t.wide_mul(total, t.wide_load(self.0.add(tile * TILE_ROWS))) }
    }
}

/// By an E8M0 for each row and block.
#[derive(Clone, Copy)]
pub struct BlockScales {
    pub scale: *const u8,
    pub n_blocks: usize,
}

impl<T: Tile> Scales<T> for BlockScales {
    #[inline(always)]
    unsafe fn add(self, t: T, tile: usize, block: usize, sums: T::Wide, total: T::Wide) -> T::Wide {
        // SAFETY: one scale per row and block.
        unsafe {
            let scale = self.scale.add((tile * self.n_blocks + block) * TILE_ROWS);
            t.wide_mul_add(sums, t.wide_load_e8m0(scale), total)
        }
    }
}

/// By an f32 for each row and group of blocks.
#[derive(Clone, Copy)]
pub struct GroupScales {
    pub scale: *const f32,
    pub stride: usize,
    pub group: usize,
}

impl<T: Tile> Scales<T> for GroupScales {
    #[inline(always)]
    unsafe fn add(self, t: T, tile: usize, block: usize, sums: T::Wide, total: T::Wide) -> T::Wide {
        let group = tile * (self.stride / self.group) + block * BLOCK / self.group;
        // SAFETY: one scale per row and group; groups are whole blocks.
        unsafe { t.wide_mul_add(sums, t.wide_load(self.scale.add(group * TILE_ROWS)), total) }
    }
}
