//! Weights that an ONNX graph keeps in few bits, as rows of f32: `(value - zero) * scale * pre_scale`.

use super::ToolError;
use super::onnx_weights::OnnxFiles;
use super::weights_source::ReadRow;
use crate::format::Tensor;
use crate::format::onnx::tensor::number_at;
use crate::format::onnx::{ElementType, ScaledWeight, Spread, StoredTensor};

/// Rows of a [`ScaledWeight`].
pub struct ScaledRows {
    values: Numbers,
    scale: Numbers,
    zero: Option<Numbers>,
    /// Multiplies every scale.
    outer: f32,
    spread: Spread,
    is_rows: bool,
    is_rounded: bool,
    /// Outputs of the whole weight, and the first that is meant.
    n: usize,
    first: usize,
    /// `[k]`
    pre_scales: Vec<f32>,
}

impl ScaledRows {
    /// Checks types and sizes.
    ///
    /// # Errors
    /// [`ToolError::Format`] with the tensor's name.
    pub fn new(
        files: &OnnxFiles,
        weight: &ScaledWeight,
        first: usize,
        pre_scales: Vec<f32>,
    ) -> Result<Self, ToolError> {
        let (n, _) = weight.shape().unwrap_or((0, 0));
        let is_one = |stored: &StoredTensor| stored.dims.iter().all(|dim| *dim == 1);
        let fits =
            |zero: &StoredTensor| zero.dims == weight.scale.dims || (is_one(zero) && is_one(&weight.scale));
        let zero = match &weight.zero {
            Some(stored) if fits(stored) => Some(Numbers::new(files, stored)?),
            Some(stored) => return Err(files.wrong_shape(stored, &weight.scale.dims)),
            None => None,
        };
        let outer = match &weight.outer_scale {
            Some(stored) => Numbers::new(files, stored)?.at(0),
            None => 1.0,
        };
        Ok(Self {
            values: Numbers::new(files, &weight.values)?,
            scale: Numbers::new(files, &weight.scale)?,
            zero,
            outer,
            spread: weight.spread,
            is_rows: weight.is_rows,
            is_rounded: weight.is_rounded,
            n,
            first,
            pre_scales,
        })
    }

    /// Where the scale of an element stands; `place` is the element's in the stored values.
    fn scale_position(&self, place: [usize; 2]) -> usize {
        let k = self.pre_scales.len();
        let width = if self.is_rows { k } else { self.n };
        match self.spread {
            Spread::All => 0,
            Spread::Axis(axis) => place[axis],
            Spread::Blocks { axis: 0, len } => place[0] / len * width + place[1],
            Spread::Blocks { len, .. } => place[0] * (width / len) + place[1] / len,
        }
    }
}

impl ReadRow for ScaledRows {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let (row_idx, k) = (self.first + row_idx, self.pre_scales.len());
        for (column, (value, pre_scale)) in out.iter_mut().zip(&self.pre_scales).enumerate() {
            let (position, place) = match self.is_rows {
                true => (row_idx * k + column, [row_idx, column]),
                false => (column * self.n + row_idx, [column, row_idx]),
            };
            let at = self.scale_position(place);
            let scale = self.scale.at(at) * self.outer;
            let mut code = self.values.at(position);
            if self.is_rounded {
                code = (code / scale).round_ties_even().clamp(-128.0, 127.0);
            }
            let zero = self.zero.as_ref().map_or(0.0, |zero| zero.at(at));
            *value = (code - zero) * scale * pre_scale;
        }
    }
}

/// A tensor's elements as numbers.
enum Numbers {
    /// Of tensors that may stand in fields of the model.
    Few(Vec<f32>),
    Many {
        tensor: Tensor,
        element: ElementType,
    },
}

impl Numbers {
    fn new(files: &OnnxFiles, stored: &StoredTensor) -> Result<Self, ToolError> {
        if stored.n_bytes() == Some(0) {
            return Err(files.wrong_shape(stored, &[1]));
        }
        if let Some(values) = stored.small_values() {
            return Ok(Self::Few(values));
        }
        let element = stored.element;
        if number_at(element, &[0; 8], 0).is_none() {
            return Err(files.wrong_element(stored, "numbers of 4 to 64 bits"));
        }
        Ok(Self::Many { tensor: files.raw(stored)?, element })
    }

    fn at(&self, position: usize) -> f32 {
        match self {
            Self::Few(values) => values.get(position).copied().unwrap_or(f32::NAN),
            Self::Many { tensor, element } => {
                number_at(*element, tensor.data(), position).expect("sizes and types were checked")
            }
        }
    }
}
