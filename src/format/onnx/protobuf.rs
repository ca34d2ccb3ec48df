//! The wire format of protocol buffers, read in place (protobuf.dev, "Encoding").

use crate::format::{FormatError, ONNX_MODEL};

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
    /// The field as it stands in the message, its tag included.
    pub raw: &'a [u8],
}

/// What a field holds, by its wire type.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

/// The fields of a message in order; after an error there are no more.
pub struct Fields<'a> {
    rest: &'a [u8],
}

pub fn damaged(why: impl Into<String>) -> FormatError {
    FormatError::Damaged { what: ONNX_MODEL, why: why.into() }
}

impl<'a> Fields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn read(&mut self) -> Result<Field<'a>, FormatError> {
        let start = self.rest;
        let tag = take_number(&mut self.rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_number(&mut self.rest)?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = take_number(&mut self.rest)?;
                let length = usize::try_from(length).map_err(|_| damaged("a length is too large"))?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let four = self.take(4)?;
                Value::Fixed32([four[0], four[1], four[2], four[3]])
            }
            other => return Err(damaged(format!("wire type {other} is not one of messages"))),
        };
        let raw = &start[..start.len() - self.rest.len()];
        Ok(Field { number: tag >> 3, value, raw })
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.rest.split_at_checked(n_bytes).ok_or_else(|| {
            damaged(format!("a field of {n_bytes} bytes leaves its message by {}", n_bytes - self.rest.len()))
        })?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Field<'a> {
    pub fn number_value(&self) -> Result<u64, FormatError> {
        match self.value {
            Value::Number(number) => Ok(number),
            _ => Err(self.wrong("a number")),
        }
    }

    pub fn bytes(&self) -> Result<&'a [u8], FormatError> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong("bytes")),
        }
    }

    pub fn text(&self) -> Result<&'a str, FormatError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.wrong("UTF-8 text"))
    }

    pub fn float(&self) -> Result<f32, FormatError> {
        match self.value {
            Value::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.wrong("a float")),
        }
    }

    /// A repeated number: one of them, or all packed.
    pub fn numbers(&self) -> Result<Vec<u64>, FormatError> {
        let Value::Bytes(mut bytes) = self.value else { return Ok(vec![self.number_value()?]) };
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            numbers.push(take_number(&mut bytes)?);
        }
        Ok(numbers)
    }

    fn wrong(&self, wanted: &str) -> FormatError {
        damaged(format!("field {} is not {wanted}", self.number))
    }
}

/// A base-128 number of at most 64 bits.
fn take_number(bytes: &mut &[u8]) -> Result<u64, FormatError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(|| damaged("it ends inside a number"))?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(damaged("a number has more than 64 bits"))
}
