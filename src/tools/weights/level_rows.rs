//! Weights of bitsandbytes' four bits: sixteen numbers, a scale for each block of consecutive elements of the matrix.
//!
//! An engine has groups of inputs of a row: blocks are cut into groups that lie in one row, each with its block's scale.
//! Where these would not be whole groups of 32 inputs, the numbers are read.
//!
//! Source: `QuantState` and `dequantize_4bit` of bitsandbytes 0.50.

use safetensors::Dtype;

use super::packed_source::greatest_common_divisor;
use super::quantized_layer::{FLOATS, Layer};
use super::quantized_rows::number_at;
use super::source::{Decoder, Encoded, PackRow, ReadRow, decoder};
use crate::format::json::{Object, parse_object};
use crate::format::{FormatError, Tensor};
use crate::numbers::levels::LevelTable;
use crate::numbers::precision::ROW_ALIGN;
use crate::numbers::{Kind, Levels, Storage};

const SCALES: &str = "weight.absmax";

/// A matrix `[n, k]`.
pub struct LevelRows {
    k: usize,
    /// Nibbles in the order of the elements, the first high.
    codes: Tensor,
    numbers: LevelTable,
    /// Elements that share a scale.
    block: usize,
    scales: BlockScales,
    first_row: usize,
    /// How an engine holds it as it is.
    storage: Option<Storage>,
}

/// The scale of each block.
enum BlockScales {
    Plain {
        tensor: Tensor,
        decode: Decoder,
    },
    /// Codes of 256 numbers, with scales of so many codes.
    Quantized {
        codes: Tensor,
        numbers: Vec<f32>,
        scales: Vec<f32>,
        block: usize,
        offset: f32,
    },
}

impl BlockScales {
    fn get(&self, block_idx: usize) -> f32 {
        match self {
            BlockScales::Plain { tensor, decode } => number_at(tensor, *decode, block_idx),
            BlockScales::Quantized { codes, numbers, scales, block, offset } => {
                numbers[usize::from(codes.data()[block_idx])] * scales[block_idx / block] + offset
            }
        }
    }
}

impl Layer<'_> {
    /// Whether the weight is quantized so.
    pub fn has_levels(&self, levels: Levels) -> bool {
        self.get(&state_part(levels)).is_some()
    }

    /// # Errors
    /// [`FormatError`] naming the tensor that is missing or does not fit.
    pub fn levels(&self, levels: Levels, first_row: usize) -> Result<LevelRows, FormatError> {
        let state = self.require_any(&state_part(levels))?;
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
        let group = greatest_common_divisor(block, self.k);
        let levels = Levels::of(&numbers).filter(|_| group.is_multiple_of(ROW_ALIGN));
        let storage = levels.map(|levels| Kind::Levels { group, levels }.into());
        let numbers = numbers.try_into().expect("sixteen by its shape");
        let scales = self.block_scales(state, n_elements.div_ceil(block))?;
        Ok(LevelRows { k: self.k, codes, numbers, block, scales, first_row, storage })
    }

    /// As they are, or quantized again in blocks of their own.
    fn block_scales(&self, state: Object, n_blocks: usize) -> Result<BlockScales, FormatError> {
        const INNER: &str = "weight.nested_absmax";
        if self.get(INNER).is_none() {
            let tensor = self.require(SCALES, &FLOATS, &[n_blocks])?;
            self.floats(SCALES, &tensor)?;
            let decode = decoder(tensor.dtype()).ok_or_else(|| self.damaged(SCALES, "holds no floats"))?;
            return Ok(BlockScales::Plain { tensor, decode });
        }
        let codes = self.require(SCALES, &[Dtype::U8], &[n_blocks])?;
        let block = state.size("nested_blocksize")?;
        if block == 0 {
            return Err(state.wrong("nested_blocksize", "a number above 0"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "torch keeps it as f32")]
        let offset = state.number("nested_offset")? as f32;
        let scales = self.require(INNER, &FLOATS, &[n_blocks.div_ceil(block)])?;
        let scales = self.floats(INNER, &scales)?;
        let numbers = self.require("weight.nested_quant_map", &FLOATS, &[256])?;
        let numbers = self.floats("weight.nested_quant_map", &numbers)?;
        Ok(BlockScales::Quantized { codes, numbers, scales, block, offset })
    }
}

fn state_part(levels: Levels) -> String {
    format!("weight.quant_state.bitsandbytes__{}", levels.name())
}

impl LevelRows {
    /// How an engine holds it as it is.
    pub fn storage(&self) -> Option<Storage> {
        self.storage
    }

    /// The place of a row's first element in the matrix.
    fn start(&self, row_idx: usize) -> usize {
        (self.first_row + row_idx) * self.k
    }

    fn code(&self, place: usize) -> u8 {
        let byte = self.codes.data()[place / 2];
        if place.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }
}

impl ReadRow for LevelRows {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let first = self.start(row_idx);
        let (mut block_idx, mut scale) = (usize::MAX, 0.0);
        for (place, value) in (first..first + self.k).zip(out) {
            if place / self.block != block_idx {
                block_idx = place / self.block;
                scale = self.scales.get(block_idx);
            }
            *value = self.numbers[usize::from(self.code(place))] * scale;
        }
    }

    fn is_quantized(&self) -> bool {
        true
    }

    fn packed(&self) -> Option<&dyn PackRow> {
        self.storage.is_some().then_some(self)
    }
}

impl PackRow for LevelRows {
    fn storage(&self) -> Storage {
        self.storage.expect("only rows that have one are packed")
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let group = PackRow::storage(self).kind.group().expect("its kind has groups");
        let places = self.start(row_idx)..self.start(row_idx) + self.k;
        packed.weights.extend(places.clone().map(|place| self.code(place)));
        for first in places.step_by(group) {
            let scale = self.scales.get(first / self.block);
            if !scale.is_finite() {
                return Err(scale);
            }
            packed.scales.extend(scale.to_le_bytes());
        }
        Ok(())
    }

    fn inputs(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
