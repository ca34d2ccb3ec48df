//! Finds the tensors of a quantized layer in a checkpoint and checks them; layouts are those of ModelOpt's
//! unified checkpoints, AutoAWQ and GPTQ here, others beside it.

use safetensors::Dtype;

use super::level_rows::LevelRows;
use super::quantized_layer::{FLOATS, Layer, WORDS};
use super::quantized_rows::{
    CodeLayout, QuantizedRows, Scales, StoredZeros, ZeroLayout, int4_kind, int8_kind,
};
use super::source::RowSource;
use crate::format::checkpoint::naming::Place;
use crate::format::checkpoint::quantization::{Bits, Gptq};
use crate::format::{Algorithm, FormatError, Quantization, Tensor};
use crate::numbers::kind::MXFP8_GROUP;
use crate::numbers::{Kind, Storage};
use crate::store::Checkpoint;

/// Parts of names behind a module that belong to its quantization.
pub const PARTS: [&str; 20] = [
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "pre_quant_scale",
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "k_scale",
    "v_scale",
    "output_scale",
    "weight_packed",
    "weight_shape",
    "weight_zero_point",
    "weight_g_idx",
    "weight_global_scale",
    "input_global_scale",
    "input_zero_point",
    "weight_scale_inv",
    "activation_scale",
];

/// A quantized matrix.
pub enum Quantized {
    /// Codes and scales that an engine has too.
    Rows(Box<QuantizedRows>),
    /// Codes of sixteen numbers.
    Levels(Box<LevelRows>),
}

impl Quantized {
    /// How an engine holds it as it is.
    pub fn storage(&self) -> Option<Storage> {
        match self {
            Quantized::Rows(rows) => Some(rows.storage),
            Quantized::Levels(rows) => rows.storage(),
        }
    }
}

impl From<Quantized> for RowSource {
    fn from(quantized: Quantized) -> Self {
        match quantized {
            Quantized::Rows(rows) => Self::of(*rows),
            Quantized::Levels(rows) => Self::of(*rows),
        }
    }
}

/// The matrix at a place, whose shape is `shape` where it is no part of a larger one; none where the checkpoint holds
/// it as plain numbers.
///
/// # Errors
/// [`FormatError`] naming the tensor that is missing or does not fit.
pub fn quantized_rows(
    checkpoint: &Checkpoint,
    quantization: &Quantization,
    place: &Place,
    shape: (usize, usize),
) -> Result<Option<Quantized>, FormatError> {
    let (n, k) = place.fused.as_ref().map_or(shape, |fused| fused.shape.into());
    let first_row = place.fused.as_ref().map_or(0, |fused| fused.rows.start);
    let module = place.tensor.strip_suffix(".weight").unwrap_or(&place.tensor);
    let Some(algorithm) = quantization.algorithm(module) else { return Ok(None) };
    let layer = Layer { checkpoint, module, n, k };
    let is_plain = match algorithm {
        Algorithm::Awq { .. } | Algorithm::Gptq(_) => layer.get("qweight").is_none(),
        Algorithm::Packed(_) | Algorithm::PackedNvfp4 => layer.get("weight_packed").is_none(),
        Algorithm::Levels(levels) => !layer.has_levels(levels),
        _ => layer.get("weight").is_some_and(|tensor| FLOATS.contains(&tensor.dtype())),
    };
    if is_plain && layer.get("weight_scale").is_none() && layer.get("weight").is_some() {
        return Ok(None);
    }
    let rows = match algorithm {
        Algorithm::Fp8 => layer.fp8(),
        Algorithm::Fp8Blocks(block) => layer.fp8_blocks(block),
        Algorithm::Int8 => layer.int8(),
        Algorithm::Mxfp8 => layer.mxfp8(),
        Algorithm::Nvfp4 => layer.nvfp4(),
        Algorithm::Int4Awq { group } => layer.int4(group),
        Algorithm::Awq { group } => layer.awq(group),
        Algorithm::Gptq(gptq) => layer.gptq(gptq),
        Algorithm::Packed(packed) => layer.packed(packed),
        Algorithm::PackedNvfp4 => layer.packed_nvfp4(),
        Algorithm::Levels(levels) => {
            return layer.levels(levels, first_row).map(|rows| Some(Quantized::Levels(Box::new(rows))));
        }
    };
    Ok(Some(Quantized::Rows(Box::new(QuantizedRows { first_row, ..rows? }))))
}

