//! Methods of Python's `str` that minijinja's set lacks or has otherwise.

use std::borrow::Cow;

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, State, Value};

use super::python::{counted, is_printable};
use super::refusal::{MAX_WIDTH, refused};

/// The zeros of the scripts that have digits; the others of each follow.
#[rustfmt::skip]
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0, 0xF20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900,
    0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0,
    0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8,
    0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];
/// Other digits: superscripts, in circles, in brackets.
#[rustfmt::skip]
const OTHER_DIGITS: [(u32, u32); 20] = [
    (0xB2, 0xB3), (0xB9, 0xB9), (0x1369, 0x1371), (0x19DA, 0x19DA), (0x2070, 0x2070), (0x2074, 0x2079), (0x2080, 0x2089),
    (0x2460, 0x2468), (0x2474, 0x247C), (0x2488, 0x2490), (0x24EA, 0x24EA), (0x24F5, 0x24FD), (0x24FF, 0x24FF),
    (0x2776, 0x277E), (0x2780, 0x2788), (0x278A, 0x2792), (0x10A40, 0x10A43), (0x10E60, 0x10E68), (0x11052, 0x1105A),
    (0x1F100, 0x1F10A),
];

/// The method's value; none for a name that is not here.
pub(super) fn text_method(
    state: &State,
    text: &str,
    name: &str,
    args: &[Value],
) -> Option<Result<Value, Error>> {
    Some(match name {
        "count" | "find" | "rfind" | "index" | "rindex" => sought(text, name, args),
        "startswith" | "endswith" => begins_or_ends(text, name == "startswith", args),
        "strip" | "lstrip" | "rstrip" => stripped(text, name, args),
        "join" => joined(state, text, args),
        "split" | "rsplit" => split(text, name == "rsplit", args),
        "splitlines" => split_lines(text, args),
        "partition" | "rpartition" => partition(text, name == "rpartition", args),
        "center" | "ljust" | "rjust" => padded(text, name, args),
        "zfill" => filled_with_zeros(text, args),
        "expandtabs" => expanded(state, text, args),
        "removeprefix" => {
            from_args(args).map(|(prefix,): (&str,)| Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            from_args(args).map(|(suffix,): (&str,)| Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "casefold" => changed(args, || text.to_lowercase().replace('ß', "ss")),
        "swapcase" => changed(args, || text.chars().map(swapped).collect()),
        "title" => changed(args, || titled(text)),
        "isdecimal" => asked(args, || all(text, is_decimal)),
        "isdigit" => asked(args, || all(text, |c| is_decimal(c) || is_other_digit(c))),
        "isspace" => asked(args, || all(text, is_space)),
        "isidentifier" => asked(args, || {
            all(text, |c| c.is_alphanumeric() || c == '_') && !text.starts_with(char::is_numeric)
        }),
        "isprintable" => asked(args, || text.chars().all(is_printable)),
        "istitle" => asked(args, || text.chars().any(is_cased) && titled(text) == text),
        _ => return None,
    })
}

/// White space of `str.strip` and `str.split`.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

fn changed(args: &[Value], change: impl FnOnce() -> String) -> Result<Value, Error> {
    from_args::<()>(args).map(|()| change().into())
}

fn asked(args: &[Value], ask: impl FnOnce() -> bool) -> Result<Value, Error> {
    from_args::<()>(args).map(|()| ask().into())
}

fn all(text: &str, is_it: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is_it)
}

fn is_decimal(character: char) -> bool {
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&u32::from(character)))
}

fn is_other_digit(character: char) -> bool {
    OTHER_DIGITS.iter().any(|&(first, last)| (first..=last).contains(&u32::from(character)))
}

fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase()
}

fn swapped(character: char) -> String {
    if character.is_uppercase() {
        character.to_lowercase().collect()
    } else {
        character.to_uppercase().collect()
    }
}

/// Letters behind anything else are large, those behind letters small.
fn titled(text: &str) -> String {
    let mut is_inside = false;
    let mut title = String::with_capacity(text.len());
    for character in text.chars() {
        if is_inside {
            title.extend(character.to_lowercase());
        } else {
            title.extend(character.to_uppercase());
        }
        is_inside = is_cased(character);
    }
    title
}

/// The part of a text between two numbers of characters, as slices count them, and the number before it; none where the
/// start lies behind the end.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(&str, usize)> {
    let n = counted(text.chars().count());
    let place = |at: i64| if at < 0 { (n + at).max(0) } else { at };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(n)).min(n));
    if start > end {
        return None;
    }
    let byte = |at: i64| {
        let at = usize::try_from(at).unwrap_or(0);
        text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte)
    };
    Some((&text[byte(start)..byte(end)], usize::try_from(start).unwrap_or(0)))
}

fn sought(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let part = part(text, start, end);
    if name == "count" {
        return Ok(part.map_or(0, |(part, _)| part.matches(what).count()).into());
    }
    let found = part.and_then(|(part, before)| {
        let byte = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
        Some(before + part[..byte?].chars().count())
    });
    match found {
        Some(found) => Ok(found.into()),
        None if name.ends_with("find") => Ok((-1).into()),
        None => Err(refused(format!("{name}: the text is not there"))),
    }
}

