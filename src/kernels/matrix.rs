//! Weight matrices as the kernels read them: row-major `[out, in]`, every row padded with zeros to a
//! multiple of [`ROW_ALIGN`] elements (the engine file's layout), so that no kernel has a tail along the input.

use half::f16;

pub use crate::format::engine::{ROW_ALIGN, row_stride};

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
    /// `q` `[n_rows, stride / 2]` in blocks of 32 elements, 16 bytes (byte j: element j low, j + 16 high,
    /// biased by 8), `scale` `[n_rows, stride / group]`; a weight is `(q - 8) * scale`.
    I4 { q: &'a [u8], scale: &'a [f16], group: usize },
}

impl<'a> Matrix<'a> {
    /// `None` when a slice's length does not fit the shape, or the shape breaks the padding rule.
    pub fn new(values: Values<'a>, n_rows: usize, stride: usize) -> Option<Self> {
        let n = n_rows.checked_mul(stride)?;
        let fits = match values {
            Values::F32(v) => v.len() == n,
            Values::F16(v) => v.len() == n,
            Values::I8 { q, scale } => q.len() == n && scale.len() == n_rows,
            Values::I4 { q, scale, group } => {
                group != 0
                    && group.is_multiple_of(ROW_ALIGN)
                    && stride.is_multiple_of(group)
                    && q.len() == n / 2
                    && scale.len() == n / group
            }
        };
        (fits && stride != 0 && stride.is_multiple_of(ROW_ALIGN)).then_some(Self { values, n_rows, stride })
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
