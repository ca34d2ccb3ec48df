//! Finds the tensors of a quantized layer in a checkpoint and checks them; layouts are those of ModelOpt's
//! unified checkpoints, AutoAWQ and GPTQ.

use safetensors::Dtype;

use super::quantized_rows::{CodeLayout, QuantizedRows, Scales, StoredZeros, ZeroLayout, int4_kind};
use super::source::decoder;
use crate::format::checkpoint::quantization::Gptq;
use crate::format::{Algorithm, FormatError, Quantization, Tensor};
use crate::numbers::kind::{MXFP8_GROUP, NVFP4_GROUP};
use crate::numbers::small_floats::e4m3;
use crate::numbers::{Kind, Storage};
use crate::store::Checkpoint;

/// Parts of names behind a module that belong to its quantization.
pub const PARTS: [&str; 11] = [
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
];
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];
const WORDS: [Dtype; 2] = [Dtype::I32, Dtype::U32];

/// The matrix `weight` of `[n, k]`; none where the checkpoint holds it as plain numbers.
///
/// # Errors
/// [`FormatError`] naming the tensor that is missing or does not fit.
pub fn quantized_rows(
    checkpoint: &Checkpoint,
    quantization: &Quantization,
    weight: &str,
    (n, k): (usize, usize),
) -> Result<Option<QuantizedRows>, FormatError> {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    let Some(algorithm) = quantization.algorithm(module) else { return Ok(None) };
    let layer = Layer { checkpoint, module, n, k };
    let is_plain = match algorithm {
        Algorithm::Awq { .. } | Algorithm::Gptq(_) => layer.get("qweight").is_none(),
        _ => layer.get("weight").is_some_and(|tensor| FLOATS.contains(&tensor.dtype())),
    };
    if is_plain && layer.get("weight_scale").is_none() && layer.get("weight").is_some() {
        return Ok(None);
    }
    let rows = match algorithm {
        Algorithm::Fp8 => layer.fp8(),
        Algorithm::Int8Sq => layer.int8(),
        Algorithm::Mxfp8 => layer.mxfp8(),
        Algorithm::Nvfp4 => layer.nvfp4(),
        Algorithm::Int4Awq { group } => layer.int4(group),
        Algorithm::Awq { group } => layer.awq(group),
        Algorithm::Gptq(gptq) => layer.gptq(gptq),
    };
    rows.map(Some)
}

struct Layer<'a> {
    checkpoint: &'a Checkpoint,
    module: &'a str,
    n: usize,
    k: usize,
}

