//! A tensor of a model: its type, its shape, and where its elements are.

use std::ops::Range;

use half::{bf16, f16};

use super::protobuf::{Field, Fields, Value, damaged};
use crate::format::FormatError;
use crate::numbers::small_floats::{e2m1, e4m3, e8m0};

/// Most dimensions of a tensor; decoders use four.
const MAX_DIMS: usize = 8;

/// The element types that decoders use (onnx.proto, TensorProto.DataType).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    F32,
    U8,
    I8,
    I32,
    I64,
    F16,
    Bf16,
    /// Two in a byte, the low half first, as the other types of four bits.
    U4,
    I4,
    E4m3,
    E2m1,
    E8m0,
    /// Any other, by its number.
    Other(u64),
}

impl ElementType {
    pub fn from_number(number: u64) -> Self {
        match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            6 => Self::I32,
            7 => Self::I64,
            10 => Self::F16,
            16 => Self::Bf16,
            17 => Self::E4m3,
            21 => Self::U4,
            22 => Self::I4,
            23 => Self::E2m1,
            24 => Self::E8m0,
            other => Self::Other(other),
        }
    }

    pub fn number(self) -> u64 {
        match self {
            Self::F32 => 1,
            Self::U8 => 2,
            Self::I8 => 3,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::F16 => 10,
            Self::Bf16 => 16,
            Self::E4m3 => 17,
            Self::U4 => 21,
            Self::I4 => 22,
            Self::E2m1 => 23,
            Self::E8m0 => 24,
            Self::Other(number) => number,
        }
    }

    /// Bits of an element; none for types that are not read.
    pub fn n_bits(self) -> Option<usize> {
        match self {
            Self::U4 | Self::I4 | Self::E2m1 => Some(4),
            Self::U8 | Self::I8 | Self::E4m3 | Self::E8m0 => Some(8),
            Self::F16 | Self::Bf16 => Some(16),
            Self::F32 | Self::I32 => Some(32),
            Self::I64 => Some(64),
            Self::Other(_) => None,
        }
    }

    /// Bytes of an element; none for types that are not read, and for halves of bytes.
    pub fn n_bytes(self) -> Option<usize> {
        self.n_bits().filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8)
    }
}

