//! How the matrices of an engine are stored: which tensors, of which types and shapes.
//!
//! A matrix `X.weight` has rows of [`row_stride`] elements, stored in tiles. The tensors beside it tell what it is, so an
//! engine is read without a list of kinds. What a quantized checkpoint holds is kept as it is: its own scales
//! and zeros, the factors of a layer's inputs and the order of its inputs.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::Dtype;

use super::kept::KeptBlocks;
use super::levels::Levels;
use super::precision::{Precision, row_stride, scale_name};
use super::tiles::{TILE_ROWS, Weave, n_tiles};

/// Elements that share a scale and a minimum of int4.
pub const AFFINE_GROUP: usize = 32;
/// The code of zero in int4, where a group has no zero of its own.
pub const INT4_MIDDLE: u8 = 8;
/// Elements that share one scale of NVFP4.
pub const NVFP4_GROUP: usize = 16;
/// Elements that share one scale of MXFP8.
pub const MXFP8_GROUP: usize = 32;

/// How the numbers of a matrix are stored; the order of elements is told by [`super::tiles`], and `t` is the number of
/// tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// F32 `[t, stride, 16]`.
    F32,
    /// F16 `[t, stride, 16]`.
    F16,
    /// I8 `[t, stride / 4, 16, 4]` and F32 `[t, 16]` named `X.weight_scale`; `w = q * scale`.
    Int8,
    /// I8 `[t, stride / 4, 16, 4]` and F32 `[t, stride / group, 16]` named `X.weight_scale`; with zeros F32 of the same
    /// shape named `X.weight_zero`, whole numbers of -128..=128. `w = (q - zero) * scale`, and 0 is the zero where none
    /// is stored.
    Int8Groups { group: usize, zeros: Zeros },
    /// U8 `[t, stride / 8, 16, 4]`, nibbles of 0..=15, and `[t, stride / group, 16]` named `X.weight_scale`; with
    /// zeros U8 of the same shape named `X.weight_zero`, 0..=16.
    /// `w = (nibble - zero) * scale`, and 8 is the zero where none is stored.
    Int4 { group: usize, scales: ScaleType, zeros: Zeros },
    /// U8 `[t, stride / 8, 16, 4]`, nibbles of 0..=15, U8 `[t, stride / 32, 2, 16]` named `X.weight_scale`: scales
    /// and minima, and F32 `[t, 2, 16]` named `X.weight_scale_2`: factors of rows, and of their minima;
    /// `w = factor[0] * (scale * nibble - factor[1] * minimum)`.
    Affine,
    /// F8_E4M3 `[t, stride, 16]` and F32 `[t, 16]` named `X.weight_scale`; `w = q * scale`.
    Fp8,
    /// F8_E4M3 `[t, stride, 16]` and F32 `[t, stride / group, 16]` named `X.weight_scale`; `w = q * scale`.
    Fp8Groups { group: usize },
    /// F8_E4M3 `[t, stride, 16]` and F8_E8M0 `[t, stride / 32, 16]` named `X.weight_scale`;
    /// `w = q * 2^(scale - 127)`.
    Mxfp8,
    /// F4 (E2M1) `[t, stride / 8, 16, 8]`, F8_E4M3 `[t, stride / 16, 16]` named `X.weight_scale` and F32 `[t, 16]`
    /// named `X.weight_scale_2`; `w = q * scale * scale_2`.
    Nvfp4,
    /// U8 `[t, stride / 8, 16, 4]`, nibbles, F32 `[t, stride / group, 16]` named `X.weight_scale` and F32 `[16]` named
    /// `X.weight_levels`; `w = levels[nibble] * scale`.
    Levels { group: usize, levels: Levels },
    /// Blocks of a GGUF file.
    Kept(KeptBlocks),
}

/// Type of the scales of int4 groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScaleType {
    F16,
    F32,
}

/// Whether groups have zeros of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zeros {
    /// The middle of the codes.
    Middle,
    Stored,
}

/// How a matrix is stored, and what happens to the inputs of its layer first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Storage {
    pub kind: Kind,
    /// Inputs are multiplied by F32 `[in]` named `X.pre_quant_scale`. An adapter sees them unscaled.
    pub has_input_scale: bool,
    /// Stored column j belongs to input `order[j]`: U32 `[in]` named `X.input_order`. An adapter sees the
    /// inputs in their own order.
    pub has_input_order: bool,
}

impl Storage {
    /// Whether the inputs are changed before they meet the matrix.
    pub fn changes_inputs(self) -> bool {
        self.has_input_scale || self.has_input_order
    }
}

