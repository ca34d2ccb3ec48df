//! Rows as matrices and adapters take them, kept from one call to the next.

use std::ops::Range;

use super::rows::Rows;
use crate::kernels::activations::{Codes, Panel};
use crate::kernels::matrix::Partner;
use crate::kernels::tile::BLOCK;

/// Buffers of the rows that meet matrices, kept for the next call.
#[derive(Default)]
pub struct Inputs {
    /// `[stride][R]` of each group.
    pub f32: Vec<f32>,
    pub codes: Vec<i8>,
    pub scale: Vec<f32>,
    pub sum: Vec<f32>,
    /// `h` of each update, part after part of the inputs; their sum comes to stand in the first one.
    pub hidden: Vec<f32>,
}

impl Inputs {
    /// Some rows as a matrix takes them; they begin with a group.
    pub fn panel<'a>(&'a self, x: &'a Rows, partner: Partner, rows: Range<usize>) -> Panel<'a> {
        let elements = rows.start * x.stride()..rows.end * x.stride();
        let blocks = elements.start / BLOCK..elements.end / BLOCK;
        match partner {
            Partner::F32 if x.n_rows() == 1 => Panel::F32(x.as_slice()),
            Partner::F32 => Panel::F32(&self.f32[elements]),
            Partner::I8 => Panel::I8(Codes {
                codes: &self.codes[elements],
                scale: &self.scale[blocks.clone()],
                sum: &self.sum[blocks],
            }),
        }
    }

    /// Makes `h` of an update, in the place of its first part: the parts of `len` elements from `offset` on, one after
    /// the other, times its scale.
    pub fn sum_parts(&mut self, offset: usize, len: usize, n_parts: usize, scale: f32) {
        let (h, parts) = self.hidden[offset..][..n_parts * len].split_at_mut(len);
        for part in parts.chunks_exact(len) {
            h.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        h.iter_mut().for_each(|h| *h *= scale);
    }
}

/// Makes a buffer at least that long; what it holds is lost or not.
pub fn grow<E: Clone + Default>(buffer: &mut Vec<E>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, E::default());
    }
}
