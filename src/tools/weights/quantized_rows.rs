//! Rows of a quantized matrix: as numbers, and as the engine stores them.
//!
//! Every layout gives a row's codes column by column; the kind of storage says what a code means. Where the
//! checkpoint has an order of inputs, columns are moved so that each group is consecutive.

use half::f16;
use safetensors::Dtype;

use super::plugin_nibbles::{interleaved, tiled};
use super::source::{Decoder, Encoded, PackRow, ReadRow};
use crate::format::Tensor;
use crate::format::checkpoint::quantization::Bits;
use crate::numbers::kind::{INT4_MIDDLE, MXFP8_GROUP, NVFP4_GROUP, ScaleType, Zeros};
use crate::numbers::precision::{ROW_ALIGN, row_stride};
use crate::numbers::small_floats::{e2m1, e4m3, e8m0};
use crate::numbers::{Kind, Storage};

/// Codes in a word of 32 bits.
const NIBBLES: usize = Bits::Four.per_word();
const BYTES: usize = Bits::Eight.per_word();
/// What codes of eight bits are biased by; the bit that differs from two's complement.
const BYTE_MIDDLE: u8 = 0x80;

/// Where the code of a row and a column lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeLayout {
    /// `[n, k]`, a byte each.
    Bytes,
    /// `[n, k / 2]`, the even column low (ModelOpt NVFP4; ONNX).
    ColumnPairs,
    /// The same, two's complement (ONNX INT4).
    SignedColumnPairs,
    /// `[n / 2, k]`, the even row low, two's complement (ModelOpt W4A16_AWQ).
    RowPairs,
    /// `[n, k]`, a byte each, biased by 128 (compressed-tensors).
    BiasedBytes,
    /// Words `[k / 8, n]` of eight columns from the lowest nibble, or `[k / 4, n]` of four from the lowest byte, biased
    /// by 128 (GPTQ).
    ColumnWords(Bits),
    /// Words `[k, n / 8]`, eight rows in AutoAWQ's order.
    RowWords,
    /// Of the workflow's plugins for ONNX.
    Interleaved,
    Tiled,
}

/// Where the zeros of groups lie.
pub struct StoredZeros {
    pub words: Tensor,
    pub layout: ZeroLayout,
    pub bits: Bits,
    /// What is added to each.
    pub offset: u8,
}

/// Where a zero lies; words hold eight of four bits, or four of eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroLayout {
    /// Words `[n_groups, n / 8]` of rows.
    Plain,
    /// The same in AutoAWQ's order.
    Awq,
    /// Words `[n / 8, n_groups]` of rows.
    Rows { n_groups: usize },
    /// Nibbles `[n, n_groups]`.
    Nibbles { n_groups: usize },
}

/// Scales of groups, rows or the matrix.
pub enum Scales {
    /// One a row.
    Rows(Vec<f32>),
    /// F16, BF16 or F32 of int4 groups: `[n, n_groups]`, or `[n_groups, n]`.
    Groups { tensor: Tensor, decode: Decoder, is_group_first: bool },
    /// F16, BF16 or F32 of blocks of rows and columns: `[n / block[0], k / block[1]]`, rounded up.
    Blocks { tensor: Tensor, decode: Decoder, block: [usize; 2] },
    /// E8M0 or E4M3 `[n, n_groups]`, and one factor a row.
    Bytes { tensor: Tensor, rows: Vec<f32> },
    /// F32 `[n, n_groups]`, all of them powers of two.
    Powers(Tensor),
}

/// A quantized matrix `[n, k]`, every shape and number but the codes checked.
pub struct QuantizedRows {
    pub storage: Storage,
    pub n: usize,
    pub k: usize,
    pub codes: Tensor,
    pub layout: CodeLayout,
    pub scales: Scales,
    /// None: all are the middle of the codes.
    pub zeros: Option<StoredZeros>,
    pub input_scale: Option<Vec<f32>>,
    /// Stored column j is input `order[j]`.
    pub order: Option<Vec<u32>>,
    /// Of the stored rows, the first that is meant.
    pub first_row: usize,
}

