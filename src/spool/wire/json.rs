//! A view of JSON text that was checked once: values are slices of it, children are found by scanning.
//! A tree of values would cost many times the file (`[[],[],…`); this costs nothing but the scan.
//! Nothing here fails or panics on text that was not checked; it only finds less.

use std::borrow::Cow;

use super::fault::Fault;
use super::limits::DEPTH;

/// One JSON value: its own text, without space around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value<'a> {
    text: &'a str,
}

impl<'a> Value<'a> {
    /// Checks a whole text: JSON by its grammar, nested at most [`DEPTH`] deep.
    pub fn parse(text: &'a str) -> Result<Self, Fault> {
        check_depth(text)?;
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|e| Fault::bad(format!("not JSON: {e}")))?;
        Ok(Self { text: text.trim_ascii() })
    }

    /// The value that an unchecked text begins with, and what stands behind it.
    pub fn first(text: &'a str) -> Option<(Self, &'a str)> {
        split_value(text.trim_ascii_start())
    }

    /// JSON of a string.
    pub fn quoted(text: &str) -> String {
        serde_json::Value::from(text).to_string()
    }

    /// A slice of a text that [`Value::parse`] accepted, such as one whose place was noted before.
    pub fn from_checked(text: &'a str) -> Self {
        Self { text }
    }

    /// The value's own text.
    pub fn text(self) -> &'a str {
        self.text
    }

    pub fn is_null(self) -> bool {
        self.text == "null"
    }

    pub fn is_object(self) -> bool {
        self.text.starts_with('{')
    }

    pub fn is_array(self) -> bool {
        self.text.starts_with('[')
    }

    pub fn is_string(self) -> bool {
        self.text.starts_with('"')
    }

    /// `true` or `false`, if it is one.
    pub fn truth(self) -> Option<bool> {
        match self.text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The number's text, if it is a number.
    pub fn number(self) -> Option<&'a str> {
        self.text.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then_some(self.text)
    }

    /// The string's content, if it is a string that is valid Unicode; copied only if it holds escapes.
    pub fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.text).ok().map(Cow::Owned)
    }

    /// The elements of an array; none of anything else.
    pub fn elements(self) -> Elements<'a> {
        let rest = if self.is_array() { &self.text[1..] } else { "" };
        Elements { rest }
    }

    /// The keys (as values) and values of an object; none of anything else.
    pub fn entries(self) -> Entries<'a> {
        let rest = if self.is_object() { &self.text[1..] } else { "" };
        Entries { rest }
    }

    /// The value of a key of an object; of equal keys the last one counts.
    pub fn get(self, name: &str) -> Option<Value<'a>> {
        let is_it = |key: Value| key.string().is_some_and(|key| key == name);
        self.entries().filter(|(key, _)| is_it(*key)).last().map(|(_, value)| value)
    }

    /// What a person would call it, for "found …".
    pub fn describe(self) -> String {
        match self.text.as_bytes().first() {
            Some(b'"') => format!("the string {}", shortened(self.text)),
            Some(b'{') => "an object".into(),
            Some(b'[') => "an array".into(),
            Some(b't' | b'f' | b'n') => self.text.into(),
            _ => format!("the number {}", shortened(self.text)),
        }
    }
}

/// At most 48 characters, so that a message stays a message.
pub fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(48) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// See [`Value::elements`].
pub struct Elements<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (value, rest) = split_value(after_space(self.rest, b','))?;
        self.rest = rest;
        Some(value)
    }
}

/// See [`Value::entries`].
pub struct Entries<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Value<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = split_value(after_space(self.rest, b','))?;
        let (value, rest) = split_value(after_space(rest, b':'))?;
        self.rest = rest;
        Some((key, value))
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn after_space(text: &str, separator: u8) -> &str {
    let start = text.bytes().position(|b| !is_space(b) && b != separator).unwrap_or(text.len());
    &text[start..]
}

/// Takes the value that `text` starts with; none at a closing bracket or the end.
fn split_value(text: &str) -> Option<(Value<'_>, &str)> {
    let bytes = text.as_bytes();
    let end = match bytes.first()? {
        b'"' => string_end(bytes, 0),
        b'{' | b'[' => container_end(bytes),
        b'}' | b']' => return None,
        _ => bytes
            .iter()
            .position(|&b| is_space(b) || matches!(b, b',' | b'}' | b']' | b':'))
            .unwrap_or(bytes.len()),
    };
    // A separator where a value should stand: the text was not checked.
    if end == 0 {
        return None;
    }
    Some((Value { text: text.get(..end)? }, text.get(end..)?))
}

/// The place after the closing quote of the string that starts at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

fn container_end(bytes: &[u8]) -> usize {
    let (mut depth, mut i) = (0usize, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                i = string_end(bytes, i);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

/// The grammar check keeps a byte per open bracket: bounded here before it starts.
fn check_depth(text: &str) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    let (mut depth, mut i) = (0usize, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                i = string_end(bytes, i);
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH {
                    return Err(Fault::bad(format!("nested deeper than {DEPTH} at byte {i}")));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        i += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(value: Value<'_>) -> serde_json::Value {
        if value.is_object() {
            let entries = value.entries().map(|(k, v)| (k.string().unwrap().into_owned(), tree(v)));
            return serde_json::Value::Object(entries.collect());
        }
        if value.is_array() {
            return serde_json::Value::Array(value.elements().map(tree).collect());
        }
        serde_json::from_str(value.text()).unwrap()
    }

    #[test]
    fn sees_what_serde_json_sees() {
        let texts = [
            r#"{}"#,
            r#" [ ] "#,
            r#"[1,-2.5e+3,"a",true , null,[[]],{}]"#,
            "{\"a\\\"b\" :\t{\"c\":[1,{\"d\":\"}]\\\\\"}]},\n\"e\" : \"\\u00e9ü\"}",
            r#"[[[],[1]],{"a":{"b":{}}}]"#,
            r#""only a string""#,
            "7",
        ];
        for text in texts {
            let wanted: serde_json::Value = serde_json::from_str(text).unwrap();
            assert_eq!(tree(Value::parse(text).unwrap()), wanted, "{text}");
        }
    }

    #[test]
    fn refuses_depth_and_damage() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(Value::parse(&deep(DEPTH)).is_ok());
        assert!(Value::parse(&deep(DEPTH + 1)).unwrap_err().message.contains("128"));
        for text in ["", "{", "[1,]", "{\"a\"}", "\"\n\"", "01", "nul", "[1] 2", "\"\\x\"", "'a'"] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn unchecked_text_is_never_a_panic() {
        let seed = r#"{"a":[1,"b\\\"",{"c":null}],"ü":"é"}"#;
        for cut in 0..=seed.len() {
            let Some(text) = seed.get(..cut) else { continue };
            let value = Value::from_checked(text);
            let _ = value.entries().count() + value.elements().count();
            let _ = (value.string(), value.describe(), value.number());
            for (k, v) in value.entries() {
                let _ = (k.string(), v.elements().count(), v.entries().count());
            }
        }
    }
}
