//! `y[r, n] = sum_k x[r, k] * w[n, k]`: groups of rows of activations times tiles of weights.
//!
//! ```text
//! for each tile of 16 outputs            read once from memory
//!   for each piece of the inputs         the tile's part stays in the first cache meanwhile
//!     for each group of a few rows       read from the cache
//!       for each block of 32 inputs
//!         sums = products of the block   f32: one after the other; codes: exact
//!         total += sums * scales         one after the other
//!   y = total * factor + bias
//! ```
//!
//! One output is one chain of sums in one lane, whatever group its row is in: so a row's result does not depend on
//! the rows that come with it.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::activations::{self, Panel};
use super::matrix::{GroupScales, LineBits, LineScales, Matrix, Values};
use super::numbers::{self, BlockScales, LevelTiles, NumberTiles, Numbers, RowScales, Unscaled};
use super::tile::{BLOCK, E4m3, F32_GROUP_ROWS, GROUP_ROWS, MAX_CODE_ROWS, TILE_ROWS, Tile};
use super::weights::{
    AffineTiles, CodeRows, Codes, I4Tiles, I8GroupTiles, I8Tiles, LineTiles, MiddleScales, Nvfp4Tiles,
    PairScales, SixTiles, SuperScales,
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
            Values::Fp8Groups { q, scale, group } => {
                let scales = numbers::GroupScales { scale: scale.as_ptr(), stride, group };
                let w = q.as_ptr().cast::<E4m3>();
                numbers(t, task, x, NumberTiles { w, scales, stride });
            }
            Values::Mxfp8 { q, scale } => {
                let scales = BlockScales { scale: scale.as_ptr(), n_blocks: stride / BLOCK };
                let w = q.as_ptr().cast::<E4m3>();
                numbers(t, task, x, NumberTiles { w, scales, stride });
            }
            Values::Levels { q, levels, scale, group } => {
                let scales = numbers::GroupScales { scale: scale.as_ptr(), stride, group };
                numbers(t, task, x, LevelTiles { w: q.as_ptr(), levels: levels.as_ptr(), scales });
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
            Values::I8Groups { q, scale, zero, group } => {
                let zero = zero.map_or(std::ptr::null(), <[f32]>::as_ptr);
                let (w, scale) = (q.as_ptr(), scale.as_ptr());
                products(t, task, x, I8GroupTiles { w, scale, zero, stride, group });
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
            Values::Lines { q, bits: LineBits::Four, scales } => {
                lines::<T, 4>(t, task, x, q.as_ptr(), scales);
            }
            Values::Lines { q, bits: LineBits::Five, scales } => {
                lines::<T, 5>(t, task, x, q.as_ptr(), scales);
            }
            Values::Sixes { q, scale, factor } => {
                let (w, scale, factor) = (q.as_ptr(), scale.as_ptr(), factor.as_ptr());
                products(t, task, x, SixTiles { w, scale, factor, stride });
            }
            _ => panic!("these weights take f32"),
        }
    }
}

