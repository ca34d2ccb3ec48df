//! The metadata of a GGUF file: keys with typed values, read under limits.
//!
//! Source: docs/gguf.md of ggml. All its types are read; lists of lists are passed over, for no key that counts here
//! has one.

use std::collections::BTreeMap;

use super::cursor::{Cursor, damaged};
use crate::format::FormatError;

/// More keys than any file has.
const MAX_KEYS: usize = 1 << 14;
/// Elements of a list: more tokens than any vocabulary has.
const MAX_ELEMENTS: usize = 1 << 24;
/// Lists inside lists.
const MAX_DEPTH: usize = 4;
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// The name that errors give the metadata.
pub(super) const METADATA: &str = "metadata";

/// A value of any of the types; the numbers as the widest of their kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    Text(&'a str),
    Texts(Vec<&'a str>),
    /// Whole numbers; unsigned ones that do not fit are refused.
    Wholes(Vec<i64>),
    Floats(Vec<f32>),
    Flags(Vec<bool>),
    /// A list of so many lists, or of f64.
    Other(usize),
}

/// Keys and values, each key once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata<'a>(BTreeMap<&'a str, Value<'a>>);

impl<'a> Metadata<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>, n_keys: usize) -> Result<Self, FormatError> {
        let mut map = BTreeMap::new();
        for _ in 0..n_keys {
            let key = cursor.text("a key")?;
            let kind = cursor.u32()?;
            let value = read_value(cursor, kind, key)?;
            if map.insert(key, value).is_some() {
                return Err(damaged(format!("key {key} is there twice")));
            }
        }
        Ok(Self(map))
    }

    /// How many keys follow.
    pub(super) fn count(cursor: &mut Cursor) -> Result<usize, FormatError> {
        // A key without letters, a type, a value of one byte.
        cursor.count("keys", 13, MAX_KEYS)
    }

    /// Keys in byte order, and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.get(key)
    }

    /// The text of a key.
    ///
    /// # Errors
    /// [`FormatError::Key`] for another type, as all that follow.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, other, "a text")),
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = match value {
            Value::Unsigned(number) => usize::try_from(*number).ok(),
            Value::Signed(number) => usize::try_from(*number).ok(),
            // A list of one number for all layers is what some files have.
            Value::Wholes(numbers) if numbers.iter().all(|number| Some(number) == numbers.first()) => {
                numbers.first().and_then(|number| usize::try_from(*number).ok())
            }
            _ => None,
        };
        size.map(Some).ok_or_else(|| wrong(key, value, "one whole number, at least 0"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Float(number) => Ok(Some(*number)),
            Value::Unsigned(number) => Ok(Some(*number as f64)),
            Value::Signed(number) => Ok(Some(*number as f64)),
            other => Err(wrong(key, other, "a number")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong(key, other, "true or false")),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<&[&'a str]>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(wrong(key, other, "a list of texts")),
        }
    }

    pub fn wholes(&self, key: &str) -> Result<Option<&[i64]>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Wholes(numbers)) => Ok(Some(numbers)),
            Some(other) => Err(wrong(key, other, "a list of whole numbers")),
        }
    }

    /// Numbers of four bytes.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, FormatError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Floats(numbers)) => Ok(Some(numbers)),
            Some(other) => Err(wrong(key, other, "a list of numbers of four bytes")),
        }
    }

    /// A token's id.
    pub fn token_id(&self, key: &str) -> Result<Option<u32>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = self.size(key)?.and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| wrong(key, value, "a token id"))
    }
}

/// The error for a key that must be there.
pub(super) fn missing(key: &str) -> FormatError {
    let (key, wanted) = (key.to_owned(), "a value".to_owned());
    FormatError::Key { file: METADATA, key, wanted, found: "missing".to_owned() }
}

