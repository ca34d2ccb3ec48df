//! How templates print values and which methods values have: Python's.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, Output, State, Value, escape_formatter};

use super::python::{counted, to_python};
use super::refusal::{MAX_WIDTH, refused};
use super::text_methods::text_method;

/// Prints as Python does: None, True, ['a'], 1e+16.
pub(super) fn print(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            Ok(output.write_str(&to_python(value)?)?)
        }
        _ => escape_formatter(output, state, value),
    }
}

/// Python's methods: those of minijinja's Python set, and those that it lacks.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.as_str(), value.kind()) {
        (Some(text), _) => {
            format_method(state, text, name, args).or_else(|| text_method(state, text, name, args))
        }
        (None, ValueKind::Map) => map_method(value, name, args),
        (None, ValueKind::Seq) => sequence_method(value, name, args),
        _ => None,
    };
    own.unwrap_or_else(|| minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args))
}

/// `format` and its sibling: values are written as Python writes them, in fields that are not too wide.
fn format_method(state: &mut State, text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let named: Vec<Value>;
    let args = match name {
        "format" => args,
        "format_map" => match from_args(args) {
            Ok((map,)) => {
                let map: Value = map;
                let keys = map.try_iter().into_iter().flatten();
                let pair = |key: Value| Some((key.as_str()?.to_owned(), map.get_item(&key).ok()?));
                named = vec![keys.filter_map(pair).collect::<Kwargs>().into()];
                &named
            }
            Err(error) => return Some(Err(error)),
        },
        _ => return None,
    };
    if has_number_over(text, MAX_WIDTH as u64) {
        return Some(Err(refused(format!("a format wider than {MAX_WIDTH}"))));
    }
    Some(minijinja_contrib::pycompat::unknown_method_callback(state, &text.into(), "format", args))
}

/// Whether a format string could ask for a field of more than `limit` characters, which the method would write before
/// it pays for it.
fn has_number_over(text: &str, limit: u64) -> bool {
    let digits =
        text.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.into_iter().any(|digits| digits.parse::<u64>().map_or(true, |number| number > limit))
}

fn map_method(value: &Value, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    match name {
        "copy" => Some(from_args::<()>(args).map(|()| value.clone())),
        "fromkeys" => Some(from_args(args).and_then(|(keys, put): (Value, Option<Value>)| {
            let put = put.unwrap_or_else(|| Value::from(()));
            Ok(Value::from_pairs(keys.try_iter()?.map(|key| (key, put.clone()))))
        })),
        _ => None,
    }
}

/// Of lists and tuples.
fn sequence_method(value: &Value, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    match name {
        "copy" if !value.is_tuple() => Some(from_args::<()>(args).map(|()| value.clone())),
        "index" => Some(index(value, args)),
        _ => None,
    }
}

fn index(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let n = counted(value.len().unwrap_or(0));
    let place = |at: i64| if at < 0 { (n + at).max(0) } else { at };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(n)));
    let mut items = value.try_iter()?.enumerate();
    let found = items.find(|(idx, item)| (start..end).contains(&counted(*idx)) && *item == what);
    let missing = || refused("index: the value is not there");
    found.map(|(idx, _)| Value::from(idx)).ok_or_else(missing)
}
