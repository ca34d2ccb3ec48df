//! What a value must be, by kind of key. The message of an error says what was wanted; file.rs adds the rest.

use std::path::PathBuf;

use serde::de::value::Error as Refused;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use toml::Value;

/// Changes of a letter that make two names alike.
const MAX_CHANGES: usize = 3;
/// Bytes of a name.
const MAX_NAME: usize = 48;

/// A whole number in a range.
pub fn within<'de, const MIN: usize, const MAX: usize, D: Deserializer<'de>>(
    value: D,
) -> Result<usize, D::Error> {
    let number = Value::deserialize(value)?.as_integer().and_then(|number| usize::try_from(number).ok());
    let number = number.filter(|number| (MIN..=MAX).contains(number));
    number.ok_or_else(|| D::Error::custom(format!("a whole number from {MIN} to {MAX}")))
}

pub fn switch<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Value::deserialize(value)?.as_bool().ok_or_else(|| D::Error::custom("true or false"))
}

/// One of some names.
pub fn one_of<'de, T: Copy, D: Deserializer<'de>>(value: D, names: &[(&str, T)]) -> Result<T, D::Error> {
    let value = Value::deserialize(value)?;
    let found = names.iter().find(|(name, _)| value.as_str() == Some(name));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let quoted: Vec<String> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let (last, others) = quoted.split_last().expect("there are names");
        D::Error::custom(format!("{} or {last}", others.join(", ")))
    })
}

/// An absolute path.
pub fn path<'de, D: Deserializer<'de>>(value: D) -> Result<PathBuf, D::Error> {
    absolute(&Value::deserialize(value)?).ok_or_else(|| D::Error::custom("an absolute path in quotes"))
}

/// An absolute path; an empty text is none.
pub fn path_or_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PathBuf>, D::Error> {
    let value = Value::deserialize(value)?;
    if value.as_str() == Some("") {
        return Ok(None);
    }
    let wanted = "an absolute path in quotes, or \"\" for none";
    absolute(&value).map(Some).ok_or_else(|| D::Error::custom(wanted))
}

pub fn paths<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<PathBuf>, D::Error> {
    let value = Value::deserialize(value)?;
    let paths = value.as_array().and_then(|items| items.iter().map(absolute).collect());
    paths.ok_or_else(|| D::Error::custom("a list of absolute paths in quotes"))
}

pub fn names<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    let value = Value::deserialize(value)?;
    let name = |item: &Value| item.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names = value.as_array().and_then(|items| items.iter().map(name).collect());
    names.ok_or_else(|| D::Error::custom("a list of names in quotes"))
}

/// A name that is one word of a subject: up to 48 letters, digits, `_` and `-`; an empty text is none.
pub fn name_or_none<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(value)?;
    let is_name = |name: &str| {
        name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match value.as_str().filter(|name| is_name(name)) {
        Some(name) => Ok(Some(name.to_owned()).filter(|name| !name.is_empty())),
        None => Err(D::Error::custom("up to 48 letters, digits, _ and - in quotes, or \"\" for none")),
    }
}

/// Addresses of servers.
pub fn servers<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    let value = Value::deserialize(value)?;
    let is_address = |text: &&str| {
        let host = ["nats://", "tls://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
        host.is_some_and(|host| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/'))
    };
    let server = |item: &Value| item.as_str().filter(is_address).map(str::to_owned);
    let servers: Option<Vec<String>> = value.as_array().and_then(|items| items.iter().map(server).collect());
    let wanted = "a list of addresses in quotes, \"nats://HOST:PORT\" or \"tls://HOST:PORT\"";
    servers.filter(|servers| !servers.is_empty()).ok_or_else(|| D::Error::custom(wanted))
}

fn absolute(value: &Value) -> Option<PathBuf> {
    let text = value.as_str().filter(|text| !text.contains('\0'))?;
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

/// A default.
pub const fn number<const DEFAULT: usize>() -> usize {
    DEFAULT
}

/// The keys of a structure, as serde's derive knows them.
pub fn known_keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut keys = Keys(&[]);
    let refused = T::deserialize(&mut keys);
    debug_assert!(refused.is_err(), "Keys gives no values");
    keys.0
}

/// Takes note of the keys that are asked for, and has none of them.
struct Keys(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Keys {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused::custom("no values"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.0 = keys;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The known name that a wrong one was probably meant to be.
pub fn resembling(wrong: &str, known: &[&'static str]) -> Option<&'static str> {
    let changes = |known: &str| strsim::damerau_levenshtein(wrong, known);
    let nearest = known.iter().copied().min_by_key(|name| changes(name))?;
    // A short name is not like everything.
    (changes(nearest) <= MAX_CHANGES.min(nearest.len() / 2)).then_some(nearest)
}