impl From<Kind> for Storage {
    fn from(kind: Kind) -> Self {
        Self { kind, has_input_scale: false, has_input_order: false }
    }
}

/// A tensor as the file holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Stored {
    pub fn n_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// `X.weight` to `X.weight_scale_2`.
pub fn row_scale_name(weight: &str) -> String {
    format!("{weight}_scale_2")
}

/// `X.weight` to `X.weight_zero`.
pub fn zero_name(weight: &str) -> String {
    format!("{weight}_zero")
}

/// `X.weight` to `X.weight_levels`.
pub fn levels_name(weight: &str) -> String {
    format!("{weight}_levels")
}

/// `X.weight` to `X.pre_quant_scale`.
pub fn input_scale_name(weight: &str) -> String {
    format!("{}.pre_quant_scale", weight.strip_suffix(".weight").unwrap_or(weight))
}

/// `X.weight` to `X.input_order`.
pub fn input_order_name(weight: &str) -> String {
    format!("{}.input_order", weight.strip_suffix(".weight").unwrap_or(weight))
}

impl Kind {
    /// What `build` makes of numbers at a precision; of [`Precision::Stored`] f16, as of plain numbers.
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Kind::F32,
            Precision::F16 | Precision::Stored => Kind::F16,
            Precision::Int8 => Kind::Int8,
            Precision::Int4 => Kind::Affine,
        }
    }

    /// The order of the elements of a tile.
    pub fn weave(self) -> Weave {
        match self {
            Kind::F32 => Weave::Elements(4),
            Kind::F16 => Weave::Elements(2),
            Kind::Fp8 | Kind::Fp8Groups { .. } | Kind::Mxfp8 => Weave::Elements(1),
            Kind::Int8 | Kind::Int8Groups { .. } => Weave::Quads,
            Kind::Int4 { .. } | Kind::Affine | Kind::Nvfp4 | Kind::Levels { .. } => Weave::Nibbles,
            Kind::Kept(blocks) => Weave::Planes { bits: blocks.bits() },
        }
    }

    /// Bytes of a scale.
    pub fn scale_bytes(self) -> usize {
        match self {
            Kind::Int4 { scales: ScaleType::F16, .. } => 2,
            Kind::Affine | Kind::Mxfp8 | Kind::Nvfp4 => 1,
            Kind::Kept(blocks) => blocks.scale_bytes(),
            _ => 4,
        }
    }

    /// Bytes of what stands beside the scales: zeros of groups, or factors of rows or scales.
    pub fn extra_bytes(self) -> usize {
        match self {
            Kind::Affine | Kind::Nvfp4 | Kind::Int8Groups { .. } => 4,
            Kind::Kept(_) => 2,
            _ => 1,
        }
    }

    /// Inputs of a row that share a scale, where the kind leaves it open.
    pub fn group(self) -> Option<usize> {
        match self {
            Kind::Int4 { group, .. }
            | Kind::Int8Groups { group, .. }
            | Kind::Fp8Groups { group }
            | Kind::Levels { group, .. } => Some(group),
            _ => None,
        }
    }

    /// `int4`, `fp8`: without the details.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::F16 => "f16",
            Kind::Int8 | Kind::Int8Groups { .. } => "int8",
            Kind::Int4 { .. } | Kind::Affine => "int4",
            Kind::Fp8 | Kind::Fp8Groups { .. } => "fp8",
            Kind::Mxfp8 => "mxfp8",
            Kind::Nvfp4 => "nvfp4",
            Kind::Levels { levels, .. } => levels.name(),
            Kind::Kept(blocks) => blocks.name(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if *self == Kind::Affine {
            write!(f, " in blocks of {AFFINE_GROUP} with minima")?;
        }
        if let Some(group) = self.group() {
            write!(f, " in groups of {group}")?;
        }
        if let Kind::Int4 { zeros: Zeros::Stored, .. } | Kind::Int8Groups { zeros: Zeros::Stored, .. } = self
        {
            f.write_str(" with zeros")?;
        }
        Ok(())
    }
}

