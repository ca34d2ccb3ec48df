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
        (
            Some(text),
            "casefold" | "swapcase" | "partition" | "rpartition" | "zfill" | "center" | "ljust" | "rjust",
        ) => text_method(text, name, args),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Methods of `str` that minijinja's Python set lacks.
fn text_method(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let padded = |left: bool, right: bool| -> Result<Value, Error> {
        let (width, fill): (usize, Option<&str>) = from_args(args)?;
        let fill = match fill.unwrap_or(" ") {
            fill if fill.chars().count() == 1 => fill,
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("{name} fills with one character"),
                ));
            }
        };
        if width as u64 > MAX_FORMAT_WIDTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("wider than {MAX_FORMAT_WIDTH}")));
        }
        let missing = width.saturating_sub(text.chars().count());
        // As Python's: the left side of an odd rest is larger where the width is odd.
        let before = match (left, right) {
            (true, true) => missing / 2 + (missing & width & 1),
            (true, false) => missing,
            _ => 0,
        };
        Ok(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before)).into())
    };
    let parts = |found: Option<(&str, &str)>, separator: &str, is_last: bool| -> Value {
        let parts = match found {
            Some((before, after)) => [before, separator, after],
            None if is_last => ["", "", text],
            None => [text, "", ""],
        };
        parts.into_iter().map(Value::from).collect()
    };
    match name {
        "casefold" => {
            let () = from_args(args)?;
            Ok(text.to_lowercase().replace('ß', "ss").into())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = text.chars().map(|c| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            });
            Ok(swapped.collect::<String>().into())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            if width as u64 > MAX_FORMAT_WIDTH {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("wider than {MAX_FORMAT_WIDTH}"),
                ));
            }
            let digits = text.trim_start_matches(['+', '-']);
            let (sign, digits) = match text.len() - digits.len() {
                0 => ("", text),
                _ => text.split_at(1),
            };
            let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
            Ok(format!("{sign}{zeros}{digits}").into())
        }
        "center" => padded(true, true),
        "rjust" => padded(true, false),
        "ljust" => padded(false, true),
        _ => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("{name} needs a separator")));
            }
            match name {
                "rpartition" => Ok(parts(text.rsplit_once(separator), separator, true)),
                _ => Ok(parts(text.split_once(separator), separator, false)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_do_what_pythons_do() {
        let call = |text: &str, name: &str, args: &[Value]| {
            text_method(text, name, args).map(|value| value.to_string())
        };
        let cases: [(&str, &str, &[Value], &str); 12] = [
            ("a=b=c", "partition", &["=".into()], "['a', '=', 'b=c']"),
            ("a=b=c", "rpartition", &["=".into()], "['a=b', '=', 'c']"),
            ("abc", "partition", &["=".into()], "['abc', '', '']"),
            ("abc", "rpartition", &["=".into()], "['', '', 'abc']"),
            ("-42", "zfill", &[5.into()], "-0042"),
            ("42", "zfill", &[1.into()], "42"),
            ("ab", "center", &[5.into(), "*".into()], "**ab*"),
            ("abc", "center", &[6.into(), "*".into()], "*abc**"),
            ("ab", "ljust", &[4.into()], "ab  "),
            ("ab", "rjust", &[4.into(), ".".into()], "..ab"),
            ("Straße", "casefold", &[], "strasse"),
            ("aBc", "swapcase", &[], "AbC"),
        ];
        for (text, name, args, wanted) in cases {
            assert_eq!(call(text, name, args).unwrap(), wanted, "{text} {name}");
        }
        assert!(call("a", "center", &[2_000_000_000.into()]).is_err());
        assert!(call("a", "partition", &["".into()]).is_err());
    }
}
