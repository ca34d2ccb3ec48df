//! Weights of bitsandbytes' NF4: sixteen numbers, a scale for each block of consecutive elements of the matrix.
//!
//! Source: `QuantState` and `dequantize_4bit` of bitsandbytes 0.48. No kind of an engine has these numbers: they are
//! read as f32.

use safetensors::Dtype;

use super::quantized_layer::{FLOATS, Layer};
use super::source::ReadRow;
use crate::format::json::{Object, parse_object};
use crate::format::{FormatError, Tensor};

const STATE: &str = "weight.quant_state.bitsandbytes__nf4";

/// A matrix `[n, k]`.
pub struct Nf4Rows {
    k: usize,
    /// Nibbles in the order of the elements, the first high.
    codes: Tensor,
    numbers: [f32; 16],
    /// Elements that share a scale.
    block: usize,
    scales: Vec<f32>,
    first_row: usize,
}

impl Layer<'_> {
    /// Whether the weight is quantized so.
    pub fn is_nf4(&self) -> bool {
        self.get(STATE).is_some()
    }

    /// # Errors
    /// [`FormatError`] naming the tensor that is missing or does not fit.
    pub fn nf4(&self, first_row: usize) -> Result<Nf4Rows, FormatError> {
        let state = self.require_any(STATE)?;
        let map = parse_object("bitsandbytes quant_state", state.data())?;
        let state = Object { file: "bitsandbytes quant_state", path: "", map: &map };
        let shape = state.layer_list("shape")?;
        if shape != [self.n, self.k] {
            let wanted = vec![self.n, self.k];
            return Err(FormatError::Shape { name: self.name("weight"), wanted, found: shape });
        }
        let block = state.size("blocksize")?;
        if !block.is_power_of_two() || block > 1 << 20 {
            return Err(state.wrong("blocksize", "a power of two"));
        }
        let n_elements = self.n * self.k;
        let codes = self.require_any("weight")?;
        if codes.data().len() != n_elements.div_ceil(2) {
            let (wanted, found) = (vec![n_elements.div_ceil(2), 1], codes.shape().to_vec());
            return Err(FormatError::Shape { name: self.name("weight"), wanted, found });
        }
        let numbers = self.require("weight.quant_map", &FLOATS, &[16])?;
        let numbers = self.floats("weight.quant_map", &numbers)?;
        let numbers = numbers.try_into().expect("sixteen by its shape");
        let scales = self.nf4_scales(state, n_elements.div_ceil(block))?;
        Ok(Nf4Rows { k: self.k, codes, numbers, block, scales, first_row })
    }

    /// The scale of each block: as it is, or quantized again in blocks of its own.
    fn nf4_scales(&self, state: Object, n_blocks: usize) -> Result<Vec<f32>, FormatError> {
        const SCALES: &str = "weight.absmax";
        const INNER: &str = "weight.nested_absmax";
        if self.get(INNER).is_none() {
            let scales = self.require(SCALES, &FLOATS, &[n_blocks])?;
            return self.floats(SCALES, &scales);
        }
        let codes = self.require(SCALES, &[Dtype::U8], &[n_blocks])?;
        let block = state.size("nested_blocksize")?;
        if block == 0 {
            return Err(state.wrong("nested_blocksize", "a number above 0"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "torch keeps it as f32")]
        let offset = state.number("nested_offset")? as f32;
        let inner = self.require(INNER, &FLOATS, &[n_blocks.div_ceil(block)])?;
        let inner = self.floats(INNER, &inner)?;
        let numbers = self.require("weight.nested_quant_map", &FLOATS, &[256])?;
        let numbers = self.floats("weight.nested_quant_map", &numbers)?;
        let codes = codes.data().iter().enumerate();
        Ok(codes.map(|(i, code)| numbers[usize::from(*code)] * inner[i / block] + offset).collect())
    }
}

impl ReadRow for Nf4Rows {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let first = (self.first_row + row_idx) * self.k;
        for (place, value) in (first..first + self.k).zip(out) {
            let byte = self.codes.data()[place / 2];
            let code = if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            *value = self.numbers[usize::from(code)] * self.scales[place / self.block];
        }
    }
}
