//! Weight matrices as the kernels read them: sixteen rows side by side (a tile), every row padded with zeros to a
//! multiple of [`ROW_ALIGN`] elements, the last tile filled up with rows of zeros. So no kernel has a tail, and a
//! tile is read from its first byte to its last.
//!
//! Numbers of a tile lie as `[stride][16]`; bytes of codes as `[stride / 4][16][4]`; nibbles as
//! `[stride / 8][16][4]` bytes, of eight inputs the first four in the low nibbles. Scales of groups lie as
//! `[n_groups][16]`. Codes of five and six bits are planes of four bytes a row. This is the engine file's layout:
//! [`crate::numbers::tiles`].

use std::ops::Range;

use half::f16;

use super::minifloat::{e4m3, e8m0};
use super::tile::{BLOCK, E2M1_DOUBLED, TILE_ROWS};
use crate::numbers::kept::{KEPT_GROUP, Q5_0_MIDDLE, Q6_K_GROUP, Q6_K_MIDDLE, SUPER_BLOCK};
pub use crate::numbers::kind::{AFFINE_GROUP, MXFP8_GROUP, NVFP4_GROUP};
pub use crate::numbers::precision::{ROW_ALIGN, row_stride};
use crate::numbers::tiles::n_tiles;

/// A borrowed weight matrix of `n_rows` rows, in tiles.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: Values<'a>,
    n_rows: usize,
    stride: usize,
}

/// The elements of a [`Matrix`], tile after tile.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// One scale a row; a weight is `q * scale`.
    I8 {
        q: &'a [i8],
        scale: &'a [f32],
    },
    /// A weight is `(q - zero) * scale` of its group. No zeros: all are 0.
    I8Groups {
        q: &'a [i8],
        scale: &'a [f32],
        zero: Option<&'a [f32]>,
        group: usize,
    },
    /// A weight is `(q - zero) * scale` of its group. No zeros: all are 8.
    I4 {
        q: &'a [u8],
        scale: GroupScales<'a>,
        zero: Option<&'a [u8]>,
        group: usize,
    },
    /// Per 32 inputs 16 scales, then 16 minima; per tile 16 factors of rows, then 16 of their minima: a weight is
    /// `factor * (scale * q - factor of the minimum * minimum)`.
    Affine {
        q: &'a [u8],
        scale: &'a [u8],
        factor: &'a [f32],
    },
    /// E4M3, one scale a row; a weight is `q * scale`.
    Fp8 {
        q: &'a [u8],
        scale: &'a [f32],
    },
    /// E4M3; a weight is `q * scale` of its group.
    Fp8Groups {
        q: &'a [u8],
        scale: &'a [f32],
        group: usize,
    },
    /// E4M3, one E8M0 scale per 32 inputs; a weight is `q * scale`.
    Mxfp8 {
        q: &'a [u8],
        scale: &'a [u8],
    },
    /// E2M1 nibbles, one E4M3 scale per 16 inputs, one f32 a row; a weight is `q * scale * row_scale`.
    Nvfp4 {
        q: &'a [u8],
        scale: &'a [u8],
        row_scale: &'a [f32],
    },
    /// Nibbles; a weight is `levels[q] * scale` of its group. `levels` are sixteen.
    Levels {
        q: &'a [u8],
        levels: &'a [f32],
        scale: &'a [f32],
        group: usize,
    },
    /// Codes of four or five bits; a weight is `scale * q + offset` of its block of 32.
    Lines {
        q: &'a [u8],
        bits: LineBits,
        scales: LineScales<'a>,
    },
    /// Codes of six bits; a weight is `factor * scale * (q - 32)`: an I8 scale per 16 inputs, an F16 factor per 256.
    Sixes {
        q: &'a [u8],
        scale: &'a [i8],
        factor: &'a [f16],
    },
}

/// Bits of a code that has a scale and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineBits {
    Four,
    Five,
}

/// Scales and offsets of blocks of 32.
#[derive(Clone, Copy)]
pub enum LineScales<'a> {
    /// `[n_blocks][16]`; offsets are -16 times the scales.
    Middle(&'a [f16]),
    /// `[n_blocks][2][16]`: scales, then offsets.
    Pairs(&'a [f16]),
    /// `[n_blocks][2][16]` bytes, and `[n_blocks / 8][2][16]` factors of them.
    Super { scale: &'a [u8], factor: &'a [f16] },
}

/// Scales of int4 groups.
#[derive(Clone, Copy)]
pub enum GroupScales<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

/// What rows of activations become before they meet a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partner {
    F32,
    /// Codes of eight bits with a scale per block.
    I8,
}

