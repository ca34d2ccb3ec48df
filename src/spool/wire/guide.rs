//! What an answer must look like: `guided_decoding` of the original and `response_format` of OpenAI. A mode that is not
//! known is a fault: an answer without its constraint would look like one that has kept it.

use super::fault::Fault;
use super::json::Value;
use super::limits::GUIDE_BYTES;
use super::object::{At, Field, Object};

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guide {
    /// Any JSON object.
    JsonObject,
    /// JSON text of a schema.
    JsonSchema(String),
    /// The whole answer matches.
    Regex(String),
    /// GBNF with a rule `root`.
    Ebnf(String),
    /// One of these.
    Choice(Vec<String>),
    /// Free text, and regions of it that are not: JSON text of the `format`.
    StructuralTag(String),
    /// Free text, or calls of these functions as the model writes them.
    Calls(Vec<CallableFunction>),
}

/// A function that an answer may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallableFunction {
    pub name: String,
    /// JSON schema of its arguments.
    pub parameters: String,
    /// Its arguments match the schema wherever it is called.
    pub is_strict: bool,
}

/// The keys of `guided_decoding`.
pub const MODES: [&str; 6] = ["json_object", "json_schema", "regex", "ebnf", "choice", "structural_tag"];

/// Reads both fields of an object; none is there in most.
pub(super) fn read_guide(object: &Object) -> Result<Option<Guide>, Fault> {
    let (guided, format) = (object.get("guided_decoding"), object.get("response_format"));
    match (guided, format) {
        (Some(guided), Some(_)) => {
            Err(Fault::bad(format!("{}: response_format stands beside it; wanted one of them", guided.at)))
        }
        (Some(guided), None) => read_guided(&guided).map(Some),
        (None, Some(format)) => read_format(&format),
        (None, None) => Ok(None),
    }
}

fn read_guided(field: &Field) -> Result<Guide, Fault> {
    check_size(field)?;
    if !field.value.is_object() {
        return Err(field.wanted("an object with one of these keys: ".to_owned() + &MODES.join(", ")));
    }
    let mut entries = field.value.entries();
    let (Some((key, value)), None) = (entries.next(), entries.next()) else {
        return Err(field.wanted("exactly one key of ".to_owned() + &MODES.join(", ")));
    };
    let key = key.string().unwrap_or_default();
    read_mode(&key, &Field { value, at: At::Key(&field.at, &key) })
}

/// Reads the value of one of [`MODES`]. Each takes it as a string too.
pub(super) fn read_mode(mode: &str, field: &Field) -> Result<Guide, Fault> {
    check_size(field)?;
    let Field { value, at } = *field;
    let escaped = if value.is_string() { value.string() } else { None };
    let inner = |wanted: &str| -> Result<String, Fault> {
        let text = escaped.as_deref().unwrap_or(value.text());
        let is_wanted = |found: Value| match wanted {
            "an array of strings" => found.is_array(),
            _ => found.is_object(),
        };
        match Value::parse(text) {
            Ok(found) if is_wanted(found) => Ok(text.to_owned()),
            _ => Err(field.wanted(wanted)),
        }
    };
    match mode {
        "json_object" => match escaped.as_deref().unwrap_or(value.text()) {
            "true" => Ok(Guide::JsonObject),
            _ => Err(field.wanted("true")),
        },
        "json_schema" => inner("a JSON schema").map(Guide::JsonSchema),
        "regex" => field.string().map(|text| Guide::Regex(text.into_owned())),
        "ebnf" => field.string().map(|text| Guide::Ebnf(text.into_owned())),
        "choice" => {
            let text = inner("an array of strings")?;
            let strings = Value::from_checked(&text).elements().map(|value| Field { value, at }.string());
            let strings =
                strings.map(|text| text.map(|text| text.into_owned())).collect::<Result<Vec<_>, _>>()?;
            match strings.is_empty() {
                true => Err(field.wanted("at least one string")),
                false => Ok(Guide::Choice(strings)),
            }
        }
        "structural_tag" => inner("an object with `format`").map(Guide::StructuralTag),
        _ => Err(Fault::bad(format!("{at}: no mode of guided decoding; there are {}", MODES.join(", ")))),
    }
}