impl Layer<'_> {
    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    fn get(&self, part: &str) -> Option<Tensor> {
        self.checkpoint.tensor(&self.name(part))
    }

    fn any_shape(&self, part: &str, dtypes: &[Dtype]) -> Result<Tensor, FormatError> {
        let name = self.name(part);
        let tensor = self.get(part).ok_or_else(|| FormatError::MissingTensor { name: name.clone() })?;
        if dtypes.contains(&tensor.dtype()) {
            return Ok(tensor);
        }
        let wanted = match dtypes[0] {
            Dtype::F32 => "F32, F16 or BF16",
            Dtype::I32 => "I32",
            Dtype::I8 => "I8",
            Dtype::F8_E4M3 => "F8_E4M3",
            _ => "U8",
        };
        Err(FormatError::Dtype { name, wanted, found: format!("{:?}", tensor.dtype()) })
    }

    fn require(&self, part: &str, dtypes: &[Dtype], shape: &[usize]) -> Result<Tensor, FormatError> {
        let tensor = self.any_shape(part, dtypes)?;
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        let (wanted, found) = (shape.to_vec(), tensor.shape().to_vec());
        Err(FormatError::Shape { name: self.name(part), wanted, found })
    }

    fn damaged(&self, part: &str, why: &str) -> FormatError {
        let why = format!("tensor {} {why}", self.name(part));
        FormatError::Damaged { what: "quantized checkpoint", why }
    }

    /// All numbers of a small tensor of floats.
    fn floats(&self, part: &str, tensor: &Tensor) -> Result<Vec<f32>, FormatError> {
        let decode = decoder(tensor.dtype()).ok_or_else(|| self.damaged(part, "holds no floats"))?;
        let mut values = vec![0.0; tensor.n_elements()];
        decode(tensor.data(), &mut values);
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.damaged(part, &format!("holds {value}"))),
            None => Ok(values),
        }
    }

    /// One scale for the matrix or for each row, as one for each row.
    fn row_scales(&self, part: &str) -> Result<Vec<f32>, FormatError> {
        let tensor = self.any_shape(part, &FLOATS)?;
        match tensor.shape() {
            [] | [1] => {
                let values = self.floats(part, &tensor)?;
                Ok(vec![values[0]; self.n])
            }
            [n] | [n, 1] if *n == self.n => self.floats(part, &tensor),
            found => {
                let (wanted, found) = (vec![self.n], found.to_vec());
                Err(FormatError::Shape { name: self.name(part), wanted, found })
            }
        }
    }

    /// Inputs that share a scale divide the inputs.
    fn n_groups(&self, group: usize) -> Result<usize, FormatError> {
        if group != 0 && self.k.is_multiple_of(group) && group.is_multiple_of(MXFP8_GROUP) {
            return Ok(self.k / group);
        }
        Err(FormatError::Unsupported {
            what: "group size of quantized weights",
            found: format!("{group} for the {} inputs of {}", self.k, self.module),
            supported: "multiples of 32 that divide the number of inputs".to_owned(),
        })
    }

    /// None where all are 1, as experts have them.
    fn input_scale(&self) -> Result<Option<Vec<f32>>, FormatError> {
        const PART: &str = "pre_quant_scale";
        if self.get(PART).is_none() {
            return Ok(None);
        }
        let tensor = self.require(PART, &FLOATS, &[self.k])?;
        let factors = self.floats(PART, &tensor)?;
        Ok(factors.iter().any(|factor| *factor != 1.0).then_some(factors))
    }

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
        let scales = Scales::Rows(self.row_scales("weight_scale")?);
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
        if !self.k.is_multiple_of(NVFP4_GROUP) {
            return Err(FormatError::Unsupported {
                what: "NVFP4",
                found: format!("{} inputs of {}", self.k, self.module),
                supported: "multiples of 16".to_owned(),
            });
        }
        let codes = self.require("weight", &[Dtype::U8], &[self.n, self.k / 2])?;
        let tensor = self.require("weight_scale", &[Dtype::F8_E4M3], &[self.n, self.k / NVFP4_GROUP])?;
        if tensor.data().iter().any(|code| e4m3(*code).is_nan()) {
            return Err(self.damaged("weight_scale", "holds NaN"));
        }
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

    fn group_scales(
        &self,
        part: &str,
        shape: &[usize],
        is_group_first: bool,
    ) -> Result<(Scales, Dtype), FormatError> {
        let tensor = self.require(part, &FLOATS, shape)?;
        self.floats(part, &tensor)?;
        let (dtype, decode) = (tensor.dtype(), decoder(tensor.dtype()));
        let decode = decode.ok_or_else(|| self.damaged(part, "holds no floats"))?;
        Ok((Scales::Groups { tensor, decode, is_group_first }, dtype))
    }

    fn awq(&self, group: usize) -> Result<QuantizedRows, FormatError> {
        let n_groups = self.n_groups(group)?;
        let (n, k) = (self.n, self.k);
        // Outputs that do not fill a word leave the last one out of the wanted shape.
        let codes = self.require("qweight", &WORDS, &[k, n.div_ceil(8)])?;
        let words = self.require("qzeros", &WORDS, &[n_groups, n.div_ceil(8)])?;
        self.whole_words()?;
        let (scales, dtype) = self.group_scales("scales", &[n_groups, n], true)?;
        let zeros = self.used_zeros(StoredZeros { words, layout: ZeroLayout::Awq, offset: 0 }, n_groups);
        let kind = int4_kind(group, dtype, zeros.as_ref());
        Ok(QuantizedRows { zeros, ..QuantizedRows::new(kind, (n, k), (codes, CodeLayout::RowWords, scales)) })
    }

    fn gptq(&self, gptq: Gptq) -> Result<QuantizedRows, FormatError> {
        let group = gptq.group.unwrap_or(self.k);
        let n_groups = self.n_groups(group)?;
        let (n, k) = (self.n, self.k);
        let codes = self.require("qweight", &WORDS, &[k / 8, n])?;
        let zeros = self.gptq_zeros(gptq, n_groups)?;
        let (scales, dtype) = self.group_scales("scales", &[n_groups, n], true)?;
        let order = self.order(group, n_groups)?;
        let kind = int4_kind(group, dtype, zeros.as_ref());
        let storage = Storage { has_input_order: order.is_some(), ..kind.into() };
        let parts = (codes, CodeLayout::ColumnWords, scales);
        Ok(QuantizedRows { storage, zeros, order, ..QuantizedRows::new(kind, (n, k), parts) })
    }

    fn gptq_zeros(&self, gptq: Gptq, n_groups: usize) -> Result<Option<StoredZeros>, FormatError> {
        if self.any_shape("qzeros", &WORDS)?.n_elements() == 0 {
            return Ok(None);
        }
        let words = self.require("qzeros", &WORDS, &[n_groups, self.n.div_ceil(8)])?;
        self.whole_words()?;
        let mut zeros = StoredZeros { words, layout: ZeroLayout::Plain, offset: 0 };
        // A symmetric checkpoint of the second version that does not say so.
        if gptq.is_symmetric && zeros.words.data().iter().all(|byte| *byte == 0x88) {
            return Ok(None);
        }
        zeros.offset = gptq.zero_offset;
        Ok(self.used_zeros(zeros, n_groups))
    }

    /// None where all are 8.
    fn used_zeros(&self, zeros: StoredZeros, n_groups: usize) -> Option<StoredZeros> {
        let mut places = (0..n_groups).flat_map(|group| (0..self.n).map(move |row| (group, row)));
        places.any(|(group, row)| zeros.get(group, row, self.n) != 8).then_some(zeros)
    }

    fn whole_words(&self) -> Result<(), FormatError> {
        if self.n.is_multiple_of(8) {
            return Ok(());
        }
        Err(FormatError::Unsupported {
            what: "number of outputs of quantized weights",
            found: format!("{} of {}", self.n, self.module),
            supported: "multiples of 8".to_owned(),
        })
    }

    /// Inputs by their groups; none where they are in order already.
    fn order(&self, group: usize, n_groups: usize) -> Result<Option<Vec<u32>>, FormatError> {
        const PART: &str = "g_idx";
        if self.get(PART).is_none() {
            return Ok(None);
        }
        let tensor = self.require(PART, &WORDS, &[self.k])?;
        let index: Vec<u32> =
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let is_in_order = index.iter().enumerate().all(|(input, of)| *of as usize == input / group);
        // Old checkpoints without an order of their own have zeros here.
        if is_in_order || index.iter().all(|of| *of == 0) {
            return Ok(None);
        }
        let mut counts = vec![0_usize; n_groups];
        for (input, of) in index.iter().enumerate() {
            let count = counts.get_mut(*of as usize).ok_or_else(|| {
                let of = of.cast_signed();
                self.damaged(PART, &format!("puts input {input} into group {of} of {n_groups}"))
            })?;
            *count += 1;
        }
        if let Some(odd) = counts.iter().position(|count| *count != group) {
            let found = counts[odd];
            return Err(self.damaged(PART, &format!("gives group {odd} {found} inputs, wanted {group}")));
        }
        let inputs = u32::try_from(self.k).map_err(|_| self.damaged(PART, "is too long"))?;
        let mut order: Vec<u32> = (0..inputs).collect();
        order.sort_by_key(|input| index[*input as usize]);
        Ok(Some(order))
    }
}