/// Products with codes of `BITS` bits.
///
/// # Safety
/// As [`multiply_numbers`]; `w` are the codes of the task's matrix.
#[inline(always)]
unsafe fn lines<T: Tile, const BITS: usize>(
    t: T,
    task: &MatmulTask<'_>,
    x: CodeRows,
    w: *const u8,
    scales: LineScales<'_>,
) {
    let stride = task.w.stride();
    // SAFETY: the caller's promise.
    unsafe {
        match scales {
            LineScales::Middle(scale) => {
                let scales = MiddleScales(scale.as_ptr());
                products(t, task, x, LineTiles::<_, BITS> { w, scales, stride });
            }
            LineScales::Pairs(pairs) => {
                let scales = PairScales(pairs.as_ptr());
                products(t, task, x, LineTiles::<_, BITS> { w, scales, stride });
            }
            LineScales::Super { scale, factor } => {
                let scales = SuperScales { scale: scale.as_ptr(), factor: factor.as_ptr() };
                products(t, task, x, LineTiles::<_, BITS> { w, scales, stride });
            }
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

/// A part of a tile, and a group of rows that meets it.
struct Piece {
    tile: usize,
    group: usize,
    inputs: Range<usize>,
    /// Where the group's sums wait for its next piece.
    slot: usize,
}

/// All pieces in the order in which they are multiplied.
struct Pieces {
    tiles: Range<usize>,
    n_groups: usize,
    /// Groups whose sums wait at once.
    n_slots: usize,
    stride: usize,
    /// Inputs of a piece.
    len: usize,
    /// The next one; its groups are those from `first_group` on.
    next: Piece,
    first_group: usize,
}

impl Pieces {
    /// Inputs of a piece where there are several groups: whole blocks.
    const LEN: usize = 512;
    /// Groups whose sums wait at once, of the usual size.
    const SLOTS: usize = 16;

    #[inline(always)]
    fn new(task: &MatmulTask<'_>, n_groups: usize, n_slots: usize) -> Self {
        let (tiles, stride) = (task.tiles.clone(), task.w.stride());
        let len = if n_groups == 1 { stride } else { Self::LEN };
        let next = Piece { tile: tiles.start, group: 0, inputs: 0..len.min(stride), slot: 0 };
        Self { tiles, n_groups, n_slots, stride, len, next, first_group: 0 }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece> {
        if self.tiles.is_empty() || self.next.group >= self.n_groups {
            return None;
        }
        let Piece { mut tile, mut group, ref inputs, slot } = self.next;
        let (inputs, mut first_input) = (inputs.clone(), inputs.start);
        group += 1;
        if group == self.n_groups.min(self.first_group + self.n_slots) {
            first_input = inputs.end;
            if first_input == self.stride {
                first_input = 0;
                tile += 1;
                if tile == self.tiles.end {
                    tile = self.tiles.start;
                    self.first_group = group;
                }
            }
            group = self.first_group;
        }
        let next = Piece {
            tile,
            group,
            inputs: first_input..self.stride.min(first_input + self.len),
            slot: group - self.first_group,
        };
        let found = std::mem::replace(&mut self.next, next);
        Some(Piece { inputs, slot, ..found })
    }
}

/// The sums of a group before the piece.
///
/// # Safety
/// They were kept after the piece before.
#[inline(always)]
unsafe fn totals_before<T: Tile, const R: usize>(t: T, piece: &Piece, kept: *const f32) -> [T::Wide; R] {
    let mut totals = [t.wide_splat(0.0); R];
    if piece.inputs.start > 0 {
        for (r, total) in totals.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *total = unsafe { t.wide_load(kept.add(r * TILE_ROWS)) };
        }
    }
    totals
}

/// Room for the sums of groups of up to so many rows.
type Kept<const N: usize> = [MaybeUninit<f32>; N];

#[inline(always)]
unsafe fn numbers<T: Tile, W: Numbers<T>>(t: T, task: &MatmulTask<'_>, x: *const f32, w: W) {
    const SLOT: usize = F32_GROUP_ROWS * TILE_ROWS;
    let mut kept: Kept<{ Pieces::SLOTS * SLOT }> = [const { MaybeUninit::uninit() }; _];
    for piece in Pieces::new(task, activations::n_f32_groups(task.n_rows), Pieces::SLOTS) {
        let rows = activations::f32_group(task.n_rows, piece.group);
        // SAFETY: the caller's promise; the group lies in the panel, and its slot in what is kept.
        unsafe {
            let x = x.add(rows.start * task.w.stride());
            let kept = kept.as_mut_ptr().cast::<f32>().add(piece.slot * SLOT);
            with_rows!(
                rows.len(),
                [1 2 3 4 5 F32_GROUP_ROWS],
                numbers_piece::<(T, W)>(t, task, w, &piece, (rows.start, x), kept)
            );
        }
    }
}

#[inline(always)]
unsafe fn numbers_piece<T: Tile, W: Numbers<T>, const R: usize>(
    t: T,
    task: &MatmulTask<'_>,
    w: W,
    piece: &Piece,
    (first_row, x): (usize, *const f32),
    kept: *mut f32,
) {
    let tile = piece.tile;
    // SAFETY: inputs below the stride; the panel has R elements for each; the rest is the caller's promise.
    unsafe {
        let mut totals = totals_before::<T, R>(t, piece, kept);
        for block in piece.inputs.start / BLOCK..piece.inputs.end / BLOCK {
            w.add_block(t, tile, block, x.add(block * BLOCK * R), &mut totals);
        }
        if piece.inputs.end == task.w.stride() {
            for total in &mut totals {
                *total = w.finish(t, tile, *total);
            }
            store(t, task, tile, first_row, totals);
        } else {
            keep(t, totals, kept);
        }
    }
}

#[inline(always)]
unsafe fn products<T: Tile, W: Codes<T>>(t: T, task: &MatmulTask<'_>, x: CodeRows, w: W) {
    const ROWS: usize = Pieces::SLOTS * GROUP_ROWS;
    const { assert!(T::CODE_ROWS == GROUP_ROWS || T::CODE_ROWS == MAX_CODE_ROWS) };
    let n_blocks = task.w.stride() / BLOCK;
    let mut kept: Kept<{ ROWS * TILE_ROWS }> = [const { MaybeUninit::uninit() }; _];
    let n_groups = activations::n_code_groups(task.n_rows, T::CODE_ROWS);
    // Larger groups are fewer at once: a piece meets as many rows.
    for piece in Pieces::new(task, n_groups, ROWS / T::CODE_ROWS) {
        let rows = activations::code_group(task.n_rows, T::CODE_ROWS, piece.group);
        let first = rows.start;
        // SAFETY: the caller's promise; the group lies in the panel, and its slot in what is kept.
        unsafe {
            let x = CodeRows {
                codes: x.codes.add(first * n_blocks * BLOCK),
                scale: x.scale.add(first * n_blocks),
                sum: x.sum.add(first * n_blocks),
                n_rows: rows.len(),
            };
            let kept = kept.as_mut_ptr().cast::<f32>().add(piece.slot * T::CODE_ROWS * TILE_ROWS);
            if T::CODE_ROWS == MAX_CODE_ROWS && x.n_rows == MAX_CODE_ROWS {
                products_piece::<T, W, MAX_CODE_ROWS>(t, task, w, &piece, (first, x), kept);
                continue;
            }
            with_rows!(
                x.n_rows,
                [1 2 3 GROUP_ROWS],
                products_piece::<(T, W)>(t, task, w, &piece, (first, x), kept)
            );
        }
    }
}

#[inline(always)]
unsafe fn products_piece<T: Tile, W: Codes<T>, const R: usize>(
    t: T,
    task: &MatmulTask<'_>,
    w: W,
    piece: &Piece,
    (first_row, x): (usize, CodeRows),
    kept: *mut f32,
) {
    let tile = piece.tile;
    // The compiler shall know it.
    let x = CodeRows { n_rows: R, ..x };
    // SAFETY: tile and blocks lie inside the matrix and the group; the rest is the caller's promise.
    unsafe {
        let mut totals = totals_before::<T, R>(t, piece, kept);
        for block in piece.inputs.start / BLOCK..piece.inputs.end / BLOCK {
            w.add_block(t, tile, block, &x, &mut totals);
        }
        if piece.inputs.end == task.w.stride() {
            for total in &mut totals {
                *total = w.finish(t, tile, *total);
            }
            store(t, task, tile, first_row, totals);
        } else {
            keep(t, totals, kept);
        }
    }
}

/// Keeps the sums of a group for its next piece.
///
/// # Safety
/// There is room for `[R][TILE_ROWS]`.
#[inline(always)]
unsafe fn keep<T: Tile, const R: usize>(t: T, totals: [T::Wide; R], kept: *mut f32) {
    for (r, total) in totals.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { t.wide_store(kept.add(r * TILE_ROWS), total) };
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