fn read_format(field: &Field) -> Result<Option<Guide>, Fault> {
    check_size(field)?;
    let object = Object::read(field.value, &field.at, &["type", "json_schema"])?;
    let kind =
        object.get("type").ok_or_else(|| object.missing("type", "text, json_object or json_schema"))?;
    match &*kind.string()? {
        "text" => Ok(None),
        "json_object" => Ok(Some(Guide::JsonObject)),
        "json_schema" => {
            let schema = object
                .get("json_schema")
                .ok_or_else(|| object.missing("json_schema", "an object with `schema`"))?;
            let inner = Object::read(schema.value, &schema.at, &["name", "description", "schema", "strict"])?;
            let schema = inner.get("schema").ok_or_else(|| inner.missing("schema", "a JSON schema"))?;
            match schema.value.is_object() {
                true => Ok(Some(Guide::JsonSchema(schema.value.text().to_owned()))),
                false => Err(schema.wanted("a JSON schema")),
            }
        }
        _ => Err(kind.wanted("\"text\", \"json_object\" or \"json_schema\"")),
    }
}

fn check_size(field: &Field) -> Result<(), Fault> {
    let n = field.value.text().len();
    match n > GUIDE_BYTES {
        true => Err(Fault::bad(format!("{}: {n} bytes are over the limit of {GUIDE_BYTES}", field.at))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Guide>, String> {
        let value = Value::parse(text).unwrap();
        let object = Object::read(value, &At::Root, &["guided_decoding", "response_format"]).unwrap();
        read_guide(&object).map_err(|fault| fault.message)
    }

    #[test]
    fn each_mode_is_read_as_it_is_and_as_a_string() {
        let some = |guide| Ok(Some(guide));
        let schema = || Guide::JsonSchema(r#"{"type": "object"}"#.into());
        let cases = [
            ("{}", Ok(None)),
            (r#"{"guided_decoding": {"json_object": true}}"#, some(Guide::JsonObject)),
            (r#"{"guided_decoding": {"json_object": "true"}}"#, some(Guide::JsonObject)),
            (r#"{"guided_decoding": {"json_schema": {"type": "object"}}}"#, some(schema())),
            (r#"{"guided_decoding": {"json_schema": "{\"type\": \"object\"}"}}"#, some(schema())),
            (r#"{"guided_decoding": {"regex": "a\\d+"}}"#, some(Guide::Regex(r"a\d+".into()))),
            (
                r#"{"guided_decoding": {"ebnf": "root ::= \"a\""}}"#,
                some(Guide::Ebnf(r#"root ::= "a""#.into())),
            ),
            (
                r#"{"guided_decoding": {"choice": "[\"a\", \"b\"]"}}"#,
                some(Guide::Choice(vec!["a".into(), "b".into()])),
            ),
            (r#"{"response_format": {"type": "text"}}"#, Ok(None)),
            (
                r#"{"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true,
                    "schema": {"type": "object"}}}}"#,
                some(schema()),
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(read(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let cases = [
            (r#"{"guided_decoding": {"jsonschema": {}}}"#, "no mode of guided decoding"),
            (r#"{"guided_decoding": {"json_object": false}}"#, "wanted true"),
            (r#"{"guided_decoding": {"regex": "a", "choice": ["a"]}}"#, "exactly one key"),
            (r#"{"guided_decoding": "regex"}"#, "wanted an object"),
            (r#"{"guided_decoding": {"json_schema": "{"}}"#, "wanted a JSON schema"),
            (r#"{"guided_decoding": {"choice": []}}"#, "at least one string"),
            (r#"{"response_format": {"type": "xml"}}"#, "json_schema"),
            (r#"{"response_format": {}}"#, "response_format.type: missing"),
            (r#"{"response_format": {"type": "text"}, "guided_decoding": {"regex": "a"}}"#, "beside it"),
        ];
        for (text, wanted) in cases {
            let found = read(text).unwrap_err();
            assert!(found.contains(wanted), "{text}: {found}");
        }
        let long = format!(r#"{{"guided_decoding": {{"regex": "{}"}}}}"#, "a".repeat(GUIDE_BYTES));
        assert!(read(&long).unwrap_err().contains("over the limit"));
    }
}
