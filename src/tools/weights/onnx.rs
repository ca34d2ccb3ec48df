//! The tensors of an ONNX directory as rows: matrices stored by columns, cut out of fused ones, or in few bits.

use half::f16;

use super::onnx_files::OnnxFiles;
use super::onnx_scaled::scaled_rows;
use super::quantized_rows::{CodeLayout, QuantizedRows, Scales, int4_kind};
use super::source::{Decoder, ReadRow, RowSource, decoder};
use crate::format::onnx::{Int4Packing, Int4Weight, Linear, LinearWeight, StoredTensor};
use crate::format::{FormatError, Tensor};
use crate::numbers::Storage;
use crate::tools::ToolError;

impl OnnxFiles {
    /// A vector of known length, such as a norm's weight.
    ///
    /// # Errors
    /// As [`OnnxFiles::tensor`]; [`FormatError::Shape`].
    pub fn vector(&self, stored: &StoredTensor, len: usize) -> Result<RowSource, ToolError> {
        let tensor = self.tensor(stored)?;
        RowSource::new(stored.name, tensor, &[len]).map_err(|error| self.format_error(error))
    }

    /// The bias of a linear layer, or its part of a fused one.
    ///
    /// # Errors
    /// As [`OnnxFiles::vector`].
    pub fn bias(&self, linear: &Linear, bias: &StoredTensor) -> Result<RowSource, ToolError> {
        let tensor = self.tensor(bias)?;
        let n = linear.weight.shape().map_or(0, |(n, _)| n);
        if tensor.shape() != [n] || linear.rows.end > n {
            let (name, found) = (bias.name.to_owned(), tensor.shape().to_vec());
            return Err(self.format_error(FormatError::Shape { name, wanted: vec![n], found }));
        }
        let decode = self.decoder(bias.name, &tensor)?;
        let first = linear.rows.start;
        Ok(RowSource::of(Slice { tensor, decode, first, len: linear.rows.len() }))
    }

    /// The weight of a linear layer with `out` outputs and `k` inputs, one output a row.
    ///
    /// # Errors
    /// As [`OnnxFiles::tensor`]; [`FormatError::Shape`].
    pub fn matrix(&self, linear: &Linear, out: usize, k: usize) -> Result<RowSource, ToolError> {
        let wrong_shape = |name: &str, found: &[usize]| {
            let (name, wanted, found) = (name.to_owned(), vec![k, out], found.to_vec());
            self.format_error(FormatError::Shape { name, wanted, found })
        };
        match &linear.weight {
            LinearWeight::Columns(stored) => {
                let tensor = self.tensor(stored)?;
                let n = tensor.shape().last().copied().unwrap_or(0);
                if tensor.shape() != [k, n] || linear.rows.len() != out || linear.rows.end > n {
                    return Err(wrong_shape(stored.name, tensor.shape()));
                }
                let decode = self.decoder(stored.name, &tensor)?;
                Ok(RowSource::of(Columns { tensor, decode, n, first: linear.rows.start, k }))
            }
            LinearWeight::Rows(stored) => {
                let tensor = self.tensor(stored)?;
                let (found, rows) = (tensor.shape().to_vec(), linear.rows.clone());
                if found != [out, k] || rows != (0..out) {
                    return Err(wrong_shape(stored.name, &found));
                }
                RowSource::new(stored.name, tensor, &[out, k]).map_err(|error| self.format_error(error))
            }
            LinearWeight::Int4(weight) => {
                if (weight.n, weight.k, linear.rows.clone()) != (out, k, 0..out) {
                    return Err(wrong_shape(weight.packed.name, &[weight.k, weight.n]));
                }
                self.nibbles(weight, self.input_scale(linear, k)?)
            }
            LinearWeight::Scaled(weight) => {
                let n = weight.shape().filter(|(_, found)| *found == k).map_or(0, |(n, _)| n);
                if linear.rows.len() != out || linear.rows.end > n {
                    return Err(wrong_shape(weight.values.name, &weight.values.dims));
                }
                scaled_rows(self, weight, linear.rows.start, self.input_scale(linear, k)?)
            }
        }
    }