impl Layer<'_> {
    /// A matrix of ModelOpt's, without zeros and order.
    fn modelopt(
        &self,
        kind: Kind,
        parts: (Tensor, CodeLayout, Scales),
    ) -> Result<QuantizedRows, FormatError> {
        let input_scale = self.input_scale()?;
        let storage = Storage { has_input_scale: input_scale.is_some(), ..kind.into() };
        Ok(QuantizedRows { storage, input_scale, ..QuantizedRows::new(kind, (self.n, self.k), parts) })
    }

    fn fp8(&self) -> Result<QuantizedRows, FormatError> {
        let codes = self.require("weight", &[Dtype::F8_E4M3], &[self.n, self.k])?;
        let scales = Scales::Rows(self.row_scales(self.one_of(["weight_scale", "weight_scale_inv"]))?);
        self.modelopt(Kind::Fp8, (codes, CodeLayout::Bytes, scales))
    }

    fn int8(&self) -> Result<QuantizedRows, FormatError> {
        let codes = self.require("weight", &[Dtype::I8], &[self.n, self.k])?;
        let scales = Scales::Rows(self.row_scales("weight_scale")?);
        self.modelopt(Kind::Int8, (codes, CodeLayout::Bytes, scales))
    }

    fn mxfp8(&self) -> Result<QuantizedRows, FormatError> {
        let n_groups = self.n_groups(MXFP8_GROUP)?;
        let codes = self.require("weight", &[Dtype::F8_E4M3], &[self.n, self.k])?;
        let types = [Dtype::U8, Dtype::F8_E8M0];
        let tensor = self.require("weight_scale", &types, &[self.n, n_groups])?;
        if tensor.data().contains(&u8::MAX) {
            return Err(self.damaged("weight_scale", "holds NaN"));
        }
        let scales = Scales::Bytes { tensor, rows: vec![1.0; self.n] };
        self.modelopt(Kind::Mxfp8, (codes, CodeLayout::Bytes, scales))
    }

    fn nvfp4(&self) -> Result<QuantizedRows, FormatError> {
        let (codes, tensor) = self.nvfp4_codes("weight")?;
        let scales = Scales::Bytes { tensor, rows: self.row_scales("weight_scale_2")? };
        self.modelopt(Kind::Nvfp4, (codes, CodeLayout::ColumnPairs, scales))
    }

    fn int4(&self, group: usize) -> Result<QuantizedRows, FormatError> {
        let n_groups = self.n_groups(group)?;
        if !self.n.is_multiple_of(2) {
            let (wanted, found) = (vec![self.n.div_ceil(2), self.k], vec![self.n, self.k]);
            return Err(FormatError::Shape { name: self.name("weight"), wanted, found });
        }
        let codes = self.require("weight", &[Dtype::U8], &[self.n / 2, self.k])?;
        let (scales, dtype) = self.group_scales("weight_scale", &[self.n, n_groups], false)?;
        self.modelopt(int4_kind(group, dtype, None), (codes, CodeLayout::RowPairs, scales))
    }

    fn awq(&self, group: usize) -> Result<QuantizedRows, FormatError> {
        let n_groups = self.n_groups(group)?;
        let (n, k) = (self.n, self.k);
        // Outputs that do not fill a word leave the last one out of the wanted shape.
        let codes = self.require("qweight", &WORDS, &[k, n.div_ceil(Bits::Four.per_word())])?;
        let words = self.require("qzeros", &WORDS, &[n_groups, n.div_ceil(Bits::Four.per_word())])?;
        self.whole_words(Bits::Four)?;
        let (scales, dtype) = self.group_scales("scales", &[n_groups, n], true)?;
        let zeros = StoredZeros { words, layout: ZeroLayout::Awq, bits: Bits::Four, offset: 0 };
        let zeros = self.used_zeros(zeros, n_groups);
        let kind = int4_kind(group, dtype, zeros.as_ref());
        Ok(QuantizedRows { zeros, ..QuantizedRows::new(kind, (n, k), (codes, CodeLayout::RowWords, scales)) })
    }

    fn gptq(&self, gptq: Gptq) -> Result<QuantizedRows, FormatError> {
        let group = gptq.group.unwrap_or(self.k);
        let n_groups = self.n_groups(group)?;
        let (n, k) = (self.n, self.k);
        let codes = self.require("qweight", &WORDS, &[k / gptq.bits.per_word(), n])?;
        let zeros = self.gptq_zeros(gptq, n_groups)?;
        let (scales, dtype) = self.group_scales("scales", &[n_groups, n], true)?;
        let order = self.order("g_idx", group, n_groups)?;
        let kind = match gptq.bits {
            Bits::Four => int4_kind(group, dtype, zeros.as_ref()),
            Bits::Eight => int8_kind(group, zeros.as_ref()),
        };
        let storage = Storage { has_input_order: order.is_some(), ..kind.into() };
        let parts = (codes, CodeLayout::ColumnWords(gptq.bits), scales);
        Ok(QuantizedRows { storage, zeros, order, ..QuantizedRows::new(kind, (n, k), parts) })
    }

    fn gptq_zeros(&self, gptq: Gptq, n_groups: usize) -> Result<Option<StoredZeros>, FormatError> {
        if self.any_shape("qzeros", &WORDS)?.n_elements() == 0 {
            return Ok(None);
        }
        let bits = gptq.bits;
        let words = self.require("qzeros", &WORDS, &[n_groups, self.n.div_ceil(bits.per_word())])?;
        self.whole_words(bits)?;
        let mut zeros = StoredZeros { words, layout: ZeroLayout::Plain, bits, offset: 0 };
        // A symmetric checkpoint of the second version that does not say so.
        let middle = match bits {
            Bits::Four => 0x88,
            Bits::Eight => 0x80,
        };
        if gptq.is_symmetric && zeros.words.data().iter().all(|byte| *byte == middle) {
            return Ok(None);
        }
        zeros.offset = gptq.zero_offset;
        Ok(self.used_zeros(zeros, n_groups))
    }
}