impl StoredZeros {
    /// The zero of a row's group, 0..=16 or 0..=256.
    pub fn get(&self, group: usize, row: usize, n: usize) -> u16 {
        let per_word = self.bits.per_word();
        let in_words = |place: usize| (group * (n / per_word) + row / per_word) * per_word + place;
        let place = match self.layout {
            ZeroLayout::Plain => in_words(row % per_word),
            ZeroLayout::Awq => in_words(awq_place(row % NIBBLES)),
            ZeroLayout::Rows { n_groups } => (row / per_word * n_groups + group) * per_word + row % per_word,
            ZeroLayout::Nibbles { n_groups } => row * n_groups + group,
        };
        let zero = match self.bits {
            Bits::Four => nibble(self.words.data(), place),
            Bits::Eight => self.words.data()[place],
        };
        u16::from(zero) + u16::from(self.offset)
    }

    /// The zero of symmetric codes.
    pub fn middle(&self) -> u16 {
        middle(self.bits)
    }
}

fn middle(bits: Bits) -> u16 {
    match bits {
        Bits::Four => u16::from(INT4_MIDDLE),
        Bits::Eight => u16::from(BYTE_MIDDLE),
    }
}

/// Number of the nibble of a word that holds an output: nibbles hold outputs 0, 2, 4, 6, 1, 3, 5, 7.
fn awq_place(output: usize) -> usize {
    output / 2 + output % 2 * 4
}

/// The bits of number `position` of a tensor of f32.
fn power_bits(tensor: &Tensor, position: usize) -> u32 {
    tensor.data().as_chunks::<4>().0.get(position).map_or(0, |four| u32::from_le_bytes(*four))
}

/// Nibble `place` of little-endian words, the lowest first.
fn nibble(data: &[u8], place: usize) -> u8 {
    let byte = data[place / 2];
    if place.is_multiple_of(2) { byte & 15 } else { byte >> 4 }
}

impl QuantizedRows {
    /// All rows of `[n, k]`, zeros in the middle, inputs as they come.
    pub fn new(
        kind: Kind,
        (n, k): (usize, usize),
        (codes, layout, scales): (Tensor, CodeLayout, Scales),
    ) -> Self {
        let (zeros, input_scale, order) = (None, None, None);
        let storage = kind.into();
        Self { storage, n, k, codes, layout, scales, zeros, input_scale, order, first_row: 0 }
    }

    fn code(&self, row: usize, column: usize) -> u8 {
        let (data, n, k) = (self.codes.data(), self.n, self.k);
        match self.layout {
            CodeLayout::Bytes => data[row * k + column],
            CodeLayout::ColumnPairs => nibble(data, row * k + column),
            CodeLayout::SignedColumnPairs => nibble(data, row * k + column) ^ INT4_MIDDLE,
            CodeLayout::Interleaved => nibble(data, interleaved(row, column, k)),
            CodeLayout::Tiled => nibble(data, tiled(row, column, k)),
            CodeLayout::RowPairs => {
                let byte = data[row / 2 * k + column];
                // Two's complement to biased.
                (if row.is_multiple_of(2) { byte & 15 } else { byte >> 4 }) ^ INT4_MIDDLE
            }
            // Biased to two's complement.
            CodeLayout::BiasedBytes => data[row * k + column] ^ BYTE_MIDDLE,
            CodeLayout::ColumnWords(Bits::Eight) => {
                data[(column / BYTES * n + row) * BYTES + column % BYTES] ^ BYTE_MIDDLE
            }
            CodeLayout::ColumnWords(Bits::Four) => {
                nibble(data, (column / NIBBLES * n + row) * NIBBLES + column % NIBBLES)
            }
            CodeLayout::RowWords => {
                let word = column * (n / NIBBLES) + row / NIBBLES;
                nibble(data, word * NIBBLES + awq_place(row % NIBBLES))
            }
        }
    }

    /// The input of a stored column.
    fn input(&self, column: usize) -> usize {
        self.order.as_ref().map_or(column, |order| order[column] as usize)
    }