impl LineBits {
    pub fn count(self) -> usize {
        match self {
            LineBits::Four => 4,
            LineBits::Five => 5,
        }
    }
}

impl LineScales<'_> {
    /// Whether they are those of `n` elements in rows of `stride`.
    fn fit(self, n: usize, stride: usize) -> bool {
        match self {
            LineScales::Middle(scale) => scale.len() == n / KEPT_GROUP,
            LineScales::Pairs(pairs) => pairs.len() == n / KEPT_GROUP * 2,
            LineScales::Super { scale, factor } => {
                stride.is_multiple_of(SUPER_BLOCK)
                    && scale.len() == n / KEPT_GROUP * 2
                    && factor.len() == n / SUPER_BLOCK * 2
            }
        }
    }

    /// `part` gives the elements of a part that is one of so many.
    fn part(self, part: impl Fn(usize) -> Range<usize>) -> Self {
        match self {
            LineScales::Middle(scale) => LineScales::Middle(&scale[part(KEPT_GROUP)]),
            LineScales::Pairs(pairs) => LineScales::Pairs(&pairs[part(KEPT_GROUP / 2)]),
            LineScales::Super { scale, factor } => LineScales::Super {
                scale: &scale[part(KEPT_GROUP / 2)],
                factor: &factor[part(SUPER_BLOCK / 2)],
            },
        }
    }

    /// Scale and offset of a lane; `block` counts blocks of all tiles.
    fn get(self, block: usize, lane: usize) -> [f32; 2] {
        let first = block * 2 * TILE_ROWS + lane;
        let pair = [first, first + TILE_ROWS];
        match self {
            LineScales::Middle(scale) => {
                let scale = scale[block * TILE_ROWS + lane].to_f32();
                [scale, scale * -f32::from(Q5_0_MIDDLE)]
            }
            LineScales::Pairs(pairs) => pair.map(|at| pairs[at].to_f32()),
            LineScales::Super { scale, factor } => {
                let first = block / (SUPER_BLOCK / KEPT_GROUP) * 2 * TILE_ROWS + lane;
                [(pair[0], first), (pair[1], first + TILE_ROWS)]
                    .map(|(at, of)| f32::from(scale[at]) * factor[of].to_f32())
            }
        }
    }
}

impl GroupScales<'_> {
    fn len(self) -> usize {
        match self {
            GroupScales::F16(scale) => scale.len(),
            GroupScales::F32(scale) => scale.len(),
        }
    }

    fn part(self, range: Range<usize>) -> Self {
        match self {
            GroupScales::F16(scale) => GroupScales::F16(&scale[range]),
            GroupScales::F32(scale) => GroupScales::F32(&scale[range]),
        }
    }

    fn get(self, index: usize) -> f32 {
        match self {
            GroupScales::F16(scale) => scale[index].to_f32(),
            GroupScales::F32(scale) => scale[index],
        }
    }
}

impl<'a> Matrix<'a> {
    /// `None` when a slice's length does not fit the shape, or the shape breaks the padding rule.
    pub fn new(values: Values<'a>, n_rows: usize, stride: usize) -> Option<Self> {
        let n_stored = n_rows.checked_next_multiple_of(TILE_ROWS)?;
        let n = n_stored.checked_mul(stride)?;
        let is_group =
            |group: usize| group != 0 && group.is_multiple_of(ROW_ALIGN) && stride.is_multiple_of(group);
        let fits = match values {
            Values::F32(v) => v.len() == n,
            Values::F16(v) => v.len() == n,
            Values::I8 { q, scale } => q.len() == n && scale.len() == n_stored,
            Values::I8Groups { q, scale, zero, group } => {
                is_group(group)
                    && q.len() == n
                    && scale.len() == n / group
                    && zero.is_none_or(|zero| zero.len() == n / group)
            }
            Values::I4 { q, scale, zero, group } => {
                is_group(group)
                    && q.len() == n / 2
                    && scale.len() == n / group
                    && zero.is_none_or(|zero| zero.len() == n / group)
            }
            Values::Affine { q, scale, factor } => {
                q.len() == n / 2 && scale.len() == n / AFFINE_GROUP * 2 && factor.len() == n_stored * 2
            }
            Values::Fp8 { q, scale } => q.len() == n && scale.len() == n_stored,
            Values::Fp8Groups { q, scale, group } => {
                is_group(group) && q.len() == n && scale.len() == n / group
            }
            Values::Mxfp8 { q, scale } => q.len() == n && scale.len() == n / MXFP8_GROUP,
            Values::Nvfp4 { q, scale, row_scale } => {
                q.len() == n / 2 && scale.len() == n / NVFP4_GROUP && row_scale.len() == n_stored
            }
            Values::Levels { q, levels, scale, group } => {
                is_group(group) && q.len() == n / 2 && scale.len() == n / group && levels.len() == 16
            }
            Values::Lines { q, bits, scales } => q.len() == n / 8 * bits.count() && scales.fit(n, stride),
            Values::Sixes { q, scale, factor } => {
                stride.is_multiple_of(SUPER_BLOCK)
                    && q.len() == n / 8 * 6
                    && scale.len() == n / Q6_K_GROUP
                    && factor.len() == n / SUPER_BLOCK
            }
        };
        (fits && stride != 0 && stride.is_multiple_of(ROW_ALIGN)).then_some(Self { values, n_rows, stride })
    }