fn wrong(key: &str, found: &Value, wanted: &str) -> FormatError {
    let (key, wanted, found) = (key.to_owned(), wanted.to_owned(), found.to_string());
    FormatError::Key { file: METADATA, key, wanted, found }
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Unsigned(number) => write!(f, "{number}"),
            Value::Signed(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number}"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Text(text) => write!(f, "{text:.60}"),
            Value::Texts(texts) => write!(f, "a list of {} texts", texts.len()),
            Value::Wholes(numbers) => write!(f, "a list of {} whole numbers", numbers.len()),
            Value::Floats(numbers) => write!(f, "a list of {} numbers", numbers.len()),
            Value::Flags(flags) => write!(f, "a list of {} flags", flags.len()),
            Value::Other(n) => write!(f, "a list of {n} elements"),
        }
    }
}

fn read_value<'a>(cursor: &mut Cursor<'a>, kind: u32, key: &str) -> Result<Value<'a>, FormatError> {
    if kind == LIST {
        return read_list(cursor, key);
    }
    Ok(match kind {
        6 => Value::Float(f64::from(f32::from_le_bytes(cursor.array()?))),
        7 => Value::Flag(read_flag(cursor, key)?),
        TEXT => Value::Text(cursor.text(key)?),
        10 => Value::Unsigned(cursor.u64()?),
        12 => Value::Float(f64::from_le_bytes(cursor.array()?)),
        _ => match read_whole(cursor, kind, key)? {
            number @ 0.. => Value::Unsigned(number.unsigned_abs()),
            number => Value::Signed(number),
        },
    })
}

fn read_flag(cursor: &mut Cursor, key: &str) -> Result<bool, FormatError> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(damaged(format!("{key} is {other}, wanted 0 or 1"))),
    }
}

fn read_whole(cursor: &mut Cursor, kind: u32, key: &str) -> Result<i64, FormatError> {
    Ok(match kind {
        0 => i64::from(u8::from_le_bytes(cursor.array()?)),
        1 => i64::from(i8::from_le_bytes(cursor.array()?)),
        2 => i64::from(u16::from_le_bytes(cursor.array()?)),
        3 => i64::from(i16::from_le_bytes(cursor.array()?)),
        4 => i64::from(u32::from_le_bytes(cursor.array()?)),
        5 => i64::from(i32::from_le_bytes(cursor.array()?)),
        10 => {
            let number = cursor.u64()?;
            i64::try_from(number).map_err(|_| damaged(format!("{key} holds {number}, which is too large")))?
        }
        11 => i64::from_le_bytes(cursor.array()?),
        other => return Err(damaged(format!("{key} has type {other}, the last one is 12"))),
    })
}

/// Bytes of an element, at least.
fn least_bytes(kind: u32) -> usize {
    match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        TEXT | 10..=12 => 8,
        _ => 12,
    }
}

fn read_list<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, FormatError> {
    let kind = cursor.u32()?;
    let count = cursor.count(&format!("elements of {key}"), least_bytes(kind), MAX_ELEMENTS)?;
    Ok(match kind {
        6 => {
            let bytes = cursor.bytes(count * 4)?;
            Value::Floats(bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
        }
        7 => Value::Flags((0..count).map(|_| read_flag(cursor, key)).collect::<Result<_, _>>()?),
        TEXT => Value::Texts((0..count).map(|_| cursor.text(key)).collect::<Result<_, _>>()?),
        12 => {
            cursor.bytes(count * 8)?;
            Value::Other(count)
        }
        LIST => {
            (0..count).try_for_each(|_| skip_list(cursor, key, 1))?;
            Value::Other(count)
        }
        _ => Value::Wholes((0..count).map(|_| read_whole(cursor, kind, key)).collect::<Result<_, _>>()?),
    })
}

fn skip_list(cursor: &mut Cursor, key: &str, depth: usize) -> Result<(), FormatError> {
    let kind = cursor.u32()?;
    let count = cursor.count(&format!("elements of {key}"), least_bytes(kind), MAX_ELEMENTS)?;
    match kind {
        LIST if depth == MAX_DEPTH => Err(damaged(format!("{key} has lists more than {MAX_DEPTH} deep"))),
        LIST => (0..count).try_for_each(|_| skip_list(cursor, key, depth + 1)),
        TEXT => (0..count).try_for_each(|_| cursor.text(key).map(drop)),
        0..=7 | 10..=12 => cursor.bytes(count * least_bytes(kind)).map(drop),
        other => Err(damaged(format!("{key} has elements of type {other}, the last one is 12"))),
    }
}
