//! A JSON object read key by key, with errors that name the file, the key and what was wanted.

use serde_json::{Map, Value};

use super::FormatError;

/// Longest configuration file that is read.
const MAX_BYTES: usize = 1 << 20;

/// Parses a configuration file whose top level is an object.
///
/// # Errors
/// [`FormatError::Damaged`] when it is too long, not JSON or not an object.
pub fn parse_object(what: &'static str, bytes: &[u8]) -> Result<Map<String, Value>, FormatError> {
    let damaged = |why: String| FormatError::Damaged { what, why };
    if bytes.len() > MAX_BYTES {
        return Err(damaged(format!("it has {} bytes, the limit is {MAX_BYTES}", bytes.len())));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(damaged(format!("wanted an object, found {}", shown(&other)))),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// The shortest decimal that reads back as this f32, so that 1e-6 stays 1e-6.
pub fn exact(number: f32) -> f64 {
    number.to_string().parse().expect("a printed f32 is a number")
}

/// An object with the name of its file and, for nested ones, the path to it.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    pub file: &'static str,
    pub path: &'a str,
    pub map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// The value, with JSON null taken as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The error for a key with a value outside its range.
    pub fn wrong(&self, key: &str, wanted: impl Into<String>) -> FormatError {
        let found = self.map.get(key).map_or_else(|| "missing".to_owned(), shown);
        FormatError::Key { file: self.file, key: format!("{}{key}", self.path), wanted: wanted.into(), found }
    }

    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let size = value.as_u64().and_then(|number| usize::try_from(number).ok());
        size.map(Some).ok_or_else(|| self.wrong(key, "a whole number, at least 0"))
    }

    pub fn size(&self, key: &str) -> Result<usize, FormatError> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    /// A list of layer numbers; absent, an empty one.
    pub fn layer_list(&self, key: &str) -> Result<Vec<usize>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let numbers = value.as_array().and_then(|values| values.iter().map(number).collect());
        numbers.ok_or_else(|| self.wrong(key, "a list of layer numbers"))
    }

    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    pub fn number(&self, key: &str) -> Result<f64, FormatError> {
        self.optional_number(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub fn flag(&self, key: &str) -> Result<bool, FormatError> {
        self.optional_flag(key)?.ok_or_else(|| self.wrong(key, "true or false"))
    }

    pub fn optional_text(&self, key: &str) -> Result<Option<&'a str>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string"))
    }

    pub fn text(&self, key: &str) -> Result<&'a str, FormatError> {
        self.optional_text(key)?.ok_or_else(|| self.wrong(key, "a string"))
    }

    pub fn optional_object(&self, key: &str, path: &'a str) -> Result<Option<Object<'a>>, FormatError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Object { file: self.file, path, map }))
    }

    pub fn object(&self, key: &str, path: &'a str) -> Result<Object<'a>, FormatError> {
        self.optional_object(key, path)?.ok_or_else(|| self.wrong(key, "an object"))
    }

    /// A token id, a list of them, or nothing.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, FormatError> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.wrong(key, "a token id or a list of token ids"))
    }
}

/// A value in an error message: short, never pages of it.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Pretty JSON, keys sorted, indented by two, with a final line feed.
pub fn sorted_text(value: &Value) -> String {
    let sorted = sort_keys(value);
    let mut text = serde_json::to_string_pretty(&sorted).expect("a JSON value has string keys only");
    text.push('\n');
    text
}

fn sort_keys(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|key| (key.clone(), sort_keys(&map[key]))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(sort_keys).collect()),
        other => other.clone(),
    }
}