impl Storage {
    /// The stored tensors of a matrix, in file order.
    pub fn tensors(&self, name: &str, shape: MatrixShape) -> Vec<Stored> {
        let one = |name: String, dtype, shape| Stored { name, dtype, shape };
        let MatrixShape { columns, .. } = shape;
        let (t, stride) = (shape.n_tiles(), row_stride(columns));
        let weight = |dtype, shape: &[usize]| one(name.to_owned(), dtype, [&[t], shape].concat());
        let scale = |dtype, n_groups| one(scale_name(name), dtype, vec![t, n_groups, TILE_ROWS]);
        let row_scale = |name| one(name, Dtype::F32, vec![t, TILE_ROWS]);
        let numbers = [stride, TILE_ROWS];
        let nibbles = |per_row| [stride / 8, TILE_ROWS, per_row];
        let mut tensors = match self.kind {
            Kind::F32 => vec![weight(Dtype::F32, &numbers)],
            Kind::F16 => vec![weight(Dtype::F16, &numbers)],
            Kind::Int8 => vec![weight(Dtype::I8, &[stride / 4, TILE_ROWS, 4]), row_scale(scale_name(name))],
            Kind::Int8Groups { group, zeros } => {
                let n_groups = stride / group;
                let quads = [stride / 4, TILE_ROWS, 4];
                let mut tensors = vec![weight(Dtype::I8, &quads), scale(Dtype::F32, n_groups)];
                if zeros == Zeros::Stored {
                    tensors.push(one(zero_name(name), Dtype::F32, vec![t, n_groups, TILE_ROWS]));
                }
                tensors
            }
            Kind::Int4 { group, scales, zeros } => {
                let n_groups = stride / group;
                let dtype = match scales {
                    ScaleType::F16 => Dtype::F16,
                    ScaleType::F32 => Dtype::F32,
                };
                let mut tensors = vec![weight(Dtype::U8, &nibbles(4)), scale(dtype, n_groups)];
                if zeros == Zeros::Stored {
                    tensors.push(one(zero_name(name), Dtype::U8, vec![t, n_groups, TILE_ROWS]));
                }
                tensors
            }
            Kind::Affine => vec![
                weight(Dtype::U8, &nibbles(4)),
                one(scale_name(name), Dtype::U8, vec![t, stride / AFFINE_GROUP, 2, TILE_ROWS]),
                one(row_scale_name(name), Dtype::F32, vec![t, 2, TILE_ROWS]),
            ],
            Kind::Fp8 => vec![weight(Dtype::F8_E4M3, &numbers), row_scale(scale_name(name))],
            Kind::Fp8Groups { group } => {
                vec![weight(Dtype::F8_E4M3, &numbers), scale(Dtype::F32, stride / group)]
            }
            Kind::Mxfp8 => {
                vec![weight(Dtype::F8_E4M3, &numbers), scale(Dtype::F8_E8M0, stride / MXFP8_GROUP)]
            }
            Kind::Nvfp4 => vec![
                weight(Dtype::F4, &nibbles(8)),
                scale(Dtype::F8_E4M3, stride / NVFP4_GROUP),
                row_scale(row_scale_name(name)),
            ],
            Kind::Levels { group, levels } => vec![
                weight(Dtype::U8, &nibbles(4)),
                scale(Dtype::F32, stride / group),
                one(levels_name(name), Dtype::F32, vec![levels.table().len()]),
            ],
            Kind::Kept(blocks) => {
                let names = [name.to_owned(), scale_name(name), row_scale_name(name)];
                let stored = names.into_iter().zip(blocks.tensors(stride));
                stored.map(|(name, (dtype, shape))| one(name, dtype, [&[t], &shape[..]].concat())).collect()
            }
        };
        if self.has_input_scale {
            tensors.push(one(input_scale_name(name), Dtype::F32, vec![columns]));
        }
        if self.has_input_order {
            tensors.push(one(input_order_name(name), Dtype::U32, vec![columns]));
        }
        tensors
    }
}

/// Logical size of a matrix, or of matrices of one size that are stored one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixShape {
    pub n_parts: usize,
    /// Of each part.
    pub rows: usize,
    pub columns: usize,
}

impl MatrixShape {
    /// Each part begins with a tile of its own.
    pub fn n_tiles(self) -> usize {
        self.n_parts * n_tiles(self.rows)
    }
}

impl From<(usize, usize)> for MatrixShape {
    /// One matrix of `(rows, columns)`.
    fn from((rows, columns): (usize, usize)) -> Self {
        Self { n_parts: 1, rows, columns }
    }
}

/// `4 int4 in groups of 128, 1 int8`, by the number of matrices.
pub fn kinds_text(kinds: impl Iterator<Item = Kind>) -> String {
    let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
    kinds.for_each(|kind| *counts.entry(kind).or_default() += 1);
    let mut counts: Vec<(Kind, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    let parts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    parts.join(", ")
}
