//! How Python writes values: `json.dumps` for the tojson filter, `str` for what a template prints.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

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
            ValueKind::Number => json.push_str(&value.to_string()),
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
                    self.write_string(json, &key.to_string());
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

fn write_python(text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_limits(text, depth)?;
    match value.kind() {
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String if depth > 0 => write_quoted(text, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            text.push('[');
            for (item_idx, item) in value.try_iter()?.enumerate() {
                text.push_str(if item_idx > 0 { ", " } else { "" });
                write_python(text, &item, depth + 1)?;
            }
            text.push(']');
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
            _ if character.is_ascii_control() => {
                let _ = write!(text, "\\x{:02x}", u32::from(character));
            }
            _ => text.push(character),
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

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}
