//! Rows of f32 to stored numbers and back, for each method. A row's bytes depend on the row and the coder alone.

use half::f16;

use super::codes::{code_e4m3, code_int4, code_int8, code_mxfp8, code_nvfp4};
use super::int4::Search;
use super::method::Method;
use super::packed_row::PackedRow;
use crate::format::Tensor;
use crate::numbers::feedback::Feedback;
use crate::numbers::small_floats::{E2M1_MAX, E4M3_MAX};
use crate::numbers::small_floats::{e2m1, e4m3, e8m0};
use crate::tools::weights::source::ReadRow;

/// What the coding of one matrix `[out, in]` needs to know beside its rows.
#[derive(Debug, Clone)]
pub struct Coder {
    pub method: Method,
    /// `weight_scale` of fp8, `weight_scale_2` of nvfp4; 1 for the others.
    pub matrix_scale: f32,
    /// What inputs are multiplied by, `[in]`, f16 values; weights are divided by it.
    pub pre_quant_scale: Option<Vec<f32>>,
    /// Weight of each input's squared error, `[in]`; int4 only.
    pub importance: Vec<f32>,
    pub search: Search,
    /// How rounding errors spread in each block of inputs; empty for rounding each by itself. int4 only.
    pub feedback: Vec<Option<Feedback>>,
}

impl Coder {
    /// A coder for matrices whose largest magnitude is `largest`.
    pub fn new(method: Method, largest: f32) -> Self {
        let divisor = match method {
            Method::Fp8 => E4M3_MAX,
            Method::Nvfp4 => E2M1_MAX * E4M3_MAX,
            Method::Int4Awq { .. } | Method::Int8Sq | Method::Mxfp8 => largest,
        };
        let scale = largest / divisor;
        let matrix_scale = if scale > 0.0 { scale } else { 1.0 };
        let search = Search::Plain;
        let feedback = Vec::new();
        Self { method, matrix_scale, pre_quant_scale: None, importance: Vec::new(), search, feedback }
    }

    /// Codes a row of `[in]` finite elements; `in` fits the method.
    pub fn row(&self, row: &[f32]) -> PackedRow {
        let scaled: Vec<f32>;
        let row = match &self.pre_quant_scale {
            Some(by) => {
                scaled = row.iter().zip(by).map(|(w, by)| w / by).collect();
                &scaled[..]
            }
            None => row,
        };
        match self.method {
            Method::Fp8 => code_e4m3(row, self.matrix_scale),
            Method::Int8Sq => code_int8(row),
            Method::Int4Awq { group } => code_int4(row, group, &self.importance, self.search, &self.feedback),
            Method::Nvfp4 => code_nvfp4(row, self.matrix_scale),
            Method::Mxfp8 => code_mxfp8(row),
        }
    }

    /// What a coded row means, `[in]`: the weights that stand for the original ones.
    pub fn values(&self, row: &PackedRow, out: &mut [f32]) {
        decode(self.method, (&row.codes, &row.scales), self.matrix_scale, out);
        if let Some(by) = &self.pre_quant_scale {
            out.iter_mut().zip(by).for_each(|(w, by)| *w *= by);
        }
    }
}

/// The bytes of consecutive rows in the file: two int4 rows share their bytes, the even one low.
pub fn pack(method: Method, rows: &[PackedRow]) -> Vec<u8> {
    if !method.is_int4_awq() {
        return rows.iter().flat_map(|row| &row.codes).copied().collect();
    }
    let pairs = rows.as_chunks::<2>().0.iter();
    pairs
        .flat_map(|[even, odd]| even.codes.iter().zip(&odd.codes).map(|(low, high)| low | high << 4))
        .collect()
}

/// Values of a row but for the scale of its inputs. Codes as in [`PackedRow`].
fn decode(method: Method, (codes, scales): (&[u8], &[u8]), matrix_scale: f32, out: &mut [f32]) {
    let f32_at = |block: usize| f32::from_le_bytes(scales.as_chunks::<4>().0[block]);
    let n_columns = out.len();
    let block = method.block().unwrap_or(n_columns);
    for (block_idx, values) in out.chunks_mut(block).enumerate() {
        let first = block_idx * block;
        let scale = match method {
            Method::Fp8 => matrix_scale,
            Method::Int8Sq | Method::Int4Awq { .. } => f32_at(block_idx),
            Method::Nvfp4 => e4m3(scales[block_idx]) * matrix_scale,
            Method::Mxfp8 => e8m0(scales[block_idx]),
        };
        for (i, value) in values.iter_mut().enumerate() {
            let column = first + i;
            *value = scale
                * match method {
                    Method::Fp8 | Method::Mxfp8 => e4m3(codes[column]),
                    Method::Int8Sq => f32::from(codes[column].cast_signed()),
                    // The sign is the nibble's own: shifted up and down again.
                    Method::Int4Awq { .. } => f32::from((codes[column] << 4).cast_signed() >> 4),
                    Method::Nvfp4 => e2m1(codes[column / 2] >> (column % 2 * 4)),
                };
        }
    }
}

/// A matrix of a quantized checkpoint, read as the weights that it stands for.
pub struct Dequantized {
    pub method: Method,
    /// As [`Method::weight`] says.
    pub weight: Tensor,
    /// As [`Method::scale`] says.
    pub scale: Tensor,
    pub matrix_scale: f32,
    /// F16 `[in]`
    pub pre_quant_scale: Option<Tensor>,
    pub n_columns: usize,
}

impl ReadRow for Dequantized {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let out = &mut out[..self.n_columns];
        let scale_bytes = match self.scale.shape().first() {
            Some(n_rows) => self.scale.data().len() / n_rows,
            None => 0,
        };
        let scales = &self.scale.data()[row_idx * scale_bytes..][..scale_bytes];
        let is_paired = self.method.is_int4_awq();
        let code_bytes = if self.method == Method::Nvfp4 { self.n_columns / 2 } else { self.n_columns };
        let stored_row = if is_paired { row_idx / 2 } else { row_idx };
        let codes = &self.weight.data()[stored_row * code_bytes..][..code_bytes];
        if is_paired {
            let shift = row_idx % 2 * 4;
            let codes: Vec<u8> = codes.iter().map(|byte| byte >> shift & 15).collect();
            decode(self.method, (&codes, scales), self.matrix_scale, out);
        } else {
            decode(self.method, (codes, scales), self.matrix_scale, out);
        }
        if let Some(by) = &self.pre_quant_scale {
            for (w, two) in out.iter_mut().zip(by.data().as_chunks::<2>().0) {
                *w *= f16::from_le_bytes(*two).to_f32();
            }
        }
    }
}
