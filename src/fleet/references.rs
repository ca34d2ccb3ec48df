//! The adapters that a request file names: values of `available_lora_weights`, read and replaced in the text itself, so
//! that everything else stays byte for byte.

use std::borrow::Cow;
use std::fmt::{self, Formatter};
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What a request file names, in its order; no file of one JSON object names none.
///
/// # Errors
/// The text is no JSON object, or the field is no object of texts.
pub fn references(text: &str) -> serde_json::Result<Vec<String>> {
    Ok(places(text)?.into_iter().map(|place| place.value).collect())
}

/// The text with new values where `new` gives one.
///
/// # Errors
/// As [`references`].
pub fn replaced(text: &str, mut new: impl FnMut(&str) -> Option<String>) -> serde_json::Result<String> {
    let mut found = String::with_capacity(text.len());
    let mut end = 0;
    for place in places(text)? {
        if let Some(value) = new(&place.value) {
            found.push_str(&text[end..place.range.start]);
            found.push_str(&serde_json::to_string(&value)?);
            end = place.range.end;
        }
    }
    found.push_str(&text[end..]);
    Ok(found)
}

/// A value, and where its literal stands.
struct Place {
    value: String,
    range: Range<usize>,
}

fn places(text: &str) -> serde_json::Result<Vec<Place>> {
    let top: Top = serde_json::from_str(text)?;
    let Some(Entries(entries)) = top.available_lora_weights else { return Ok(vec![]) };
    let start = text.as_ptr().addr();
    let place = |raw: &RawValue| {
        let begin = raw.get().as_ptr().addr() - start;
        Ok(Place { value: serde_json::from_str(raw.get())?, range: begin..begin + raw.get().len() })
    };
    entries.into_iter().map(place).collect()
}

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    available_lora_weights: Option<Entries<'a>>,
}

/// Values as they are written, those of a name that stands there twice too.
struct Entries<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Values;
        impl<'de> Visitor<'de> for Values {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and places of adapters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some((_, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
                    values.push(value);
                }
                Ok(Entries(values))
            }
        }
        from.deserialize_map(Values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_change() {
        let text = "{ \"temperature\":1.50e0,\n \"available_lora_weights\" : {\"a\" :\"/x\", \"b\":\"\\u002fy\" ,\"a\": \"/z\"},\
                    \"requests\":[{\"x\":1, \"x\":2.0}]}";
        assert_eq!(references(text).unwrap(), ["/x", "/y", "/z"]);
        let found = replaced(text, |value| (value != "/z").then(|| format!("\"{value}"))).unwrap();
        let wanted = text.replace("\"/x\"", r#""\"/x""#).replace("\"\\u002fy\"", r#""\"/y""#);
        assert_eq!(found, wanted);
        assert_eq!(replaced(text, |_| None).unwrap(), text);
    }

    #[test]
    fn a_file_without_adapters_names_none() {
        for text in ["{}", r#"{"requests": []}"#, r#"{"available_lora_weights": null}"#] {
            assert!(references(text).unwrap().is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_no_request_file_is_an_error() {
        let twice = r#"{"available_lora_weights": {}, "available_lora_weights": {"a": "/x"}}"#;
        for text in [
            "",
            "[",
            "[]",
            r#"{"available_lora_weights": {"a": 1}}"#,
            r#"{"available_lora_weights": ["a"]}"#,
            twice,
        ] {
            assert!(references(text).is_err(), "{text}");
        }
    }
}