fn begins_or_ends(text: &str, begins: bool, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
    let Some((part, _)) = part(text, start, end) else { return Ok(false.into()) };
    let is_it = |what: &str| if begins { part.starts_with(what) } else { part.ends_with(what) };
    let wanted = || refused("startswith and endswith take a string or a tuple of strings");
    if let Some(what) = what.as_str() {
        return Ok(is_it(what).into());
    }
    if !matches!(what.kind(), minijinja::value::ValueKind::Seq) {
        return Err(wanted());
    }
    for what in what.try_iter()? {
        if is_it(what.as_str().ok_or_else(wanted)?) {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

/// The items, which are strings, with the text between them.
fn joined(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (Value,) = from_args(args)?;
    let mut out = String::new();
    for (idx, item) in items.try_iter()?.enumerate() {
        if idx > 0 {
            state.consume_fuel((text.len() / 64) as u64)?;
            out.push_str(text);
        }
        out.push_str(item.as_str().ok_or_else(|| refused("join: an item is no string"))?);
    }
    Ok(out.into())
}

fn stripped(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(args)?;
    let goes = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
    Ok(match name {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    }
    .into())
}

/// `sep` and `maxsplit`, by place or by name.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, n_splits, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(Cow::from(separator)),
        None => named.get::<Option<String>>("sep")?.map(Cow::from),
    };
    let n_splits = n_splits.map_or_else(|| named.get("maxsplit"), |n| Ok(Some(n)))?.unwrap_or(-1);
    named.assert_all_used()?;
    let n_splits = usize::try_from(n_splits).unwrap_or(usize::MAX);
    let mut pieces: Vec<&str> = match separator.as_deref() {
        Some("") => return Err(refused("split needs a separator")),
        Some(separator) if from_right => text.rsplitn(n_splits.saturating_add(1), separator).collect(),
        Some(separator) => text.splitn(n_splits.saturating_add(1), separator).collect(),
        None => words(text, from_right, n_splits),
    };
    if from_right {
        pieces.reverse();
    }
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// What stands between white space; from the right, the last one first. The last piece keeps what is inside it.
fn words(text: &str, from_right: bool, n_splits: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        let space = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match space.filter(|_| pieces.len() < n_splits) {
            Some(at) if from_right => {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                pieces.push(&rest[at + width..]);
                rest = rest[..at].trim_end_matches(is_space);
            }
            Some(at) => {
                pieces.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
            None => {
                pieces.push(rest);
                rest = "";
            }
        }
    }
    pieces
}

fn split_lines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keeps_ends, named): (Option<bool>, Kwargs) = from_args(args)?;
    let keeps_ends =
        keeps_ends.map_or_else(|| named.get("keepends"), |keeps| Ok(Some(keeps)))?.unwrap_or(false);
    named.assert_all_used()?;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match &rest[at..] {
            behind if behind.starts_with("\r\n") => 2,
            behind => behind.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(Value::from(&rest[..if keeps_ends { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    Ok(lines.into())
}

fn partition(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(refused("partition needs a separator"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    Ok(match found {
        Some((before, after)) => (before, separator, after).into(),
        None if from_right => ("", "", text).into(),
        None => (text, "", "").into(),
    })
}

fn padded(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(refused(format!("{name} fills with one character")));
    }
    let missing = missing(text, width)?;
    let before = match name {
        "ljust" => 0,
        "rjust" => missing,
        _ => before_centre(text, missing),
    };
    Ok(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before)).into())
}

/// A text in the middle of spaces.
///
/// # Errors
/// For more than [`MAX_WIDTH`].
pub(super) fn centred(text: &str, width: i64) -> Result<String, Error> {
    let missing = missing(text, width)?;
    let before = before_centre(text, missing);
    Ok(format!("{}{text}{}", " ".repeat(before), " ".repeat(missing - before)))
}

/// The left side of an odd rest is larger where the width is odd.
fn before_centre(text: &str, missing: usize) -> usize {
    let width = text.chars().count() + missing;
    missing / 2 + (missing & width & 1)
}

fn missing(text: &str, width: i64) -> Result<usize, Error> {
    let width = usize::try_from(width).unwrap_or(0);
    if width > MAX_WIDTH {
        return Err(refused(format!("wider than {MAX_WIDTH}")));
    }
    Ok(width.saturating_sub(text.chars().count()))
}

fn filled_with_zeros(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (width,): (i64,) = from_args(args)?;
    let zeros = "0".repeat(missing(text, width)?);
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    Ok(format!("{sign}{zeros}{digits}").into())
}

fn expanded(state: &State, text: &str, args: &[Value]) -> Result<Value, Error> {
    let (size,): (Option<i64>,) = from_args(args)?;
    let size = usize::try_from(size.unwrap_or(8)).unwrap_or(0);
    if size > MAX_WIDTH {
        return Err(refused(format!("tabs wider than {MAX_WIDTH}")));
    }
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' => {
                let n = if size == 0 { 0 } else { size - column % size };
                state.consume_fuel((n / 64) as u64)?;
                out.extend(std::iter::repeat_n(' ', n));
                column += n;
            }
            '\n' | '\r' => {
                out.push(character);
                column = 0;
            }
            _ => {
                out.push(character);
                column += 1;
            }
        }
    }
    Ok(out.into())
}
