//! `y[r, n] = sum_k x[r, k] * w[n, k]`: groups of rows of activations times tiles of weights.
//!
//! ```text
//! for each tile of 16 outputs          read once from memory
//!   for each group of a few rows       read from the cache
//!     for each block of 32 inputs
//!       sums = products of the block   f32: one after the other; codes: exact
//!       total += sums * scales         one after the other
//!     y = total * factor + bias
//! ```
//!
//! One output is one chain of sums in one lane, whatever group its row is in: so a row's result does not depend on
//! the rows that come with it.

use std::ops::Range;

use super::activations::{self, Panel};
use super::matrix::{GroupScales, Matrix, Values};
use super::tile::{BLOCK, E4m3, Element, F32_GROUP_ROWS, GROUP_ROWS, TILE_ROWS, Tile};
use super::weights::{
    AffineTiles, BlockScales, CodeRows, Codes, I4Tiles, I8Tiles, NumberTiles, Nvfp4Tiles, RowScales, Scales,
    Unscaled, prefetch,
};

/// One call: some output columns for all rows.
pub struct MatmulTask<'a> {
    /// `n_rows` rows of `w.stride()` elements, of the kind that is the matrix's partner.
    pub x: Panel<'a>,
    pub n_rows: usize,
    pub w: Matrix<'a>,
    /// Tiles of `w` to compute.
    pub tiles: Range<usize>,
    /// Added to the outputs, `[w.n_rows()]`.
    pub bias: Option<&'a [f32]>,
    /// Row 0, column 0 of the output.
    pub y: *mut f32,
    /// Elements between output rows.
    pub y_stride: usize,
}

/// Weights that are numbers with rows of f32.
///
/// # Panics
/// When the panel is not of the matrix's partner's kind or has other lengths, or tiles lie outside the matrix.
///
/// # Safety
/// `y` is writable at `row * y_stride + column` for every row and every column of the task's tiles, and nobody
/// else touches these elements meanwhile.
#[inline(always)]
pub unsafe fn multiply_numbers<T: Tile>(t: T, task: &MatmulTask<'_>) {
    let (w, stride) = (check(task), task.w.stride());
    let Panel::F32(x) = task.x else { panic!("these weights take f32") };
    assert!(x.len() == task.n_rows * stride);
    let x = x.as_ptr();
    // SAFETY: Matrix::new proved the lengths that tiles rely on, the panel's were checked.
    unsafe {
        match w {
            Values::F32(v) => numbers(t, task, x, NumberTiles { w: v.as_ptr(), scales: Unscaled, stride }),
            Values::F16(v) => numbers(t, task, x, NumberTiles { w: v.as_ptr(), scales: Unscaled, stride }),
            Values::Fp8 { q, scale } => {
                let (w, scales) = (q.as_ptr().cast::<E4m3>(), RowScales(scale.as_ptr()));
                numbers(t, task, x, NumberTiles { w, scales, stride });
            }
            Values::Mxfp8 { q, scale } => {
                let scales = BlockScales { scale: scale.as_ptr(), n_blocks: stride / BLOCK };
                let w = q.as_ptr().cast::<E4m3>();
                numbers(t, task, x, NumberTiles { w, scales, stride });
            }
            _ => panic!("these weights take codes"),
        }
    }
}

/// Weights that are codes with rows of codes.
///
/// # Panics
/// As [`multiply_numbers`].
///
/// # Safety
/// As [`multiply_numbers`].
#[inline(always)]
pub unsafe fn multiply_codes<T: Tile>(t: T, task: &MatmulTask<'_>) {
    let (w, stride, n) = (check(task), task.w.stride(), task.n_rows * task.w.stride());
    let Panel::I8(x) = task.x else { panic!("these weights take codes") };
    assert!(x.codes.len() == n && x.scale.len() == n / BLOCK && x.sum.len() == n / BLOCK);
    let (codes, scale, sum) = (x.codes.as_ptr(), x.scale.as_ptr(), x.sum.as_ptr());
    let x = CodeRows { codes, scale, sum, n_rows: 0 };
    // SAFETY: as above.
    unsafe {
        match w {
            Values::I8 { q, scale } => {
                products(t, task, x, I8Tiles { w: q.as_ptr(), scales: RowScales(scale.as_ptr()), stride })
            }
            Values::I4 { q, scale, zero, group } => {
                let (w, zero) = (q.as_ptr(), zero.map_or(std::ptr::null(), <[u8]>::as_ptr));
                match scale {
                    GroupScales::F16(scale) => {
                        let scale = scale.as_ptr();
                        products(t, task, x, I4Tiles { w, scale, zero, stride, group });
                    }
                    GroupScales::F32(scale) => {
                        let scale = scale.as_ptr();
                        products(t, task, x, I4Tiles { w, scale, zero, stride, group });
                    }
                }
            }
            Values::Affine { q, scale, factor } => {
                let (w, scale, factor) = (q.as_ptr(), scale.as_ptr(), factor.as_ptr());
                products(t, task, x, AffineTiles { w, scale, factor, stride });
            }
            Values::Nvfp4 { q, scale, row_scale } => {
                let (w, scale, row_scales) = (q.as_ptr(), scale.as_ptr(), RowScales(row_scale.as_ptr()));
                products(t, task, x, Nvfp4Tiles { w, scale, row_scales, stride });
            }
            _ => panic!("these weights take f32"),
        }
    }
}