    /// The `n_rows` rows of some tiles, as one of the matrices that are stacked in this one. They lie inside it.
    pub fn part(self, tiles: Range<usize>, n_rows: usize) -> Self {
        let rows = tiles.start * TILE_ROWS..tiles.end * TILE_ROWS;
        let part = |per: usize| rows.start * self.stride / per..rows.end * self.stride / per;
        let values = match self.values {
            Values::F32(v) => Values::F32(&v[part(1)]),
            Values::F16(v) => Values::F16(&v[part(1)]),
            Values::I8 { q, scale } => Values::I8 { q: &q[part(1)], scale: &scale[rows.clone()] },
            Values::I8Groups { q, scale, zero, group } => Values::I8Groups {
                q: &q[part(1)],
                scale: &scale[part(group)],
                zero: zero.map(|zero| &zero[part(group)]),
                group,
            },
            Values::I4 { q, scale, zero, group } => Values::I4 {
                q: &q[part(2)],
                scale: scale.part(part(group)),
                zero: zero.map(|zero| &zero[part(group)]),
                group,
            },
            Values::Affine { q, scale, factor } => Values::Affine {
                q: &q[part(2)],
                scale: &scale[part(AFFINE_GROUP / 2)],
                factor: &factor[rows.start * 2..rows.end * 2],
            },
            Values::Fp8 { q, scale } => Values::Fp8 { q: &q[part(1)], scale: &scale[rows.clone()] },
            Values::Fp8Groups { q, scale, group } => {
                Values::Fp8Groups { q: &q[part(1)], scale: &scale[part(group)], group }
            }
            Values::Mxfp8 { q, scale } => Values::Mxfp8 { q: &q[part(1)], scale: &scale[part(MXFP8_GROUP)] },
            Values::Nvfp4 { q, scale, row_scale } => Values::Nvfp4 {
                q: &q[part(2)],
                scale: &scale[part(NVFP4_GROUP)],
                row_scale: &row_scale[rows.clone()],
            },
            Values::Levels { q, levels, scale, group } => {
                Values::Levels { q: &q[part(2)], levels, scale: &scale[part(group)], group }
            }
            Values::Lines { q, bits, scales } => {
                let bytes = part(8);
                let q = &q[bytes.start * bits.count()..bytes.end * bits.count()];
                Values::Lines { q, bits, scales: scales.part(part) }
            }
            Values::Sixes { q, scale, factor } => Values::Sixes {
                q: &q[part(8).start * 6..part(8).end * 6],
                scale: &scale[part(Q6_K_GROUP)],
                factor: &factor[part(SUPER_BLOCK)],
            },
        };
        assert!(n_tiles(n_rows) == tiles.len());
        Self { values, n_rows, stride: self.stride }
    }