    /// Codes of a row in stored order, up to the stride with codes that count for nothing.
    pub fn row_codes(&self, row: usize) -> Vec<u8> {
        let filler = if matches!(self.storage.kind, Kind::Int4 { .. }) { INT4_MIDDLE } else { 0 };
        let mut codes = vec![filler; row_stride(self.k)];
        for (column, code) in codes[..self.k].iter_mut().enumerate() {
            *code = self.code(row, self.input(column));
        }
        codes
    }

    /// The scale of a row's group.
    pub fn group_scale(&self, row: usize, group: usize, n_groups: usize) -> f32 {
        match &self.scales {
            Scales::Rows(rows) => rows[row],
            Scales::Groups { tensor, decode, is_group_first } => {
                let at = if *is_group_first { group * self.n + row } else { row * n_groups + group };
                number_at(tensor, *decode, at)
            }
            Scales::Blocks { tensor, decode, block: [rows, columns] } => {
                let at = row / rows * self.k.div_ceil(*columns) + group * self.group() / columns;
                number_at(tensor, *decode, at)
            }
            Scales::Bytes { tensor, rows } => {
                let code = tensor.data()[row * n_groups + group];
                let scale = if self.storage.kind == Kind::Mxfp8 { e8m0(code) } else { e4m3(code) };
                scale * rows[row]
            }
            Scales::Powers(tensor) => f32::from_bits(power_bits(tensor, row * n_groups + group)),
        }
    }

    /// Columns that share a scale.
    fn group(&self) -> usize {
        match self.storage.kind {
            Kind::Mxfp8 => MXFP8_GROUP,
            Kind::Nvfp4 => NVFP4_GROUP,
            kind => kind.group().unwrap_or(self.k),
        }
    }

    /// The code that means 0 in a row's group, of codes that are not signed.
    pub fn zero(&self, row: usize, group: usize) -> u16 {
        match &self.zeros {
            Some(zeros) => zeros.get(group, row, self.n),
            None if matches!(self.storage.kind, Kind::Int8Groups { .. }) => middle(Bits::Eight),
            None => middle(Bits::Four),
        }
    }

    /// What a code means before its scale.
    fn number(&self, code: u8, zero: u16) -> f32 {
        match self.storage.kind {
            Kind::Int4 { .. } => f32::from(code) - f32::from(zero),
            Kind::Int8Groups { .. } => f32::from(code.cast_signed()) - signed_zero(zero),
            Kind::Int8 => f32::from(code.cast_signed()),
            Kind::Nvfp4 => e2m1(code),
            _ => e4m3(code),
        }
    }

    fn pack_zero(&self, zero: u16, packed: &mut Encoded) {
        match self.storage.kind {
            Kind::Int8Groups { .. } => packed.extra.extend(signed_zero(zero).to_le_bytes()),
            _ => packed.extra.push(u8::try_from(zero).expect("four bits and an offset of one")),
        }
    }

    /// `[n_groups]` little-endian scales of a row, in the stored type.
    fn pack_scales(&self, row: usize, packed: &mut Encoded) {
        let stride = row_stride(self.k);
        match &self.scales {
            Scales::Rows(rows) => packed.scales.extend(rows[row].to_le_bytes()),
            Scales::Groups { .. } => {
                let n_groups = self.k / self.group();
                for group in 0..n_groups {
                    let scale = self.group_scale(row, group, n_groups);
                    match self.storage.kind {
                        Kind::Int4 { scales: ScaleType::F16, .. } => {
                            packed.scales.extend(f16::from_f32(scale).to_le_bytes());
                        }
                        _ => packed.scales.extend(scale.to_le_bytes()),
                    }
                    if self.zeros.is_some() {
                        self.pack_zero(self.zero(row, group), packed);
                    }
                }
            }
            Scales::Blocks { .. } => {
                let n_groups = stride / self.group();
                let scales = (0..n_groups).map(|group| self.group_scale(row, group, n_groups));
                packed.scales.extend(scales.flat_map(f32::to_le_bytes));
            }
            Scales::Bytes { tensor, rows } => {
                let n_groups = self.k / self.group();
                packed.scales.extend_from_slice(&tensor.data()[row * n_groups..][..n_groups]);
                // Of columns that are only filled up.
                packed.scales.extend(std::iter::repeat_n(0, stride / self.group() - n_groups));
                if self.storage.kind == Kind::Nvfp4 {
                    packed.extra.extend(rows[row].to_le_bytes());
                }
            }
            Scales::Powers(tensor) => {
                let n_groups = self.k / self.group();
                let exponents = (0..n_groups).map(|group| power_bits(tensor, row * n_groups + group) >> 23);
                packed.scales.extend(exponents.map(|exponent| exponent.to_le_bytes()[0]));
                packed.scales.extend(std::iter::repeat_n(0, stride / self.group() - n_groups));
            }
        }
    }
}