fn check<'a>(task: &MatmulTask<'a>) -> Values<'a> {
    assert!(task.tiles.end <= task.w.n_tiles());
    assert!(task.bias.is_none_or(|bias| bias.len() == task.w.n_rows()));
    task.w.values()
}

/// Calls a function that is generic over the size of a group, which is one of these.
macro_rules! with_rows {
    ($n_rows:expr, [$($n:literal)+ $largest:ident], $call:ident::<$generics:tt>$arguments:tt) => {
        match $n_rows {
            $($n => with_rows!(@call $call $generics $n $arguments),)+
            $largest => with_rows!(@call $call $generics $largest $arguments),
            n => unreachable!("a group of {n} rows"),
        }
    };
    (@call $call:ident ($($generic:ty),+) $n:tt ($($argument:expr),+)) => {
        $call::<$($generic),+, $n>($($argument),+)
    };
}

#[inline(always)]
unsafe fn numbers<T: Tile, E: Element<T>, S: Scales<T>>(
    t: T,
    task: &MatmulTask<'_>,
    x: *const f32,
    w: NumberTiles<E, S>,
) {
    for tile in task.tiles.clone() {
        for rows in activations::f32_groups(0..task.n_rows) {
            // SAFETY: the caller's promise; the group lies in the panel.
            unsafe {
                let x = x.add(rows.start * task.w.stride());
                with_rows!(
                    rows.len(),
                    [1 2 3 4 5 F32_GROUP_ROWS],
                    numbers_tile::<(T, E, S)>(t, task, w, tile, rows.start, x)
                );
            }
        }
    }
}

#[inline(always)]
unsafe fn numbers_tile<T: Tile, E: Element<T>, S: Scales<T>, const R: usize>(
    t: T,
    task: &MatmulTask<'_>,
    w: NumberTiles<E, S>,
    tile: usize,
    first_row: usize,
    x: *const f32,
) {
    let stride = task.w.stride();
    let mut totals = [t.wide_splat(0.0); R];
    for block in 0..stride / BLOCK {
        let first = block * BLOCK;
        prefetch(t, w.at(tile, first).cast(), BLOCK * TILE_ROWS * size_of::<E>());
        let mut sums = [t.wide_splat(0.0); R];
        // SAFETY: inputs below the stride; the panel has R elements for each.
        unsafe {
            for k in first..first + BLOCK {
                let weights = E::load(t, w.at(tile, k));
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = t.wide_mul_add(weights, t.wide_splat(*x.add(k * R + r)), *sum);
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = w.scales.add(t, tile, block, sum, *total);
            }
        }
    }
    // SAFETY: the tile lies inside the matrix.
    unsafe { store(t, task, tile, first_row, totals.map(|total| w.scales.finish(t, tile, total))) }
}

#[inline(always)]
unsafe fn products<T: Tile, W: Codes<T>>(t: T, task: &MatmulTask<'_>, x: CodeRows, w: W) {
    let n_blocks = task.w.stride() / BLOCK;
    for tile in task.tiles.clone() {
        for rows in activations::groups(0..task.n_rows) {
            // SAFETY: the caller's promise; the group lies in the panel.
            unsafe {
                let x = CodeRows {
                    codes: x.codes.add(rows.start * n_blocks * BLOCK),
                    scale: x.scale.add(rows.start * n_blocks),
                    sum: x.sum.add(rows.start * n_blocks),
                    n_rows: rows.len(),
                };
                with_rows!(
                    rows.len(),
                    [1 2 3 GROUP_ROWS],
                    products_tile::<(T, W)>(t, task, w, tile, rows.start, x)
                );
            }
        }
    }
}

#[inline(always)]
unsafe fn products_tile<T: Tile, W: Codes<T>, const R: usize>(
    t: T,
    task: &MatmulTask<'_>,
    w: W,
    tile: usize,
    first_row: usize,
    x: CodeRows,
) {
    // The compiler shall know it.
    let x = CodeRows { n_rows: R, ..x };
    let mut totals = [t.wide_splat(0.0); R];
    // SAFETY: tile and blocks lie inside the matrix and the group.
    unsafe {
        for block in 0..task.w.stride() / BLOCK {
            w.add_block(t, tile, block, &x, &mut totals);
        }
        store(t, task, tile, first_row, totals.map(|total| w.finish(t, tile, total)));
    }
}

/// Writes a tile's outputs of a group, with the bias.
#[inline(always)]
unsafe fn store<T: Tile, const R: usize>(
    t: T,
    task: &MatmulTask<'_>,
    tile: usize,
    first_row: usize,
    outputs: [T::Wide; R],
) {
    let first = tile * TILE_ROWS;
    let n_outputs = TILE_ROWS.min(task.w.n_rows() - first);
    for (r, output) in outputs.into_iter().enumerate() {
        // SAFETY: the caller's promise for y; the bias has an element for each output.
        unsafe {
            let y = task.y.add((first_row + r) * task.y_stride + first);
            if n_outputs == TILE_ROWS {
                let output = match task.bias {
                    Some(bias) => t.wide_add(output, t.wide_load(bias.as_ptr().add(first))),
                    None => output,
                };
                t.wide_store(y, output);
            } else {
                t.wide_store_partial(y, output, n_outputs);
                for (i, bias) in task.bias.into_iter().flat_map(|bias| &bias[first..]).enumerate() {
                    *y.add(i) += bias;
                }
            }
        }
    }
}
