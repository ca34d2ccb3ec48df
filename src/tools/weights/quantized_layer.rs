//! One quantized layer of a checkpoint: its tensors by name, checked for type and shape.

use safetensors::Dtype;

use super::quantized_rows::{Scales, StoredZeros};
use super::source::decoder;
use crate::format::checkpoint::quantization::Bits;
use crate::format::{FormatError, Tensor};
use crate::numbers::kind::MXFP8_GROUP;
use crate::store::Checkpoint;

pub const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];
pub const WORDS: [Dtype; 2] = [Dtype::I32, Dtype::U32];

/// A module and the size of its matrix.
pub struct Layer<'a> {
    pub checkpoint: &'a Checkpoint,
    pub module: &'a str,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

impl Layer<'_> {
    pub fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    pub fn get(&self, part: &str) -> Option<Tensor> {
        self.checkpoint.tensor(&self.name(part))
    }

    pub fn require_any(&self, part: &str) -> Result<Tensor, FormatError> {
        self.get(part).ok_or_else(|| FormatError::MissingTensor { name: self.name(part) })
    }

    pub fn any_shape(&self, part: &str, dtypes: &[Dtype]) -> Result<Tensor, FormatError> {
        let (name, tensor) = (self.name(part), self.require_any(part)?);
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

    pub fn require(&self, part: &str, dtypes: &[Dtype], shape: &[usize]) -> Result<Tensor, FormatError> {
        let tensor = self.any_shape(part, dtypes)?;
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        let (wanted, found) = (shape.to_vec(), tensor.shape().to_vec());
        Err(FormatError::Shape { name: self.name(part), wanted, found })
    }

    pub fn damaged(&self, part: &str, why: &str) -> FormatError {
        let why = format!("tensor {} {why}", self.name(part));
        FormatError::Damaged { what: "quantized checkpoint", why }
    }

    /// All numbers of a small tensor of floats.
    pub fn floats(&self, part: &str, tensor: &Tensor) -> Result<Vec<f32>, FormatError> {
        let decode = decoder(tensor.dtype()).ok_or_else(|| self.damaged(part, "holds no floats"))?;
        let mut values = vec![0.0; tensor.n_elements()];
        decode(tensor.data(), &mut values);
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.damaged(part, &format!("holds {value}"))),
            None => Ok(values),
        }
    }

    /// One scale for the matrix or for each row, as one for each row.
    pub fn row_scales(&self, part: &str) -> Result<Vec<f32>, FormatError> {
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
    pub fn n_groups(&self, group: usize) -> Result<usize, FormatError> {
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
    pub fn input_scale(&self) -> Result<Option<Vec<f32>>, FormatError> {
        const PART: &str = "pre_quant_scale";
        if self.get(PART).is_none() {
            return Ok(None);
        }
        let tensor = self.require(PART, &FLOATS, &[self.k])?;
        let factors = self.floats(PART, &tensor)?;
        Ok(factors.iter().any(|factor| *factor != 1.0).then_some(factors))
    }

    pub fn group_scales(
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

    /// None where all are the middle of the codes.
    pub fn used_zeros(&self, zeros: StoredZeros, n_groups: usize) -> Option<StoredZeros> {
        let mut places = (0..n_groups).flat_map(|group| (0..self.n).map(move |row| (group, row)));
        let middle = zeros.middle();
        places.any(|(group, row)| zeros.get(group, row, self.n) != middle).then_some(zeros)
    }

    pub fn whole_words(&self, bits: Bits) -> Result<(), FormatError> {
        if self.n.is_multiple_of(bits.per_word()) {
            return Ok(());
        }
        Err(FormatError::Unsupported {
            what: "number of outputs of quantized weights",
            found: format!("{} of {}", self.n, self.module),
            supported: format!("multiples of {}", bits.per_word()),
        })
    }

    /// Inputs by their groups, as `part` has them; none where they are in order already.
    pub fn order(&self, part: &str, group: usize, n_groups: usize) -> Result<Option<Vec<u32>>, FormatError> {
        if self.get(part).is_none() {
            return Ok(None);
        }
        let tensor = self.require(part, &WORDS, &[self.k])?;
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
                self.damaged(part, &format!("puts input {input} into group {of} of {n_groups}"))
            })?;
            *count += 1;
        }
        if let Some(odd) = counts.iter().position(|count| *count != group) {
            let found = counts[odd];
            return Err(self.damaged(part, &format!("gives group {odd} {found} inputs, wanted {group}")));
        }
        let inputs = u32::try_from(self.k).map_err(|_| self.damaged(part, "is too long"))?;
        let mut order: Vec<u32> = (0..inputs).collect();
        order.sort_by_key(|input| index[*input as usize]);
        Ok(Some(order))
    }
}