    fn decoder(&self, name: &str, tensor: &Tensor) -> Result<Decoder, ToolError> {
        decoder(tensor.dtype()).ok_or_else(|| {
            let (name, found) = (name.to_owned(), format!("{:?}", tensor.dtype()));
            self.format_error(FormatError::Dtype { name, wanted: "F32, F16 or BF16", found })
        })
    }

    /// What multiplies the inputs, where something does.
    fn input_scale(&self, linear: &Linear, k: usize) -> Result<Option<Vec<f32>>, ToolError> {
        let Some(stored) = &linear.pre_scale else { return Ok(None) };
        let mut input_scale = vec![1.0; k];
        self.vector(stored, k)?.read_row(0, &mut input_scale);
        Ok(Some(input_scale))
    }

    fn nibbles(&self, weight: &Int4Weight, input_scale: Option<Vec<f32>>) -> Result<RowSource, ToolError> {
        let Int4Weight { packed, scales, packing, n, k, group } = weight;
        let (n, k, group) = (*n, *k, *group);
        let codes = self.tensor(packed)?;
        let tensor = self.tensor(scales)?;
        let (n_bytes, layout) = match packing {
            Int4Packing::Interleaved if n.is_multiple_of(4) && k.is_multiple_of(64) => {
                (n * k / 2, CodeLayout::Interleaved)
            }
            Int4Packing::Tiled if n.is_multiple_of(64) && k.is_multiple_of(64) => {
                (n.div_ceil(128) * 128 * k / 2, CodeLayout::Tiled)
            }
            _ => (0, CodeLayout::Bytes),
        };
        if n_bytes == 0 || codes.data().len() != n_bytes {
            return Err(self.wrong_shape(packed, &[n / 2, k]));
        }
        if !k.is_multiple_of(group) || tensor.shape() != [k / group, n] {
            return Err(self.wrong_shape(scales, &[k / group, n]));
        }
        let kind = int4_kind(group, tensor.dtype(), None);
        let decode = self.decoder(scales.name, &tensor)?;
        let scales = Scales::Groups { tensor, decode, is_group_first: true };
        let storage = Storage { has_input_scale: input_scale.is_some(), ..kind.into() };
        let rows = QuantizedRows::new(kind, (n, k), (codes, layout, scales));
        Ok(RowSource::of(QuantizedRows { storage, input_scale, ..rows }))
    }
}

/// A part of a vector, as one row.
struct Slice {
    tensor: Tensor,
    decode: Decoder,
    first: usize,
    len: usize,
}

impl ReadRow for Slice {
    fn read_row(&self, _: usize, out: &mut [f32]) {
        let size = self.tensor.dtype().bitsize() / 8;
        let bytes = &self.tensor.data()[self.first * size..][..self.len * size];
        (self.decode)(bytes, &mut out[..self.len]);
    }
}

/// `[k, n]`, of which some columns are the rows.
struct Columns {
    tensor: Tensor,
    decode: Decoder,
    n: usize,
    first: usize,
    k: usize,
}

impl ReadRow for Columns {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let size = self.tensor.dtype().bitsize() / 8;
        let data = self.tensor.data();
        let mut at = (self.first + row_idx) * size;
        for value in &mut out[..self.k] {
            (self.decode)(&data[at..at + size], std::slice::from_mut(value));
            at += self.n * size;
        }
    }
}

/// Whether two tensors hold the same numbers, rounded to f16.
pub fn equal_in_f16(left: &RowSource, right: &RowSource, n_rows: usize, n_columns: usize) -> bool {
    let (mut a, mut b) = (vec![0.0; n_columns], vec![0.0; n_columns]);
    (0..n_rows).all(|row_idx| {
        left.read_row(row_idx, &mut a);
        right.read_row(row_idx, &mut b);
        a.iter().zip(&b).all(|(a, b)| f16::from_f32(*a).to_bits() == f16::from_f32(*b).to_bits())
    })
}
