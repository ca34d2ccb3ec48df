//! How Python writes values: `json.dumps` for the tojson filter, `str` for what a template prints.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

use super::refusal::refused;

/// Values nested deeper are refused: writing them recurses.
const MAX_DEPTH: usize = 64;
/// Longest text of a value: one that holds another many times could be written without end.
const MAX_BYTES: usize = 8 << 20;

/// `json.dumps(value, ensure_ascii=False, …)` with the named arguments that transformers allows.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(refused("tojson separators must be two strings")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > 16) {
        return Err(refused("tojson indent must be at most 16"));
    }
    let style = JsonStyle { indent, item_separator, key_separator, ensure_ascii, sort_keys };
    let mut json = String::new();
    style.write(&mut json, value, 0)?;
    Ok(json)
}

struct JsonStyle {
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, json: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        check_limits(json, depth)?;
        match value.kind() {
            ValueKind::None => json.push_str("null"),
            ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => json.push_str(&json_number(value)),
            ValueKind::String => self.write_string(json, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(json, ['[', ']'], depth, &items, |json, item| {
                    self.write(json, item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(json, ['{', '}'], depth, &keys, |json, key| {
                    self.write_string(json, &json_key(key));
                    json.push_str(&self.key_separator);
                    self.write(json, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(refused(format!("tojson cannot write a value that is {kind}"))),
        }
        Ok(())
    }

    fn write_items(
        &self,
        json: &mut String,
        brackets: [char; 2],
        depth: usize,
        items: &[Value],
        write: impl Fn(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |json: &mut String, depth: usize| {
            if let Some(indent) = self.indent.filter(|_| !items.is_empty()) {
                json.push('\n');
                json.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        json.push(brackets[0]);
        for (item_idx, item) in items.iter().enumerate() {
            if item_idx > 0 {
                json.push_str(&self.item_separator);
            }
            new_line(json, depth + 1);
            write(json, item)?;
        }
        new_line(json, depth);
        json.push(brackets[1]);
        Ok(())
    }

    fn write_string(&self, json: &mut String, text: &str) {
        let quoted = serde_json::to_string(text).expect("a string is JSON");
        if !self.ensure_ascii {
            json.push_str(&quoted);
            return;
        }
        for unit in quoted.encode_utf16() {
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(ascii) => json.push(char::from(ascii)),
                None => {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// `str(value)`: what Jinja prints for everything but strings, which are printed as they are.
pub(super) fn to_python(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write_python(&mut text, value, 0)?;
    Ok(text)
}

/// `repr(value)`.
pub(super) fn to_repr(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write_python(&mut text, value, 1)?;
    Ok(text)
}

/// `repr` of a number: the shortest digits that say it, with an exponent from 1e16 and below 1e-4.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(float) if float.is_nan() => "nan".to_owned(),
        Ok(float) if float.is_infinite() => if float < 0.0 { "-inf" } else { "inf" }.to_owned(),
        Ok(float) if float != 0.0 && !(1e-4..1e16).contains(&float.abs()) => {
            with_exponent(&format!("{float:e}"))
        }
        Ok(float) => format!("{float:?}"),
        Err(_) => value.to_string(),
    }
}

/// Rust's `1.5e16` as C writes it.
pub(super) fn with_exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    }
}

/// Keys of JSON are strings: those that are not are written as values are.
fn json_key(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number => json_number(key),
        _ => key.to_string(),
    }
}

fn write_python(text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_limits(text, depth)?;
    match value.kind() {
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String if depth > 0 => write_quoted(text, value.as_str().unwrap_or_default()),
        ValueKind::Number => text.push_str(&number(value)),
        ValueKind::Undefined if depth > 0 => text.push_str("Undefined"),
        ValueKind::Seq => {
            let is_tuple = value.is_tuple();
            let [open, close] = if is_tuple { ["(", ")"] } else { ["[", "]"] };
            text.push_str(open);
            for (item_idx, item) in value.try_iter()?.enumerate() {
                text.push_str(if item_idx > 0 { ", " } else { "" });
                write_python(text, &item, depth + 1)?;
            }
            text.push_str(if is_tuple && value.len() == Some(1) { "," } else { "" });
            text.push_str(close);
        }
        ValueKind::Map => {
            text.push('{');
            for (key_idx, key) in value.try_iter()?.enumerate() {
                text.push_str(if key_idx > 0 { ", " } else { "" });
                write_python(text, &key, depth + 1)?;
                text.push_str(": ");
                write_python(text, &value.get_item(&key)?, depth + 1)?;
            }
            text.push('}');
        }
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// `repr` of a string: single quotes, unless only these occur in it.
fn write_quoted(text: &mut String, content: &str) {
    let quote = if content.contains('\'') && !content.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for character in content.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if character == quote => text.extend(['\\', character]),
            _ if is_printable(character) => text.push(character),
            _ => {
                let _ = match u32::from(character) {
                    code @ ..0x100 => write!(text, "\\x{code:02x}"),
                    code @ ..0x1_0000 => write!(text, "\\u{code:04x}"),
                    code => write!(text, "\\U{code:08x}"),
                };
            }
        }
    }
    text.push(quote);
}

fn check_limits(text: &str, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refused(format!("a value is nested more than {MAX_DEPTH} deep")));
    }
    if text.len() > MAX_BYTES {
        return Err(refused(format!("a value has more than {MAX_BYTES} bytes of text")));
    }
    Ok(())
}

/// Whether `repr` writes a character as it is.
pub(super) fn is_printable(character: char) -> bool {
    // Private characters stand for others while contents are followed (see special.rs).
    if matches!(character, '\'' | '"' | '\\' | '\u{F0000}'..='\u{10FFFF}') {
        return true;
    }
    // Behind another character only what is not printable is escaped.
    let text: String = ['a', character].into_iter().collect();
    text.escape_debug().nth(2).is_none()
}

/// A length as an index, which may be negative in Python.
pub(super) fn counted(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