    pub fn values(&self) -> Values<'a> {
        self.values
    }

    /// Output features.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Tiles that the rows are stored in.
    pub fn n_tiles(&self) -> usize {
        n_tiles(self.n_rows)
    }

    /// Elements of a stored row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// What it is multiplied with.
    pub fn partner(&self) -> Partner {
        match self.values {
            Values::I8 { .. }
            | Values::I8Groups { .. }
            | Values::I4 { .. }
            | Values::Affine { .. }
            | Values::Nvfp4 { .. }
            | Values::Lines { .. }
            | Values::Sixes { .. } => Partner::I8,
            Values::F32(_)
            | Values::F16(_)
            | Values::Fp8 { .. }
            | Values::Fp8Groups { .. }
            | Values::Mxfp8 { .. }
            | Values::Levels { .. } => Partner::F32,
        }
    }

    /// Writes one row as f32 to `out`, `[stride]`.
    ///
    /// # Panics
    /// When the row lies outside the matrix, or `out` has another length.
    pub fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        assert!(row_idx < self.n_rows && out.len() == self.stride);
        let (tile, lane) = (row_idx / TILE_ROWS, row_idx % TILE_ROWS);
        let number = |k: usize| tile * TILE_ROWS * self.stride + k * TILE_ROWS + lane;
        let byte = |k: usize| tile * TILE_ROWS * self.stride + k / 4 * 64 + lane * 4 + k % 4;
        let nibble = |q: &[u8], k: usize| {
            let byte = q[tile * TILE_ROWS * self.stride / 2 + k / 8 * 64 + lane * 4 + k % 4];
            if k % 8 < 4 { byte & 15 } else { byte >> 4 }
        };
        // A plane's byte for an input, the bits before its own shifted out.
        let of_plane = |q: &[u8], k: usize, plane: usize, shift: usize, n_planes: usize| {
            let block = (tile * self.stride + k) / BLOCK;
            q[(block * n_planes + plane) * 64 + lane * 4 + k % 4] >> shift
        };
        let five = |q: &[u8], k: usize| {
            let low = of_plane(q, k, k % BLOCK / 8, k / 4 % 2 * 4, 5) & 15;
            low | (of_plane(q, k, 4, k % BLOCK / 4, 5) & 1) << 4
        };
        let six = |q: &[u8], k: usize| {
            let first = k / 16 % 2 * 3;
            let low = of_plane(q, k, first + k % 16 / 8, k / 4 % 2 * 4, 6) & 15;
            low | (of_plane(q, k, first + 2, k % 16 / 4 * 2, 6) & 3) << 4
        };
        let of_group =
            |k: usize, group: usize| tile * TILE_ROWS * (self.stride / group) + k / group * TILE_ROWS + lane;
        for (k, value) in out.iter_mut().enumerate() {
            *value = match self.values {
                Values::F32(v) => v[number(k)],
                Values::F16(v) => v[number(k)].to_f32(),
                Values::I8 { q, scale } => f32::from(q[byte(k)]) * scale[row_idx],
                Values::I8Groups { q, scale, zero, group } => {
                    let zero = zero.map_or(0.0, |zero| zero[of_group(k, group)]);
                    (f32::from(q[byte(k)]) - zero) * scale[of_group(k, group)]
                }
                Values::I4 { q, scale, zero, group } => {
                    let zero = zero.map_or(8.0, |zero| f32::from(zero[of_group(k, group)]));
                    (f32::from(nibble(q, k)) - zero) * scale.get(of_group(k, group))
                }
                Values::Affine { q, scale, factor } => {
                    let n_groups = self.stride / AFFINE_GROUP;
                    let block = (tile * n_groups + k / AFFINE_GROUP) * 2 * TILE_ROWS + lane;
                    let factors = tile * 2 * TILE_ROWS + lane;
                    let minimum = f32::from(scale[block + TILE_ROWS]) * factor[factors + TILE_ROWS];
                    (f32::from(scale[block]) * f32::from(nibble(q, k)) - minimum) * factor[factors]
                }
                Values::Fp8 { q, scale } => e4m3(q[number(k)]) * scale[row_idx],
                Values::Fp8Groups { q, scale, group } => e4m3(q[number(k)]) * scale[of_group(k, group)],
                Values::Mxfp8 { q, scale } => e4m3(q[number(k)]) * e8m0(scale[of_group(k, MXFP8_GROUP)]),
                Values::Nvfp4 { q, scale, row_scale } => {
                    let half = f32::from(E2M1_DOUBLED[usize::from(nibble(q, k))]) * 0.5;
                    half * e4m3(scale[of_group(k, NVFP4_GROUP)]) * row_scale[row_idx]
                }
                Values::Levels { q, levels, scale, group } => {
                    levels[usize::from(nibble(q, k))] * scale[of_group(k, group)]
                }
                Values::Lines { q, bits, scales } => {
                    let code = if bits == LineBits::Four { nibble(q, k) } else { five(q, k) };
                    let [scale, offset] = scales.get((tile * self.stride + k) / KEPT_GROUP, lane);
                    scale * f32::from(code) + offset
                }
                Values::Sixes { q, scale, factor } => {
                    let code = f32::from(six(q, k)) - f32::from(Q6_K_MIDDLE);
                    let factor = factor[of_group(k, SUPER_BLOCK)].to_f32();
                    factor * f32::from(scale[of_group(k, Q6_K_GROUP)]) * code
                }
            };
        }
    }
}
