//! Weight matrices as the kernels read them: row-major `[out, in]`, every row padded with zeros to a
//! multiple of [`ROW_ALIGN`] elements (the engine file's layout), so that no kernel has a tail along the input.

use std::ops::Range;

use half::f16;

pub use crate::format::precision::{ROW_ALIGN, row_stride};
pub use crate::format::storage::{MXFP8_GROUP, NVFP4_GROUP};

/// A borrowed weight matrix `[n_rows, stride]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: Values<'a>,
    n_rows: usize,
    stride: usize,
}

/// The elements of a [`Matrix`], row-major.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// `[n_rows, stride]`
    F32(&'a [f32]),
    /// `[n_rows, stride]`
    F16(&'a [f16]),
    /// `q` `[n_rows, stride]`, `scale` `[n_rows]`; a weight is `q * scale`.
    I8 { q: &'a [i8], scale: &'a [f32] },
    /// `q` `[n_rows, stride / 2]` in blocks of 32 elements, 16 bytes (byte j: element j low, j + 16 high),
    /// `scale` and `zero` `[n_rows, stride / group]`; a weight is `(q - zero) * scale`. No zeros: all are 8.
    I4 { q: &'a [u8], scale: GroupScales<'a>, zero: Option<&'a [u8]>, group: usize },
    /// `q` `[n_rows, stride]` E4M3, `scale` `[n_rows]`; a weight is `q * scale`.
    Fp8 { q: &'a [u8], scale: &'a [f32] },
    /// `q` `[n_rows, stride]` E4M3, `scale` `[n_rows, stride / 32]` E8M0; a weight is `q * scale`.
    Mxfp8 { q: &'a [u8], scale: &'a [u8] },
    /// `q` `[n_rows, stride / 2]` E2M1 in blocks as of int4, `scale` `[n_rows, stride / 16]` E4M3,
    /// `row_scale` `[n_rows]`; a weight is `q * scale * row_scale`.
    Nvfp4 { q: &'a [u8], scale: &'a [u8], row_scale: &'a [f32] },
}

/// Scales of int4 groups.
#[derive(Clone, Copy)]
pub enum GroupScales<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

impl GroupScales<'_> {
    fn len(&self) -> usize {
        match self {
            GroupScales::F16(scale) => scale.len(),
            GroupScales::F32(scale) => scale.len(),
        }
    }
}

impl<'a> Matrix<'a> {
    /// `None` when a slice's length does not fit the shape, or the shape breaks the padding rule.
    pub fn new(values: Values<'a>, n_rows: usize, stride: usize) -> Option<Self> {
        let n = n_rows.checked_mul(stride)?;
        let fits = match values {
            Values::F32(v) => v.len() == n,
            Values::F16(v) => v.len() == n,
            Values::I8 { q, scale } => q.len() == n && scale.len() == n_rows,
            Values::I4 { q, scale, zero, group } => {
                group != 0
                    && group.is_multiple_of(ROW_ALIGN)
                    && stride.is_multiple_of(group)
                    && q.len() == n / 2
                    && scale.len() == n / group
                    && zero.is_none_or(|zero| zero.len() == n / group)
            }
            Values::Fp8 { q, scale } => q.len() == n && scale.len() == n_rows,
            Values::Mxfp8 { q, scale } => q.len() == n && scale.len() == n / MXFP8_GROUP,
            Values::Nvfp4 { q, scale, row_scale } => {
                q.len() == n / 2 && scale.len() == n / NVFP4_GROUP && row_scale.len() == n_rows
            }
        };
        (fits && stride != 0 && stride.is_multiple_of(ROW_ALIGN)).then_some(Self { values, n_rows, stride })
    }

    /// Some rows alone, as one of the matrices that are stacked in this one. They lie inside it.
    pub fn slice(self, rows: Range<usize>) -> Self {
        let elements = rows.start * self.stride..rows.end * self.stride;
        let values = match self.values {
            Values::F32(v) => Values::F32(&v[elements]),
            Values::F16(v) => Values::F16(&v[elements]),
            Values::I8 { q, scale } => Values::I8 { q: &q[elements], scale: &scale[rows.clone()] },
            Values::I4 { q, scale, zero, group } => {
                let groups = elements.start / group..elements.end / group;
                Values::I4 {
                    q: &q[elements.start / 2..elements.end / 2],
                    scale: match scale {
                        GroupScales::F16(scale) => GroupScales::F16(&scale[groups.clone()]),
                        GroupScales::F32(scale) => GroupScales::F32(&scale[groups.clone()]),
                    },
                    zero: zero.map(|zero| &zero[groups]),
                    group,
                }
            }
            Values::Fp8 { q, scale } => Values::Fp8 { q: &q[elements], scale: &scale[rows.clone()] },
            Values::Mxfp8 { q, scale } => Values::Mxfp8 {
                q: &q[elements.clone()],
                scale: &scale[elements.start / MXFP8_GROUP..elements.end / MXFP8_GROUP],
            },
            Values::Nvfp4 { q, scale, row_scale } => Values::Nvfp4 {
                q: &q[elements.start / 2..elements.end / 2],
                scale: &scale[elements.start / NVFP4_GROUP..elements.end / NVFP4_GROUP],
                row_scale: &row_scale[rows.clone()],
            },
        };
        Self { values, n_rows: rows.len(), stride: self.stride }
    }

    pub fn values(&self) -> Values<'a> {
        self.values
    }

    /// Output features.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Elements of a stored row.
    pub fn stride(&self) -> usize {
        self.stride
    }
}
