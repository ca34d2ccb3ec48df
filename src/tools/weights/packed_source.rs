//! The layouts of compressed-tensors, and fp8 in blocks as DeepSeek and Qwen publish it.
//!
//! Source: the compressors `pack_quantized`, `naive_quantized` and `nvfp4_quantized` of compressed-tensors 0.12, and
//! `integrations/finegrained_fp8.py` of transformers 4.57.

use safetensors::Dtype;

use super::quantized_layer::{FLOATS, Layer, WORDS};
use super::quantized_rows::{
    CodeLayout, QuantizedRows, Scales, StoredZeros, ZeroLayout, int4_kind, int8_kind,
};
use super::source::decoder;
use crate::format::FormatError;
use crate::format::checkpoint::quantization::{Bits, Packed};
use crate::numbers::kind::NVFP4_GROUP;
use crate::numbers::precision::row_stride;
use crate::numbers::small_floats::e4m3;
use crate::numbers::{Kind, Storage};

impl Layer<'_> {
    /// `weight_packed`: words of a row's codes, the first lowest, biased to be positive; `weight_scale`,
    /// `weight_zero_point` in words of outputs, `weight_g_idx`.
    pub fn packed(&self, packed: Packed) -> Result<QuantizedRows, FormatError> {
        let group = packed.group.unwrap_or(self.k);
        let n_groups = self.n_groups(group)?;
        let (n, k, per_word) = (self.n, self.k, packed.bits.per_word());
        let codes = self.require("weight_packed", &WORDS, &[n, k / per_word])?;
        self.check_stored_shape()?;
        let zeros = match packed.is_symmetric {
            true => None,
            false => {
                let words = self.require("weight_zero_point", &WORDS, &[n.div_ceil(per_word), n_groups])?;
                let layout = ZeroLayout::Rows { n_groups };
                self.used_zeros(StoredZeros { words, layout, bits: packed.bits, offset: 0 }, n_groups)
            }
        };
        let (scales, dtype) = self.group_scales("weight_scale", &[n, n_groups], false)?;
        let order = self.order("weight_g_idx", group, n_groups)?;
        let (kind, layout) = match packed.bits {
            Bits::Four => (int4_kind(group, dtype, zeros.as_ref()), CodeLayout::ColumnPairs),
            Bits::Eight => (int8_kind(group, zeros.as_ref()), CodeLayout::BiasedBytes),
        };
        let storage = Storage { has_input_order: order.is_some(), ..kind.into() };
        let rows = QuantizedRows::new(kind, (n, k), (codes, layout, scales));
        Ok(QuantizedRows { storage, zeros, order, ..rows })
    }

    /// `weight_shape` says the same as the model, where it is there.
    fn check_stored_shape(&self) -> Result<(), FormatError> {
        const PART: &str = "weight_shape";
        let Some(tensor) = self.get(PART) else { return Ok(()) };
        let found: Vec<i64> = match tensor.dtype() {
            Dtype::I64 => {
                tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
            Dtype::I32 => {
                let four = tensor.data().as_chunks().0;
                four.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
            }
            other => return Err(self.damaged(PART, &format!("has type {other:?}"))),
        };
        let wanted = [self.n, self.k];
        if found.iter().map(|size| usize::try_from(*size).ok()).eq(wanted.map(Some)) {
            return Ok(());
        }
        Err(self.damaged(PART, &format!("holds {found:?}, wanted {wanted:?}")))
    }

    /// `weight_packed`, E4M3 scales of 16 inputs, and a number that divides them.
    pub fn packed_nvfp4(&self) -> Result<QuantizedRows, FormatError> {
        const OUTER: &str = "weight_global_scale";
        let (codes, tensor) = self.nvfp4_codes("weight_packed")?;
        let outer = self.any_shape(OUTER, &FLOATS)?;
        let outer = match (outer.n_elements(), self.floats(OUTER, &outer)?.first()) {
            (1, Some(outer)) if *outer > 0.0 => 1.0 / outer,
            _ => return Err(self.damaged(OUTER, "is not one number above 0")),
        };
        let scales = Scales::Bytes { tensor, rows: vec![outer; self.n] };
        Ok(QuantizedRows::new(Kind::Nvfp4, (self.n, self.k), (codes, CodeLayout::ColumnPairs, scales)))
    }

    /// Codes `[n, k / 2]` and scales `[n, k / 16]` of NVFP4.
    pub fn nvfp4_codes(
        &self,
        part: &str,
    ) -> Result<(crate::format::Tensor, crate::format::Tensor), FormatError> {
        if !self.k.is_multiple_of(NVFP4_GROUP) {
            return Err(FormatError::Unsupported {
                what: "NVFP4",
                found: format!("{} inputs of {}", self.k, self.module),
                supported: "multiples of 16".to_owned(),
            });
        }
        let codes = self.require(part, &[Dtype::U8], &[self.n, self.k / 2])?;
        let scales = self.require("weight_scale", &[Dtype::F8_E4M3], &[self.n, self.k / NVFP4_GROUP])?;
        if scales.data().iter().any(|code| e4m3(*code).is_nan()) {
            return Err(self.damaged("weight_scale", "holds NaN"));
        }
        Ok((codes, scales))
    }

    /// The part that is there of two names for the same, or the first one.
    pub fn one_of(&self, [first, second]: [&'static str; 2]) -> &'static str {
        if self.get(first).is_none() && self.get(second).is_some() { second } else { first }
    }

    /// E4M3 and a factor for each block of outputs and inputs.
    pub fn fp8_blocks(&self, block: [usize; 2]) -> Result<QuantizedRows, FormatError> {
        let (n, k, [rows, inputs]) = (self.n, self.k, block);
        let codes = self.require("weight", &[Dtype::F8_E4M3], &[n, k])?;
        let part = self.one_of(["weight_scale_inv", "weight_scale"]);
        let tensor = self.require(part, &FLOATS, &[n.div_ceil(rows), k.div_ceil(inputs)])?;
        self.floats(part, &tensor)?;
        let decode = decoder(tensor.dtype()).ok_or_else(|| self.damaged(part, "holds no floats"))?;
        // Inputs of a stored group lie in one block, and groups fill a row.
        let kind = Kind::Fp8Groups { group: greatest_common_divisor(inputs, row_stride(k)) };
        let scales = Scales::Blocks { tensor, decode, block };
        Ok(QuantizedRows::new(kind, (n, k), (codes, CodeLayout::Bytes, scales)))
    }
}

pub fn greatest_common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
