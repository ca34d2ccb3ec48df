//! How templates print values and which methods values have: Python's.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter};

use super::python::to_python;

/// Widest field of `'{:20}'.format(…)`.
const MAX_FORMAT_WIDTH: u64 = 1_000;

/// Prints as Python does: None, True, ['a'].
pub(super) fn print(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Seq | ValueKind::Map => {
            Ok(output.write_str(&to_python(value)?)?)
        }
        _ => escape_formatter(output, state, value),
    }
}

/// Whether a format string could ask for a field of more than `limit` characters, which the method would write before
/// it pays for it.
fn has_number_over(text: &str, limit: u64) -> bool {
    let digits =
        text.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
    digits.into_iter().any(|digits| digits.parse::<u64>().map_or(true, |number| number > limit))
}

/// Python's methods: those of minijinja's Python set, and the few that it lacks.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(text), "rsplit") => {
            let (separator, n_splits): (&str, Option<usize>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit needs a separator"));
            }
            let mut pieces: Vec<&str> = match n_splits {
                Some(n_splits) => text.rsplitn(n_splits.saturating_add(1), separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            pieces.reverse();
            Ok(pieces.into_iter().map(Value::from).collect())
        }
        (Some(text), "format") if has_number_over(text, MAX_FORMAT_WIDTH) => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("a format wider than {MAX_FORMAT_WIDTH}")))
        }
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}