/// Where a tensor's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Little-endian bytes inside the model.
    Inline(&'a [u8]),
    /// In the model, in fields of numbers; small tensors only.
    Fields,
    /// In a file beside the model.
    External { location: &'a str, offset: u64, length: Option<u64> },
}

/// A TensorProto, looked at and not copied.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor<'a> {
    pub name: &'a str,
    pub element: ElementType,
    pub dims: Vec<usize>,
    pub place: Place<'a>,
    message: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, FormatError> {
        let mut tensor = Self {
            name: "",
            element: ElementType::Other(0),
            dims: Vec::new(),
            place: Place::Fields,
            message,
        };
        let (mut is_external, mut external) = (false, External::default());
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => tensor.add_dims(&field)?,
                2 => tensor.element = ElementType::from_number(field.number_value()?),
                8 => tensor.name = field.text()?,
                9 => tensor.place = Place::Inline(field.bytes()?),
                13 => external.add(field.bytes()?)?,
                14 => is_external = field.number_value()? == 1,
                _ => {}
            }
        }
        if is_external {
            let location = external.location.ok_or_else(|| tensor.damaged("has no location"))?;
            tensor.place = Place::External { location, offset: external.offset, length: external.length };
        }
        Ok(tensor)
    }

    fn add_dims(&mut self, field: &Field) -> Result<(), FormatError> {
        for dim in field.numbers()? {
            // The product must stay a number of bytes.
            let dim = usize::try_from(dim).ok().filter(|dim| *dim <= 1 << 40);
            self.dims.push(dim.ok_or_else(|| self.damaged("has a dimension out of range"))?);
        }
        if self.dims.len() > MAX_DIMS {
            return Err(self.damaged("has too many dimensions"));
        }
        Ok(())
    }

    fn damaged(&self, why: &str) -> FormatError {
        damaged(format!("tensor {} {why}", self.name))
    }

    /// Bytes of all elements; none for unknown types and for sizes that no file has.
    pub fn n_bytes(&self) -> Option<usize> {
        let bits = self.element.n_bits()?;
        let n_bits = self.dims.iter().try_fold(bits, |product, dim| product.checked_mul(*dim))?;
        Some(n_bits.div_ceil(8))
    }

    /// File, offset and length of the one element of an external tensor.
    pub(super) fn external_scalar(&self) -> Option<(&'a str, usize, usize)> {
        let Place::External { location, offset, .. } = self.place else { return None };
        let is_scalar = self.dims.iter().all(|dim| *dim == 1);
        Some((location, usize::try_from(offset).ok()?, self.element.n_bytes().filter(|_| is_scalar)?))
    }

    /// The elements of a small tensor as numbers: constants of the graph's arithmetic.
    pub fn small_values(&self) -> Option<Vec<f32>> {
        const MOST: usize = 16;
        let n_elements: usize =
            self.dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
        if n_elements > MOST {
            return None;
        }
        match self.place {
            Place::Inline(bytes) => {
                let size = self.element.n_bytes()?;
                (bytes.len() == n_elements * size).then_some(())?;
                bytes.chunks_exact(size).map(|element| value_of(self.element, element)).collect()
            }
            Place::Fields => self.values_of_fields().filter(|values| values.len() == n_elements),
            Place::External { .. } => None,
        }
    }

    fn values_of_fields(&self) -> Option<Vec<f32>> {
        let mut values = Vec::new();
        for field in Fields::new(self.message) {
            let field = field.ok()?;
            match (field.number, field.value) {
                (4, Value::Fixed32(bytes)) => values.push(f32::from_le_bytes(bytes)),
                (4, Value::Bytes(bytes)) => {
                    values.extend(bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)));
                }
                (5 | 7, _) => {
                    for number in field.numbers().ok()? {
                        values.push(match self.element {
                            ElementType::F16 => f16::from_bits(u16::try_from(number).ok()?).to_f32(),
                            ElementType::Bf16 => bf16::from_bits(u16::try_from(number).ok()?).to_f32(),
                            _ => number.cast_signed() as f32,
                        });
                    }
                }
                _ => {}
            }
        }
        Some(values)
    }
}

fn value_of(element: ElementType, bytes: &[u8]) -> Option<f32> {
    Some(match (element, bytes) {
        (ElementType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (ElementType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (ElementType::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        (ElementType::I8, &[a]) => f32::from(a.cast_signed()),
        (ElementType::U8, &[a]) => f32::from(a),
        (ElementType::E4m3, &[a]) => e4m3(a),
        (ElementType::E8m0, &[a]) => e8m0(a),
        (ElementType::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
        (ElementType::I64, _) => i64::from_le_bytes(bytes.try_into().ok()?) as f32,
        _ => return None,
    })
}

/// Element `position` of bytes of that type as a number; none beyond the end and for types that are not read.
pub fn number_at(element: ElementType, bytes: &[u8], position: usize) -> Option<f32> {
    let bits = element.n_bits()?;
    if bits >= 8 {
        return value_of(element, bytes.get(position.checked_mul(bits / 8)?..)?.get(..bits / 8)?);
    }
    let byte = *bytes.get(position / 2)?;
    let half = if position.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
    Some(match element {
        ElementType::U4 => f32::from(half),
        // The sign is the fourth bit.
        ElementType::I4 => f32::from((half << 4).cast_signed() >> 4),
        _ => e2m1(half),
    })
}

/// The key-value pairs of external data.
#[derive(Default)]
struct External<'a> {
    location: Option<&'a str>,
    offset: u64,
    length: Option<u64>,
}

impl<'a> External<'a> {
    fn add(&mut self, message: &'a [u8]) -> Result<(), FormatError> {
        let (mut key, mut value) = ("", "");
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => key = field.text()?,
                2 => value = field.text()?,
                _ => {}
            }
        }
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| damaged(format!("external {key} is {value:.40}, wanted a number")))
        };
        match key {
            "location" => self.location = Some(value),
            "offset" => self.offset = number()?,
            "length" => self.length = Some(number()?),
            _ => {}
        }
        Ok(())
    }
}

/// Where `part` lies in `whole`; `part` is a piece of it.
pub fn range_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}