/// What a zero of eight bits means to codes that are signed.
fn signed_zero(zero: u16) -> f32 {
    f32::from(zero) - f32::from(middle(Bits::Eight))
}

/// Number `at` of a tensor.
pub fn number_at(tensor: &Tensor, decode: Decoder, at: usize) -> f32 {
    let size = tensor.dtype().bitsize() / 8;
    let mut number = 0.0;
    decode(&tensor.data()[at * size..][..size], std::slice::from_mut(&mut number));
    number
}

impl ReadRow for QuantizedRows {
    fn read_row(&self, row_idx: usize, out: &mut [f32]) {
        let row_idx = self.first_row + row_idx;
        let (group, codes) = (self.group(), self.row_codes(row_idx));
        let n_groups = self.k / group;
        for (number, columns) in codes[..self.k].chunks(group).enumerate() {
            let scale = self.group_scale(row_idx, number, n_groups);
            let zero = self.zero(row_idx, number);
            for (i, code) in columns.iter().enumerate() {
                let input = self.input(number * group + i);
                let factor = self.input_scale.as_ref().map_or(1.0, |factors| factors[input]);
                out[input] = self.number(*code, zero) * scale * factor;
            }
        }
    }

    fn is_quantized(&self) -> bool {
        true
    }

    fn packed(&self) -> Option<&dyn PackRow> {
        let is_storable = match self.storage.kind {
            Kind::Int4 { group, .. } => group.is_multiple_of(ROW_ALIGN),
            _ => true,
        };
        is_storable.then_some(self)
    }
}

impl PackRow for QuantizedRows {
    fn storage(&self) -> Storage {
        self.storage
    }

    fn pack_row(&self, row_idx: usize, packed: &mut Encoded) -> Result<(), f32> {
        let row_idx = self.first_row + row_idx;
        let codes = self.row_codes(row_idx);
        let is_float = matches!(self.storage.kind, Kind::Fp8 | Kind::Fp8Groups { .. } | Kind::Mxfp8);
        if is_float && codes.iter().any(|code| e4m3(*code).is_nan()) {
            return Err(f32::NAN);
        }
        packed.weights.extend_from_slice(&codes);
        self.pack_scales(row_idx, packed);
        Ok(())
    }

    fn inputs(&self) -> Vec<Vec<u8>> {
        let scale = self.input_scale.iter().map(|scale| bytemuck::cast_slice(scale).to_vec());
        let order = self.order.iter().map(|order| bytemuck::cast_slice(order).to_vec());
        scale.chain(order).collect()
    }
}

/// How int4 groups with such scales and zeros are stored.
pub fn int4_kind(group: usize, scales: Dtype, zeros: Option<&StoredZeros>) -> Kind {
    Kind::Int4 {
        group,
        scales: if scales == Dtype::F16 { ScaleType::F16 } else { ScaleType::F32 },
        zeros: if zeros.is_some() { Zeros::Stored } else { Zeros::Middle },
    }
}

/// How groups of eight bits with such zeros are stored.
pub fn int8_kind(group: usize, zeros: Option<&StoredZeros>) -> Kind {
    Kind::Int8Groups { group, zeros: if zeros.is_some() { Zeros::Stored } else { Zeros::Middle } }
}
